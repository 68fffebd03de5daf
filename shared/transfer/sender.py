"""The camera's end of an upload; the state table is in the package's docstring."""

import heapq
from dataclasses import dataclass, field
from enum import Enum, auto

from shared.files import chunk_count
from shared.messages import HubStatus, Range, Reply
from shared.transfer.ranges import indices_in

LOST_BEATS = 3.5
"""So many beats of silence, and the hub is taken for gone."""
FIRST_PATIENCE = 10.0
"""Seconds that the hub may be silent on an event which the broker has acknowledged whole, before the camera asks.

Counted from that acknowledgement, so that a slow link starts no timer; longer where the hub was seen to be slow;
doubles each time up to MAX_PATIENCE.
"""
MAX_PATIENCE = 120.0
MAX_PAUSE = 3600.0
SLOW_HUB = 4.0
"""A hub may take so many times as long as all that is on its way took lately, before it counts as silent."""
LOOK_EVERY = 0.25
"""Seconds between two looks for events on which the hub is silent."""
PREVIEW_BYTES = 8192
"""What an offered preview counts for in the credit."""
MIN_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Offer:
    """What the rules need to know of a spooled event. value: higher goes first. held: offer a preview only."""

    id: str
    size: int
    chunk_size: int
    value: float
    held: bool = False


