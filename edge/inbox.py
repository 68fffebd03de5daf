"""Inbox: what the reload is told waits here for its thread, of low priority, which does one step after another."""

import queue
import threading
from collections import Counter
from collections.abc import Callable

from edge.priority import lower_priority

INBOX = 64
"""Messages that may wait for the thread, some times what it asks for: whoever publishes more fills no memory."""
IDLE = 0.5
"""Seconds without a message after which the thread looks about."""


class Inbox:
    """first: what the thread does before all else. idle: what it does when nothing came for IDLE seconds. pause: called
    before each step.

    Any thread may tell. A step that raises ends the thread, so it must not.
    """

    def __init__(
        self,
        *,
        first: Callable[[], None],
        idle: Callable[[], None],
        pause: Callable[[], None],
        errors: Counter[str],
    ) -> None:
        self._first = first
        self._idle = idle
        self._pause = pause
        self._errors = errors
        self._steps: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Begin with `first`, then with what was told."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread when it has done what was told before."""
        self._steps.put(None)
        if self._thread.is_alive():
            self._thread.join(5)

    def tell(self, step: Callable[[], None]) -> None:
        """Have the thread do this, after all that waits."""
        self._steps.put(step)

    def hear(self, step: Callable[[], None]) -> None:
        """`tell` for what came from the broker, which nobody need have signed: counted and dropped when INBOX wait."""
        if self._steps.qsize() >= INBOX:
            self._errors["flood"] += 1
            return
        self.tell(step)

    def _run(self) -> None:
        lower_priority()
        self._first()
        while True:
            try:
                step = self._steps.get(timeout=IDLE)
            except queue.Empty:
                self._idle()
                continue
            if step is None:
                return
            self._pause()
            step()
