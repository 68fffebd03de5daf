"""Every row of the state table in `hub.rollout`, and what silence, absence and forgiveness do."""

from datetime import timedelta

import pytest

from hub.registry import CameraView
from hub.rollout import Progress, begin, groups, resume, step
from hub.settings import RolloutSettings
from shared.manifest import Group
from tests.hub.making import NOW

SETTINGS = RolloutSettings(canary=2, soak_s=30, hold_s=300)


def later(seconds):
    return NOW + timedelta(seconds=seconds)


def view(name, release=1, *, online=True, failed=0, reason="golden check"):
    return CameraView(f"site/{name}", online, release, "failed" if failed else "running", failed or release, reason)


def canary(**fields):
    given = {"release": 2, "previous": 1, "stage": "canary", "since": NOW, "canaries": ("site/a", "site/b"), **fields}
    return Progress(**given)


def everyone(**fields):
    return canary(stage="everyone", **fields)


def walk(progress, *looks, settings=SETTINGS):
    """The states after looking at the fleet at several times."""
    states = []
    for seconds, fleet in looks:
        progress = step(progress, fleet, settings, later(seconds))
        states.append(progress)
    return states


# -- new


def test_the_first_release_goes_to_everyone():
    got = begin(1, 0, [view("a", 0)], SETTINGS, NOW)
    assert (got.stage, got.previous, got.since, got.canaries) == ("everyone", 0, NOW, ())


def test_without_canaries_set_it_goes_to_everyone():
    assert begin(2, 1, [view("a")], RolloutSettings(canary=0), NOW).stage == "everyone"


def test_with_nobody_online_it_goes_to_everyone():
    assert begin(2, 1, [view("a", online=False)], SETTINGS, NOW).stage == "everyone"


def test_the_first_cameras_online_are_the_canaries():
    got = begin(2, 1, [view("a", online=False), view("b"), view("c"), view("d")], SETTINGS, NOW)
    assert (got.stage, got.canaries, got.held) == ("canary", ("site/b", "site/c"), False)
    assert "site/b, site/c" in got.reason


def test_fewer_cameras_than_canaries_are_enough():
    assert begin(2, 1, [view("a")], SETTINGS, NOW).canaries == ("site/a",)


# -- canary


def test_canaries_that_run_it_for_the_soak_time_open_the_way():
    running = [view("a", 2), view("b", 2), view("c", 1)]
    states = walk(canary(), (10, running), (39, running), (40, running))
    assert [one.stage for one in states] == ["canary", "canary", "everyone"]
    assert states[0].healthy_since == later(10)
    assert states[2].since == later(40)


def test_one_canary_alone_does_not_open_the_way():
    half = [view("a", 2), view("b", 1)]
    assert walk(canary(), (10, half), (200, half))[-1] == canary()


@pytest.mark.parametrize(
    "pause", [view("b", 2, online=False), view("b", 1), view("b", 3)], ids=["offline", "went back", "runs another"]
)
def test_the_soak_begins_anew_after_a_break(pause):
    running = [view("a", 2), view("b", 2)]
    states = walk(canary(), (0, running), (20, [view("a", 2), pause]), (25, running), (54, running), (55, running))
    assert [one.stage for one in states] == ["canary"] * 4 + ["everyone"]
    assert states[1].healthy_since is None


def test_a_canary_that_is_not_heard_of_any_more_is_silence():
    states = walk(canary(), (0, [view("a", 2)]), (100, [view("a", 2)]), (300, [view("a", 2)]))
    assert [(one.stage, one.held) for one in states] == [("canary", False), ("canary", False), ("canary", True)]


def test_a_canary_that_fails_holds_with_its_reason():
    [got] = walk(canary(), (5, [view("a", 2), view("b", 1, failed=2, reason="cosine 0.4")]))
    assert (got.held, got.stage) == (True, "canary")
    assert got.reason == "site/b could not take it: cosine 0.4"


def test_failure_comes_before_success():
    fleet = [view("a", 2), view("b", 2, failed=2)]
    assert walk(canary(healthy_since=NOW), (1000, fleet))[0].held


def test_a_failure_of_another_release_or_camera_does_not_count():
    fleet = [view("a", 2, failed=1), view("b", 2), view("c", 1, failed=2)]
    assert not walk(canary(), (5, fleet))[0].held


@pytest.mark.parametrize(
    "fleet",
    [
        [],
        [view("a", 2, online=False), view("b", 2, online=False)],
        [view("a", 1), view("b", 1)],
        [view("c", 2), view("d", 2)],
    ],
    ids=["nobody", "offline", "old release", "others"],
)
def test_silence_never_promotes(fleet):
    states = walk(canary(), (1, fleet), (299, fleet), (300, fleet), (10_000, fleet))
    assert [one.stage for one in states] == ["canary"] * 4
    assert [one.held for one in states] == [False, False, True, True]
    assert "silence never promotes" in states[2].reason


def test_time_before_the_stage_began_does_not_count():
    assert not walk(canary(since=later(290)), (300, [view("a", 1), view("b", 1)]))[0].held


