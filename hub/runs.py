"""Runs: one training at a time, each in a process of its own. The rows in the database are the truth."""

import logging
import subprocess
import sys
from pathlib import Path

from sqlmodel import Session, col, select

from hub import checkpoint
from hub.store import Store
from hub.tables import Run
from shared.clock import Clock
from shared.errors import TrainError

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 2
SWEEP_EVERY_S = 3600.0
"""Seconds between two looks for old checkpoints."""


class Runs:
    """Queues, starts, watches and ends the runs of a project; used under the daemon's lock.

    config: path of the hub's settings file, which the run's process reads again. cache: folder of the checkpoints.
    """

    def __init__(self, project: str, config: Path, cache: Path, store: Store, clock: Clock) -> None:
        self._project = project
        self._config = config
        self._cache = cache
        self._sweep_at = float("-inf")
        self._store = store
        self._clock = clock
        self.process: subprocess.Popen[bytes] | None = None
        self._run_id = 0

    def stop(self) -> None:
        """End the run that is under way; the next start takes it up again."""
        if self.process is None:
            return
        self._end(self.process)
        self._put_back()

    def queue(self, why: str) -> int:
        """Queue a run; returns its id. TrainError when one is under way already."""
        with self._store.write() as session:
            self._check_idle(session)
            run = Run(project=self._project, why=why, created_at=self._clock.utc(), step="waiting to start")
            session.add(run)
            session.flush()
        return run.id or 0

    def make_way(self) -> None:
        """End what is left of a run that was cancelled a moment ago. TrainError when one is under way."""
        with self._store.read() as session:
            self._check_idle(session)
        if self.process is not None:
            self._end(self.process)

    def cancel(self, run_id: int) -> None:
        """Cancel a queued or running run."""
        with self._store.write() as session:
            run = session.get(Run, run_id)
            if run is None or run.state not in ("queued", "running"):
                raise TrainError(
                    "cannot be cancelled" if run else "does not exist",
                    subject=f"run {run_id}",
                    remedy=f"It is {run.state}" if run else "",
                )
            run.state, run.ended_at, run.step = "cancelled", self._clock.utc(), "cancelled"
            session.add(run)

    def supervise(self) -> None:
        """One run at a time, each in its own process; one whose process died is tried again, then failed."""
        if self.process is not None:
            if self.process.poll() is None:
                self._end_cancelled()
                return
            code, self.process = self.process.returncode, None
            self._settle(code)
        with self._store.read() as session:
            run = session.exec(
                select(Run)
                .where(Run.project == self._project, col(Run.state).in_(["queued", "running"]))
                .order_by(col(Run.id))
            ).first()
        if run is None or run.id is None:
            self._sweep()
            return
        if run.state == "running" and run.lease_until is not None and run.lease_until > self._clock.utc():
            return  # another hub's process has it
        with self._store.write() as session:
            run.attempts += 1
            if run.attempts > MAX_ATTEMPTS:
                run.state, run.ended_at = "failed", self._clock.utc()
                run.error = run.error or f"its process ended {MAX_ATTEMPTS} times without a result; see the hub's log"
            session.add(run)
        if run.state != "failed":
            log.info("run %d starts: %s", run.id, run.why)
            command = [sys.executable, "-m", "hub", "train", "--config", str(self._config), "--run", str(run.id)]
            self.process = subprocess.Popen(command)
            self._run_id = run.id

    def _check_idle(self, session: Session) -> None:
        busy = session.exec(
            select(Run).where(Run.project == self._project, col(Run.state).in_(["queued", "running"]))
        ).first()
        if busy is not None:
            raise TrainError("is under way already", subject=f"run {busy.id}", remedy="Wait for it, or cancel it")

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _sweep(self) -> None:
        """Let go of old checkpoints, now and then."""
        now = self._clock.monotonic()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            if count := checkpoint.sweep(self._cache, self._clock.utc()):
                log.info("%d old checkpoints were deleted", count)

    def _settle(self, code: int) -> None:
        """The run's process ended."""
        with self._store.write() as session:
            run = session.get(Run, self._run_id)
            if run is None:
                return
            log.info("run %d ended: %s %s", self._run_id, run.state, run.verdict or run.error)
            if run.state == "running":
                run.error = f"its process ended with status {code}"
                run.lease_until = None
                session.add(run)

    def _put_back(self) -> None:
        """A run that we ended ourselves has not failed: the next start takes it up at once."""
        with self._store.write() as session:
            run = session.get(Run, self._run_id)
            if run is not None and run.state in ("queued", "running"):
                run.state, run.lease_until, run.attempts = "queued", None, max(0, run.attempts - 1)
                session.add(run)

    def _end_cancelled(self) -> None:
        with self._store.read() as session:
            run = session.get(Run, self._run_id)
        if run is not None and run.state == "cancelled" and self.process is not None:
            self.process.terminate()
