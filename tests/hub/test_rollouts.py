"""Releases on their way with a real database: turns, the way back, an operator's word, and a hub that starts anew."""

from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import event
from sqlmodel import delete, select

from hub import keys, rollouts
from hub.progress import Progress
from hub.tables import Release, Rollout, Run, Trial
from shared.errors import RolloutError
from shared.manifest import RELEASE_TYPE, Manifest, Reader, open_signed
from shared.messages import TrialState
from tests.hub.making import NOW
from tests.hub.rolling import Fleet

RULES = {"shadow": 1, "shadow_frames": 10, "canary": 1, "canary_frames": 20, "groups": ("b=1",), "soak_s": 5.0}


@pytest.fixture
def fleet(settings, store, clock):
    return Fleet(settings, store, clock, **RULES)


@pytest.fixture
def going(fleet):
    """Release 1 runs on a, b and c; release 2 is with its canary."""
    fleet.first("a", "b", "c")
    fleet.release(b"head 2")
    fleet.shadow("a", 10)
    fleet.look()
    assert fleet.at() == (2, "canary", "running")
    return fleet


def back(fleet):
    """Release 2 was worse, and 3 with the model of 1 is out."""
    fleet.canary("a", 40, differed=12)
    for _ in range(12):
        fleet.differ("a", says="good")
    fleet.look()


# -- the way


def test_the_first_release_goes_to_everyone_at_once(fleet):
    assert fleet.release(b"head 1") == 1
    assert fleet.at() == (1, "everyone", "running")
    assert fleet.row().kind == "first"
    assert fleet.planned("abc") == {"a": 1, "b": 1, "c": 1}
    fleet.say("a", 0)
    assert fleet.look().stage == "everyone"
    fleet.say("a", 1)
    assert fleet.look().stage == "done"


def test_from_the_shadow_to_everyone_with_proof(fleet):
    fleet.first("a", "b", "c")
    assert fleet.release(b"head 2") == 2
    assert fleet.at() == (2, "shadow", "running")
    assert fleet.planned("abc") == {"a": 1, "b": 1, "c": 1}
    fleet.shadow("a", 9)
    assert fleet.look().stage == "shadow"
    fleet.shadow("a", 10)
    assert fleet.look().stage == "canary"
    assert fleet.planned("abc") == {"a": 2, "b": 1, "c": 1}
    fleet.canary("a", 400, differed=1)
    image = fleet.differ("a")
    for _ in range(20):
        fleet.look()
    assert fleet.at() == (2, "canary", "running"), "one difference is open"
    fleet.settle(image, "defect")
    assert fleet.look().stage == "group"
    assert fleet.row().evidence["pairs"]["mended"] == 1
    for _ in range(10):  # nobody has the label: a canary alone shows that it goes on
        row = fleet.look()
    assert row.stage == "everyone"
    for name in "abc":
        fleet.say(name, 2)
    row = fleet.look()
    assert (row.stage, row.state) == ("done", "running")
    assert [one["stage"] for one in row.history] == ["shadow", "canary", "group", "everyone", "done"]
    assert [one["group"] for one in row.history] == ["", "", "b=1", "", ""]
    assert "mended 1 and broke 0" in row.history[2]["reason"]
    assert fleet.planned("abcz") == dict.fromkeys("abcz", 2)


def test_what_was_planned_is_published_once_for_each_change(fleet):
    fleet.first("a")
    before, number = fleet.published, fleet.row().plan_number
    for _ in range(5):
        fleet.look()
    assert (fleet.published, fleet.row().plan_number) == (before, number)


# -- the way back


def test_what_is_worse_is_followed_by_the_old_model_under_a_new_number_for_everyone(going):
    going.say("c", 1, floor=7)
    back(going)
    assert going.at() == (8, "everyone", "running"), "above what any camera has accepted"
    row = going.row()
    assert (row.kind, row.reverts, row.previous) == ("back", 2, 1)
    assert going.planned("abc") == {"a": 8, "b": 8, "c": 8}
    first, second, third = going.releases()
    assert third.model == first.model != second.model
    assert third.run_id == first.run_id
    assert third.note.startswith("back from release 2 to the model of release 1: it is worse: of 12 frames")
    gone = going.row(2)
    assert (gone.stage, gone.state) == ("canary", "reverted")
    assert "release 1 was right on 12 and release 2 on 0" in gone.reason
    assert gone.history[-1]["state"] == "reverted"
    for one in (row, gone):
        assert (one.evidence["verdict"], one.evidence["pairs"]["broken"]) == ("worse", 12)
    for name in "abc":
        going.say(name, 8)
    assert going.look().stage == "done"
    assert going.releases()[-1].number == 8, "once"


