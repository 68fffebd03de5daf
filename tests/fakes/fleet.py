"""Many cameras in one thread: the real `Sender` rules, each camera with its own MQTT connection, account and will.

paho is driven by its external-loop API over one epoll; nothing runs but what `Loop.run` is asked for.
"""

import heapq
import random
import resource
import select
import struct
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edge.link import MAX_WINDOW
from shared import topics
from shared.files import chunk_count, sha256_hex
from shared.ids import boot_id, event_id
from shared.messages import Event, HubStatus, Reply, Status, decode, encode, encode_attached
from shared.mqtt import MqttSettings, read_password
from shared.topics import CameraTopic, HubTopic
from shared.transfer import Offer, Sender, SendEvent

TICK_S = 0.2
"""How often every camera looks at the time, as `edge.send` does."""
MISC_S = 1.0
"""How often paho may send its pings."""
POOL = 1 << 20


def room_for(connections: int) -> None:
    """Raise the limit of open files for so many paho clients: each has a socket, and a pair to wake itself."""
    wanted = 3 * connections + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))


class Loop:
    """One epoll for many connections. `failed` counts connections that broke, and why."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.on_tick: list[Callable[[float], None]] = []
        self._poll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._due: list[tuple[float, int, Connection]] = []  # to be connected again
        self._tick_at = self._misc_at = 0.0

    def run(self, until: Callable[[], bool], *, seconds: float) -> bool:
        """Serve all connections until `until` holds (True) or `seconds` have passed (False)."""
        deadline = time.monotonic() + seconds
        while not until():
            now = time.monotonic()
            if now > deadline:
                return False
            self._keep_time(now)
            for handle, what in self._poll.poll(max(0.0, min(self._tick_at, deadline) - now)):
                connection = self._open.get(handle)
                if connection is not None:
                    connection.serve(what)
        return True

    def close(self) -> None:
        """All connections must have been closed before."""
        self._poll.close()

    # -- for connections

    def opened(self, handle: int, connection: "Connection") -> None:
        self._open[handle] = connection
        self._poll.register(handle, select.EPOLLIN)

    def closed(self, handle: int) -> None:
        if self._open.pop(handle, None) is not None:
            self._poll.unregister(handle)

    def writes(self, handle: int, wanted: bool) -> None:
        self._poll.modify(handle, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def again(self, connection: "Connection", reason: str) -> None:
        """A connection broke: it is tried again in a second."""
        self.failed[reason] += 1
        heapq.heappush(self._due, (time.monotonic() + 1.0, id(connection), connection))

    # -- below the surface

    def _keep_time(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2].reconnect()
        if now >= self._misc_at:
            self._misc_at = now + MISC_S
            for connection in list(self._open.values()):
                connection.keep_alive()
        if now >= self._tick_at:
            self._tick_at = now + TICK_S
            for tick in self.on_tick:
                tick(now)


class Connection:
    """One paho client in a `Loop`. on_room is called after anything came: there may be room to publish."""

    def __init__(
        self,
        loop: Loop,
        mqtt: MqttSettings,
        *,
        client_id: str,
        filters: list[str],
        will: tuple[str, bytes] | None = None,
        on_message: Callable[[paho.MQTTMessage], None] = lambda _: None,
        on_ready: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.online = False
        self.unacked = 0
        self._loop = loop
        self._mqtt = mqtt
        self._filters = filters
        self._on_ready, self._on_lost, self._on_room = on_ready, on_lost, on_room
        self._waiting: dict[int, tuple[int, Callable[[], None] | None]] = {}
        self._leaving = False
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
        client.username_pw_set(mqtt.username, read_password(mqtt))
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_socket_open = lambda _client, _data, sock: loop.opened(sock.fileno(), self)
        client.on_socket_close = lambda _client, _data, sock: loop.closed(sock.fileno())
        client.on_socket_register_write = lambda _client, _data, sock: loop.writes(sock.fileno(), True)
        client.on_socket_unregister_write = lambda _client, _data, sock: loop.writes(sock.fileno(), False)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = lambda _client, _data, message: on_message(message)
        self._client = client

    def connect(self) -> None:
        """Begin to connect; OSError when nobody listens."""
        self._client.connect(self._mqtt.host, self._mqtt.port, self._mqtt.keepalive)

    def reconnect(self) -> None:
        """Begin to connect anew."""
        try:
            self._client.reconnect()
        except OSError as error:
            self._loop.again(self, str(error))

    def leave(self) -> None:
        """Disconnect in good order; the loop must run on until `online` is False."""
        self._leaving = True
        self._client.disconnect()

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, delivered: Callable[[], None] | None = None
    ) -> bool:
        """At QoS 1; False when offline, and then it was not queued either."""
        if not self.online:
            return False
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        assert info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS, info.rc
        self._waiting[info.mid] = (len(payload), delivered)
        self.unacked += len(payload)
        return True

    # -- for the loop

    def serve(self, what: int) -> None:
        """The socket is ready. Publishing comes last: within paho's callbacks its window is not yet up to date."""
        if what & ~select.EPOLLOUT:
            self._client.loop_read()
        if what & select.EPOLLOUT:
            self._client.loop_write()
        self._on_room()

    def keep_alive(self) -> None:
        self._client.loop_misc()

    # -- paho

    def _on_connect(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        if code.is_failure:
            return  # the broker closes, and so it is tried again
        self.online = True
        self._client.subscribe([(one, 1) for one in self._filters])
        self._on_ready()

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, code: Any, _props: Any) -> None:
        self.online = False
        self._waiting.clear()
        self.unacked = 0
        self._on_lost()
        if not self._leaving:
            self._loop.again(self, str(code))

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, _code: Any, _props: Any) -> None:
        size, delivered = self._waiting.pop(mid, (0, None))
        self.unacked -= size
        if delivered is not None:
            delivered()


