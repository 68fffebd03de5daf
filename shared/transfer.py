"""The rules of an upload for both ends, without I/O: what came in -> what to do. The clock is passed in.

Camera (Sender), per event:

    state     | on                            | goes to  | does
    ----------|-------------------------------|----------|-----------------------------------------------
    waiting   | its turn, within the credit   | sending  | event (follows), then its chunks
    waiting   | its turn, no credit known yet | asked    | event (does not follow)
    sending   | last chunk handed over        | sent     |
    asked     | resend                        | sending  | the chunks asked for
    sent      | resend                        | sending  | the chunks asked for
    asked, sending, sent | connection lost, hub's boot id changed, pause | to ask |
    asked, sent | the broker has it all, the hub says nothing for long | to ask |
    to ask    | hub lives, no pause           | asked    | event (does not follow)
    any       | stored                        | gone     | the caller deletes the file
    any       | refuse                        | gone     | the caller quarantines the file

A hub lives when its counter was seen to advance since we connected, and not longer ago than LOST_BEATS beats: a
retained `online` alone may be a ghost. Without a living hub nothing is sent.

Hub (Receiver), per event:

    state     | on                            | goes to  | does
    ----------|-------------------------------|----------|-----------------------------------------------
    -         | event, stored before          | -        | stored (same hash) or refuse (another hash)
    -         | event, too large              | -        | refuse
    -         | event, no room for it now     | -        | pause
    -         | event                         | partial  | resend of all, where the chunks do not follow
    partial   | event again                   | partial  | resend of what is missing
    partial   | chunk                         | partial  | resend of gaps, after the last index came
    partial   | chunk, nothing missing        | complete | hand the image over to be made durable
    partial   | the same, wrong hash          | partial  | resend of all; at the second time: refuse, gone
    partial   | nothing for `partial_ttl_s`   | -        |
    partial   | the camera offers beyond its share | -   | (its oldest ones; it asks again)
    complete  | durable                       | -        | stored
    complete  | could not be made durable     | -        | pause; the camera will ask again
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from shared.errors import ChunkError, HashMismatchError, HoneError, TooLargeError
from shared.files import chunk_count, sha256_hex
from shared.messages import Event, HubStatus, Range, Reply

LOST_BEATS = 3.5
"""So many beats of silence, and the hub is taken for gone."""
FIRST_PATIENCE = 10.0
"""Seconds that the hub may be silent on an event which the broker has acknowledged whole, before the camera asks.

Counted from that acknowledgement, so that a slow link starts no timer; doubles each time up to MAX_PATIENCE.
"""
MAX_PATIENCE = 120.0
MAX_PAUSE = 3600.0


def to_ranges(indices: Iterable[int]) -> list[Range]:
    """Fold indices into sorted ranges, both ends included.

    >>> to_ranges([5, 1, 2, 3])
    [(1, 3), (5, 5)]
    """
    ranges: list[Range] = []
    for index in sorted(indices):
        if ranges and ranges[-1][1] + 1 == index:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


# ---------------------------------------------------------------------------------------------- camera


@dataclass(frozen=True, slots=True)
class Offer:
    """What the rules need to know of a spooled event. value: higher goes first."""

    id: str
    size: int
    chunk_size: int
    value: float


@dataclass(frozen=True, slots=True)
class SendEvent:
    """Publish the event's metadata."""

    id: str
    follows: bool


@dataclass(frozen=True, slots=True)
class SendChunk:
    """Publish one chunk."""

    id: str
    index: int


class _Step(Enum):
    WAITING = auto()
    TO_ASK = auto()
    ASKED = auto()
    SENDING = auto()
    SENT = auto()


@dataclass(slots=True)
class _Upload:
    offer: Offer
    step: _Step = _Step.WAITING
    todo: list[int] = field(default_factory=list)  # chunk indices still to send, the next one last
    flying: int = 0  # messages that the broker has not acknowledged
    touched: float = 0.0  # when the broker, or the hub, last moved it
    patience: float = FIRST_PATIENCE

    @property
    def chunks(self) -> int:
        return chunk_count(self.offer.size, self.offer.chunk_size)


