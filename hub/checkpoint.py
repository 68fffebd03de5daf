"""Checkpoint: where a training is, so that it goes on there after its process was ended. Safe to delete at any time."""

import contextlib
import io
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.files import write_aside

EVERY_S = 20.0


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