def test_the_release_before_is_signed_so_that_a_camera_takes_it(going):
    back(going)
    pinned = keys.load(going.keys).root_public
    reader = Reader(pinned, "cells", "site/a", now=going.clock.utc(), clock_trusted=True)
    got = open_signed(going.releases()[-1].envelope, RELEASE_TYPE, Manifest, reader).body
    assert (got.number, got.replaces) == (3, 2)


def test_an_operator_sends_it_back_too(going):
    going.rollouts.abort("wrong data")
    assert going.at() == (3, "everyone", "running")
    assert going.row(2).reason == "aborted by an operator: wrong data"


def test_a_rollout_that_is_held_is_sent_back_by_an_operator(going):
    going.rollouts.pause()
    going.rollouts.abort("enough")
    assert going.at() == (3, "everyone", "running")


def test_aborting_in_the_shadow_makes_no_new_release(fleet):
    fleet.first("a", "b")
    fleet.release(b"head 2")
    fleet.rollouts.abort("not this one")
    assert fleet.at() == (2, "shadow", "aborted")
    assert fleet.planned("ab") == {"a": 1, "b": 1}
    assert len(fleet.releases()) == 2
    assert all(group.trial is None for group in fleet.plan().groups)


def test_it_goes_back_also_when_the_old_run_is_gone(going):
    """The run is history; the model is what its release says."""
    with going.store.write() as session:
        for row in session.exec(select(Release)):
            row.run_id = None
            session.add(row)
        session.exec(delete(Run))
    back(going)
    assert going.at() == (3, "everyone", "running")
    first, _, third = going.releases()
    assert (third.model, third.run_id, third.holdout) == (first.model, None, first.holdout)


def test_a_reverted_release_is_not_what_the_next_one_is_compared_with(going):
    back(going)
    for name in "abc":
        going.say(name, 3)
    going.look()
    assert going.release(b"head 4") == 4
    assert (going.row().release, going.row().previous, going.row().stage) == (4, 3, "shadow")


# -- turns


def test_later_releases_wait_and_when_their_turn_comes_the_newest_begins(going):
    assert (going.release(b"head 3"), going.release(b"head 4"), going.release(b"x", start=False)) == (3, 4, 5)
    assert going.at() == (2, "canary", "running")
    assert [going.row(one).stage for one in (3, 4, 5)] == ["draft"] * 3
    assert [going.row(one).plan_number for one in (3, 4, 5)] == [0, 0, 0]
    for _ in range(2):
        going.rollouts.promote()
    for name in "abc":
        going.say(name, 2)
    assert going.look().stage == "done"
    going.look()
    assert going.at() == (4, "shadow", "running")
    assert going.row().previous == 2
    older = going.row(3)
    assert (older.state, older.reason) == ("superseded", "release 4 came before its turn")
    assert (going.row(5).stage, going.row(5).state) == ("draft", "held"), "that one waits for an operator"


def test_a_draft_that_waits_for_an_operator_begins_with_his_word(fleet):
    fleet.first("a")
    fleet.release(b"head 2", start=False)
    fleet.look()
    assert fleet.at() == (1, "done", "running")
    fleet.rollouts.resume()
    assert fleet.at() == (2, "shadow", "running")


def test_a_draft_waits_for_a_camera_and_costs_nothing_meanwhile(fleet):
    fleet.first("a")
    fleet.say("a", 1, online=False)
    fleet.release(b"head 2")
    assert (fleet.row(2).stage, fleet.row(2).reason) == ("draft", "waits for a camera that is online")
    assert fleet.planned("a") == {"a": 1}
    before = fleet.published
    fleet.look()
    assert fleet.published == before
    fleet.say("a", 1)
    fleet.look()
    assert fleet.at() == (2, "shadow", "running")


def test_a_draft_below_a_rollback_gets_a_new_number(going):
    assert going.release(b"head 3") == 3
    back(going)
    assert going.at() == (4, "everyone", "running"), "the way back has a number above the draft's"
    for name in "abc":
        going.say(name, 4)
    going.look()
    going.look()
    assert going.at() == (5, "shadow", "running")
    assert going.row().previous == 4
    assert (going.row(3).state, going.row(3).reason) == ("superseded", "released anew as 5")
    third, fifth = going.releases()[2], going.releases()[4]
    assert third.model == fifth.model
    assert len(going.releases()) == 5


def test_a_draft_whose_run_is_gone_gets_its_new_number_all_the_same(going):
    going.release(b"head 3")
    back(going)
    with going.store.write() as session:
        for row in session.exec(select(Release)):
            row.run_id = None
            session.add(row)
        session.exec(delete(Run))
    for name in "abc":
        going.say(name, 4)
    going.look()
    going.look()
    assert going.at() == (5, "shadow", "running")