@dataclass(frozen=True, slots=True)
class SendEvent:
    """Publish the event's metadata. attached: with the first chunk in the same message. held: as a preview."""

    id: str
    follows: bool
    attached: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Publish one chunk, cut by `Sender.chunk_size`."""

    id: str
    index: int


class _Step(Enum):
    WAITING = auto()
    TO_ASK = auto()
    ASKED = auto()
    SENDING = auto()
    SENT = auto()
    HELD = auto()


@dataclass(slots=True)
class _Upload:
    offer: Offer
    chunk_size: int
    held: bool
    step: _Step = _Step.WAITING
    first_pass: bool = False  # the chunks follow unasked, and the hub may have some of an earlier life of ours
    todo: list[int] = field(default_factory=list)  # chunk indices still to send, the next one last
    flying: int = 0  # messages that the broker has not acknowledged
    touched: float = 0.0  # when the broker, or the hub, last moved it
    patience: float = FIRST_PATIENCE

    @property
    def chunks(self) -> int:
        return chunk_count(self.offer.size, self.chunk_size)

    @property
    def weight(self) -> int:
        return PREVIEW_BYTES if self.held else self.offer.size


@dataclass(slots=True)
class _Hub:
    boot: str
    beat: int
    beat_s: float
    attach: int
    accepts: bool
    beat_at: float | None  # when the counter last advanced before our eyes


class Sender:
    """The camera's end: which event or chunk to publish next, and what became of each event.

    `next` is to be called whenever the connection has room. site: the camera's, to tell which hubs serve it; "" takes
    any. chunk_limit: bytes of the largest chunk that the link carries well now, set by the caller as it learns.
    Not thread-safe.
    """

    def __init__(self, site: str = "") -> None:
        self.chunk_limit = 1 << 20
        self._site = site
        self._uploads: dict[str, _Upload] = {}
        self._line: list[tuple[float, str]] = []  # waiting, best value first; may hold ids that are gone
        self._active: dict[str, None] = {}  # offered, and not ended or held; in order
        self._asking: dict[str, None] = {}  # those of them in TO_ASK
        self._sending: dict[str, None] = {}  # those of them in SENDING
        self._outstanding = 0
        self._credit: int | None = None
        self._pause_until = 0.0
        self._hubs: dict[str, _Hub] = {}
        self._connected = False
        self._looked = float("-inf")
        self._moved = 0.0  # when the hub last stored something, or there was nothing on its way
        self._pace: float | None = None  # bytes/s that the hub stored lately

    # -- what the caller tells

    def add(self, offer: Offer, *, noted: int | None = None) -> None:
        """An event is in the spool. noted: the hub keeps its preview from before, and knows it by this chunk size."""
        if offer.id in self._uploads:
            return
        self._uploads[offer.id] = upload = _Upload(offer, noted or offer.chunk_size, offer.held)
        if noted and offer.held:
            upload.step = _Step.HELD
        else:
            heapq.heappush(self._line, (-offer.value, offer.id))

    def remove(self, event_id: str) -> bool:
        """The event is no longer in the spool (evicted); forget it. Whether the hub may know a preview of it."""
        self._rest(event_id)
        upload = self._uploads.pop(event_id, None)
        return upload is not None and upload.offer.held and upload.step is not _Step.WAITING

    def connected(self) -> None:
        """The broker has us again: the hub must show life anew, and what was on its way is asked for."""
        self._connected = True
        for hub in self._hubs.values():
            hub.beat_at, hub.beat = None, -1
        self._credit = None  # what was granted may be more than there is now for each of those who come back at once
        self._ask_again()

    def disconnected(self) -> None:
        """The connection is gone."""
        self._connected = False
        for hub in self._hubs.values():
            hub.beat_at = None

    def hub(self, status: HubStatus, now: float, *, retained: bool, name: str = "hub") -> None:
        """A hub's status arrived. Only a counter that advances proves life; a retained one only sets the start."""
        hub = self._hubs.get(name)
        if not status.online:
            if hub is not None:
                hub.beat_at = None
                self._ask_again()  # what it had not stored is lost with it; another may serve us already
            return
        if not self.is_served_by(status):
            if self._hubs.pop(name, None) is not None:
                self._ask_again()
            return
        if hub is None or status.boot != hub.boot:
            self._hubs[name] = hub = _Hub(status.boot, status.beat, 0.0, 0, True, None if retained else now)
            self._credit = status.credit
            self._pause_until = 0.0
            self._ask_again()
        elif status.beat > hub.beat:
            if hub.beat >= 0 and not retained:
                hub.beat_at = now
            hub.beat = status.beat
        if hub.accepts and not status.accepts:
            self._ask_again()
        hub.beat_s, hub.attach, hub.accepts = status.beat_s, status.attach, status.accepts
        if self._credit is None:
            self._credit = status.credit

    def reply(self, reply: Reply, now: float) -> tuple[list[str], list[tuple[str, str]]]:
        """The hub answered: returns the ids that are stored, and (id, reason) of those refused.

        A reply is never retained, and comes only after we subscribed: it shows life as a beat does.
        """
        for hub in self._hubs.values():
            hub.beat_at = now
        if reply.credit is not None:
            self._credit = reply.credit
        if reply.pause_ms is not None:
            # The hub may have let go of what it had no room for: after the pause each event is asked for.
            self._pause_until = now + min(reply.pause_ms / 1000, MAX_PAUSE)
            self._ask_again()
        stored = [one for one in reply.stored if one in self._uploads]
        refused = [(one, reason) for one, reason in reply.refuse.items() if one in self._uploads]
        self._learn(sum(self._uploads[one].offer.size for one in stored), now)
        for one in stored + [one for one, _ in refused]:
            self.remove(one)
        for one in reply.noted:
            self._note(one)
        for one, missing in reply.resend.items():
            self._resend(one, missing, now)
        return stored, refused

    def unknown(self, reply: Reply) -> list[str]:
        """The ids that the hub asks for and nobody here has (any more)."""
        return [one for one in reply.resend if one not in self._uploads]

    def renew(self) -> None:
        """The hub lost what it knew (its epoch changed): previews are offered again."""
        for one, upload in self._uploads.items():
            if upload.step is _Step.HELD:
                upload.step = _Step.WAITING
                heapq.heappush(self._line, (-upload.offer.value, one))

    def delivered(self, event_id: str, now: float) -> None:
        """The broker acknowledged a message of this event."""
        upload = self._uploads.get(event_id)
        if upload is not None:
            upload.flying = max(0, upload.flying - 1)
            upload.touched = now

    # -- what the caller asks

    @property
    def outstanding(self) -> int:
        """Bytes of events that were offered and are not stored yet."""
        return self._outstanding

    @property
    def idle(self) -> bool:
        """Whether no event is left here."""
        return not self._uploads

    def holds(self, event_id: str) -> bool:
        """Whether the hub keeps the preview of this event, and has not asked for its image."""
        upload = self._uploads.get(event_id)
        return upload is not None and upload.step is _Step.HELD

    def chunk_size(self, event_id: str) -> int:
        """Bytes of each chunk but the last, as this event is cut; KeyError when it is gone."""
        return self._uploads[event_id].chunk_size

    def is_served_by(self, status: HubStatus) -> bool:
        """Whether a hub that says so of itself is one for the camera's site."""
        return not (self._site and status.sites and self._site not in status.sites)

    def hub_lives(self, now: float) -> bool:
        """Whether a hub's counter advanced lately."""
        return self._living(now) is not None

    def next(self, now: float) -> SendEvent | SendChunk | None:
        """The next thing to publish, or None: nothing to do, no credit, paused, or no living hub that accepts."""
        hub = self._living(now)
        if hub is None or not hub.accepts or now < self._pause_until:
            return None
        self._look_for_silence(now)
        if self._asking:
            upload = self._uploads[next(iter(self._asking))]
            self._go(upload, _Step.ASKED)
            upload.first_pass = False
            upload.todo.clear()
            cut = self._chunk_for(upload.offer)
            if cut * 2 <= upload.chunk_size or cut >= upload.chunk_size * 2:
                upload.chunk_size = cut  # the hub keeps what is covered of the old cut
            return self._event(upload, now, follows=False)
        if self._sending:
            upload = self._uploads[next(iter(self._sending))]
            index = upload.todo.pop()
            upload.flying += 1
            if not upload.todo:
                self._go(upload, _Step.SENT)
            return SendChunk(upload.offer.id, index)
        return self._start(hub, now)

    # -- below the surface

    def _living(self, now: float) -> _Hub | None:
        if self._connected:
            for hub in self._hubs.values():
                if hub.beat_at is not None and now - hub.beat_at < LOST_BEATS * hub.beat_s:
                    return hub
        return None

    def _chunk_for(self, offer: Offer) -> int:
        """The event's own chunk size, or, where the link carries less at a time, equal pieces below that."""
        if self.chunk_limit >= min(offer.chunk_size, offer.size):
            return offer.chunk_size
        pieces = chunk_count(offer.size, max(MIN_CHUNK, self.chunk_limit))
        return max(MIN_CHUNK, chunk_count(offer.size, pieces))

    def _start(self, hub: _Hub, now: float) -> SendEvent | None:
        """Begin with the most valuable waiting event, if the credit allows one more."""
        while self._line and (
            self._line[0][1] not in self._uploads or self._uploads[self._line[0][1]].step is not _Step.WAITING
        ):
            heapq.heappop(self._line)
        if not self._line:
            return None
        upload = self._uploads[self._line[0][1]]
        if self._outstanding and self._outstanding + upload.weight > (self._credit or 0):
            return None
        if self._credit == 0:
            return None
        heapq.heappop(self._line)
        if not self._outstanding:
            self._moved = now
        self._active[upload.offer.id] = None
        self._outstanding += upload.weight
        upload.chunk_size = self._chunk_for(upload.offer)
        if upload.held or self._credit is None:
            self._go(upload, _Step.ASKED)
            return self._event(upload, now, follows=False)
        first = min(upload.offer.size, upload.chunk_size)
        attached = first <= hub.attach
        upload.todo = list(range(upload.chunks - 1, 0 if attached else -1, -1))
        upload.first_pass = True
        self._go(upload, _Step.SENDING if upload.todo else _Step.SENT)
        return self._event(upload, now, follows=True, attached=attached)

    def _event(self, upload: _Upload, now: float, *, follows: bool, attached: bool = False) -> SendEvent:
        upload.flying += 1
        upload.touched = now
        return SendEvent(upload.offer.id, follows, attached, upload.held)

    def _go(self, upload: _Upload, step: _Step) -> None:
        """Change the state, and keep the lists of states right."""
        one = upload.offer.id
        self._asking.pop(one, None)
        if step is not _Step.SENDING:
            self._sending.pop(one, None)
        upload.step = step
        if step is _Step.TO_ASK:
            self._asking[one] = None
        elif step is _Step.SENDING:
            self._sending[one] = None

    def _rest(self, event_id: str) -> None:
        """The event is no longer on its way."""
        if event_id in self._active:
            del self._active[event_id]
            self._outstanding -= self._uploads[event_id].weight
            self._asking.pop(event_id, None)
            self._sending.pop(event_id, None)

    def _note(self, event_id: str) -> None:
        upload = self._uploads.get(event_id)
        if upload is not None and upload.held and upload.step is _Step.ASKED:
            self._rest(event_id)
            upload.step, upload.flying = _Step.HELD, 0

    def _resend(self, event_id: str, missing: list[Range], now: float) -> None:
        upload = self._uploads.get(event_id)
        if upload is None or upload.step in (_Step.WAITING, _Step.TO_ASK):
            return
        wanted = indices_in(missing, upload.chunks)
        if upload.first_pass and upload.step is _Step.SENDING:
            upload.todo = [one for one in upload.todo if one in wanted]
            upload.touched = now
            if not upload.todo:
                self._go(upload, _Step.SENT)
            return
        upload.todo = sorted({*upload.todo, *wanted}, reverse=True)
        upload.touched, upload.patience = now, FIRST_PATIENCE
        if not upload.todo:
            return
        if upload.held:  # the hub wants the image after all
            self._rest(event_id)
            upload.held = False
            self._active[event_id] = None
            self._outstanding += upload.weight
        self._go(upload, _Step.SENDING)

    def _ask_again(self) -> None:
        for one in self._active:
            upload = self._uploads[one]
            self._go(upload, _Step.TO_ASK)
            upload.flying = 0

    def _look_for_silence(self, now: float) -> None:
        """Ask for events of which the broker has all, and the hub has said nothing for long."""
        if 0 <= now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        slow = SLOW_HUB * self._outstanding / self._pace if self._pace else 0.0
        for one in self._active:
            upload = self._uploads[one]
            if upload.step not in (_Step.ASKED, _Step.SENT) or upload.flying:
                continue
            if now - upload.touched > min(MAX_PATIENCE, max(upload.patience, slow)):
                upload.patience = min(2 * upload.patience, MAX_PATIENCE)
                self._go(upload, _Step.TO_ASK)

    def _learn(self, stored: int, now: float) -> None:
        """Bytes were stored: how fast is the hub?"""
        if stored and now > self._moved:
            pace = stored / (now - self._moved)
            self._pace = pace if self._pace is None else 0.8 * self._pace + 0.2 * pace
            self._moved = now
