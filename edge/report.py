"""Report: what the camera runs and how it is, retained on `C/reported`, every few seconds and on every change."""

import importlib.metadata
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from edge.capture import Capture
from edge.infer import Engine
from edge.priority import lower_priority
from edge.reload import Reload
from edge.settings import EdgeSettings
from edge.spool import Spool
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.messages import ClockQuality, FrameState, Rates, Reported, encode

log = logging.getLogger(__name__)
SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


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
    """The report thread. `changed` may be called from any thread."""

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
        self._agent = importlib.metadata.version("hone")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def changed(self) -> None:
        """Something worth telling at once."""
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
        running = engine.running
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
            ),
            clock=clock_quality(self._settings),
            up=self._bus.sent,
            down=self._bus.received,
            errors=dict(self._errors),
            settings={
                "low_score": self._settings.triage.low_score,
                "audit": self._settings.triage.audit,
                "spool_mb": self._settings.spool.limit_mb,
            },
        )

    def _run(self) -> None:
        lower_priority()
        while not self._stop.is_set():
            self._wake.wait(self._settings.report_s)
            self._wake.clear()
            self._bus.publish(topics.reported(self._settings.camera), encode(self.reported()), retain=True)
            self._stop.wait(0.1)  # changes that come in a bunch make one report
        self._bus.publish(topics.reported(self._settings.camera), encode(self.reported()), retain=True)