def test_a_draft_whose_release_is_gone_does_not_stop_everything(going):
    going.release(b"head 3")
    back(going)
    with going.store.write() as session:
        session.exec(delete(Release).where(Release.number == 3))
    for name in "abc":
        going.say(name, 4)
    going.look()
    going.look()
    assert going.at() == (4, "done", "running")
    assert (going.row(3).state, going.row(3).reason) == ("aborted", "release 3 does not exist")
    assert going.release(b"head 5") == 5
    assert going.at() == (5, "shadow", "running")


# -- an operator's word


def test_words_without_a_rollout_are_errors(fleet):
    for word, what in (
        (fleet.rollouts.resume, "held"),
        (fleet.rollouts.pause, "under way"),
        (fleet.rollouts.promote, "under way"),
        (lambda: fleet.rollouts.abort("why"), "under way"),
    ):
        with pytest.raises(RolloutError, match=f"has no rollout that is {what}"):
            word()
    fleet.first("a")
    with pytest.raises(RolloutError, match="has no rollout that is held"):
        fleet.rollouts.resume()


def test_a_pause_keeps_everything_and_resume_goes_on(going):
    plan = going.plan()
    going.rollouts.pause()
    assert going.at() == (2, "canary", "held")
    assert going.plan() == plan
    going.canary("a", 400)
    for _ in range(20):
        going.look()
    assert going.at() == (2, "canary", "held")
    going.rollouts.resume()
    assert going.at() == (2, "canary", "running")
    for _ in range(10):
        going.look()
    assert going.row().stage != "canary"


def test_a_second_pause_does_not_pause_what_waits(going):
    going.release(b"head 3")
    going.rollouts.pause()
    with pytest.raises(RolloutError, match="under way"):
        going.rollouts.pause()
    assert (going.row(3).stage, going.row(3).state) == ("draft", "running")


def test_what_cameras_show_while_it_is_held_is_not_lost(going):
    """A camera that restarts meanwhile has forgotten its counts; and pages show what operators settle."""
    going.rollouts.pause()
    going.canary("a", 100, differed=2, trial="t1")
    going.look()
    going.canary("a", 5, trial="t2")
    going.differ("a", says="defect")
    row = going.look()
    assert (row.state, row.evidence["pairs"]["frames"]) == ("held", 105)
    assert (row.evidence["pairs"]["mended"], row.evidence["pairs"]["open"]) == (1, 1)


def test_time_outs_hold_with_what_is_lacking(settings, store, clock):
    fleet = Fleet(settings, store, clock, **RULES, hold_s=60.0)
    fleet.first("a")
    fleet.release(b"head 2")
    row = fleet.look(61)
    assert row.state == "held"
    assert row.reason == ("not proven within 60 s: site/a has judged 0 of 10 frames with both; silence never promotes")
    assert row.history[-1]["state"] == "held"


# -- cameras with an exemption


def test_an_exempted_camera_does_not_hold_up_the_fleet(going):
    going.rollouts.exempt("site/c", 1, "a line of its own", "Mira")
    for _ in range(2):
        going.rollouts.promote()
    for name, number in (("a", 2), ("b", 2), ("c", 1)):
        going.say(name, number)
    assert going.look().stage == "done"


def test_an_exempted_camera_does_not_go_first(fleet):
    fleet.first("a", "b")
    fleet.rollouts.exempt("site/a", 1, "a line of its own", "Mira")
    fleet.release(b"head 2")
    assert (fleet.progress().shadows, fleet.progress().canaries) == (("site/b",), ("site/b",))
    fleet.rollouts.exempt("site/a", 0, "as the others again", "Mira")
    fleet.rollouts.abort("x")
    fleet.release(b"head 3")
    assert fleet.progress().canaries == ("site/a",)


# -- a hub that comes and goes


def test_a_hub_that_starts_again_goes_on_where_it_was(going):
    going.canary("a", 300, trial="t1")
    going.look()
    before = going.progress()
    going.begin()
    assert going.progress() == before
    going.look()
    assert going.at() == (2, "canary", "running"), "nobody is in sight yet"
    going.canary("a", 100, trial="t2")
    assert going.look().evidence["pairs"]["frames"] == 400
    for _ in range(6):
        going.look()
    assert going.row().stage == "group"


def test_a_row_holds_all_of_a_progress(fleet):
    one = Progress(
        4, 3, "group", NOW, kind="upgrade", state="held", reason="why", shadows=("s/a",), canaries=("s/b", "s/c"),
        specs=("10%", "5"), group=1, named=((), ("s/d",)), healthy_since=NOW + timedelta(seconds=3), forgiven=("s/e",),
        before_ms={"s/a": 4.5},
    )  # fmt: skip
    row = Rollout(project="cells", release=4, since=NOW)
    rollouts.save(row, one)
    with fleet.store.write() as session:
        session.add(row)
    with fleet.store.read() as session:
        assert rollouts.load(session.exec(select(Rollout)).one()) == one


