"""A broker in memory and the bus to it: retains, matches wildcards, speaks wills, loses and repeats when asked.

What it promises is what MQTT 3.1.1 with a clean session promises, no more. `drop`, `duplicate` and `reorder` are
chances (0..1) for each delivery of a message that is not retained: a broker acknowledges, and loses all the same.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.bus import Listener, Message


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT filter with `+` and `#` covers a topic.

    >>> matches("hone/+/x/#", "hone/a/x"), matches("hone/+", "hone/a/b"), matches("#", "$SYS/a")
    (True, False, False)
    """
    if topic.startswith("$") and topic_filter[:1] in "+#":
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for position, one in enumerate(wanted):
        if one == "#":
            return True
        if position >= len(levels) or one not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


@dataclass(slots=True)
class _ToBroker:
    sender: "FakeBus"
    session: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    delivered: Callable[[], None] | None


@dataclass(slots=True)
class _ToClient:
    receiver: "FakeBus"
    session: int
    message: Message


@dataclass(slots=True)
class _Ack:
    receiver: "FakeBus"
    session: int
    size: int
    delivered: Callable[[], None] | None


class FakeBroker:
    """Carries messages between FakeBus clients.

    auto: a message travels as soon as it is published, in the publisher's thread. Otherwise it waits for `pump`.
    seen: every message that the broker accepted, in order. retained: what it keeps.
    """

    def __init__(
        self, *, seed: int = 0, drop: float = 0.0, duplicate: float = 0.0, reorder: float = 0.0, auto: bool = True
    ) -> None:
        self.drop, self.duplicate, self.reorder = drop, duplicate, reorder
        self.auto = auto
        self.up = True
        self.retained: dict[str, bytes] = {}
        self.seen: list[Message] = []
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._pumping = False
        self._queue: deque[_ToBroker | _ToClient | _Ack] = deque()
        self._clients: list[FakeBus] = []

    def fair(self) -> None:
        """From now on nothing is lost, repeated or out of order."""
        self.drop = self.duplicate = self.reorder = 0.0

    def pump(self, limit: int = 1_000_000) -> int:
        """Carry what waits, and what that causes; returns the number of steps. Does nothing within itself."""
        with self._lock:
            if self._pumping:
                return 0
            self._pumping = True
        done = 0
        while True:
            with self._lock:
                # In one breath with the look at the queue: who puts something there after it, pumps it himself.
                if not self._queue or done >= limit:
                    self._pumping = False
                    return done
                item = self._take()
            done += 1
            try:
                self._carry(item)
            except BaseException:
                self._pumping = False
                raise

    def stop(self, *, forget: bool = False) -> None:
        """The broker dies: no wills, all connections cut, what waits is lost; forget: retained messages too."""
        with self._lock:
            self.up = False
            self._queue.clear()
            if forget:
                self.retained.clear()
            clients = list(self._clients)
        for one in clients:
            one.cut("broker died", will=False)

    def start(self) -> None:
        """The broker is back; clients that want to be connected come back by themselves."""
        self.up = True
        for one in list(self._clients):
            one.restore()

    # -- for FakeBus

    def attach(self, bus: "FakeBus") -> None:
        with self._lock:
            for other in self._clients:
                assert other.client_id != bus.client_id, f"client id {bus.client_id} connected twice"
            self._clients.append(bus)

    def detach(self, bus: "FakeBus") -> None:
        with self._lock:
            self._clients.remove(bus)

    def put(self, item: "_ToBroker | _ToClient | _Ack") -> None:
        with self._lock:
            self._queue.append(item)
        self.kick()

    def kick(self) -> None:
        if self.auto:
            self.pump()

    def accept(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """The broker has a message: keep it if retained, and send it to every client that subscribed."""
        assert topic, "a topic is never empty"
        assert not set(topic) & set("+#"), f"no wildcards in a topic: {topic}"
        with self._lock:
            self.seen.append(Message(topic, payload, retain))
            if retain and payload:
                self.retained[topic] = payload
            elif retain:
                self.retained.pop(topic, None)
            for one in self._clients:
                if one.online and any(matches(f, topic) for f in one.filters):
                    if not retain and self._random.random() < self.drop:
                        continue
                    item = _ToClient(one, one.session, Message(topic, payload))
                    self._queue.append(item)
                    if not retain and self._random.random() < self.duplicate:
                        self._queue.append(item)

    def send_retained(self, bus: "FakeBus", filters: Sequence[str]) -> None:
        with self._lock:
            for topic, payload in list(self.retained.items()):
                if any(matches(f, topic) for f in filters):
                    self._queue.append(_ToClient(bus, bus.session, Message(topic, payload, retained=True)))
        self.kick()

    def _take(self) -> "_ToBroker | _ToClient | _Ack":
        if len(self._queue) > 1 and self._random.random() < self.reorder:
            self._queue.rotate(-self._random.randrange(1, min(8, len(self._queue))))
        return self._queue.popleft()

    def _carry(self, item: "_ToBroker | _ToClient | _Ack") -> None:
        if isinstance(item, _ToBroker):
            if item.sender.session == item.session:
                self.accept(item.topic, item.payload, retain=item.retain)
                if item.qos:
                    with self._lock:
                        self._queue.append(_Ack(item.sender, item.session, len(item.payload), item.delivered))
        elif item.receiver.session != item.session:
            return  # meant for a connection that is gone: a clean session loses it
        elif isinstance(item, _Ack):
            item.receiver.acked(item.size, item.delivered)
        else:
            item.receiver.deliver(item.message)


class FakeBus:
    """`shared.bus.Bus` on a FakeBroker. session: a number that changes whenever the connection comes or goes."""

    def __init__(self, broker: FakeBroker, client_id: str, *, will: tuple[str, bytes] | None = None) -> None:
        self.client_id = client_id
        self.filters: dict[str, None] = {}
        self.online = False
        self.session = 0
        self._broker = broker
        self._will = will
        self._listener: Listener | None = None
        self._reachable = True
        self._counting = threading.Lock()
        self._unacked = self._sent = self._received = 0

    @property
    def unacked(self) -> int:
        return self._unacked

    @property
    def sent(self) -> int:
        return self._sent

    @property
    def received(self) -> int:
        return self._received

    def start(self, listener: Listener) -> None:
        self._listener = listener
        self._broker.attach(self)
        self.restore()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        delivered: Callable[[], None] | None = None,
    ) -> bool:
        if not self.online:
            return False
        with self._counting:
            self._sent += len(payload)
            if qos:
                self._unacked += len(payload)
        self._broker.put(_ToBroker(self, self.session, topic, bytes(payload), qos, retain, delivered))
        return True

    def subscribe(self, filters: Sequence[str]) -> None:
        self.filters.update(dict.fromkeys(filters))
        if self.online:
            self._broker.send_retained(self, filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        for one in filters:
            self.filters.pop(one, None)

    def stop(self, last_words: Sequence[tuple[str, bytes]] = ()) -> None:
        if self.online:
            for topic, payload in last_words:
                self._broker.accept(topic, payload, retain=True)
        self._reachable = False
        if self._listener is not None:
            self._broker.detach(self)
        self._gone()
        self._broker.kick()

    # -- what tests do to it

    def cut(self, reason: str = "connection lost", *, will: bool = True) -> None:
        """The connection breaks, the broker speaks the last will; offline until `mend`."""
        self._reachable = self._reachable and not will  # cut by the broker's death: comes back with the broker
        if not self.online:
            return
        self._gone()
        if self._listener is not None:
            self._listener.disconnected(reason)
        if will and self._will is not None and self._broker.up:
            self._broker.accept(self._will[0], self._will[1], retain=True)
            self._broker.kick()

    def mend(self) -> None:
        """The network is back after `cut`."""
        self._reachable = True
        self.restore()

    # -- what the broker does with it

    def restore(self) -> None:
        if self.online or not self._reachable or not self._broker.up:
            return
        self.online = True
        self.session += 1
        before = list(self.filters)
        if self._listener is not None:
            self._listener.connected()
        self._broker.send_retained(self, before)

    def deliver(self, message: Message) -> None:
        self._received += len(message.payload)
        if self._listener is not None:
            self._listener.message(message)

    def acked(self, size: int, delivered: Callable[[], None] | None) -> None:
        with self._counting:
            self._unacked -= size
        if delivered is not None:
            delivered()

    def _gone(self) -> None:
        self.online = False
        self.session += 1
        self._unacked = 0
