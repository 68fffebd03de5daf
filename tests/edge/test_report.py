"""Report: what the camera says of itself, retained, at once on a change."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import edge.report
from edge.infer import Engine
from edge.policy import Policy
from edge.report import REPORT_SHARE, UNKNOWN_RATE, LowScores, Pace, Reporting, clock_quality
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.triage import Triage
from edge.trial import TrialRun
from shared import topics
from shared.messages import ReloadState, Reported, TriageState, TrialState, decode
from shared.policy import TriageSettings
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.messages import event_of

MakeSettings = Callable[..., EdgeSettings]


@pytest.mark.parametrize(
    ("setting", "there", "quality"),
    [
        ("trusted", "nothing", "synchronised"),
        ("auto", "mark", "synchronised"),
        ("auto", "folder", "unsynchronised"),
        ("auto", "nothing", "unknown"),
    ],
)
def test_clock_quality(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, setting: str, there: str, quality: str
) -> None:
    settings = make_settings(clock=setting)
    path = settings.state_folder / "timesync" / "synchronized"
    monkeypatch.setattr(edge.report, "SYNCHRONISED", path)
    if there != "nothing":
        path.parent.mkdir(parents=True)
    if there == "mark":
        path.touch()
    assert clock_quality(settings) == quality


def test_low_scores_over_the_last_frames(clock: FakeClock) -> None:
    low = LowScores(clock, length=10)
    assert (low.share(), low.fps()) == (0, 0)
    for n in range(20):
        clock.advance(0.5)
        low.add(n >= 15)
    assert low.share() == 0.5
    assert low.fps() == pytest.approx(10 / 4.5, abs=0.3)
    clock.advance(60)
    assert low.fps() == 0, "nothing lately"
    assert low.share() == 0.5


@pytest.fixture
def reporting(
    make_settings: MakeSettings, tmp_path: Path, clock: FakeClock
) -> Iterator[tuple[Reporting, FakeBroker, Spool, Counter[str]]]:
    broker = FakeBroker()
    bus = FakeBus(broker, "camera")
    spool = Spool(tmp_path / "spool", limit=1 << 20, quarantine_limit=0, keep_s=0, clock=clock)
    errors: Counter[str] = Counter()
    settings = make_settings(report_s=3600, triage={"low_score": 0.7})
    triage: Triage[object] = Triage(settings.triage)
    triage.model(["good", "defect"])
    one = Reporting(
        settings,
        boot="b00t",
        bus=bus,
        clock=clock,
        capture=SimpleNamespace(captured=5, dropped=2, unreadable=1, drained=False),  # type: ignore[arg-type]
        engine=Engine(),
        spool=spool,
        reload=lambda: SimpleNamespace(  # type: ignore[arg-type, return-value]
            floor=4, plan_floor=9, desired_floor=2, state=ReloadState(state="idle"), policy=Policy(refused="too new")
        ),
        low=LowScores(clock),
        errors=errors,
        triage=triage,
        trial=TrialRun(Engine(), triage.is_low),
    )
    bus.start(Recorder())
    one.start()
    yield one, broker, spool, errors
    one.stop()
    bus.stop()


def last(broker: FakeBroker) -> Reported | None:
    data = broker.retained.get(topics.reported(CAMERA))
    return decode(data, Reported) if data else None


def test_a_change_is_reported_at_once_and_retained(
    reporting: tuple[Reporting, FakeBroker, Spool, Counter[str]], clock: FakeClock
) -> None:
    one, broker, spool, errors = reporting
    assert last(broker) is None
    spool.add(*event_of(1))
    errors["message"] += 3
    one.changed()
    wait_until(lambda: last(broker), "a report")
    said = last(broker)
    assert said is not None
    assert (said.boot, said.project, said.release, said.floor, said.plan_floor) == ("b00t", "cells", 0, 4, 9)
    assert (said.frames.captured, said.frames.dropped, said.frames.unreadable) == (5, 2, 1)
    assert (said.spool.spooled, said.spool.left, said.errors) == (1, 1, {"message": 3})
    assert (said.clock, said.time) == ("synchronised", clock.utc())
    assert said.settings == {
        "strategy": "mix",
        "skipped": "novelty: the release has no references",
        "low_score": 0.7,
        "audit": 0.01,
        "spool_mb": 512,
    }
    assert said.triage == TriageState(source="edge", settings={"low_score": 0.7}, refused="too new")


def test_a_bunch_of_changes_makes_few_reports(reporting: tuple[Reporting, FakeBroker, Spool, Counter[str]]) -> None:
    one, broker, spool, _ = reporting
    for n in range(30):
        spool.add(*event_of(n))
        one.changed()
    wait_until(lambda: (said := last(broker)) and said.spool.left == 30, "the last state")
    assert len(broker.seen) < 20


def test_the_last_report_is_made_on_stop(reporting: tuple[Reporting, FakeBroker, Spool, Counter[str]]) -> None:
    one, broker, spool, _ = reporting
    spool.add(*event_of(1))
    one.stop()
    said = last(broker)
    assert said is not None
    assert said.spool.left == 1


def test_a_trial_and_the_cameras_labels_are_told(
    make_settings: MakeSettings, reporting: tuple[Reporting, FakeBroker, Spool, Counter[str]]
) -> None:
    one, _, _, _ = reporting
    assert (one.reported().trial, one.reported().labels) == (None, {})
    one._trial.name(4, 5, share=0.2, ask=False)
    one._trial.skip("no room")
    one._settings = make_settings(labels={"line": "3"})
    said = one.reported()
    assert said.trial is not None
    assert said.trial == TrialState(release=4, other=5, id=said.trial.id, skipped="no room")
    assert said.labels == {"line": "3"}
    assert said.rates.free_mb is not None
    assert said.rates.free_mb > 0


def test_offline_it_goes_on(reporting: tuple[Reporting, FakeBroker, Spool, Counter[str]]) -> None:
    one, broker, _, _ = reporting
    broker.stop(forget=True)
    one.changed()
    broker.start()
    one.changed()
    wait_until(lambda: last(broker), "a report")


# ------------------------------------------------------------------------------------------------ thin links

IDLE, FETCHING = ReloadState(state="idle"), ReloadState(state="fetching", release=4)
RUNNING, FAILED = ReloadState(state="running", release=4), ReloadState(state="failed", release=4)


def test_a_report_goes_at_once_on_a_change_or_after_report_s() -> None:
    pace = Pace(2.0, 100.0, thin=False)
    assert pace.wait(100.0, IDLE, None, changed=False) == 2.0
    assert pace.wait(100.0, IDLE, None, changed=True) == 0.0
    pace.reported(101.0, 900, IDLE, sent=True)
    assert pace.wait(101.0, IDLE, 10.0, changed=True) == 0.0
    assert pace.wait(102.5, IDLE, 10.0, changed=False) == 0.5


@pytest.mark.parametrize(
    ("goodput", "interval"), [(1500.0, 240.0), (None, 900 / (REPORT_SHARE * UNKNOWN_RATE)), (10e6, 2.0)]
)
def test_on_a_thin_link_reports_take_a_small_share(goodput: float | None, interval: float) -> None:
    pace = Pace(2.0, 100.0, thin=True)
    pace.reported(100.0, 900, IDLE, sent=True)
    for changed in (False, True):
        for reload in (IDLE, FETCHING):
            assert pace.wait(100.0, reload, goodput, changed=changed) == interval
            assert pace.wait(100.0 + interval, reload, goodput, changed=changed) == 0.0


def test_on_a_thin_link_the_first_report_and_the_end_of_a_reload_go_at_once() -> None:
    pace = Pace(2.0, 100.0, thin=True)
    assert pace.wait(100.5, IDLE, 1500.0, changed=True) == 0.0
    pace.reported(100.5, 900, IDLE, sent=True)
    assert pace.wait(101.0, RUNNING, 1500.0, changed=True) == 0.0
    pace.reported(101.0, 900, RUNNING, sent=True)
    assert pace.wait(110.0, RUNNING, 1500.0, changed=True) == 231.0, "was told"
    assert pace.wait(110.0, FAILED, 1500.0, changed=True) == 0.0
    pace.reported(110.0, 900, FAILED, sent=True)
    # It is tried again and again, and fails again and again: no news.
    assert pace.wait(170.0, FETCHING, 1500.0, changed=True) > 0
    assert pace.wait(171.0, FAILED, 1500.0, changed=True) > 0
    assert pace.wait(171.0, ReloadState(state="failed", release=5), 1500.0, changed=True) == 0.0


def test_on_a_thin_link_a_shadow_and_a_release_that_was_left_are_told_at_once_too() -> None:
    pace = Pace(2.0, 100.0, thin=True)
    pace.reported(100.0, 900, RUNNING, sent=True)
    shadow, left = ReloadState(state="shadowing", release=5), ReloadState(state="reverted", release=5)
    assert pace.wait(101.0, shadow, 1500.0, changed=True) == 0.0
    pace.reported(101.0, 900, shadow, sent=True)
    assert pace.wait(102.0, shadow, 1500.0, changed=True) > 0
    assert pace.wait(102.0, left, 1500.0, changed=True) == 0.0


def test_a_report_that_did_not_go_is_not_counted() -> None:
    pace = Pace(2.0, 100.0, thin=True)
    pace.reported(100.0, 900, RUNNING, sent=False)
    assert pace.wait(100.1, RUNNING, 1500.0, changed=False) == pytest.approx(1.9), "offline: no hurry"
    assert pace.wait(100.1, RUNNING, 1500.0, changed=True) == 0.0, "connected again"


def test_the_thread_keeps_the_pace_of_a_thin_link(
    make_settings: MakeSettings, tmp_path: Path, clock: FakeClock
) -> None:
    broker = FakeBroker()
    bus = FakeBus(broker, "camera")
    spool = Spool(tmp_path / "spool", limit=1 << 20, quarantine_limit=0, keep_s=0, clock=clock)
    reload = SimpleNamespace(floor=4, plan_floor=9, desired_floor=2, state=ReloadState(state="idle"), policy=Policy())
    one = Reporting(
        make_settings(report_s=0.01, link={"thin": True}),
        boot="b00t",
        bus=bus,
        clock=clock,
        capture=SimpleNamespace(captured=0, dropped=0, unreadable=0, drained=False),  # type: ignore[arg-type]
        engine=Engine(),
        spool=spool,
        reload=lambda: reload,  # type: ignore[arg-type, return-value]
        low=LowScores(clock),
        errors=Counter(),
        triage=Triage(TriageSettings()),
        trial=TrialRun(Engine(), lambda _: False),
        goodput=lambda: 1500.0,
    )
    bus.start(Recorder())
    one.start()
    one.changed()
    wait_until(lambda: len(broker.seen) == 1, "the first report")
    one.changed()
    clock.advance(100)
    reload.state = RUNNING
    one.changed()
    wait_until(lambda: len(broker.seen) > 1, "the reload")
    said = last(broker)
    assert said is not None
    assert said.reload == RUNNING
    spool.add(*event_of(1))
    one.changed()
    clock.advance(400)
    wait_until(lambda: (now := last(broker)) and now.spool.left == 1, "the next one")
    assert len(broker.seen) == 3, "no report but these"
    one.stop()
    bus.stop()
