"""Which image comes next is a rule with values; what operators decide is history that is only added to."""

import threading

import numpy as np
import pytest
from sqlmodel import select

from hub.label import Counts, Desk, choose
from hub.settings import LabelSettings
from hub.tables import Label
from shared.errors import LabelError
from tests.hub.making import CLASSES, add_image, add_vector, get_image

NONE = np.zeros((0, 2), np.float32)


def f(*rows):
    return np.array(rows, np.float32)


def at(*degrees):
    """Points on a circle: cosine distance grows with the angle between."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


# -- the rule


def test_without_anything_known_the_least_sure_comes_first():
    assert choose(f(0.9, 0.2, 0.5), at(0, 40, 80), NONE, 1) == [1]


def test_the_farthest_from_what_is_known_comes_first():
    assert choose(f(0.0, 0.9, 0.5), at(1, 90, 30), at(0), 1) == [1]


def test_in_turn_the_farthest_of_all_and_of_the_unsure():
    # 24 sure images everywhere, 8 unsure ones near 0 degrees: only every second one may come from the unsure.
    margin = np.array([0.0] * 8 + [0.9] * 24, np.float32)
    points = np.concatenate([at(*np.linspace(1, 8, 8)), at(*np.linspace(90, 270, 24))])
    order = choose(margin, points, at(0), 2)
    assert order[0] >= 8, "k-center over all"
    assert order[1] == 7, "the farthest of the shortlist"


def test_what_is_chosen_is_spread_out():
    points = np.concatenate([at(*np.linspace(0, 2, 30)), at(120), at(240)])
    assert {30, 31} < set(choose(np.zeros(32, np.float32), points, NONE, 8))


def test_copies_are_not_asked_for_twice_while_there_is_something_else():
    points = np.concatenate([at(*[0] * 10), at(60, 120)])
    first = choose(np.zeros(12, np.float32), points, NONE, 3)
    assert len({0 if one < 10 else one for one in first}) == 3
    known = choose(np.zeros(12, np.float32), points, at(0), 2)
    assert set(known) == {10, 11}, "a copy of what is known comes last"


def test_nothing_is_chosen_twice_and_no_more_than_there_is():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(17, 3)).astype(np.float32)
    for count in (0, 1, 5, 17, 40):
        got = choose(rng.random(17).astype(np.float32), points, points[:3], count)
        assert len(got) == len(set(got)) == min(count, 17)
    assert choose(np.zeros(4, np.float32), np.ones((4, 2), np.float32), np.ones((1, 2), np.float32), 4) != []
    assert sorted(choose(np.zeros(4, np.float32), np.zeros((4, 2), np.float32), NONE, 4)) == [0, 1, 2, 3]


def test_length_does_not_matter_only_direction():
    points = at(10, 80, 40)
    scaled = points * f([100.0], [0.01], [3.0])
    assert choose(f(0.1, 0.2, 0.3), points, at(0), 3) == choose(f(0.1, 0.2, 0.3), scaled, at(0) * 7, 3)


# -- the desk


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
