"""The demo's processes: started together, watched, and ended together, whatever happens to the demo itself."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from shared.errors import HoneError

PR_SET_PDEATHSIG = 1


class ChildError(HoneError):
    """A process of the demo ended by itself."""


def _die_with_parent() -> None:
    """Linux: have the kernel end this process when its parent is gone, even by kill -9."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Children:
    """Started in order, ended in reverse; each in a session of its own, so that a Ctrl-C reaches the demo alone."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to `logs`/NAME.log."""
        # One thread for numpy's own pools: eight processes share the machine.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (no threads run yet when children start)
            )
        self._processes.append((name, process))
        return process

    def check(self) -> None:
        """ChildError, with the end of its log, when a process has ended."""
        for name, process in self._processes:
            if process.poll() is not None:
                tail = (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
                raise ChildError(
                    f"ended with status {process.returncode}: {' | '.join(tail) or 'no output'}",
                    subject=name,
                    remedy=f"See {self._logs / f'{name}.log'}",
                )

    def stop(self) -> None:
        """End all that still run: politely, and after ten seconds for good."""
        for _, process in reversed(self._processes):
            if process.poll() is None:
                process.terminate()
                _wait(process, 10)
        self._processes.clear()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            return
        time.sleep(0.02)
