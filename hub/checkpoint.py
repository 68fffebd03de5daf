"""Checkpoint: where a training is, so that it goes on there after its process was ended. Safe to delete at any time."""

import contextlib
import io
import logging
import os
import pickle
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from shared.files import TMP, write_aside

log = logging.getLogger(__name__)
EVERY_S = 20.0
KEPT = 5
KEPT_DAYS = 7
"""How many checkpoints of runs that were ended are kept at most, and for how long: after that they begin anew."""
_FILES = "run-*.checkpoint"


class Checkpoint:
    """One file. name: of all that decides the training; a file of another name is not read.

    every_s: seconds between two writes at least, EVERY_S by default. What cannot be read, or was cut short, is as if it
    were not there.
    """

    def __init__(self, path: Path, name: str, every_s: float | None = None) -> None:
        self._path = path
        self._name = name
        self._every_s = EVERY_S if every_s is None else every_s
        self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was kept: tensors, numbers, lists and dicts of them; None when there is nothing."""
        import torch

        try:
            found = torch.load(self._path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            return None
        if not isinstance(found, dict) or found.get("name") != self._name:
            return None
        kept: dict[str, Any] = found["state"]
        return kept

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write the state if the last time is long enough ago."""
        if time.monotonic() - self._written < self._every_s:
            return
        import torch

        data = io.BytesIO()
        torch.save({"name": self._name, "state": state()}, data)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(write_aside(self._path, data.getvalue()), self._path)
        self._written = time.monotonic()

    def drop(self) -> None:
        """The training is done."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def path_of(folder: Path, name: str) -> Path:
    """The file in the cache of a training of this name, a sha256."""
    return folder / f"run-{name[:16]}.checkpoint"


def sweep(folder: Path, now: datetime) -> int:
    """Delete from the cache the checkpoints that nobody resumes any more, while no run is under way; how many.

    Those of the last KEPT_DAYS stay, the newest KEPT of them. Hubs may share a cache: a training of another one, which
    writes its file every few seconds or epochs, is among the newest.
    """
    found = []
    for path in (*folder.glob(_FILES), *folder.glob(_FILES + TMP)):
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    oldest = (now - timedelta(days=KEPT_DAYS)).timestamp()
    gone = [path for place, (at, path) in enumerate(sorted(found, reverse=True)) if place >= KEPT or at < oldest]
    for path in gone:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("an old checkpoint stays: %s", error)
    return len(gone)