class Backlog:
    """The images of one camera: incompressible, different and always the same; made when asked for, never kept."""

    _pool = random.Random(0).randbytes(POOL)

    def __init__(self, number: int, count: int, size: int) -> None:
        assert 16 <= size <= POOL
        self.count = count
        self._number = number
        self._size = size

    def image(self, index: int) -> bytes:
        start = (self._number * self.count + index) * 4099 % (POOL - self._size + 1)
        return struct.pack(">QQ", self._number, index) + self._pool[start : start + self._size - 16]

    def events(self, project: str, now: datetime, chunk_size: int) -> list[Event]:
        """The announcement of each image, in order; values differ, so that each camera has an order of its own."""
        dice = random.Random(self._number)
        return [
            Event(
                id=event_id(now), project=project, release=1, time=now, label="a", score=0.5,
                scores={"a": 0.5, "b": 0.5}, why="low_score", probability=1.0, value=round(dice.random(), 3),
                size=self._size, sha256=sha256_hex(self.image(index)), ext="png", chunk_size=chunk_size,
            )
            for index in range(self.count)
        ]  # fmt: skip


class FleetCamera:
    """A camera without a lens: `edge.send` without its thread, a spool in numbers instead of files.

    began: when it offered its first image (monotonic seconds); first, finished: when the first and the last one was
    stored. counts: what it sent and got, shared by the fleet.
    """

    def __init__(
        self, loop: Loop, mqtt: MqttSettings, name: str, *, backlog: Backlog, events: list[Event], counts: Counter[str]
    ) -> None:
        self.name = name
        self.events = {event.id: event for event in events}
        self.began: float | None = None
        self.first: float | None = None
        self.finished: float | None = None
        self.announced = False
        self._images = {event.id: index for index, event in enumerate(events)}
        self._backlog = backlog
        self._counts = counts
        self._boot = boot_id()
        self._held: tuple[str, bytes] = ("", b"")
        self._sender = Sender()
        for event in events:
            self._sender.add(Offer(event.id, event.size, event.chunk_size, event.value))
        self.connection = Connection(
            loop,
            mqtt,
            client_id=f"hone-{name.replace('/', '-')}",
            filters=[topics.reply(name), topics.hub_status("hub")],
            will=(topics.status(name), encode(Status(online=False))),
            on_message=self._message,
            on_ready=self._ready,
            on_lost=self._lost,
            on_room=self.pump,
        )

    def pump(self) -> None:
        """Publish what the rules want, as long as the connection has room."""
        if self.finished is not None:
            return
        while self.connection.unacked < MAX_WINDOW:
            now = time.monotonic()
            action = self._sender.next(now)
            if action is None:
                return
            if self.began is None:
                self.began = now
            event = self.events[action.id]
            size = self._sender.chunk_size(action.id)
            if isinstance(action, SendEvent):
                self._counts["offers" if action.follows else "questions"] += 1
                topic = topics.event(self.name)
                event = msgspec.structs.replace(event, follows=action.follows, chunk_size=size)
                data = encode_attached(event, self._image(action.id)[:size]) if action.attached else encode(event)
            else:
                self._counts["chunks"] += 1
                topic = topics.chunk(self.name, action.id, action.index)
                data = self._image(action.id)[action.index * size :][:size]
            if not self.connection.publish(topic, data, delivered=lambda one=action.id: self._delivered(one)):  # type: ignore[misc]
                return

    def _image(self, one: str) -> bytes:
        if self._held[0] != one:
            self._held = (one, self._backlog.image(self._images[one]))
        return self._held[1]

    def _ready(self) -> None:
        self._sender.connected()
        status = encode(Status(online=True, boot=self._boot))
        self.connection.publish(topics.status(self.name), status, retain=True, delivered=self._announced)

    def _announced(self) -> None:
        self.announced = True

    def _lost(self) -> None:
        self._sender.disconnected()

    def _delivered(self, one: str) -> None:
        self._sender.delivered(one, time.monotonic())

    def _message(self, message: paho.MQTTMessage) -> None:
        now = time.monotonic()
        match topics.parse(message.topic):
            case HubTopic():
                status = decode(message.payload, HubStatus)
                self._sender.hub(status, now, retained=message.retain)
            case CameraTopic(leaf="reply"):
                self._reply(decode(message.payload, Reply), now)

    def _reply(self, reply: Reply, now: float) -> None:
        stored, refused = self._sender.reply(reply, now)
        self._counts["replies"] += 1
        self._counts["resends"] += len(reply.resend)
        self._counts["pauses"] += reply.pause_ms is not None
        self._counts["credits"] += reply.credit is not None
        self._counts["stored"] += len(stored)
        self._counts["refused"] += len(refused)
        if stored and self.first is None:
            self.first = now
        if self._sender.idle and self.finished is None:
            self.finished = now
            self._counts["finished"] += 1