class Sender:
    """The camera's end: which event or chunk to publish next, and what became of each event.

    `next` is to be called whenever the connection has room. Not thread-safe.
    """

    def __init__(self) -> None:
        self._uploads: dict[str, _Upload] = {}
        self._line: list[tuple[float, str]] = []  # waiting, best value first; may hold ids that are gone
        self._active: OrderedDict[str, None] = OrderedDict()  # everything past WAITING
        self._credit: int | None = None
        self._pause_until = 0.0
        self._boot: str | None = None
        self._beat = -1
        self._beat_s = 2.0
        self._beat_at: float | None = None  # when the counter last advanced before our eyes
        self._connected = False

    # -- what the caller tells

    def add(self, offer: Offer) -> None:
        """An event is in the spool."""
        if offer.id not in self._uploads:
            self._uploads[offer.id] = _Upload(offer)
            heapq.heappush(self._line, (-offer.value, offer.id))

    def remove(self, event_id: str) -> None:
        """The event is no longer in the spool (evicted); forget it."""
        self._uploads.pop(event_id, None)
        self._active.pop(event_id, None)

    def connected(self) -> None:
        """The broker has us again: the hub must show life anew, and what was on its way is asked for."""
        self._connected = True
        self._beat_at, self._beat = None, -1
        self._ask_again()

    def disconnected(self) -> None:
        """The connection is gone."""
        self._connected = False
        self._beat_at = None

    def hub(self, status: HubStatus, now: float, *, retained: bool) -> None:
        """The hub's status arrived. Only a counter that advances proves life; a retained one only sets the start."""
        if not status.online:
            self._beat_at = None
            return
        self._beat_s = status.beat_s
        if status.boot != self._boot:
            self._boot, self._beat = status.boot, status.beat
            self._credit = None
            self._pause_until = 0.0
            self._beat_at = None if retained else now
            self._ask_again()
            return
        if status.beat > self._beat:
            if self._beat >= 0 and not retained:
                self._beat_at = now
            self._beat = status.beat

    def reply(self, reply: Reply, now: float) -> tuple[list[str], list[tuple[str, str]]]:
        """The hub answered: returns the ids that are stored, and (id, reason) of those refused."""
        if reply.credit is not None:
            self._credit = reply.credit
        if reply.pause_ms is not None:
            # The hub may have let go of what it had no room for: after the pause each event is asked for.
            self._pause_until = now + min(reply.pause_ms / 1000, MAX_PAUSE)
            self._ask_again()
        stored = [one for one in reply.stored if one in self._uploads]
        refused = [(one, reason) for one, reason in reply.refuse.items() if one in self._uploads]
        for one in stored + [one for one, _ in refused]:
            self.remove(one)
        for one, missing in reply.resend.items():
            self._resend(one, missing, now)
        return stored, refused

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
        return sum(self._uploads[one].offer.size for one in self._active)

    @property
    def idle(self) -> bool:
        """Whether no event is left here."""
        return not self._uploads

    def hub_lives(self, now: float) -> bool:
        """Whether the hub's counter advanced lately."""
        return self._connected and self._beat_at is not None and now - self._beat_at < LOST_BEATS * self._beat_s

    def next(self, now: float) -> SendEvent | SendChunk | None:
        """The next thing to publish, or None: nothing to do, no credit, paused, or no living hub."""
        if not self.hub_lives(now) or now < self._pause_until:
            return None
        for one in self._active:
            upload = self._uploads[one]
            quiet = upload.step in (_Step.ASKED, _Step.SENT) and upload.flying == 0
            if quiet and now - upload.touched > upload.patience:
                upload.patience = min(2 * upload.patience, MAX_PATIENCE)
                upload.step = _Step.TO_ASK
            if upload.step is _Step.TO_ASK:
                upload.step = _Step.ASKED
                upload.todo.clear()
                return self._event(upload, now, follows=False)
            if upload.step is _Step.SENDING:
                index = upload.todo.pop()
                upload.flying += 1
                if not upload.todo:
                    upload.step = _Step.SENT
                return SendChunk(one, index)
        return self._start(now)

    # -- below the surface

    def _start(self, now: float) -> SendEvent | None:
        """Begin with the most valuable waiting event, if the credit allows one more."""
        while self._line and (
            self._line[0][1] not in self._uploads or self._uploads[self._line[0][1]].step is not _Step.WAITING
        ):
            heapq.heappop(self._line)
        if not self._line:
            return None
        upload = self._uploads[self._line[0][1]]
        outstanding = self.outstanding
        if outstanding and outstanding + upload.offer.size > (self._credit or 0):
            return None
        if self._credit == 0:
            return None
        heapq.heappop(self._line)
        self._active[upload.offer.id] = None
        if self._credit is None:
            upload.step = _Step.ASKED
            return self._event(upload, now, follows=False)
        upload.step = _Step.SENDING
        upload.todo = list(range(upload.chunks - 1, -1, -1))
        return self._event(upload, now, follows=True)

    def _event(self, upload: _Upload, now: float, *, follows: bool) -> SendEvent:
        upload.flying += 1
        upload.touched = now
        return SendEvent(upload.offer.id, follows)

    def _resend(self, event_id: str, missing: list[Range], now: float) -> None:
        upload = self._uploads.get(event_id)
        if upload is None or upload.step in (_Step.WAITING, _Step.TO_ASK):
            return
        # Ranges come from outside: each chunk is taken once, and only those that there are.
        wanted = set(upload.todo)
        free = 0
        for first, end in sorted(missing):
            wanted.update(range(max(first, free), min(end, upload.chunks - 1) + 1))
            free = max(free, end + 1)
        upload.todo = sorted(wanted, reverse=True)
        upload.touched, upload.patience = now, FIRST_PATIENCE
        if upload.todo:
            upload.step = _Step.SENDING

    def _ask_again(self) -> None:
        for one in self._active:
            self._uploads[one].step = _Step.TO_ASK
            self._uploads[one].flying = 0


