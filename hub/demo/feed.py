"""The demo's line: puts one frame after the other before each camera, at its pace, until it is stopped.

Every cell is shown as it is first. Then cells come again in a random order, each with another gain and noise, as a lamp
ages and a sensor warms; what was shown, and how it was changed, stands in a CSV file.
"""

import csv
import os
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hub.demo.cells import Cell
from shared.files import sha256_hex
from shared.preprocess import decode, encode_png

GAIN = (0.9, 1.1)
NOISE = (0.5, 3.0)
"""Standard deviation of the noise, in steps of 255."""
KEPT_S = 20.0
"""Seconds after which a frame that was made goes: its camera has read it long before."""


@dataclass(frozen=True, slots=True)
class Stand:
    """What stands before one camera. folder: that it watches. first: cells in their order. again: shown after them."""

    camera: str
    folder: Path
    first: Sequence[Cell]
    again: Sequence[Cell]


class Feed:
    """A thread that feeds all cameras. truth: filled with what each file shows: sha256 -> class name.

    shown: files put before all cameras. first_done: every cell has been shown as it is.
    """

    def __init__(self, stands: Sequence[Stand], *, fps: float, seed: int, truth: dict[str, str], record: Path) -> None:
        self._stands = stands
        self._period = 1.0 / fps
        self._rng = random.Random(seed)
        self._noise = np.random.default_rng(seed)
        self._truth = truth
        self._record = record
        self._made: deque[tuple[float, Path]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self.shown = 0
        self.first_done = False

    def start(self) -> None:
        """The line starts."""
        self._thread.start()

    def stop(self) -> None:
        """The line stops."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        longest = max(len(one.first) for one in self._stands)
        due = time.monotonic()
        with self._record.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["camera", "frame", "cell", "gain", "noise", "sha256"])
            number = 0
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                for one in self._stands:
                    if number < len(one.first):
                        rows.writerow(self._show(one, one.first[number], number))
                    elif one.again:
                        rows.writerow(self._show_again(one, self._rng.choice(one.again), number))
                number += 1
                self.first_done = number >= longest
                due += self._period
                self._sweep()

    def _show(self, stand: Stand, cell: Cell, number: int) -> list[object]:
        """A cell as it is."""
        data = cell.path.read_bytes()
        aside = self._aside(stand, number, cell)
        os.symlink(cell.path, aside)
        self._put(stand, aside, cell, sha256_hex(data))
        return [stand.camera, aside.name, cell.path.name, "", "", sha256_hex(data)]

    def _show_again(self, stand: Stand, cell: Cell, number: int) -> list[object]:
        """A cell with another gain, and noise."""
        pixels = decode(cell.path.read_bytes()).astype(np.float32)
        gain, noise = self._rng.uniform(*GAIN), self._rng.uniform(*NOISE)
        changed = pixels * gain + self._noise.normal(0.0, noise, pixels.shape[:2])[..., np.newaxis]
        data = encode_png(np.clip(np.rint(changed), 0, 255).astype(np.uint8))
        aside = self._aside(stand, number, cell)
        aside.write_bytes(data)
        self._made.append((time.monotonic(), stand.folder / aside.name))
        self._put(stand, aside, cell, sha256_hex(data))
        return [stand.camera, aside.name, cell.path.name, f"{gain:.4f}", f"{noise:.3f}", sha256_hex(data)]

    @staticmethod
    def _aside(stand: Stand, number: int, cell: Cell) -> Path:
        return stand.folder.parent / f"{number:05d}_{cell.path.stem}.png"

    def _put(self, stand: Stand, aside: Path, cell: Cell, sha256: str) -> None:
        """Move a file before the camera, whole; what it shows is known before."""
        self._truth[sha256] = cell.label
        aside.rename(stand.folder / aside.name)
        self.shown += 1

    def _sweep(self) -> None:
        while self._made and time.monotonic() - self._made[0][0] > KEPT_S:
            self._made.popleft()[1].unlink(missing_ok=True)