class PlainCamera:
    """The same connection and loop without any protocol: all chunks of the backlog, as fast as the window allows."""

    def __init__(self, loop: Loop, mqtt: MqttSettings, name: str, *, backlog: Backlog, events: list[Event]) -> None:
        self.started = False
        self.announced = False
        self._name = name
        self._backlog = backlog
        self._left = iter(
            [
                (index, event.id, part, event.chunk_size)
                for index, event in enumerate(events)
                for part in range(chunk_count(event.size, event.chunk_size))
            ]
        )
        self.connection = Connection(
            loop,
            mqtt,
            client_id=f"hone-{name.replace('/', '-')}",
            filters=[topics.reply(name), topics.hub_status("hub")],
            will=(topics.status(name), encode(Status(online=False))),
            on_ready=self._ready,
            on_room=self.pump,
        )

    def pump(self) -> None:
        """Publish while there is room."""
        while self.started and self.connection.unacked < MAX_WINDOW:
            following = next(self._left, None)
            if following is None:
                self.started = False
                return
            index, one, part, chunk_size = following
            data = self._backlog.image(index)[part * chunk_size :][:chunk_size]
            assert self.connection.publish(topics.chunk(self._name, one, part), data)

    def _ready(self) -> None:
        status = encode(Status(online=True, boot="plain"))
        self.connection.publish(topics.status(self._name), status, retain=True, delivered=self._announced)

    def _announced(self) -> None:
        self.announced = True
