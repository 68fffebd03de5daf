"""Infer: the model in use, and the swap to another one between two frames."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from edge.spare import Spare
from edge.variant import Pace
from shared.litert import Floats, Model, Prediction
from shared.manifest import VariantName
from shared.preprocess import Pixels

ENOUGH = 20
"""Predictions by one model before its pace is known."""


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What is known of a model that runs, without the model: who keeps this does not keep the model's memory.

    release: the number under which it runs. backbone: its hash. head: bytes of its head, for who runs it in another
    thread. references: unit rows, float32 [n, dims], see `shared.references`; None: the release has none. variant: of
    the release.
    """

    release: int
    classes: tuple[str, ...]
    backbone: str = ""
    head: bytes = b""
    references: Floats | None = None
    variant: VariantName = "float"


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A model and what is known of it. Only the frame loop and the reload keep one: the old model goes with a swap."""

    facts: Facts
    model: Model

    @property
    def release(self) -> int:
        """The number under which it runs."""
        return self.facts.release


class Engine:
    """Runs the model in one thread; any thread may hand in the next one, which is taken between two frames.

    spare: when that thread waits for its next frame.
    """

    def __init__(self) -> None:
        self._running: Running | None = None
        self._next: Running | None = None
        self._taken = threading.Event()
        self._lock = threading.Lock()
        self._times: deque[tuple[float, float]] = deque(maxlen=100)  # when a prediction began (s), and how long (ms)
        self.spare = Spare()
        self.swap_ms = 0.0
        self.inferred = 0

    @property
    def running(self) -> Running | None:
        """The model in use."""
        return self._running

    @property
    def infer_ms(self) -> float:
        """Median time of the last predictions by the model in use."""
        times = [took for _, took in list(self._times)]
        return median(times) if times else 0.0

    @property
    def pace(self) -> Pace | None:
        """How the model in use keeps up with the frames; None before its first ENOUGH ones."""
        times = list(self._times)
        if len(times) < ENOUGH:
            return None
        gaps = [(after - before) * 1000 for (before, _), (after, _) in pairwise(times)]
        return Pace(median(took for _, took in times), median(gaps))

    def offer(self, running: Running, timeout: float) -> bool:
        """Hand in the next model and wait until it is in use; False when no frame boundary came within `timeout`."""
        with self._lock:
            self._taken.clear()
            self._next = running
        if self._taken.wait(timeout):
            return True
        with self._lock:
            self._next = None  # withdrawn: what was reported as failed must not run later
            return self._taken.is_set()

    def turn(self) -> Running | None:
        """The boundary between two frames: take the next model if one waits. Returns the one in use."""
        self.spare.end()
        with self._lock:
            if self._next is not None:
                start = time.perf_counter()
                self._running, self._next = self._next, None
                self._times.clear()
                self.swap_ms = (time.perf_counter() - start) * 1000
                self._taken.set()
            return self._running

    def predict(self, running: Running, pixels: Pixels) -> Prediction:
        """Run the model that `turn` gave on one frame."""
        self.spare.begin()
        start = time.perf_counter()
        prediction = running.model.predict(pixels)
        self._times.append((start, (time.perf_counter() - start) * 1000))
        self.inferred += 1
        return prediction
