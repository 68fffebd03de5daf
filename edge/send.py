"""Send: the thread around the transfer rules. It alone talks to Sender; everyone else puts a note into its inbox."""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from edge.priority import lower_priority
from edge.spool import Spool
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.files import chunk_count
from shared.messages import HubStatus, Reply, encode
from shared.transfer import Offer, SendChunk, Sender, SendEvent

log = logging.getLogger(__name__)
IN_FLIGHT = 256 * 1024
"""Bytes that paho may hold unacknowledged: the queue is ours, on disk."""
SWEEP_S = 1.0
"""Seconds between two sweeps of the spool."""


class Sending:
    """Uploads the spool to the hub; every public method may be called from any thread and returns at once."""

    def __init__(self, camera: str, bus: Bus, spool: Spool, clock: Clock, errors: Counter[str]) -> None:
        self._camera = camera
        self._bus = bus
        self._spool = spool
        self._clock = clock
        self._errors = errors
        self._sender = Sender()
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        spool.watch(self.evicted)
        self._held: tuple[str, bytes, int] | None = None  # id, bytes and chunk size of the image being sent

    def start(self) -> None:
        """Begin with what the spool holds."""
        for offer in self._spool.offers():
            self._sender.add(offer)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the spool keeps what was not stored."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(5)

    def spooled(self, offer: Offer) -> None:
        """A new event is in the spool."""
        self._inbox.put(lambda: self._sender.add(offer))

    def evicted(self, event_id: str) -> None:
        """An event left the spool without being stored."""
        self._inbox.put(lambda: self._sender.remove(event_id))

    def connected(self) -> None:
        """The broker has us."""
        self._inbox.put(self._sender.connected)

    def disconnected(self) -> None:
        """The broker is gone."""
        self._inbox.put(self._sender.disconnected)

    def hub(self, status: HubStatus, *, retained: bool) -> None:
        """The hub's status arrived."""
        self._inbox.put(lambda: self._sender.hub(status, self._now(), retained=retained))

    def reply(self, reply: Reply) -> None:
        """The hub answered."""
        self._inbox.put(lambda: self._take_reply(reply))

    def _now(self) -> float:
        return self._clock.monotonic()

    def _take_reply(self, reply: Reply) -> None:
        stored, refused = self._sender.reply(reply, self._now())
        if stored:
            self._spool.stored(stored)
        for event_id, reason in refused:
            self._errors["refused"] += 1
            self._spool.refused(event_id, reason)

    def _run(self) -> None:
        lower_priority()
        next_sweep = self._now()
        while True:
            try:
                if not self._listen():
                    return
                self._pump()
                if self._now() >= next_sweep:
                    self._spool.sweep()
                    next_sweep = self._now() + SWEEP_S
            except OSError as error:
                self._errors["spool"] += 1
                log.error("the spool cannot be read or written (%s); trying again in 2 s", error)
                time.sleep(2)
                for offer in self._spool.offers():  # what the hub has and the spool could not let go
                    self._sender.add(offer)

    def _listen(self) -> bool:
        """Do what the notes in the inbox say; False when the thread shall end."""
        try:
            note = self._inbox.get(timeout=0.2)
            while note is not None:
                note()
                note = self._inbox.get_nowait()
        except queue.Empty:
            return True
        return False

    def _pump(self) -> None:
        """Publish what the rules want, as long as the connection has room."""
        while self._bus.unacked < IN_FLIGHT:
            action = self._sender.next(self._now())
            if action is None:
                return
            sent = self._send_event(action) if isinstance(action, SendEvent) else self._send_chunk(action)
            if not sent:
                return

    def _send_event(self, action: SendEvent) -> bool:
        event = self._spool.event(action.id)
        if event is None:
            self._sender.remove(action.id)
            return True
        data = encode(msgspec.structs.replace(event, follows=action.follows))
        log.debug(
            "event %s: offered (%d bytes, %d chunks)", event.id, event.size, chunk_count(event.size, event.chunk_size)
        )
        return self._publish(event.id, topics.event(self._camera), data)

    def _send_chunk(self, action: SendChunk) -> bool:
        if self._held is None or self._held[0] != action.id:
            event, data = self._spool.event(action.id), self._spool.image(action.id)
            if event is None or data is None:
                self._sender.remove(action.id)
                return True
            self._held = (action.id, data, event.chunk_size)
        _, data, chunk_size = self._held
        piece = data[action.index * chunk_size : (action.index + 1) * chunk_size]
        return self._publish(action.id, topics.chunk(self._camera, action.id, action.index), piece)

    def _publish(self, event_id: str, topic: str, payload: bytes) -> bool:
        """Hand to the broker; its acknowledgement comes back as a note, which also wakes the pump."""

        def delivered() -> None:
            self._inbox.put(lambda: self._sender.delivered(event_id, self._now()))

        return self._bus.publish(topic, payload, delivered=delivered)
