"""A run under way: its lease on its row, and what the row tells of it while it lives."""

import logging
import math
import os
import threading
import time
from datetime import timedelta
from typing import Any

from hub.store import Store
from hub.tables import Run
from hub.train import Inside, Progress
from shared.clock import Clock
from shared.errors import HoneError, RunCancelledError, TrainError

log = logging.getLogger(__name__)
LEASE = timedelta(seconds=30)
TELL_S = 0.5
"""Seconds between two rows that tell of a training's progress."""


class Lease:
    """Renews the run's lease in the background and writes its progress; `check` raises once the run was cancelled."""

    def __init__(self, store: Store, run_id: int, clock: Clock) -> None:
        self._store = store
        self._run_id = run_id
        self.clock = clock
        self._cancelled = threading.Event()
        self._stop = threading.Event()
        self._ours = False
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self.write(
            state="running", pid=os.getpid(), started_at=self.clock.utc(), progress=0.0, step="starting", error=""
        )
        self._ours = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def write(self, **fields: Any) -> None:
        """Set fields of the run; RunCancelledError when it is no longer ours."""
        with self._store.write() as session:
            run = session.get(Run, self._run_id)
            if run is None:
                raise TrainError("does not exist", subject=f"run {self._run_id}")
            # A process that stood still for long may find its run taken by another one.
            if run.state not in ("queued", "running") or (self._ours and run.pid != os.getpid()):
                self._cancelled.set()
                raise RunCancelledError(f"is {run.state}", subject=f"run {self._run_id}")
            run.sqlmodel_update({"lease_until": self.clock.utc() + LEASE, **fields})
            session.add(run)

    def check(self) -> None:
        """RunCancelledError, if the run was cancelled."""
        if self._cancelled.is_set():
            raise RunCancelledError("was cancelled", subject=f"run {self._run_id}")

    def _renew(self) -> None:
        while not self._stop.wait(3.0):
            try:
                self.write()
            except HoneError as error:
                log.warning("lease: %s", error)


class Story:
    """Tells the row how far a training is, twice a second at most. Steps that are left are counted as if all came.

    Where their number changes, since a training stopped early, the steps from then on have a clock of their own: they
    are of another kind, and those that were left out took no time.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._begun = self._last = time.monotonic()
        self._first = self._steps = 0
        self._written = -math.inf
        self._curve: list[float] = []
        self._scores: dict[str, float] = {}

    def told(self, progress: Progress) -> None:
        """After each step; RunCancelledError, if the run was cancelled."""
        self._lease.check()
        self._curve.append(round(progress.loss, 5))
        self._scores = {"loss": round(progress.loss, 5), "metric": round(progress.metric, 5)}
        self._tell(progress.step - 1, 1.0, progress.steps, self._scores)

    def inside(self, at: Inside) -> None:
        """Within a step, as often as it comes. Before the first step is done the loss is that of its own images."""
        self._tell(at.step, at.share, at.steps, self._scores or {"loss": round(at.loss, 5)})

    def _tell(self, done: int, share: float, steps: int, scores: dict[str, float]) -> None:
        """So many steps are done, and this share, above 0, of the next one."""
        now = time.monotonic()
        if steps != self._steps:
            self._steps, self._first, self._begun = steps, done, self._last
        self._last = now
        if now - self._written < TELL_S:
            return
        self._written = now
        at = done + share
        left = (now - self._begun) / (at - self._first) * (steps - at)
        self._lease.write(
            step=f"training ({math.floor(at)} of {steps})",
            progress=0.5 + 0.2 * at / max(1, steps),
            curve=self._curve,
            fit={**scores, "eta_s": round(left, 1)},
        )
