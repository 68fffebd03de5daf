"""A listener that remembers what it was told, and can be waited for."""

import threading
import time
from collections.abc import Callable

from shared.bus import Message


def wait_until(true: Callable[[], object], what: str, *, seconds: float = 10.0) -> None:
    """Return as soon as `true()` holds; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.01)


class Recorder:
    """`shared.bus.Listener` that keeps everything."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.messages: list[Message] = []
        self.threads: set[int] = set()

    def connected(self) -> None:
        self.threads.add(threading.get_ident())
        self.events.append("connected")

    def disconnected(self, reason: str) -> None:
        self.events.append(f"disconnected {reason}")

    def message(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def connects(self) -> int:
        return self.events.count("connected")

    @property
    def topics(self) -> list[str]:
        return [one.topic for one in self.messages]

    def wait_connected(self, times: int = 1, *, seconds: float = 10.0) -> None:
        wait_until(lambda: self.connects >= times, f"{times} connects", seconds=seconds)

    def wait_message(self, topic: str, payload: bytes | None = None, *, seconds: float = 10.0) -> Message:
        """The first message on `topic` (with `payload`)."""
        found: list[Message] = []

        def there() -> bool:
            found[:] = [m for m in self.messages if m.topic == topic and payload in (None, m.payload)]
            return bool(found)

        wait_until(there, f"a message on {topic}", seconds=seconds)
        return found[0]
