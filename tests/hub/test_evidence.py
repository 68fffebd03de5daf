"""What is counted of a rollout's cameras, from a real database: nothing twice, and nothing that is open forgotten."""

import pytest
from sqlmodel import select

from hub import evidence
from hub.gate import Pairs
from hub.progress import Progress
from hub.queue import waits
from hub.seen import TrialView
from hub.settings import RolloutSettings
from hub.tables import Camera, Image, Pair, Rollout, Trial
from shared.ids import event_id
from shared.messages import TrialState
from tests.hub.making import NOW, add_image
from tests.hub.rolling import Fleet

RULES = RolloutSettings(batch=10_000)
CANARY = Progress(2, 1, "canary", NOW, shadows=("site/a",), canaries=("site/a", "site/b"))
SHADOW = Progress(2, 1, "shadow", NOW, shadows=("site/a",), canaries=("site/a", "site/b"))


@pytest.fixture
def fleet(settings, store, clock):
    made = Fleet(settings, store, clock)
    made.paused = False
    return made


def gathered(fleet, progress=CANARY, rules=RULES):
    with fleet.store.write() as session:
        found, fleet.paused = evidence.look(session, "cells", progress, rules, paused=fleet.paused)
    return found


# -- trials


def test_nothing_was_seen_yet(fleet):
    got = gathered(fleet)
    assert got.pairs == Pairs()
    assert set(got.shadow.values()) | set(got.canary.values()) == {TrialView()}
    assert got.judgement.verdict == "open"


def test_new_and_old_keep_their_names_whichever_is_in_use(fleet):
    fleet.shadow("a", 10, differed=3, low=4, other_low=7, ms=5.0, other_ms=6.0)
    seen = TrialView(frames=10, differed=3, low_new=7, low_old=4, new_ms=6.0, old_ms=5.0)
    assert gathered(fleet, SHADOW).shadow == {"site/a": seen}
    fleet.canary("a", 20, differed=5, low=2, other_low=8, ms=9.0, other_ms=1.0)
    got = gathered(fleet)
    assert got.canary["site/a"] == TrialView(frames=20, differed=5, low_new=2, low_old=8, new_ms=9.0, old_ms=1.0)
    assert got.shadow == {"site/a": seen}, "what the shadow showed is not forgotten"
    assert got.pairs == Pairs(20, open=5), "of canaries alone"


def test_counts_of_each_trial_add_up(fleet):
    """Another one begins with each start of the program, and when a camera comes back to it."""
    for trial, frames in (("t1", 10), ("t2", 7), ("t2", 9), ("t3", 1)):
        fleet.canary("a", frames, trial=trial, low=frames, differed=1)
        got = gathered(fleet)
    assert (got.canary["site/a"].frames, got.canary["site/a"].low_new, got.pairs.open) == (20, 20, 3)


def test_an_older_report_that_a_broker_had_kept_takes_nothing_back_and_adds_nothing(fleet):
    fleet.canary("a", 100, differed=4)
    gathered(fleet)
    fleet.canary("a", 80, differed=2)
    assert gathered(fleet).pairs == Pairs(100, open=4)
    fleet.canary("a", 110, differed=4)
    assert gathered(fleet).pairs == Pairs(110, open=4)


def test_trials_of_other_releases_and_cameras_do_not_count(fleet):
    fleet.say("a", 2, trial=TrialState(release=3, other=1, id="t1", frames=50))
    fleet.say("b", 2, trial=TrialState(release=2, other=4, id="t1", frames=50))
    fleet.canary("c", 50)
    fleet.say("d", 2)
    assert gathered(fleet).pairs == Pairs()
    with fleet.store.read() as session:
        assert session.exec(select(Trial)).all() == []


@pytest.mark.parametrize(
    "other", [{"release": 7, "other": 8}, {"release": 1, "other": 7}, {"release": 2, "other": 1}], ids=str
)
def test_why_a_camera_compares_nothing_holds_for_that_trial_alone(fleet, other):
    """A shadow camera whose last report is of a trial before has not said that it cannot do this one."""
    fleet.say("a", 1, trial=TrialState(**other, skipped="no memory"))
    assert gathered(fleet, SHADOW).shadow == {"site/a": TrialView()}
    fleet.shadow("a", 0, skipped="no time")
    assert gathered(fleet, SHADOW).shadow == {"site/a": TrialView(skipped="no time")}
    assert gathered(fleet).canary["site/a"].skipped == ""


