"""Every row of both tables in `hub.rollout`, what silence, absence and forgiveness do, and walks by chance."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.gate import Judgement, Pairs
from hub.progress import Progress
from hub.rollout import abort, begin, draft, groups, pause, promote, resume, step
from hub.seen import CameraView, Evidence, TrialView
from hub.settings import RolloutSettings
from shared.manifest import NOBODY, Group, Plan, Trial
from tests.hub.making import NOW

SETTINGS = RolloutSettings(
    shadow=1, canary=2, shadow_frames=10, canary_frames=20, groups=("line=3", "2"), soak_s=30, hold_s=300
)
PLAIN = RolloutSettings(shadow=0, canary=2, quality=False, groups=(), soak_s=30, hold_s=300)
NONE = Evidence()


def later(seconds):
    return NOW + timedelta(seconds=seconds)


def view(name, release=1, *, online=True, failed=0, left=0, reason="golden check", labels=None, **more):
    state = "failed" if failed else "reverted" if left else "running"
    return CameraView(
        f"site/{name}", online, release, state, failed or left or release, reason, labels or {}, **more
    )  # fmt: skip


def progress(stage="canary", **fields):
    given = {
        "release": 2, "previous": 1, "stage": stage, "since": NOW, "shadows": ("site/a",),
        "canaries": ("site/a", "site/b"), "specs": ("line=3", "2"),
        "named": ((), ()) if stage == "group" and fields.get("group") else ((),) if stage == "group" else (), **fields,
    }  # fmt: skip
    return Progress(**given)


def plain(stage="canary", **fields):
    return progress(stage, **{"specs": (), "shadows": (), **fields})


def shadow(**frames):
    return Evidence(shadow={f"site/{name}": TrialView(frames=count) for name, count in frames.items()})


def proof(verdict="safe", frames=500, **counts):
    return Evidence(
        canary={"site/a": TrialView(frames=frames)},
        pairs=Pairs(frames, **counts),
        judgement=Judgement(verdict, 1.0, 1.0),
    )


def walk(one, *looks, evidence=NONE, settings=PLAIN):
    """The states after looking at the fleet at several times."""
    states = []
    for seconds, fleet in looks:
        one = step(one, fleet, evidence, settings, later(seconds))
        states.append(one)
    return states


def at(one):
    return one.stage, one.group, one.state


# -- drafts


def test_a_draft_waits_for_its_turn_and_does_nothing():
    one = draft(2, 1, NOW)
    assert at(one) == ("draft", 0, "running")
    assert step(one, [view("a", 2)], proof(), SETTINGS, later(10**7)) == one
    assert groups(one, SETTINGS) == [Group(name="rest", release=1)]


def test_a_draft_may_wait_for_an_operator():
    one = draft(2, 1, NOW, held=True)
    assert at(one) == ("draft", 0, "held")
    got = resume(one, [view("a")], SETTINGS, later(5))
    assert (at(got), got.since) == (("draft", 0, "running"), later(5))
    assert at(promote(one, [view("a")], SETTINGS, later(5))) == ("draft", 0, "running"), "its turn is not ours to give"


@pytest.mark.parametrize(
    ("fields", "stage"),
    [
        ({}, "shadow"),
        ({"shadow": 0}, "canary"),
        ({"shadow": 0, "canary": 0}, "group"),
        ({"shadow": 0, "canary": 0, "groups": ()}, "everyone"),
        ({"canary": 0}, "shadow"),
    ],
)
def test_it_begins_with_the_first_stage_that_is_set(fields, stage):
    given = {"shadow": 1, "canary": 1, "groups": ("10%",), **fields}
    assert begin(draft(2, 1, NOW), [view("a")], RolloutSettings(**given), later(1)).stage == stage


def test_no_release_before_goes_to_everyone():
    got = begin(draft(1, 0, NOW), [], SETTINGS, later(1))
    assert (at(got), got.kind, got.since) == (("everyone", 0, "running"), "first", later(1))
    assert (got.shadows, got.canaries) == ((), ())
    assert groups(got, SETTINGS) == [Group(name="all", release=1)]


def test_the_way_back_goes_to_everyone():
    got = begin(draft(3, 1, NOW, kind="back"), [], SETTINGS, later(1))
    assert (at(got), got.kind) == (("everyone", 0, "running"), "back")
    assert groups(got, SETTINGS) == [Group(name="all", release=3)]


def test_with_nobody_online_it_stays_a_draft_that_says_so():
    got = begin(draft(2, 1, NOW), [view("a", online=False)], SETTINGS, later(1))
    assert (at(got), got.since) == (("draft", 0, "running"), NOW)
    assert got.reason == "waits for a camera that is online"
    assert begin(got, [view("a", online=False)], SETTINGS, later(2)) == got, "nothing to write at every look"


def test_the_first_cameras_online_go_first_those_that_are_labelled_for_it_before_all_others():
    fleet = [view("a", online=False), view("b", labels={"canary": "no"}), view("c"), view("d")]
    fleet += [view("e", labels={"canary": "yes"}), view("f", labels={"canary": "yes"}, online=False)]
    got = begin(draft(2, 1, NOW), fleet, replace_settings(shadow=1, canary=2), NOW)
    assert (got.shadows, got.canaries) == (("site/e",), ("site/e", "site/c"))
    assert "it runs beside the release in use on site/e" in got.reason


def replace_settings(base=SETTINGS, **fields):
    return msgspec.structs.replace(base, **fields)


def test_fewer_cameras_than_canaries_are_enough():
    assert begin(draft(2, 1, NOW), [view("a")], SETTINGS, NOW).canaries == ("site/a",)


def test_a_rollout_keeps_the_stages_that_it_began_with():
    """Settings may change under way: no stage is entered for which no camera was chosen."""
    begun = begin(draft(2, 1, NOW), [view("a")], replace_settings(shadow=1, canary=0, groups=()), NOW)
    got = step(begun, [view("a")], shadow(a=10), replace_settings(canary=3), later(1))
    assert got.stage == "everyone"


# -- shadow


def test_shadow_cameras_that_judged_enough_open_the_way_to_the_canaries():
    few, enough = ([view("a"), view("b")], evidence := shadow(a=9)), shadow(a=10)
    assert step(progress("shadow"), few[0], evidence, SETTINGS, later(1)) == progress("shadow")
    got = step(progress("shadow"), few[0], enough, SETTINGS, later(2))
    assert (at(got), got.since) == (("canary", 0, "running"), later(2))
    assert "10 frames in the shadow" in got.reason
    assert "it runs first on site/a, site/b" in got.reason


def test_each_shadow_camera_must_have_judged_enough():
    one = progress("shadow", shadows=("site/a", "site/b"))
    assert step(one, [view("a"), view("b")], shadow(a=99, b=9), SETTINGS, later(1)).stage == "shadow"
    assert step(one, [view("a"), view("b")], shadow(a=99), SETTINGS, later(1)).stage == "shadow", "b said nothing"
    assert step(one, [view("a"), view("b")], shadow(a=10, b=10), SETTINGS, later(1)).stage == "canary"


def test_a_shadow_camera_that_says_why_it_cannot_does_not_hold_it_up():
    said = Evidence(shadow={"site/a": TrialView(skipped="no memory")})
    got = step(progress("shadow"), [view("a")], said, SETTINGS, later(1))
    assert got.stage == "canary"
    assert "site/a could not: no memory" in got.reason


def test_a_shadow_camera_that_could_not_take_it_holds():
    got = step(progress("shadow"), [view("a", failed=2)], shadow(a=99), SETTINGS, later(1))
    assert (at(got), got.reason) == (("shadow", 0, "held"), "site/a could not take it: golden check")


def test_a_shadow_that_is_much_slower_beside_does_not_end():
    slow = Evidence(shadow={"site/a": TrialView(frames=5000, new_ms=20.0, old_ms=10.0)})
    one = replace(progress("shadow"), shadows=("site/a",))
    assert at(step(one, [view("a")], slow, SETTINGS, later(1))) == ("shadow", 0, "running")
    got = step(one, [view("a")], slow, SETTINGS, later(SETTINGS.hold_s))
    assert at(got) == ("shadow", 0, "held")
    assert "it takes 20.0 ms a frame, release 1 10.0; silence never promotes" in got.reason
    quick = Evidence(shadow={"site/a": TrialView(frames=5000, new_ms=10.0, old_ms=10.0)})
    assert step(one, [view("a")], quick, SETTINGS, later(1)).stage == "canary"


def test_nothing_is_reverted_while_it_runs_in_the_shadow_alone():
    bad = replace(proof("worse"), shadow={"site/a": TrialView(frames=3)})
    assert step(progress("shadow"), [view("a", left=2)], bad, SETTINGS, later(1)).state == "held"


# -- canary

RUNNING = [view("a", 2), view("b", 2), view("c", 1)]


def test_canaries_that_ran_it_for_the_soak_time_and_pairs_that_prove_it_safe_open_the_way():
    states = walk(progress(), (10, RUNNING), (39, RUNNING), (40, RUNNING), evidence=proof(), settings=SETTINGS)
    assert [at(one) for one in states] == [("canary", 0, "running"), ("canary", 0, "running"), ("group", 0, "running")]
    assert states[0].healthy_since == later(10)
    assert states[2].since == later(40)
    assert "of 500 frames judged with both it mended 0 and broke 0, 0 labels" in states[2].reason


@pytest.mark.parametrize(
    ("evidence", "lacking"),
    [
        (NONE, "the canaries have judged 0 of 20 frames with both"),
        (proof(frames=19), "the canaries have judged 19 of 20 frames with both"),
        (proof("open", open=3), "500 frames judged with both do not prove it safe, 3 differences are not settled"),
        (
            Evidence(canary={"site/a": TrialView(skipped="no time")}),
            "no canary compares it with the release before (site/a: no time)",
        ),
    ],
)
def test_without_proof_it_waits_and_then_holds_and_says_what_is_lacking(evidence, lacking):
    states = walk(progress(), (0, RUNNING), (299, RUNNING), (300, RUNNING), evidence=evidence, settings=SETTINGS)
    assert [at(one) for one in states] == [("canary", 0, "running")] * 2 + [("canary", 0, "held")]
    assert states[2].reason == f"not proven within 300 s: {lacking}; silence never promotes"


def test_without_quality_the_soak_time_is_enough():
    states = walk(plain(), (10, RUNNING), (39, RUNNING), (40, RUNNING))
    assert [one.stage for one in states] == ["canary", "canary", "everyone"]


def test_pairs_that_prove_it_worse_send_it_back():
    [got] = walk(progress(), (5, RUNNING), evidence=proof("worse", broken=9, mended=1), settings=SETTINGS)
    assert (at(got), got.since) == (("canary", 0, "reverted"), later(5))
    assert got.reason == (
        "it is worse: of 10 frames that only one of the two called right, release 1 was right on 9 and release 2 on 1"
    )
    assert got.ended


@pytest.mark.parametrize(("stage", "group"), [("canary", 0), ("group", 0), ("group", 1), ("everyone", 0)])
def test_it_goes_back_from_wherever_it_is_in_use(stage, group):
    got = step(progress(stage, group=group), RUNNING, proof("worse"), SETTINGS, later(1))
    assert at(got) == (stage, group, "reverted")


def test_without_quality_pairs_say_nothing():
    assert walk(plain(), (5, RUNNING), evidence=proof("worse"))[0].state == "running"


def test_a_canary_that_left_it_sends_it_back():
    [got] = walk(progress(), (5, [view("a", 2), view("b", 1, left=2, reason="crashed")]), settings=SETTINGS)
    assert (at(got), got.reason) == (("canary", 0, "reverted"), "site/b left it: crashed")


def test_a_canary_that_fails_holds_with_its_reason():
    [got] = walk(plain(), (5, [view("a", 2), view("b", 1, failed=2, reason="cosine 0.4")]))
    assert (at(got), got.reason) == (("canary", 0, "held"), "site/b could not take it: cosine 0.4")


def test_failure_comes_before_success():
    fleet = [view("a", 2), view("b", 2, failed=2)]
    assert walk(plain(healthy_since=NOW), (1000, fleet))[0].state == "held"


def test_a_failure_of_another_release_or_camera_does_not_count():
    fleet = [view("a", 2, failed=1), view("b", 2, left=1), view("c", 1, failed=2), view("d", 1, left=2)]
    assert walk(plain(), (5, fleet))[0].state == "running"


def test_one_canary_alone_does_not_open_the_way():
    half = [view("a", 2), view("b", 1)]
    assert walk(plain(), (5, half), (200, half))[-1] == plain()


@pytest.mark.parametrize(
    "gap", [view("b", 2, online=False), view("b", 1), view("b", 3)], ids=["offline", "went back", "runs another"]
)
def test_the_soak_begins_anew_after_a_break(gap):
    running = [view("a", 2), view("b", 2)]
    states = walk(plain(), (0, running), (20, [view("a", 2), gap]), (25, running), (54, running), (55, running))
    assert [one.stage for one in states] == ["canary"] * 4 + ["everyone"]
    assert states[1].healthy_since is None


def test_a_canary_that_is_not_heard_of_any_more_is_silence():
    states = walk(plain(), (0, [view("a", 2)]), (100, [view("a", 2)]), (300, [view("a", 2)]))
    assert [one.state for one in states] == ["running", "running", "held"]


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
@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_silence_never_promotes(fleet, stage):
    states = walk(progress(stage), (1, fleet), (299, fleet), (300, fleet), (10_000, fleet), settings=SETTINGS)
    assert [one.stage for one in states] == [stage] * 4
    assert [one.state for one in states] == ["running", "running", "held", "held"]
    assert "silence never promotes" in states[2].reason


def test_time_before_the_stage_began_does_not_count():
    assert walk(plain(since=later(290)), (300, [view("a", 1), view("b", 1)]))[0].state == "running"


# -- group


def line(name, release, **more):
    return view(name, release, labels={"line": "3"}, **more)


def group(number=0, named=((),), **fields):
    return progress("group", group=number, named=named, **fields)


def test_a_group_that_ran_it_for_the_soak_time_lets_the_next_in_and_after_the_last_everyone():
    fleet = [*RUNNING[:2], line("c", 2), view("d"), view("e"), view("f", online=False)]
    states = walk(group(), (0, fleet), (30, fleet), evidence=proof(), settings=SETTINGS)
    assert [at(one) for one in states] == [("group", 0, "running"), ("group", 1, "running")]
    second = states[1]
    assert set(second.named[1]) == {"site/d", "site/e"}
    assert second.reason == "group line=3 runs it without failure"
    fleet = [*RUNNING[:2], line("c", 2), view("d", 2), view("e", 2), view("f", online=False)]
    states = walk(second, (31, fleet), (60, fleet), (61, fleet), evidence=proof(), settings=SETTINGS)
    assert [one.stage for one in states] == ["group", "group", "everyone"]


def test_a_number_of_cameras_are_cameras_that_do_not_run_it_yet():
    """Else "20" after "10%" would be twenty of the very same: both go by place."""
    fleet = [view(str(one), 2 if one < 2 else 1) for one in range(40)]
    one = progress("group", canaries=("site/0", "site/1"), specs=("25%", "5"), named=((),), since=NOW)
    first = Plan(number=1, created=NOW, expires=NOW, project="p", stage="s", groups=groups(one, SETTINGS))
    inside = {cam.name for cam in fleet if first.group_for(cam.name, {}).release == 2}
    fleet = [replace(cam, release=2) if cam.name in inside else cam for cam in fleet]
    got = walk(one, (0, fleet), (30, fleet), settings=SETTINGS)[-1]
    assert (got.group, len(got.named[1])) == (1, 5)
    assert not set(got.named[1]) & inside


def test_a_group_without_any_camera_is_passed():
    one = progress("group", canaries=(), named=((),))
    got = walk(one, (1, [view("x")]), settings=SETTINGS)[0]
    assert at(got) == ("group", 1, "running"), "no camera of line 3 is known"


def test_a_group_whose_cameras_are_all_away_is_silence():
    one = progress("group", canaries=(), named=((),))
    fleet = [line("c", 1, online=False), view("x")]
    states = walk(one, (1, fleet), (299, fleet), (300, fleet), settings=SETTINGS)
    assert [at(one) for one in states] == [("group", 0, "running")] * 2 + [("group", 0, "held")]


def test_a_camera_of_a_group_that_is_offline_does_not_hold_it_up():
    fleet = [*RUNNING[:2], line("c", 2), line("d", 1, online=False)]
    assert at(walk(group(), (0, fleet), (30, fleet), settings=SETTINGS)[-1]) == ("group", 1, "running")


def test_a_camera_of_a_group_that_comes_late_begins_the_soak_anew():
    before, after = [*RUNNING[:2], line("c", 2)], [*RUNNING[:2], line("c", 2), line("d", 1)]
    states = walk(group(), (0, before), (20, after), (31, after), (299, after), (300, after), settings=SETTINGS)
    assert [one.state for one in states] == ["running"] * 4 + ["held"]
    assert states[-1].stage == "group"


def test_so_many_of_a_group_may_fail_as_is_set_and_no_canary_may():
    few = replace_settings(max_failed=0.2)
    others = [line(f"n{one}", 2) for one in range(8)]
    fleet = [*RUNNING[:2], *others]
    assert walk(group(), (0, [*fleet, line("z", 1, failed=2)]), settings=few)[0].state == "running"
    passed = [*fleet, line("z", 1, failed=2)]
    assert at(walk(group(), (0, passed), (30, passed), settings=few)[-1]) == ("group", 1, "running")
    [many] = walk(group(), (0, [*fleet, *(line(f"z{one}", 1, failed=2) for one in range(3))]), settings=few)
    assert (many.state, many.reason) == ("held", "site/z0 and 2 more could not take it: golden check")
    [first] = walk(group(), (0, [view("a", 1, failed=2), *fleet[1:]]), settings=few)
    assert first.state == "held"
    [gone] = walk(group(), (0, [*fleet, *(line(f"z{one}", 1, left=2) for one in range(3))]), settings=few)
    assert (gone.state, gone.reason) == ("reverted", "site/z0 and 2 more left it: golden check")
    [lone] = walk(group(), (0, [*fleet, line("z", 1, left=2)]), settings=few)
    assert lone.state == "running"


# -- everyone


def test_done_once_every_camera_online_runs_it():
    part = [view("a", 2), view("b", 1), view("c", 1, online=False)]
    full = [view("a", 2), view("b", 2), view("c", 1, online=False)]
    states = walk(plain("everyone"), (10, part), (20, full), (21, part))
    assert [one.stage for one in states] == ["everyone", "done", "done"]
    assert states[1].since == later(20)
    assert states[1].ended


@pytest.mark.parametrize("fleet", [[], [view("a", 2, online=False)]])
def test_an_empty_or_silent_fleet_is_never_done(fleet):
    states = walk(plain("everyone"), (10, fleet), (10_000, fleet))
    assert [at(one) for one in states] == [("everyone", 0, "running"), ("everyone", 0, "held")]
    assert "no camera is online" in states[1].reason


def test_cameras_that_do_not_follow_hold_it_in_the_end():
    fleet = [view("a", 2), view("b", 1)]
    assert "it does not run on site/b yet" in walk(plain("everyone"), (300, fleet))[0].reason


@pytest.mark.parametrize("kind", ["first", "back"])
def test_what_there_is_nothing_to_compare_with_is_never_reverted(kind):
    one = Progress(2, 0 if kind == "first" else 1, "everyone", NOW, kind=kind)
    fleet = [view("a", 1, left=2), view("b", 2)]
    assert step(one, fleet, proof("worse"), SETTINGS, later(1)).state == "held"
    assert step(one, [view("b", 2)], proof("worse"), SETTINGS, later(1)).stage == "done"


# -- slower, lower scores, less memory


def timed(name, release, ms, **more):
    return view(name, release, infer_ms=ms, **more)


def test_slower_than_before_goes_no_further_but_where_those_that_keep_the_old_are_slower_too():
    one = plain(before_ms={"site/a": 10.0, "site/b": 10.0, "site/c": 10.0}, healthy_since=NOW)
    slow, after = [timed("a", 2, 20.0), timed("b", 2, 22.0)], SETTINGS.soak_s + 1

    def stage(*fleet):
        return walk(one, (after, [*slow, *fleet]))[0].stage

    assert stage(timed("c", 1, 20.0)) != "canary", "summer, or a slower line"
    assert stage(timed("c", 1, 10.0)) == "canary"
    assert stage() == "canary", "nobody to compare with"
    assert stage(timed("c", 1, 20.0, online=False)) == "canary"
    assert stage(timed("c", 1, 2.0)) == "canary"
    [held] = walk(one, (SETTINGS.hold_s, [*slow, timed("c", 1, 10.0)]))
    assert held.state == "held"
    assert "cameras take 2.1 times as long for a frame as before it; silence never promotes" in held.reason


def test_faster_cameras_beside_do_not_make_it_slow():
    one = plain(before_ms={"site/a": 10.0, "site/b": 10.0, "site/c": 10.0})
    fleet = [timed("a", 2, 10.0), timed("b", 2, 10.0), timed("c", 1, 2.0)]
    assert walk(one, (1, fleet))[0].state == "running"


def test_what_is_not_known_from_before_says_nothing():
    fleet = [timed("a", 2, 99.0), timed("b", 2, 99.0)]
    assert walk(plain(), (1, fleet))[0].state == "running"
    assert begin(draft(2, 1, NOW), [timed("a", 1, 7.0), view("b")], SETTINGS, NOW).before_ms == {"site/a": 7.0}


def low(new, old, frames):
    return replace(proof(frames=frames), canary={"site/a": TrialView(frames=frames, low_new=new, low_old=old)})


def test_lower_scores_on_the_same_frames_hold_with_a_word_on_the_scene():
    fleet = [*RUNNING[:2], view("c", 1, low_score=0.4), view("d", 1, low_score=0.6), view("e", 1, online=False)]
    [got] = walk(progress(), (1, fleet), evidence=low(50, 10, 100), settings=SETTINGS)
    assert got.state == "held"
    assert got.reason == (
        "it scores 50% of the same frames low, release 1 10%; on cameras that keep that one 50% of all frames are low "
        "now"
    )
    [alone] = walk(progress(), (1, RUNNING[:2]), evidence=low(50, 10, 100), settings=SETTINGS)
    assert alone.reason == "it scores 50% of the same frames low, release 1 10%"
    assert walk(progress(), (1, fleet), evidence=low(30, 10, 100), settings=SETTINGS)[0].state == "running"
    assert walk(progress(), (1, fleet), evidence=low(10, 1, 19), settings=SETTINGS)[0].state == "running", "too few yet"
    assert walk(progress(), (1, fleet), evidence=low(10, 90, 100), settings=SETTINGS)[0].state == "running"


def test_lower_scores_in_the_shadow_hold_before_anything_is_used():
    seen = Evidence(shadow={"site/a": TrialView(frames=10, low_new=6, low_old=1)})
    assert walk(progress("shadow"), (1, RUNNING), evidence=seen, settings=SETTINGS)[0].state == "held"


def test_less_memory_than_is_set_holds():
    tight = replace_settings(PLAIN, min_free_mb=100)
    [got] = walk(plain(), (1, [view("a", 2, free_mb=99), view("b", 2)]), settings=tight)
    assert (got.state, got.reason) == ("held", "99 MiB of memory are left on site/a, 100 are needed")
    fleet = [view("a", 2, free_mb=100), view("b", 2), view("c", 1, free_mb=1)]
    assert walk(plain(), (1, fleet), settings=tight)[0].state == "running", "c is no canary"


# -- an operator's word


@pytest.mark.parametrize("stage", ["canary", "group", "everyone"])
def test_what_is_proven_worse_goes_back_also_while_it_is_held(stage):
    held = progress(stage, state="held", reason="paused by an operator")
    assert step(held, [view("a", 2)], proof("open"), SETTINGS, later(1)) == held
    got = step(held, [view("a", 2)], proof("worse", broken=9, mended=1), SETTINGS, later(1))
    assert (got.state, "it is worse" in got.reason) == ("reverted", True)


def test_a_first_camera_that_is_gone_is_replaced_when_an_operator_resumes():
    held = progress("canary", state="held", shadows=("site/a",), canaries=("site/a",))
    fleet = [view("a", online=False), view("b"), view("c")]
    got = resume(held, fleet, msgspec.structs.replace(SETTINGS, canary=1), later(1))
    assert (got.canaries, got.forgiven) == (("site/b",), ())
    alone = resume(held, fleet[:1], SETTINGS, later(1))
    assert alone.canaries == ("site/a",), "there is nobody else"


def test_nothing_moves_a_held_or_ended_rollout_but_an_operator():
    for state in ("held", "superseded", "reverted", "aborted"):
        one = progress(state=state)
        assert step(one, RUNNING, proof(), SETTINGS, later(10**6)) is one
    done = progress("done")
    assert step(done, RUNNING, proof("worse"), SETTINGS, later(10**6)) is done


def test_a_paused_rollout_keeps_what_cameras_run_and_goes_on_from_the_same_stage():
    one = group()
    held = pause(one)
    assert (at(held), held.reason) == (("group", 0, "held"), "paused by an operator")
    assert groups(held, SETTINGS) == groups(one, SETTINGS)
    got = resume(replace(held, healthy_since=NOW), RUNNING, SETTINGS, later(500))
    assert (at(got), got.since, got.healthy_since) == (("group", 0, "running"), later(500), None)


def test_resuming_accepts_todays_failures_and_has_others_go_first():
    one = progress(canaries=("site/a", "site/b"), state="held")
    fleet = [view("a", 2), view("b", 1, failed=2), view("c"), view("d", online=False), view("e")]
    got = resume(one, fleet, SETTINGS, later(9))
    assert (got.canaries, got.forgiven) == (("site/a", "site/c"), ("site/b",))
    assert (at(got), got.since) == (("canary", 0, "running"), later(9))
    fleet[2] = view("c", 2)
    states = walk(got, (10, fleet), (40, fleet), evidence=proof(), settings=SETTINGS)
    assert [one.stage for one in states] == ["canary", "group"]
    assert step(got, [*fleet[:2], view("c", 1, failed=2)], NONE, SETTINGS, later(10)).state == "held", "a new failure"


def test_a_shadow_camera_that_failed_is_replaced():
    one = progress("shadow", state="held")
    got = resume(one, [view("a", failed=2), view("b")], SETTINGS, later(1))
    assert (got.shadows, got.canaries) == (("site/b",), ("site/b",))


def test_a_failed_canary_with_nobody_to_replace_it_proves_nothing():
    one = progress(canaries=("site/a",), state="held")
    fleet = [view("a", 1, failed=2)]
    got = resume(one, fleet, PLAIN, later(0))
    states = walk(got, (1, fleet), (299, fleet), (300, fleet))
    assert [at(one) for one in states] == [("canary", 0, "running")] * 2 + [("canary", 0, "held")]


@pytest.mark.parametrize(
    ("one", "to"),
    [
        (progress("shadow"), ("canary", 0)),
        (progress("canary"), ("group", 0)),
        (group(), ("group", 1)),
        (group(1, ((), ())), ("everyone", 0)),
        (progress("everyone"), ("done", 0)),
    ],
)
@pytest.mark.parametrize("state", ["running", "held"])
def test_an_operator_promotes_whatever_has_been_proven(one, to, state):
    got = promote(replace(one, state=state), RUNNING, SETTINGS, later(7))
    assert ((got.stage, got.group if got.stage == "group" else 0), got.state, got.since) == (to, "running", later(7))
    assert "promoted by an operator" in got.reason


@pytest.mark.parametrize("failed", [view("b", 1, failed=2), view("b", 1, left=2)], ids=["failed", "left"])
def test_what_had_failed_before_an_operator_promotes_does_not_stop_it_at_once(failed):
    held = progress("canary", state="held")
    fleet = [view("a", 2), failed]
    got = promote(held, fleet, SETTINGS, later(7))
    assert step(got, fleet, NONE, SETTINGS, later(8)).state == "running"
    worse = step(got, [view("a", 1, left=2), failed], NONE, SETTINGS, later(8))
    assert worse.state == "reverted", "what fails later does"


@pytest.mark.parametrize("one", [draft(2, 1, NOW), draft(2, 1, NOW, held=True), progress("shadow")])
def test_aborting_before_it_is_in_use_ends_it(one):
    got = abort(one, "wrong data", later(1))
    assert (got.state, got.stage, got.ended) == ("aborted", one.stage, True)
    assert got.reason == "aborted by an operator: wrong data"
    assert groups(got, SETTINGS) == [Group(name="rest", release=1)]


@pytest.mark.parametrize("stage", ["canary", "group", "everyone"])
def test_aborting_later_sends_it_back(stage):
    got = abort(progress(stage, state="held"), "wrong data", later(1))
    assert (got.state, got.since, got.ended) == ("reverted", later(1), True)


def test_aborting_the_first_release_has_nothing_to_go_back_to():
    got = abort(Progress(1, 0, "everyone", NOW, kind="first"), "wrong", later(1))
    assert got.state == "aborted"
    assert groups(got, SETTINGS) == []


# -- the plan


def names(one, fleet):
    """What the plan names to each camera: release and trial."""
    made = Plan(number=1, created=NOW, expires=NOW, project="p", stage=one.stage, groups=groups(one, SETTINGS))
    found = {cam.name: made.group_for(cam.name, cam.labels) for cam in fleet}
    return {name: (group.release, group.trial) for name, group in found.items()}


FLEET = [view("a"), view("b"), line("c", 1), view("d"), view("e")]


@pytest.mark.parametrize(
    ("one", "trying", "using", "keeping"),
    [
        (progress("shadow"), "a", "", "bcde"),
        (progress("canary"), "", "ab", "cde"),
        (group(), "", "abc", "de"),
        (group(1, ((), ("site/d",))), "", "abcd", "e"),
        (progress("everyone"), "", "abcde", ""),
        (progress("done"), "", "abcde", ""),
    ],
)
@pytest.mark.parametrize("state", ["running", "held"])
def test_the_plan_of_each_stage(one, trying, using, keeping, state):
    got = names(replace(one, state=state), FLEET)
    share = SETTINGS.share
    for name in "abcde":
        release, trial = got[f"site/{name}"]
        if name in trying:
            assert (release, trial) == (1, Trial(release=2, share=share))
        elif name in using:
            comparing = name in "ab" and one.stage != "done"
            assert (release, trial) == (2, Trial(release=1, share=share, ask=True) if comparing else None)
        else:
            assert name in keeping
            assert (release, trial) == (1, None)


@pytest.mark.parametrize("state", ["superseded", "reverted", "aborted"])
@pytest.mark.parametrize("stage", ["shadow", "canary", "group", "everyone"])
def test_an_ended_rollout_names_nobody_its_release(stage, state):
    assert set(names(progress(stage, state=state), FLEET).values()) == {(1, None)}


def test_without_quality_nobody_is_asked():
    [first, _] = groups(plain(), PLAIN)
    assert first.trial == Trial(release=1, share=PLAIN.share, ask=False)


def test_a_group_of_a_number_without_cameras_is_nobody_and_not_everybody():
    got = groups(progress("group", canaries=(), specs=("2",), named=((),)), SETTINGS)
    assert got == [Group(name="group-1", release=2, cameras=[NOBODY]), Group(name="rest", release=1)]


# -- by chance

SITES = [f"site/{one}" for one in range(6)]
VIEWS = st.builds(
    CameraView,
    name=st.just(""),
    online=st.booleans(),
    release=st.sampled_from([0, 1, 2, 3]),
    reload=st.sampled_from(["running", "running", "running", "failed", "reverted"]),
    reload_release=st.sampled_from([1, 2]),
    reason=st.just("why"),
    labels=st.sampled_from([{}, {"line": "3"}, {"canary": "no"}, {"canary": "yes"}]),
    infer_ms=st.sampled_from([0.0, 5.0, 50.0]),
    low_score=st.floats(0, 1),
    free_mb=st.sampled_from([None, 10, 1000]),
)
FLEETS = st.lists(st.one_of(st.none(), VIEWS), min_size=len(SITES), max_size=len(SITES)).map(
    lambda views: [replace(one, name=name) for name, one in zip(SITES, views, strict=True) if one is not None]
)
TRIALS = st.builds(
    TrialView,
    skipped=st.sampled_from(["", "", "no memory"]),
    frames=st.integers(0, 60),
    differed=st.integers(0, 60),
    low_new=st.integers(0, 60),
    low_old=st.integers(0, 60),
)
EVIDENCE = st.builds(
    Evidence,
    shadow=st.dictionaries(st.sampled_from(SITES), TRIALS),
    canary=st.dictionaries(st.sampled_from(SITES), TRIALS),
    pairs=st.builds(Pairs, frames=st.integers(0, 60), broken=st.integers(0, 9), mended=st.integers(0, 9)),
    judgement=st.sampled_from([Judgement("open", 1, 1), Judgement("safe", 1, 99), Judgement("worse", 99, 1)]),
)
LOOKS = st.lists(
    st.tuples(
        st.sampled_from([0.5, 10, 40, 400]), FLEETS, EVIDENCE, st.sampled_from([None] * 9 + ["pause", "resume", "go"])
    ),
    max_size=25,
)
RULES = st.builds(
    RolloutSettings,
    shadow=st.integers(0, 2),
    canary=st.integers(1, 2),
    shadow_frames=st.just(20),
    canary_frames=st.just(20),
    groups=st.sampled_from([(), ("25%",), ("line=3", "2"), ("1", "50%")]),
    max_failed=st.sampled_from([0.0, 0.5, 1.0]),
    soak_s=st.sampled_from([0.0, 30.0]),
    hold_s=st.just(300.0),
)
WIDE = ("group", "everyone", "done")


@settings(max_examples=300, deadline=None)
@given(RULES, FLEETS, LOOKS)
def test_nobody_but_the_stage_is_told_of_it_and_only_proof_or_an_operator_lets_it_out(rules, fleet, looks):
    one, now, allowed = begin(draft(2, 1, NOW), fleet, rules, NOW), 0.0, False
    for seconds, seen, evidence, word in looks:
        now += seconds
        before = one
        if one.stage == "draft":
            one = begin(one, seen, rules, later(now))
        elif word and not one.ended:
            if word == "pause":
                one = pause(one)
            else:
                one = (resume if word == "resume" else promote)(one, seen, rules, later(now))
                allowed = True
        else:
            one = step(one, seen, evidence, rules, later(now))
            if one.stage in WIDE and before.stage not in WIDE:
                allowed |= evidence.judgement.verdict == "safe" and evidence.pairs.frames >= rules.canary_frames
        if one.stage in WIDE and one.state not in ("reverted", "aborted"):
            assert allowed
        assert not (before.ended and one != before), "an ended rollout stays as it is"
        _nobody_else_is_told(one, seen, rules)


def _nobody_else_is_told(one, fleet, rules):
    plan = Plan(number=1, created=NOW, expires=NOW, project="p", stage=one.stage, groups=groups(one, rules))
    for camera in fleet:
        told = plan.group_for(camera.name, camera.labels)
        inside = camera.name in one.canaries or one.stage in ("everyone", "done")
        if one.stage == "group":
            inside |= "line=3" in one.specs and camera.labels.get("line") == "3"
            inside |= any(camera.name in some for some in one.named) or any(spec.endswith("%") for spec in one.specs)
        may = one.in_use and inside and one.state in ("running", "held")
        assert told is not None
        assert told.release in ({1, 2} if may else {1})
        if told.trial is not None:
            first = one.shadows if told.release == 1 else one.canaries
            assert camera.name in first
            assert told.trial.release == 3 - told.release
