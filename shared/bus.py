"""The port to the broker: what steps may ask of MQTT, whoever carries it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it arrived. retained: it was waiting on the broker, it is not fresh."""

    topic: str
    payload: bytes
    retained: bool = False


class Listener(Protocol):
    """Who is told what happens on the bus, in the bus's own thread: return quickly, raise nothing."""

    def connected(self) -> None:
        """The broker accepted us and all subscriptions were asked for again."""
        ...

    def disconnected(self, reason: str) -> None:
        """The connection is gone; the bus goes on trying."""
        ...

    def message(self, message: Message) -> None:
        """A message arrived."""
        ...


class Bus(Protocol):
    """A connection to a broker that comes back by itself."""

    @property
    def online(self) -> bool:
        """Whether the broker has us."""
        ...

    @property
    def unacked(self) -> int:
        """Bytes published at QoS 1 that the broker has not acknowledged."""
        ...

    @property
    def sent(self) -> int:
        """Bytes of payload published since start."""
        ...

    @property
    def received(self) -> int:
        """Bytes of payload received since start."""
        ...

    def start(self, listener: Listener) -> None:
        """Connect in the background and keep connected."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        delivered: Callable[[], None] | None = None,
    ) -> bool:
        """Hand a message to the broker; False when offline, and then it was not queued either.

        True is no promise that it arrived: `delivered` is.

        delivered: called in the bus's thread when the broker acknowledged (QoS 1).
        """
        ...

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1, now and again on every connect."""
        ...

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Undo `subscribe`."""
        ...

    def stop(self, last_words: Sequence[tuple[str, bytes]] = ()) -> None:
        """Publish retained last words, disconnect and end the background work."""
        ...
