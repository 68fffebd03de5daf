"""Report: what the camera runs and how it is, retained on `C/reported`, every few seconds and on every change.

On a thin link reports take REPORT_SHARE of it at most; only the end of a reload is told at once.
"""

import importlib.metadata
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edge.capture import Capture
from edge.infer import Engine
from edge.memory import free_mb
from edge.priority import lower_priority
from edge.reload import Reload
from edge.settings import EdgeSettings
from edge.spool import Spool
from edge.triage import Triage
from edge.trial import TrialRun
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.messages import ClockQuality, FrameState, Rates, ReloadState, Reported, TriageState, encode
from shared.policy import to_wire

log = logging.getLogger(__name__)
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
REPORT_SHARE = 0.0025
"""Share of a thin link that reports may take."""
UNKNOWN_RATE = 1000.0
"""Bytes a second that a thin link is taken for while its goodput is not known."""
ENDS = ("running", "shadowing", "failed", "reverted")
"""States with which a reload is over: told at once on any link."""


class Pace:
    """When a report may go, without I/O.

    At once when something changed, else report_s after the last one. On a thin link later: each report takes
    REPORT_SHARE of the goodput until the next one. At once goes there only the first one, and a reload that came to one
    of ENDS since the last one.
    """

    def __init__(self, report_s: float, now: float, *, thin: bool) -> None:
        self._report_s = report_s
        self._thin = thin
        self._tried = now
        self._last: tuple[float, int, ReloadState] | None = None  # when, bytes, what it said of the reload

    def reported(self, now: float, size: int, reload: ReloadState, *, sent: bool) -> None:
        """A report of so many bytes, which says this of the reload, was sent; or could not be, offline."""
        self._tried = now
        if sent:
            self._last = now, size, reload

    def wait(self, now: float, reload: ReloadState, goodput: float | None, *, changed: bool) -> float:
        """Seconds until the next report may go; 0.0: now. goodput: bytes/s, None: not known."""
        due = self._tried if changed else self._tried + self._report_s
        if self._thin and self._last is not None:
            at, size, told = self._last
            if reload.state not in ENDS or (reload.state, reload.release) == (
                told.state,
                told.release,
            ):
                due = max(due, at + self._report_s, at + size / (REPORT_SHARE * (goodput or UNKNOWN_RATE)))
        return max(0.0, due - now)


def clock_quality(settings: EdgeSettings) -> ClockQuality:
    """Whether UTC can be trusted: by setting, or by systemd-timesyncd's mark; "unknown" where nothing tells."""
    if settings.clock == "trusted":
        return "synchronised"
    if SYNCHRONISED.exists():
        return "synchronised"
    return "unsynchronised" if SYNCHRONISED.parent.is_dir() else "unknown"


class LowScores:
    """Share of low scores and frames a second over the last frames; written by the frame loop alone."""

    def __init__(self, clock: Clock, length: int = 50) -> None:
        self._clock = clock
        self._last: deque[tuple[float, bool]] = deque(maxlen=length)

    def add(self, low: bool) -> None:
        """One more frame was judged."""
        self._last.append((self._clock.monotonic(), low))

    def share(self) -> float:
        """Share of low scores among the last frames, 0 before the first."""
        last = list(self._last)
        return sum(low for _, low in last) / len(last) if last else 0.0

    def fps(self) -> float:
        """Frames a second over the last five seconds."""
        now = self._clock.monotonic()
        recent = [at for at, _ in list(self._last) if now - at < 5]
        return len(recent) / max(now - recent[0], 0.2) if len(recent) > 1 else 0.0


class Reporting:
    """The report thread. `changed` may be called from any thread.

    triage: the settings in force, and strategies that cannot work now, with the reason. goodput: of the uploads,
    bytes/s; None: not known.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        boot: str,
        bus: Bus,
        clock: Clock,
        capture: Capture,
        engine: Engine,
        spool: Spool,
        reload: Callable[[], Reload],
        low: LowScores,
        errors: Counter[str],
        triage: Triage[Any],
        trial: TrialRun,
        goodput: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._boot = boot
        self._bus = bus
        self._clock = clock
        self._capture = capture
        self._engine = engine
        self._spool = spool
        self._reload = reload
        self._low = low
        self._errors = errors
        self._triage = triage
        self._trial = trial
        self._goodput = goodput
        self._pace = Pace(settings.report_s, clock.monotonic(), thin=settings.link.thin)
        self._agent = importlib.metadata.version("hone")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def changed(self) -> None:
        """Something worth telling: at once, or on a thin link with the next report."""
        self._wake.set()

    def stop(self) -> None:
        """Report a last time and end the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def reported(self) -> Reported:
        """The report as of now."""
        capture, engine, reload = self._capture, self._engine, self._reload()
        running, triage = engine.running, self._triage.settings
        return Reported(
            time=self._clock.utc(),
            agent=self._agent,
            boot=self._boot,
            project=self._settings.project,
            release=running.release if running else 0,
            floor=reload.floor,
            plan_floor=reload.plan_floor,
            reload=reload.state,
            spool=self._spool.state(),
            frames=FrameState(
                captured=capture.captured,
                inferred=engine.inferred,
                dropped=capture.dropped,
                unreadable=capture.unreadable,
                ended=capture.drained,
            ),
            rates=Rates(
                fps=round(self._low.fps(), 2),
                low_score=round(self._low.share(), 3),
                infer_ms=round(engine.infer_ms, 2),
                free_mb=free_mb(),
            ),
            clock=clock_quality(self._settings),
            up=self._bus.sent,
            down=self._bus.received,
            errors=dict(self._errors),
            settings={
                "strategy": triage.strategy,
                "skipped": "; ".join(f"{name}: {reason}" for name, reason in self._triage.skipped.items()),
                "low_score": triage.low_score,
                "audit": triage.audit,
                "spool_mb": self._settings.spool.limit_mb,
            },
            triage=TriageState(source=self._source(), settings=to_wire(triage), refused=reload.policy.refused),
            labels=self._settings.labels,
            trial=self._trial.state(),
            variant=running.facts.variant if running else None,
        )

    def _source(self) -> Literal["project", "edge", "local"]:
        """Whose triage settings are in force."""
        if self._settings.triage_local:
            return "local"
        return "edge" if self._triage.settings is self._settings.triage else "project"

    def _run(self) -> None:
        lower_priority()
        changed = False
        while not self._stop.is_set():
            left = self._pace.wait(self._clock.monotonic(), self._reload().state, self._goodput(), changed=changed)
            if left:
                changed = self._wake.wait(min(left, self._settings.report_s))  # the goodput may change meanwhile
                self._wake.clear()
                continue
            changed = False
            self._publish()
            self._stop.wait(0.1)  # changes that come in a bunch make one report
        self._publish()

    def _publish(self) -> None:
        report = self.reported()
        data = encode(report)
        sent = self._bus.publish(topics.reported(self._settings.camera), data, retain=True)
        self._pace.reported(self._clock.monotonic(), len(data), report.reload, sent=sent)