def test_a_camera_that_has_compared_has_not_skipped(fleet):
    fleet.canary("a", 5)
    gathered(fleet)
    fleet.canary("a", 0, trial="t2", skipped="no memory")
    assert gathered(fleet).canary["site/a"] == TrialView(frames=5)


# -- pairs


def test_each_difference_is_what_an_operator_says(fleet):
    fleet.canary("a", 100, differed=6)
    fleet.differ("a", new="defect", old="good", says="defect")
    fleet.differ("a", new="defect", old="good", says="good")
    fleet.differ("a", new="good", old="defect", says="good")
    fleet.differ("a", new="crack", old="good", says="defect")
    fleet.differ("a", says="")
    fleet.differ("a")
    assert gathered(fleet).pairs == Pairs(100, broken=1, mended=2, tied=2, open=1)


def test_an_operator_may_think_again(fleet):
    fleet.canary("a", 9, differed=1)
    image = fleet.differ("a", says="good")
    assert gathered(fleet).pairs.broken == 1
    fleet.settle(image, None)
    assert gathered(fleet).pairs == Pairs(9, open=1)


def test_what_never_came_is_open_camera_by_camera(fleet):
    fleet.canary("a", 50, differed=3)
    fleet.canary("b", 50, differed=3)
    for _ in range(3):
        fleet.differ("b", says="defect")
    assert gathered(fleet).pairs == Pairs(100, mended=3, open=3)


def test_what_came_before_its_camera_has_reported_it_does_not_count_yet(fleet):
    fleet.canary("a", 50, differed=3)
    for number in (2, 4, 5):
        fleet.differ("a", says="defect", number=number)
    assert gathered(fleet).pairs == Pairs(50, mended=1, open=2)


def test_a_difference_that_came_twice_does_not_stand_for_another(fleet):
    fleet.canary("a", 50, differed=3)
    for number in (1, 1, 1):
        fleet.differ("a", says="defect", number=number)
    assert gathered(fleet).pairs == Pairs(50, mended=1, open=2)


def test_an_id_that_a_camera_gave_to_two_trials_counts_for_the_first_alone(fleet):
    fleet.shadow("a", 10, trial="t1")
    gathered(fleet, SHADOW)
    fleet.canary("a", 50, trial="t1")
    assert gathered(fleet).pairs == Pairs()


def test_what_a_canary_showed_counts_also_when_it_is_none_any_more(fleet):
    fleet.canary("a", 50, differed=4)
    fleet.differ("a", says="good")
    gathered(fleet)
    others = Progress(2, 1, "canary", NOW, canaries=("site/b",), forgiven=("site/a",))
    fleet.canary("b", 10)
    assert gathered(fleet, others).pairs == Pairs(60, broken=1, open=3)


def test_what_cameras_send_that_were_no_canaries_does_not_count(fleet):
    fleet.canary("a", 50)
    for _ in range(5):
        fleet.differ("stranger", says="defect")
    assert gathered(fleet).pairs == Pairs(50)


def test_pairs_of_other_releases_or_the_other_way_round_do_not_count(fleet):
    fleet.canary("a", 50)
    fleet.differ("a", says="good", pair=(1, 2))
    fleet.differ("a", says="good", pair=(3, 2))
    assert gathered(fleet).pairs == Pairs(50)


def test_an_image_that_is_not_there_settles_nothing(fleet):
    fleet.canary("a", 50, differed=1)
    with fleet.store.write() as session:
        session.add(
            Pair(
                camera="site/a", event_id="gone", project="cells", release=2, label="good", other=1,
                other_label="defect", trial="t1", number=1,
            )
        )  # fmt: skip
    assert gathered(fleet).pairs == Pairs(50, open=1)