# ------------------------------------------------------------------------------------------------- hub


@dataclass(frozen=True, slots=True)
class Limits:
    """What the hub allows: bytes an image, bytes of all partials, bytes of credit over all cameras and for one."""

    image_bytes: int = 16 << 20
    partial_bytes: int = 256 << 20
    partial_ttl_s: float = 300.0
    credit_total: int = 24 << 20
    credit_camera: int = 2 << 20
    pause_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Publish this reply to the camera."""

    camera: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Complete:
    """All bytes are here and have the announced hash: make them durable, then call `durable`."""

    camera: str
    event: Event
    data: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """A camera broke the protocol: count and log it."""

    camera: str
    error: HoneError


Effect = Answer | Complete | Problem


@dataclass(slots=True)
class _Partial:
    event: Event
    parts: list[bytes | None]
    touched: float
    missing: int
    complete: bool = False
    mismatches: int = 0

    def holes(self) -> list[Range]:
        return to_ranges(i for i, part in enumerate(self.parts) if part is None)


class Receiver:
    """The hub's end: assembles events from chunks, grants credit, and says what is missing. Not thread-safe."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._partials: dict[tuple[str, str], _Partial] = {}
        self._bytes = 0
        self._cameras: dict[str, int | None] = {}  # online cameras and the credit each was told

    # -- what came in

    def hello(self, camera: str) -> list[Effect]:
        """A camera came online (or back): tell it its credit."""
        self._cameras[camera] = None
        return [self._answer(camera, {})]

    def bye(self, camera: str) -> None:
        """A camera went offline; its partials stay until they expire."""
        self._cameras.pop(camera, None)

    def event(self, camera: str, event: Event, stored_hash: str | None, now: float) -> list[Effect]:
        """A camera offers an event. stored_hash: sha256 under which this (camera, id) is stored already, if it is."""
        if stored_hash is not None:
            if stored_hash == event.sha256:
                return [self._answer(camera, {"stored": [event.id]})]
            return self._refuse(camera, event, HashMismatchError("was stored before with another sha256"))
        if event.size > self.limits.image_bytes:
            error = TooLargeError(f"has {event.size} bytes, the hub takes {self.limits.image_bytes}")
            return self._refuse(camera, event, error)
        partial = self._partials.get((camera, event.id))
        if partial is not None and (partial.event.sha256, partial.event.size, partial.event.chunk_size) != (
            event.sha256,
            event.size,
            event.chunk_size,
        ):
            if partial.complete:
                return self._refuse(camera, event, HashMismatchError("is being stored with another sha256"))
            self._forget(camera, event.id)
            partial = None
        if partial is None:
            self._make_room(camera, event.size)
            if self._bytes + event.size > self.limits.partial_bytes:
                return [self._answer(camera, {"pause_ms": int(self.limits.pause_s * 1000)})]
            count = chunk_count(event.size, event.chunk_size)
            partial = _Partial(event, [None] * count, now, count)
            self._partials[camera, event.id] = partial
            self._bytes += event.size
            if event.follows:
                return []
        partial.touched = now
        if partial.complete:
            return []
        return [self._answer(camera, {"resend": {event.id: partial.holes()}})]

    def chunk(self, camera: str, event_id: str, index: int, data: bytes, now: float) -> list[Effect]:
        """A chunk arrived; repeats are fine."""
        partial = self._partials.get((camera, event_id))
        subject = f"chunk {index} of {camera} {event_id}"
        if partial is None:
            return [Problem(camera, ChunkError("belongs to no event that was offered", subject=subject))]
        if partial.complete:
            return []
        event, count = partial.event, len(partial.parts)
        if index >= count:
            return [Problem(camera, ChunkError(f"is out of range, the event has {count}", subject=subject))]
        expected = event.chunk_size if index < count - 1 else event.size - (count - 1) * event.chunk_size
        if len(data) != expected:
            return [Problem(camera, ChunkError(f"has {len(data)} bytes, expected {expected}", subject=subject))]
        partial.touched = now
        if partial.parts[index] is None:
            partial.parts[index] = data
            partial.missing -= 1
        if partial.missing:
            # In order, so whatever is missing once the last one came was lost on the way.
            return [self._answer(camera, {"resend": {event_id: partial.holes()}})] if index == count - 1 else []
        return self._finish(camera, partial)

    def durable(self, camera: str, event_ids: list[str]) -> list[Effect]:
        """These are on disk and in the database: the camera may delete its copies."""
        for one in event_ids:
            self._forget(camera, one)
        return [self._answer(camera, {"stored": event_ids})]

    def not_durable(self, camera: str, event_ids: list[str]) -> list[Effect]:
        """These could not be stored now: pause; the camera still has them and asks again."""
        for one in event_ids:
            self._forget(camera, one)
        return [self._answer(camera, {"pause_ms": int(self.limits.pause_s * 1000)})]

    def tick(self, now: float) -> int:
        """Drop partials that nobody touched for `partial_ttl_s`; returns how many."""
        old = [
            key
            for key, partial in self._partials.items()
            if not partial.complete and now - partial.touched > self.limits.partial_ttl_s
        ]
        for camera, event_id in old:
            self._forget(camera, event_id)
        return len(old)

    # -- what the caller asks

    @property
    def partial_bytes(self) -> int:
        """Bytes that offered and unfinished events may come to."""
        return self._bytes

    def credit(self) -> int:
        """Bytes that one camera may have on their way: its share of the total, within its own limit."""
        return min(self.limits.credit_camera, self.limits.credit_total // max(1, len(self._cameras)))

    # -- below the surface

    def _finish(self, camera: str, partial: _Partial) -> list[Effect]:
        event = partial.event
        data = b"".join(part for part in partial.parts if part is not None)
        if sha256_hex(data) == event.sha256:
            partial.complete = True
            partial.parts = []
            return [Complete(camera, event, data)]
        error = HashMismatchError("the bytes do not have the announced sha256")
        partial.mismatches += 1
        if partial.mismatches > 1:
            self._forget(camera, event.id)
            return self._refuse(camera, event, error)
        partial.parts = [None] * len(partial.parts)
        partial.missing = len(partial.parts)
        error.subject = f"event {event.id} of {camera}"
        return [Problem(camera, error), self._answer(camera, {"resend": {event.id: partial.holes()}})]

    def _refuse(self, camera: str, event: Event, error: HoneError) -> list[Effect]:
        named = type(error)(error.what, subject=f"event {event.id} of {camera}")
        return [Problem(camera, named), self._answer(camera, {"refuse": {event.id: error.what}})]

    def _answer(self, camera: str, fields: dict[str, object]) -> Answer:
        """A reply, with the credit whenever the camera was not told its present one."""
        credit = self.credit()
        if self._cameras.get(camera) != credit or "resend" in fields or "pause_ms" in fields:
            self._cameras[camera] = credit
            fields = {**fields, "credit": credit}
        return Answer(camera, Reply(**fields))  # type: ignore[arg-type]

    def _make_room(self, camera: str, size: int) -> None:
        """Hold one camera to its share: it loses its own oldest partials, and asks for them again, others none."""
        share = max(self.limits.image_bytes, 2 * self.limits.credit_camera)
        own = [
            (partial.touched, event_id, partial.event.size)
            for (owner, event_id), partial in self._partials.items()
            if owner == camera and not partial.complete
        ]
        held = sum(one for *_, one in own)
        for _, event_id, freed in sorted(own):
            if held + size <= share:
                return
            self._forget(camera, event_id)
            held -= freed

    def _forget(self, camera: str, event_id: str) -> None:
        partial = self._partials.pop((camera, event_id), None)
        if partial is not None:
            self._bytes -= partial.event.size