def test_a_rollout_of_the_hub_before_is_read(fleet):
    with fleet.store.write() as session:
        session.add(Rollout(project="cells", release=2, previous=1, stage="canary", cameras=["s/a"], since=NOW))
    with fleet.store.read() as session:
        got = rollouts.load(session.exec(select(Rollout)).one())
    assert (got.kind, got.canaries, got.specs, got.named) == ("upgrade", ("s/a",), (), ())


def test_a_signature_is_renewed_at_half_time_also_when_plans_change_more_often(settings, store, clock):
    """A plan that is signed anew with each stage never comes to half its time; a release does."""
    fleet = Fleet(settings, store, clock, **RULES, days=10)
    fleet.first("a", "b")
    for turn in range(6):
        fleet.clock.advance(86_400 * 3)
        for name in "ab":
            fleet.say(name, 1)
        fleet.release(b"head %d" % turn)
        fleet.rollouts.abort("not this one")
        fleet.look()
        plan = fleet.row()
        assert plan.plan_expires > fleet.clock.utc() + timedelta(days=5)
        first = fleet.releases()[0]
        assert first.expires_at > fleet.clock.utc() + timedelta(days=2), turn
    assert fleet.planned("ab") == {"a": 1, "b": 1}


def test_a_draft_that_waited_long_is_signed_anew_when_it_begins(settings, store, clock):
    fleet = Fleet(settings, store, clock, **RULES, days=10)
    fleet.first("a")
    fleet.release(b"head 2", start=False)
    fleet.clock.advance(86_400 * 11)
    fleet.say("a", 1)
    before = fleet.published
    fleet.rollouts.resume()
    fleet.look()
    assert fleet.releases()[1].expires_at > fleet.clock.utc() + timedelta(days=9)
    assert fleet.published > before


def test_a_draft_that_was_signed_under_another_delegation_is_signed_anew_when_it_begins(fleet):
    fleet.first("a")
    fleet.release(b"head 2", start=False)
    keys.change(fleet.keys, fleet.keys / keys.ROOT, fleet.clock, rotate=True, revoke=True)
    fleet.begin()
    fleet.say("a", 1)
    fleet.look()  # the plan and what it names are signed anew; the draft is not named yet
    before = fleet.releases()[1].envelope
    fleet.rollouts.resume()
    fleet.look()
    now = keys.load(fleet.keys)
    assert fleet.at()[:2] == (2, "shadow")
    assert fleet.releases()[1].envelope != before
    assert all(now.cover(one.envelope) for one in fleet.releases())


def test_after_a_restore_everything_is_signed_anew(going):
    number = going.row().plan_number
    before = [one.envelope for one in going.releases()]
    going.clock.advance(60)
    going.rollouts.look(restored=True)
    assert going.row().plan_number > number
    assert all(one.envelope != old for one, old in zip(going.releases(), before, strict=True))
    assert going.at() == (2, "canary", "running")


def test_a_plan_below_what_a_camera_has_accepted_is_signed_anew(going):
    going.say("b", 1, plan_floor=50)
    assert going.look().plan_number == 51


# -- what cameras may say


@pytest.mark.parametrize(
    "trial",
    [
        TrialState(release=2, other=1, frames=2**53, differed=2**53, low=2**53, id="x"),
        TrialState(release=2, other=2, frames=10**6, id="x"),
        TrialState(release=999_999_999, other=999_999_999, frames=10**6, id="x"),
        TrialState(release=1, other=2, frames=10**6, id="x"),
        TrialState(release=2, other=1, frames=0, differed=2**53, id="x"),
        TrialState(release=2, other=1, skipped="x" * 10_000),
        TrialState(release=2, other=1, frames=10**6),
        TrialState(release=2, other=1, id="s1", frames=10**6),
    ],
)
def test_nonsense_promotes_nothing_and_breaks_nothing(going, trial):
    going.say("a", 2, trial=trial)
    for _ in range(20):
        row = going.look()
    assert (row.release, row.stage) == (2, "canary")
    assert row.state != "reverted"


def test_a_camera_that_says_it_has_judged_fewer_than_none_is_not_read():
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"release":2,"other":1,"frames":-5}', type=TrialState)


def test_looking_again_at_the_same_writes_nothing(going):
    going.canary("a", 30)
    going.look()
    with going.store.read() as session:
        trials = session.exec(select(Trial)).all()
    statements = []

    def seen(_connection, _cursor, statement, *_):
        statements.append(statement)

    event.listen(going.store.engine, "before_cursor_execute", seen)
    going.look(0.0)
    event.remove(going.store.engine, "before_cursor_execute", seen)
    assert {one.camera for one in trials} == {"site/a"}
    assert len(statements) > 3
    assert not [one for one in statements if one.startswith(("INSERT", "UPDATE", "DELETE"))]