def test_a_share_of_the_differences_is_drawn_by_a_hash_of_the_event(fleet):
    fleet.canary("a", 500, differed=200)
    for _ in range(200):
        fleet.differ("a", says="defect")
    got = gathered(fleet, rules=RolloutSettings(settle=0.3, batch=10_000)).pairs
    assert 30 < got.mended < 90
    assert (got.open, got.share, got.frames) == (0, 0.3, 500)
    ids = [event_id(NOW) for _ in range(2000)]
    assert 500 < sum(evidence.drawn(one, 0.3) for one in ids) < 700
    assert {one for one in ids if evidence.drawn(one, 0.3)} < {one for one in ids if evidence.drawn(one, 0.6)}
    assert all(evidence.drawn(one, 1.0) for one in ids)


@pytest.mark.parametrize(
    "counts", [{"frames": 0, "differed": 2**53}, {"frames": 2**53, "differed": 2**53}, {"frames": 3, "differed": 9}]
)
def test_nonsense_proves_nothing(fleet, counts):
    fleet.canary("a", **counts)
    got = gathered(fleet)
    assert got.pairs.open == counts["differed"]
    assert got.judgement.verdict == "open"
    evidence.to_row(got, paused=False)


def test_a_row_that_pages_can_show(fleet):
    fleet.canary("a", 400)
    got = evidence.to_row(gathered(fleet), paused=True)
    assert got["verdict"] == "safe"
    assert got["canary"]["site/a"]["frames"] == 400
    assert got["pairs"]["frames"] == 400
    assert (got["labels"], got["paused"]) == (0, True)
    fleet.canary("b", 2**53)
    assert evidence.to_row(gathered(fleet), paused=True)["safety"] <= 1e300


# -- windows

FEW = RolloutSettings(batch=3)


def test_once_enough_wait_counting_pauses_until_they_are_settled(fleet):
    fleet.canary("a", 100, differed=3)
    fleet.canary("b", 10)
    images = [fleet.differ("a") for _ in range(3)]
    assert gathered(fleet, rules=FEW).pairs == Pairs(110, open=3)
    assert fleet.paused
    fleet.canary("a", 200, differed=9)
    fleet.canary("b", 50, differed=1)
    between = [fleet.differ("a") for _ in range(6)]
    assert gathered(fleet, rules=FEW).pairs == Pairs(110, open=3), "counts neither way"
    rollout(fleet)
    assert asked(fleet) == images, "nobody is asked about what does not count"
    for one in images[:2]:
        fleet.settle(one, "defect")
    assert gathered(fleet, rules=FEW).pairs == Pairs(110, mended=2, open=1)
    assert fleet.paused, "not while one waits"
    fleet.settle(images[2], "good")
    assert gathered(fleet, rules=FEW).pairs == Pairs(110, mended=2, broken=1)
    assert not fleet.paused
    fleet.settle(between[0], "good")
    fleet.canary("a", 300, differed=10)
    fleet.differ("a", says="defect")
    assert gathered(fleet, rules=FEW).pairs == Pairs(210, mended=3, broken=1)


def test_a_difference_of_a_window_whose_image_never_comes_stays_open(fleet):
    fleet.canary("a", 100, differed=5)
    images = []
    for number in (1, 2, 4):
        images.append(fleet.differ("a", number=number))
        gathered(fleet, rules=FEW)
        if number < 4:
            continue
        assert fleet.paused
    assert gathered(fleet, rules=FEW).pairs == Pairs(100, open=5)
    for one in images:
        fleet.settle(one, "good")
    assert gathered(fleet, rules=FEW).pairs == Pairs(100, broken=3, open=2)
    assert not fleet.paused


def test_an_image_of_a_window_that_comes_late_counts_in_it(fleet):
    fleet.canary("a", 100, differed=4)
    images = [fleet.differ("a", number=number) for number in (1, 2, 3)]
    gathered(fleet, rules=FEW)
    fleet.canary("a", 200, differed=6)
    fleet.differ("a", number=5, says="good")
    fleet.differ("a", number=4, says="defect")
    for one in images:
        fleet.settle(one, "defect")
    assert gathered(fleet, rules=FEW).pairs == Pairs(100, mended=4)


def test_an_older_report_does_not_turn_a_window_round(fleet):
    fleet.canary("a", 100, differed=3)
    images = [fleet.differ("a") for _ in range(3)]
    gathered(fleet, rules=FEW)
    for one in images:
        fleet.settle(one, "defect")
    gathered(fleet, rules=FEW)
    gathered(fleet, rules=FEW)
    fleet.canary("a", 40, differed=1)
    got = gathered(fleet, rules=FEW).pairs
    assert got == Pairs(100, mended=3)


