"""Which image comes next is a rule with values; what operators decide is history that is only added to."""

import threading

import numpy as np
import pytest
from sqlmodel import select

from hub import evidence
from hub.export import export_head
from hub.head import Head
from hub.label import Counts, Desk
from hub.settings import LabelSettings
from hub.tables import Image, Label, Pair, Release, Rollout, Trial
from shared.errors import LabelError
from tests.hub.making import CLASSES, NOW, add_image, add_vector, get_image


def at(*degrees):
    """Points on a circle: cosine distance grows with the angle between."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@pytest.fixture
def desk(store, clock):
    return Desk(store, "cells", CLASSES, clock)


def waiting(store, count=4, **fields):
    """Images that wait, spread over directions, the first the least sure."""
    ids = []
    for one in range(count):
        score = 0.5 + 0.4 * one / max(1, count)
        image = add_image(store, score=score, **fields)
        add_vector(store, image, at(300 * one / count)[0].tolist())
        ids.append(image)
    return ids


def release(store, clock, number, weights, backbone="b"):
    """A release whose head is sure along `weights`, float [2], and unsure across them."""
    head = Head(
        np.array([weights, [0, 0]], np.float32),
        np.zeros(2, np.float32),
        1.0,
        np.zeros(2, np.float32),
        np.full(2, 0.01, np.float32),
    )
    [sha256] = store.blobs.put([export_head(head)])
    model = {"backbone": {"sha256": backbone}, "head": {"sha256": sha256}}
    with store.write() as session:
        now = clock.utc()
        session.add(Release(project="cells", number=number, created_at=now, expires_at=now, model=model, envelope=b""))


def history(store):
    with store.read() as session:
        return [
            (one.image_id, one.kind, one.name, one.operator)
            for one in session.exec(select(Label).order_by(Label.id)).all()
        ]


def test_next_gives_what_waits_the_least_sure_first(store, desk):
    ids = waiting(store)
    assert desk.next()[0].id == ids[0]
    assert {one.id for one in desk.next(10)} == set(ids)
    assert [one.id for one in desk.next()] == [ids[0]]  # asking is not deciding


def test_next_leaves_out_what_nobody_can_or_need_decide(store, desk):
    [good] = waiting(store, 1)
    waiting(store, 1, state="new")
    waiting(store, 1, state="unreadable")
    waiting(store, 1, decided=True, label="good")
    waiting(store, 1, split="holdout")
    waiting(store, 1, project="welds")
    add_image(store)  # has no embedding by the newest image's backbone: comes last
    shown = [one.id for one in desk.next(10)]
    assert shown[0] == good
    assert len(shown) == 2


def test_two_operators_see_different_images(store, desk):
    waiting(store, 2)
    [mine] = desk.next()
    [theirs] = desk.next(exclude=[mine.id])
    assert mine.id != theirs.id
    assert desk.next(exclude=[mine.id, theirs.id]) == []


def test_a_decision_is_appended_and_takes_the_image_off_the_queue(store, desk, clock):
    ids = waiting(store, 3)
    made = desk.decide(ids[0], "defect", operator="Mira", seconds=1.5)
    assert (made.kind, made.name, made.at, made.seconds) == ("label", "defect", clock.utc(), 1.5)
    assert (get_image(store, ids[0]).label, get_image(store, ids[0]).decided) == ("defect", True)
    assert {one.id for one in desk.next(10)} == set(ids[1:])
    desk.skip(ids[1], operator="Mira")
    assert (get_image(store, ids[1]).label, get_image(store, ids[1]).decided) == (None, True)
    assert desk.counts() == Counts(waiting=1, labelled=1, skipped=1)


def test_a_second_opinion_is_added_and_holds(store, desk):
    [image] = waiting(store, 1)
    desk.decide(image, "good", operator="Mira")
    desk.decide(image, "defect", operator="Omar")
    assert get_image(store, image).label == "defect"
    assert history(store) == [(image, "label", "good", "Mira"), (image, "label", "defect", "Omar")]
    assert desk.counts() == Counts(waiting=0, labelled=1, skipped=0)


def test_undo_goes_back_one_decision_after_another(store, desk):
    first, second = waiting(store, 2)
    desk.decide(first, "good", operator="Mira")
    desk.skip(second, operator="Mira")
    desk.decide(second, "defect", operator="Mira")
    seen = []
    for _ in range(3):
        undo = desk.undo(operator="Mira")
        image = get_image(store, undo.image_id)
        seen.append((undo.image_id, image.label, image.decided))
    assert seen == [(second, None, True), (second, None, False), (first, None, False)]
    assert len(history(store)) == 6, "nothing is taken away"
    with pytest.raises(LabelError, match="'Mira': has no decision to undo"):
        desk.undo(operator="Mira")


def test_an_undone_image_comes_next_and_can_be_decided_and_undone_anew(store, desk):
    ids = waiting(store, 3)
    desk.next(3)
    desk.decide(ids[2], "good", operator="Mira")
    desk.undo(operator="Mira")
    assert desk.next()[0].id == ids[2]
    desk.decide(ids[2], "defect", operator="Mira")
    assert get_image(store, ids[2]).label == "defect"
    desk.undo(operator="Mira")
    assert get_image(store, ids[2]).label is None


def test_undo_is_of_ones_own_and_leaves_the_others_word(store, desk):
    mine, theirs = waiting(store, 2)
    desk.decide(mine, "good", operator="Mira")
    desk.decide(theirs, "good", operator="Omar")
    assert desk.undo(operator="Mira").image_id == mine
    assert get_image(store, theirs).label == "good"
    desk.decide(mine, "good", operator="Mira")
    desk.decide(mine, "defect", operator="Omar")
    desk.undo(operator="Mira")
    assert get_image(store, mine).label == "defect"
    desk.undo(operator="Omar")
    assert (get_image(store, mine).label, get_image(store, mine).decided) == (None, False)


@pytest.mark.parametrize("name", ["", "crack", "Good"])
def test_an_unknown_class_is_refused_with_the_known_ones(store, desk, name):
    [image] = waiting(store, 1)
    with pytest.raises(LabelError, match="Use one of: good, defect"):
        desk.decide(image, name, operator="Mira")
    assert history(store) == []


def test_an_unknown_image_is_refused(store, desk):
    [other] = waiting(store, 1, project="welds")
    for image in (999, other):
        with pytest.raises(LabelError, match=f"image {image}"):
            desk.decide(image, "good", operator="Mira")
        with pytest.raises(LabelError, match=f"image {image}"):
            desk.skip(image, operator="Mira")
    assert history(store) == []


def test_every_change_is_told(store, clock):
    told = []
    desk = Desk(store, "cells", CLASSES, clock, lambda: told.append(1))
    [image] = waiting(store, 1)
    desk.decide(image, "good", operator="Mira")
    desk.undo(operator="Mira")
    desk.skip(image, operator="Mira")
    with pytest.raises(LabelError):
        desk.undo(operator="Omar")
    assert len(told) == 3


def test_an_image_that_comes_while_a_batch_is_under_way_is_reached(store, desk):
    waiting(store, LabelSettings().batch)
    seen = [one.id for one in desk.next(LabelSettings().batch)]
    [late] = waiting(store, 1)
    for one in seen:
        desk.decide(one, "good", operator="Mira")
    assert [one.id for one in desk.next()] == [late]


def test_operators_in_threads_decide_every_image_once(store, desk):
    ids = waiting(store, 30)
    decided: list[int] = []
    claimed: set[int] = set()
    claim = threading.Lock()

    def work(operator):
        while True:
            with claim:
                found = desk.next(exclude=sorted(claimed))
                if not found:
                    return
                claimed.add(found[0].id)
            desk.decide(found[0].id, "good", operator=operator)
            decided.append(found[0].id)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("Mira", "Omar", "Ida")]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert sorted(decided) == ids
    assert desk.counts() == Counts(waiting=0, labelled=30, skipped=0)
    assert len(history(store)) == 30


# -- many at once


def test_one_decision_on_many_is_taken_back_at_once(store, desk):
    ids = waiting(store, 5)
    desk.decide(ids[0], "good", operator="Omar")
    made = desk.decide_all([*ids, ids[1]], "defect", operator="Mira", bulk="bulk-0001")
    assert [one.image_id for one in made] == ids[1:], "what is decided is left alone"
    assert {get_image(store, one).label for one in ids[1:]} == {"defect"}
    assert desk.next(10) == []
    assert len(desk.decide_all(ids, "good", operator="Mira", bulk="bulk-0001")) == 4
    assert desk.counts() == Counts(waiting=0, labelled=5, skipped=0)
    assert len(desk.undo_all("bulk-0001", operator="Mira")) == 4
    assert desk.undo_all("bulk-0001", operator="Mira") == []
    assert [(get_image(store, one).label, get_image(store, one).decided) for one in ids] == [
        ("good", True),
        *[(None, False)] * 4,
    ]
    assert {one.id for one in desk.next(10)} == set(ids[1:])


def test_many_can_be_skipped_and_undo_takes_them_all_back(store, desk):
    ids = waiting(store, 3)
    desk.decide_all(ids, "", operator="Mira", bulk="bulk-0002")
    assert desk.counts().skipped == 3
    desk.undo(operator="Mira")
    assert desk.counts() == Counts(waiting=3, labelled=0, skipped=0)


def test_of_many_that_were_decided_anew_only_the_standing_are_taken_back(store, desk):
    first, second = waiting(store, 2)
    desk.decide_all([first, second], "good", operator="Mira", bulk="bulk-0003")
    desk.decide(first, "defect", operator="Omar")
    desk.undo_all("bulk-0003", operator="Mira")
    assert get_image(store, first).label == "defect"
    assert get_image(store, second).label is None


def test_what_cannot_be_decided_at_once_is_not_decided_at_all(store, desk):
    ids = waiting(store, 2)
    with pytest.raises(LabelError, match="image 999"):
        desk.decide_all([*ids, 999], "good", operator="Mira", bulk="bulk-0004")
    with pytest.raises(LabelError, match="'crack' is not a class"):
        desk.decide_all(ids, "crack", operator="Mira", bulk="bulk-0005")
    desk.decide_all(ids, "good", operator="Mira", bulk="bulk-0006")
    for operator, bulk in (("Omar", "bulk-0006"), ("Mira", "unknown")):
        with pytest.raises(LabelError, match="has made no such decision"):
            desk.undo_all(bulk, operator=operator)
    assert len(history(store)) == 2


# -- the order


def order(store, clock, name, count=10, **fields):
    desk = Desk(store, "cells", CLASSES, clock, settings=lambda: LabelSettings(order=name, **fields))
    return [one.id for one in desk.next(count)]


def test_the_order_is_a_setting(store, clock):
    first, second = waiting(store, 2, camera="site/a"), waiting(store, 2, camera="site/b")
    assert order(store, clock, "uncertainty") == [first[0], second[0], first[1], second[1]]
    assert order(store, clock, "camera", 3) == [first[0], second[0], first[1]]
    assert sorted(order(store, clock, "random")) == sorted(order(store, clock, "cluster")) == first + second


def test_another_order_holds_from_the_next_batch(store, clock):
    wanted = ["uncertainty"]
    desk = Desk(store, "cells", CLASSES, clock, settings=lambda: LabelSettings(order=wanted[0], batch=1))
    ids = waiting(store, 3, camera="site/b") + waiting(store, 1, camera="site/a")
    assert desk.next()[0].id == ids[0]
    desk.decide(ids[0], "good", operator="Mira")
    assert desk.next()[0].id == ids[3]
    desk.decide(ids[3], "good", operator="Mira")
    late = waiting(store, 1, camera="site/z")
    assert desk.next()[0].id == late[0]
    wanted[0] = "camera"
    desk.decide(late[0], "good", operator="Mira")
    last = add_image(store, camera="site/a", score=0.99)
    add_vector(store, last, [1, 0])
    assert desk.next()[0].id == last


def test_the_newest_release_says_what_is_unsure_where_it_knows_the_embeddings(store, clock):
    ids = waiting(store, 4)  # at 0, 75, 150, 225 degrees; the camera was least sure of the first
    release(store, clock, 1, [0, 5], backbone="other")
    assert order(store, clock, "uncertainty") == ids
    release(store, clock, 2, [0, 5])
    assert order(store, clock, "uncertainty") == [ids[0], ids[2], ids[3], ids[1]]  # |sin|: 0, .5, .71, .97


def test_what_was_imported_to_train_on_is_known(store, clock):
    near, far = (add_image(store, score=0.5) for _ in range(2))
    add_vector(store, near, at(5)[0].tolist())
    add_vector(store, far, at(90)[0].tolist())
    imported = add_image(store, split="train", label="good", camera="")
    add_vector(store, imported, at(0)[0].tolist())
    assert order(store, clock, "mix", 1) == [far]


# -- what a rollout waits for


def differs(store, image, release=2):
    with store.write() as session:
        row = session.get(Image, image)
        session.add(
            Pair(
                camera=row.camera, event_id=row.event_id, project="cells", release=release, label="defect", other=1,
                other_label="good", trial="t1", number=image,
            )
        )  # fmt: skip
    return image


def under_way(store, stage="canary"):
    with store.write() as session:
        session.add(Rollout(project="cells", release=2, previous=1, stage=stage, since=NOW, plan_number=1))
        camera = "site/cam-1"
        session.add(Trial(project="cells", camera=camera, trial="t1", release=2, other=1, windows=[[0, 0]]))


def test_differences_of_a_rollout_come_before_all_others(store, desk):
    others = waiting(store)
    assert desk.next(1)[0].id in others
    pairs = [differs(store, add_image(store, score=0.99)) for _ in range(3)]
    differs(store, others[0], release=7)
    under_way(store)
    assert [one.id for one in desk.next(3)] == pairs, "also where a batch was chosen before"
    desk.decide(pairs[0], "good", operator="Mira")
    assert [one.id for one in desk.next(2)] == pairs[1:]
    desk.undo(operator="Mira")
    assert desk.next(1)[0].id == pairs[0]
    for one in pairs:
        desk.skip(one, operator="Mira")
    assert {one.id for one in desk.next(9)} == set(others)


def test_two_operators_are_not_asked_about_the_same_difference(store, desk):
    waiting(store)
    pairs = [differs(store, add_image(store)) for _ in range(2)]
    under_way(store)
    assert desk.next(1, operator="Mira")[0].id == pairs[0]
    assert desk.next(1, operator="Jan")[0].id == pairs[1]


def test_a_share_of_the_differences_goes_first(store, clock):
    desk = Desk(store, "cells", CLASSES, clock, settle=lambda: 0.2)
    pairs = [differs(store, add_image(store)) for _ in range(40)]
    under_way(store)
    with store.read() as session:
        drawn = [one for one in pairs if evidence.drawn(session.get(Image, one).event_id, 0.2)]
    assert 0 < len(drawn) < 25
    assert [one.id for one in desk.next(len(drawn))] == drawn
