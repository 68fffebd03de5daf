"""Spare time: when the frame loop waits for its next frame, so that long work of other threads disturbs none.

Low priority alone does not do: LiteRT holds Python's lock while it loads a model, and two models that run at once slow
each other down by the memory that they share.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median

SHARE = 0.33
"""Of the usual time between two frames: work begins in this first part of it, so that it ends before the next frame."""
SCARCE = 0.05
"""Of the usual work on a frame: where the loop waits shorter than that for the next one, there is no spare time."""
STILL = 1.0
"""Seconds without a frame, or two of the usual periods, after which the next one is not waited for."""


class Spare:
    """The frame loop tells when it works; any other thread can wait until it does not. now: seconds, never going back.

    Frames are taken to come as they came lately. Where they leave no time at all, work begins right after one of them.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._busy = False
        self._ends = 0
        self._began = self._ended = 0.0
        self._waits: deque[float] = deque(maxlen=15)  # from the end of a frame to the beginning of the next
        self._works: deque[float] = deque(maxlen=15)

    def begin(self) -> None:
        """The frame loop has a frame."""
        with self._changed:
            self._began = self._now()
            if self._ends:
                self._waits.append(self._began - self._ended)
            self._busy = True

    def end(self) -> None:
        """The frame loop is done with its frame, if it had one."""
        with self._changed:
            if self._busy:
                self._busy = False
                self._ended = self._now()
                self._works.append(self._ended - self._began)
                self._ends += 1
                self._changed.notify_all()

    @property
    def scarce(self) -> bool:
        """Whether frames come as fast as they are worked off, so that what runs beside the loop costs some of them."""
        with self._changed:
            known = len(self._waits) == self._waits.maxlen
            return known and median(self._waits) < SCARCE * median(self._works)

    def wait(self) -> None:
        """Return at once early between two frames, or when none come; else right after the next one."""
        with self._changed:
            while (left := self._left()) > 0:
                seen = self._ends
                self._changed.wait(left)
                if self._ends != seen:
                    return

    def _left(self) -> float:
        """Seconds for which it may be worth to wait for the end of a frame; 0.0: begin now."""
        if not self._waits:
            return 0.0
        usual, now = median(self._waits), self._now()
        still = min(STILL, 2 * (usual + median(self._works)))
        if self._busy:
            return self._began + STILL - now
        idle = now - self._ended
        return 0.0 if idle < SHARE * usual else still - idle
