"""Send: the thread around the transfer rules. It alone talks to Sender; everyone else puts a note into its inbox.

A second thread lets go of what the hub has: that waits for the disk, and the line must not wait for it.
"""

import logging
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge.budget import Meter
from edge.line import Line, place
from edge.link import Link
from edge.noted import Noted
from edge.priority import lower_priority
from edge.spool import Spool
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.files import write_atomic
from shared.messages import MAX_GONE, Gone, HubStatus, Reply, encode, encode_attached
from shared.policy import AUDIT
from shared.transfer import Offer, SendChunk, Sender, SendEvent

log = logging.getLogger(__name__)
SWEEP_S = 1.0
"""Seconds between two sweeps of the spool."""
SWEEP_AT_LEAST_S = 30.0
"""Seconds after which it is swept although the line is busy."""


class Sending:
    """Uploads the spool to the hub; every public method may be called from any thread and returns at once.

    meter: what may be spent of the link; None: all of it. memory: file that remembers the hub's epoch. noted: file that
    remembers which previews the hub keeps; without it they are offered again after a start. embeddings: events of the
    random sample carry theirs, so that the hub sees how far it is from its own; too much for a thin link.
    """

    def __init__(
        self,
        camera: str,
        bus: Bus,
        spool: Spool,
        clock: Clock,
        errors: Counter[str],
        *,
        meter: Meter | None = None,
        memory: Path | None = None,
        noted: Path | None = None,
        embeddings: bool = False,
    ) -> None:
        self._camera = camera
        self._bus = bus
        self._spool = spool
        self._clock = clock
        self._errors = errors
        self._sender = Sender(camera.partition("/")[0])
        self._line = Line()  # what waits; the sender is told of an event when its turn comes, for values may change
        self._next: dict[str, Offer] = {}  # what the sender was told of and has not begun with
        self._link = Link()
        self._meter = meter
        self._memory = memory
        self._epoch = ""  # the last one that the hub told
        self._noted = Noted(noted)
        self._embeddings = embeddings
        self._gone: dict[str, None] = {}  # previews whose images are gone, to be told to the hub
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._acks: deque[tuple[str, int, float]] = deque()  # what the broker acknowledged: event, bytes, when
        self._ended: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()  # event, reason of a refusal
        self._thread = threading.Thread(target=self._run, name="send", daemon=True)
        self._letting_go = threading.Thread(target=self._let_go, name="let go", daemon=True)
        spool.watch(self.evicted)
        self._held: tuple[str, memoryview] | None = None  # id and bytes of the image being sent

    def start(self) -> None:
        """Begin with what the spool holds."""
        if self._memory is not None and self._memory.exists():
            self._epoch = self._memory.read_text(encoding="ascii", errors="replace")
        offers = self._spool.offers()
        if self._epoch:
            self._noted.load({one.id for one in offers if one.held})
        for offer in offers:
            if noted := self._noted.get(offer.id):
                self._sender.add(offer, noted=noted)
            else:
                self._line.put(offer)
        self._thread.start()
        self._letting_go.start()

    def stop(self) -> None:
        """End the threads; the spool keeps what was not stored."""
        for thread, inbox in ((self._thread, self._inbox), (self._letting_go, self._ended)):
            inbox.put(None)
            if thread.is_alive():
                thread.join(5)
        if self._meter is not None:
            self._meter.close()

    @property
    def goodput(self) -> float | None:
        """Bytes/s that the link to the broker carried lately; None: not known yet."""
        return self._link.rate

    def spooled(self, offer: Offer) -> None:
        """A new event is in the spool."""
        self._inbox.put(lambda: self._line.put(offer))

    def revalued(self, offers: list[Offer]) -> None:
        """These have other values now; what is being sent, or held with a preview at the hub, is left as it is."""
        self._inbox.put(lambda: self._revalue(offers))

    def evicted(self, event_id: str) -> None:
        """An event left the spool without being stored."""
        self._inbox.put(lambda: self._forget(event_id))

    def connected(self) -> None:
        """The broker has us."""
        self._inbox.put(self._sender.connected)

    def disconnected(self) -> None:
        """The broker is gone."""
        self._inbox.put(self._disconnected)

    def hub(self, name: str, status: HubStatus, *, retained: bool) -> None:
        """A hub's status arrived."""
        self._inbox.put(lambda: self._take_hub(name, status, retained=retained))

    def reply(self, reply: Reply) -> None:
        """The hub answered."""
        self._inbox.put(lambda: self._take_reply(reply))

    def _now(self) -> float:
        return self._clock.monotonic()

    def _take_hub(self, name: str, status: HubStatus, *, retained: bool) -> None:
        self._sender.hub(status, self._now(), retained=retained, name=name)
        if status.epoch and not retained and status.epoch != self._epoch and self._sender.is_served_by(status):
            self._turn_epoch(status.epoch)

    def _turn_epoch(self, epoch: str) -> None:
        """The hub's data has another history than before: what it called stored may be gone, and is offered again."""
        if self._epoch:
            again = self._spool.recall()
            log.warning("the hub's data was restored from a backup; %d kept copies are offered again", len(again))
            for offer in again:
                self._line.put(offer)
            self._noted.clear()
            self._sender.renew()
        if self._memory is not None:
            write_atomic(self._memory, epoch.encode())
        self._epoch = epoch

    def _disconnected(self) -> None:
        self._sender.disconnected()
        self._link.broke()

    def _take_reply(self, reply: Reply) -> None:
        for event_id in (*reply.stored, *reply.refuse, *reply.noted, *reply.resend):
            if event_id in self._line:  # the hub knows it from before a restart
                self._tell_sender(event_id)
        self._gone.update(dict.fromkeys(self._sender.unknown(reply)))
        stored, refused = self._sender.reply(reply, self._now())
        for event_id in stored:
            self._ended.put((event_id, ""))
        for event_id, reason in refused:
            self._errors["refused"] += 1
            self._ended.put((event_id, reason))
        for event_id in (*stored, *(one for one, _ in refused)):
            self._noted.forget(event_id)
            self._next.pop(event_id, None)
        kept = [one for one in reply.noted if self._sender.holds(one)]
        self._noted.add({one: self._sender.chunk_size(one) for one in kept})

    def _forget(self, event_id: str) -> None:
        """The event is no longer in the spool; whoever has a preview of it shall know."""
        self._line.pop(event_id)
        self._next.pop(event_id, None)
        if self._sender.remove(event_id):
            self._gone[event_id] = None
        self._noted.forget(event_id)

    def _revalue(self, offers: list[Offer]) -> None:
        for offer in offers:
            if offer.id in self._line:
                self._line.put(offer)

    def _tell_sender(self, event_id: str) -> None:
        offer = self._line.pop(event_id)
        if offer is not None:
            self._next[event_id] = offer
            self._sender.add(offer)

    def _feed(self) -> None:
        """Whatever the sender begins with next, it has been told of what is worth most."""
        if not self._sender.hub_lives(self._now()):
            return
        while (first := self._line.first()) is not None:
            if any(place(one) < place(first) for one in self._next.values()):
                return
            self._tell_sender(first.id)

    def _tell_gone(self) -> None:
        while self._gone:
            some = list(self._gone)[:MAX_GONE]
            if not self._bus.publish(topics.gone(self._camera), encode(Gone(ids=some))):
                return
            for one in some:
                del self._gone[one]

    def _run(self) -> None:
        lower_priority()
        while True:
            try:
                if not self._listen():
                    return
                self._pump()
            except OSError as error:
                self._errors["spool"] += 1
                log.error("the spool cannot be read (%s); trying again in 2 s", error)
                time.sleep(2)

    def _let_go(self) -> None:
        """The second thread: journal what ended and delete it, all that came meanwhile at once."""
        lower_priority()
        ended: dict[str, str] = {}
        going, swept = True, self._now()
        while going:
            going = self._gather(ended)
            # Deleting files holds up whoever reads in the same folder, so it waits until the line has had its turn.
            # Not for ever, though: a camera that sends steadily has files and a journal to be tidied, too.
            quiet = not ended or self._now() - swept > SWEEP_AT_LEAST_S
            try:
                self._spool.stored([one for one, reason in ended.items() if not reason])
                for one, reason in ended.items():
                    if reason:
                        self._spool.refused(one, reason)
                ended.clear()
                if quiet:
                    self._spool.sweep()
                    swept = self._now()
            except OSError as error:
                self._errors["spool"] += 1
                log.error("the spool cannot be written (%s); trying again in 2 s", error)
                time.sleep(2)

    def _gather(self, ended: dict[str, str]) -> bool:
        """Add what ended to what could not be let go before; returns at the latest when it is time to sweep. False at
        the end.
        """
        try:
            note = self._ended.get(timeout=SWEEP_S)
            while note is not None:
                ended[note[0]] = note[1]
                note = self._ended.get_nowait()
        except queue.Empty:
            return True
        return False

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

    def _take_acks(self) -> None:
        while self._acks:
            event_id, size, at = self._acks.popleft()
            self._link.acked(size, at)
            self._sender.delivered(event_id, at)

    def _pump(self) -> None:
        """Publish what the rules want, as long as the link has room."""
        self._take_acks()
        self._tell_gone()
        while self._bus.unacked < self._link.window and (self._meter is None or not self._meter.wait()):
            self._sender.chunk_limit = self._link.chunk_limit
            self._feed()
            action = self._sender.next(self._now())
            if action is None:
                return
            self._next.pop(action.id, None)
            sent = self._send_event(action) if isinstance(action, SendEvent) else self._send_chunk(action)
            if not sent:
                return

    def _send_event(self, action: SendEvent) -> bool:
        event = self._spool.event(action.id)
        if event is None:
            self._forget(action.id)
            return True
        event = msgspec.structs.replace(
            event, follows=action.follows, held=action.held, chunk_size=self._sender.chunk_size(action.id)
        )
        if not action.held:  # the image itself is wanted
            event = msgspec.structs.replace(event, thumbnail=None)
            if not (self._embeddings and event.why == AUDIT):
                event = msgspec.structs.replace(event, embedding=None, backbone=None)
        log.debug("event %s: offered (%d bytes in chunks of %d)", event.id, event.size, event.chunk_size)
        if not action.attached:
            return self._publish(event.id, topics.event(self._camera), encode(event))
        image = self._image(action.id)
        if image is None:
            return True
        return self._publish(event.id, topics.event(self._camera), encode_attached(event, image[: event.chunk_size]))

    def _send_chunk(self, action: SendChunk) -> bool:
        image = self._image(action.id)
        if image is None:
            return True
        size = self._sender.chunk_size(action.id)
        piece = bytes(image[action.index * size : (action.index + 1) * size])
        return self._publish(action.id, topics.chunk(self._camera, action.id, action.index), piece)

    def _image(self, event_id: str) -> memoryview | None:
        """The bytes of an image, read once for all its chunks; None, and forgotten, when they are gone."""
        if self._held is None or self._held[0] != event_id:
            data = self._spool.image(event_id)
            if data is None:
                self._forget(event_id)
                return None
            self._held = (event_id, memoryview(data))
        return self._held[1]

    def _publish(self, event_id: str, topic: str, payload: bytes) -> bool:
        """Hand to the broker. Its acknowledgements are noted, and wake the pump when the link is half empty."""

        def delivered() -> None:
            self._acks.append((event_id, len(payload), self._now()))
            if self._bus.unacked <= self._link.window // 2:
                self._inbox.put(self._take_acks)

        handed = self._bus.publish(topic, payload, delivered=delivered)
        if handed:
            self._link.sent(len(payload), self._now())
            if self._meter is not None:
                self._meter.spend(len(topic) + len(payload))
        return handed