# -- the order of answers


def test_answers_count_in_the_order_in_which_images_came(fleet):
    """Who answers all of one class first makes no equal model look worse."""
    fleet.canary("a", 100, differed=20)
    images = [fleet.differ("a", new=("defect", "good")[one % 2], old=("good", "defect")[one % 2]) for one in range(20)]
    for one in images[::2]:
        fleet.settle(one, "good")  # the new model is wrong on every one of these
    got = gathered(fleet)
    assert got.pairs == Pairs(100, broken=1, open=19)
    assert got.judgement.verdict == "open"
    for one in images[1::2]:
        fleet.settle(one, "good")
    assert gathered(fleet).pairs == Pairs(100, broken=10, mended=10)


def test_an_image_that_nobody_can_be_asked_about_holds_up_no_other(fleet):
    fleet.canary("a", 100, differed=3)
    images = [fleet.differ("a") for _ in range(3)]
    gathered(fleet, rules=FEW)
    assert fleet.paused
    with fleet.store.write() as session:
        row = session.get(Image, images[0])
        row.state = "unreadable"
        session.add(row)
    for one in images[1:]:
        fleet.settle(one, "defect")
    assert gathered(fleet, rules=FEW).pairs == Pairs(100, mended=2, open=1)
    assert not fleet.paused


# -- who is asked first


def rollout(fleet, stage="canary", release=2):
    with fleet.store.write() as session:
        session.add(Rollout(project="cells", release=release, previous=1, stage=stage, since=NOW, plan_number=release))


def asked(fleet, settle=1.0):
    with fleet.store.read() as session:
        return evidence.urgent(session, "cells", waits("cells"), settle)


def test_the_differences_of_the_rollout_under_way_are_urgent_the_oldest_first(fleet):
    fleet.canary("a", 9)
    gathered(fleet)
    add_image(fleet.store)
    waiting = [fleet.differ("a") for _ in range(3)]
    fleet.differ("a", says="good")
    fleet.differ("a", pair=(5, 1))
    assert asked(fleet) == [], "no rollout"
    rollout(fleet)
    assert asked(fleet) == waiting


@pytest.mark.parametrize(
    ("stage", "urgent"), [("shadow", 0), ("canary", 1), ("group", 1), ("everyone", 1), ("done", 0)]
)
def test_they_are_while_it_is_under_way(fleet, stage, urgent):
    fleet.canary("a", 9)
    gathered(fleet)
    fleet.differ("a")
    rollout(fleet, stage)
    assert len(asked(fleet)) == urgent


def test_nobody_is_asked_what_was_not_drawn(fleet):
    fleet.canary("a", 9)
    gathered(fleet)
    rollout(fleet)
    for _ in range(60):
        fleet.differ("a")
    some = asked(fleet, 0.2)
    assert 0 < len(some) < 30
    assert set(some) < set(asked(fleet))


# -- a large fleet


def test_a_thousand_canaries_and_thousands_of_differences_add_up(fleet):
    names = [f"site/{one}" for one in range(1000)]
    trial = {"release": 2, "other": 1, "id": "t1", "frames": 100, "differed": 4}
    with fleet.store.write() as session:
        for name in names:
            session.add(
                Camera(
                    name=name, project="cells", first_seen=NOW, last_seen=NOW, online=True, release=2,
                    reported={"boot": "b", "trial": trial},
                )
            )  # fmt: skip
            for one in range(4):
                key = {"camera": name, "event_id": f"{name}/{one}", "project": "cells"}
                session.add(
                    Image(
                        **key, sha256="0" * 64, size=1, ext="png", captured_at=NOW, received_at=NOW, decided=True,
                        label="good",
                    )
                )  # fmt: skip
                session.add(
                    Pair(**key, release=2, label="good", other=1, other_label="defect", trial="t1", number=one + 1)
                )
    progress = Progress(2, 1, "canary", NOW, canaries=tuple(names))
    got = gathered(fleet, progress)
    assert got.pairs == Pairs(100_000, mended=4000)
    assert got.judgement.verdict == "safe"