# -- everyone


def test_done_once_every_camera_online_runs_it():
    part = [view("a", 2), view("b", 1), view("c", 1, online=False)]
    full = [view("a", 2), view("b", 2), view("c", 1, online=False)]
    states = walk(everyone(), (10, part), (9999, part), (10_000, full), (10_001, part))
    assert [one.stage for one in states] == ["everyone", "everyone", "done", "done"]
    assert states[2].since == later(10_000)


@pytest.mark.parametrize("fleet", [[], [view("a", 2, online=False)]])
def test_an_empty_or_silent_fleet_is_never_done(fleet):
    assert walk(everyone(), (10_000, fleet))[0].stage == "everyone"


def test_any_camera_that_fails_holds_everyone():
    [got] = walk(everyone(), (5, [view("a", 2), view("z", 1, failed=2, reason="no memory")]))
    assert (got.held, got.reason) == (True, "site/z could not take it: no memory")


def test_what_is_done_stays_done():
    done = canary(stage="done")
    assert walk(done, (99_999, [view("a", 1, failed=2)])) == [done]


# -- held


@pytest.mark.parametrize("make", [canary, everyone])
def test_what_is_held_waits_for_an_operator(make):
    held = make(held=True, reason="x")
    assert walk(held, (1, [view("a", 2), view("b", 2)]), (9999, [view("a", 2), view("b", 2)])) == [held, held]


@pytest.mark.parametrize("make", [canary, everyone])
def test_an_operator_resumes_the_same_stage_with_a_fresh_clock(make):
    held = make(held=True, healthy_since=NOW, forgiven=("site/z",))
    fleet = [view("a", 1, failed=2), view("b", 2), view("c", 2, failed=1)]
    got = resume(held, fleet, SETTINGS, later(1000))
    assert (got.held, got.stage, got.since, got.healthy_since) == (False, held.stage, later(1000), None)
    assert got.forgiven == ("site/a", "site/z")
    assert not step(got, fleet, SETTINGS, later(1001)).held


def test_forgiven_canaries_are_not_waited_for_but_the_others_are():
    fleet = [view("a", 1, failed=2), view("b", 2)]
    forgiving = canary(forgiven=("site/a",))
    assert walk(forgiving, (0, fleet), (30, fleet))[-1].stage == "everyone"
    silent = [view("a", 1, failed=2), view("b", 2, online=False)]
    assert walk(forgiving, (0, silent), (299, silent))[-1].stage == "canary"


def test_on_resume_another_camera_takes_the_place_of_a_failed_canary():
    held = canary(held=True)
    failed = held.canaries[0].removeprefix("site/")
    fleet = [view(failed, 1, failed=2), view("x", 1, online=False), view("y", 1), view("z", 1)]
    got = resume(held, fleet, SETTINGS, later(5))
    assert "site/y" in got.canaries
    assert f"site/{failed}" not in got.canaries
    assert "site/x" not in got.canaries


def test_when_all_canaries_are_forgiven_nothing_proves_it_and_it_holds_again():
    fleet = [view("a", 1, failed=2), view("b", 1, failed=2), view("c", 1)]
    states = walk(canary(forgiven=("site/a", "site/b")), (0, fleet), (300, fleet))
    assert [(one.stage, one.held) for one in states] == [("canary", False), ("canary", True)]


def test_a_forgiven_camera_does_not_keep_everyone_waiting():
    fleet = [view("a", 1, failed=2), view("b", 2)]
    assert walk(everyone(forgiven=("site/a",)), (1, fleet))[0].stage == "done"


def test_a_new_failure_after_resuming_holds_again():
    fleet = [view("a", 1, failed=2), view("b", 1, failed=2)]
    assert walk(everyone(forgiven=("site/a",)), (1, fleet))[0].reason.startswith("site/b")


# -- the plan's groups


def test_canaries_run_the_new_one_and_the_rest_the_old():
    expected = [
        Group(name="canary", release=2, cameras=["site/a", "site/b"]),
        Group(name="rest", release=1),
    ]
    assert groups(canary()) == expected
    assert groups(canary(held=True)) == expected, "while held, cameras keep what they run"


def test_after_the_canaries_all_run_the_new_one():
    for stage in ("everyone", "done"):
        assert groups(canary(stage=stage)) == [Group(name="all", release=2)]


def test_the_whole_way():
    before = [view("a"), view("b"), view("c")]
    progress = begin(2, 1, before, RolloutSettings(canary=1, soak_s=30), NOW)
    seen = [progress.stage]
    for seconds, releases in ((5, (1, 1, 1)), (10, (2, 1, 1)), (41, (2, 1, 1)), (45, (2, 2, 1)), (50, (2, 2, 2))):
        fleet = [view(name, release) for name, release in zip("abc", releases, strict=True)]
        progress = step(progress, fleet, SETTINGS, later(seconds))
        seen.append(progress.stage)
    assert seen == ["canary", "canary", "canary", "everyone", "everyone", "done"]
