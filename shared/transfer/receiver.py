"""The hub's end of an upload; the state table is in the package's docstring."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from shared.errors import ChunkError, HashMismatchError, HoneError, TooLargeError
from shared.files import chunk_count, sha256_hex
from shared.messages import Event, Range, Reply
from shared.transfer.ranges import to_ranges

SPILL_AFTER = 5.0
"""Seconds after which an unfinished image is put on disk, so that a restart of the hub costs no chunk."""
ACTIVE_FOR = 5.0
"""Seconds that a camera takes part in the sharing of credit after it came, and after its last offer."""
CROSSED_S = 5.0
"""A preview that is offered so soon after its image was asked for, or a chunk of it came, has crossed that on the way.
Asked once more, the camera would send some of the image twice. One that did not hear us offers the preview again.
"""
REMIND_AFTER = 180.0
"""Seconds without a chunk of an image that is wanted, after which the camera is asked for it again.

More than any camera's patience: one that cuts the image otherwise says so when that ends, and a reminder sets it back.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the hub allows: bytes an image, bytes of all partials, bytes of credit over all cameras and for one; for one
    before the first reply to it, when the hub knows how many there are, and before that.
    """

    image_bytes: int = 16 << 20
    partial_bytes: int = 256 << 20
    partial_ttl_s: float = 300.0
    credit_total: int = 64 << 20
    credit_camera: int = 8 << 20
    credit_first: int = 1 << 20
    credit_unsettled: int = 64 << 10
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
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Held:
    """A camera holds this image and offers a preview of it: make that durable, then call `noted`."""

    camera: str
    event: Event


@dataclass(frozen=True, slots=True)
class Problem:
    """A camera broke the protocol: count and log it."""

    camera: str
    error: HoneError


Effect = Answer | Complete | Held | Problem


@dataclass(frozen=True, slots=True)
class Keep:
    """Put these chunks (index -> bytes) of an unfinished image on disk; no need to sync."""

    camera: str
    event: Event
    chunks: Mapping[int, bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Drop:
    """What was put on disk of this image is not needed any more."""

    camera: str
    event_id: str


@dataclass(slots=True)
class _Partial:
    event: Event
    parts: list[bytes | memoryview | None]
    touched: float
    missing: int
    begun: float
    complete: bool = False
    mismatches: int = 0
    spilled: bool = False
    wanted: bool = False  # of a camera that may hold it until it is asked
    unspilled: set[int] = field(default_factory=set)  # chunks that came since the last spill

    def holes(self) -> list[Range]:
        return to_ranges(i for i, part in enumerate(self.parts) if part is None)

    def cut(self, event: Event) -> None:
        """The camera cuts the same image otherwise: keep the new chunks that the old ones cover."""
        old, size = self.parts, self.event.chunk_size
        count = chunk_count(event.size, event.chunk_size)
        self.parts = [None] * count
        for index in range(count):
            begin = index * event.chunk_size
            end = min(begin + event.chunk_size, event.size)
            covering = old[begin // size : (end - 1) // size + 1]
            if all(part is not None for part in covering):
                whole = b"".join(part for part in covering if part is not None)
                skip = begin - begin // size * size
                self.parts[index] = whole[skip : skip + end - begin]
        self.event = event
        self.missing = self.parts.count(None)
        self.unspilled = {i for i, part in enumerate(self.parts) if part is not None}


class Receiver:
    """The hub's end: assembles events from chunks, grants credit, and says what is missing. Not thread-safe."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.accepts = True
        """Whether new images are taken; false while the disk is nearly full."""
        self.settled = True
        """Whether all cameras that are online have been heard of; false just after the broker took the hub."""
        self._partials: dict[tuple[str, str], _Partial] = {}
        self._bytes = 0
        self._held: defaultdict[str, int] = defaultdict(int)  # bytes of unfinished images of each camera
        self._cameras: dict[str, int | None] = {}  # online cameras and the credit each was told
        self._active: dict[str, float] = {}  # cameras that offered something lately, and when
        self._dropped: list[Drop] = []

    # -- what came in

    def hello(self, camera: str, now: float) -> list[Effect]:
        """A camera came online (or back): it begins with `first_credit`, and is asked anew for what is wanted of it."""
        self._cameras[camera] = None
        self._active[camera] = now  # it may have a backlog: in a fleet that comes back nobody shall run ahead
        effects: list[Effect] = []
        for (owner, event_id), partial in self._partials.items():
            if owner == camera and partial.wanted and not partial.complete:
                partial.touched = now
                effects.append(self._answer(camera, {"resend": {event_id: partial.holes()}}))
        return effects

    def bye(self, camera: str) -> None:
        """A camera went offline; its partials stay until they expire."""
        self._cameras.pop(camera, None)
        self._active.pop(camera, None)

    def leave(self, site: str) -> None:
        """The cameras of this site are another hub's now: what is unfinished of them is dropped."""
        for camera in [one for one in {*self._cameras, *self._active} if _site(one) == site]:
            self.bye(camera)
        for camera, event_id in [key for key, partial in self._partials.items() if not partial.complete]:
            if _site(camera) == site:
                self._forget(camera, event_id)

    def event(
        self, camera: str, event: Event, stored_hash: str | None, now: float, first: bytes | memoryview | None = None
    ) -> list[Effect]:
        """A camera offers an event, perhaps with its first chunk.

        stored_hash: sha256 under which this (camera, id) is stored already, if the caller knows that it is. A caller
        that does not know says so by `stored_before` when it comes to store.
        """
        self._active[camera] = now
        if stored_hash is not None:
            self._forget(camera, event.id)
            return self.stored_before(camera, event, stored_hash)
        if event.size > self.limits.image_bytes:
            error = TooLargeError(f"has {event.size} bytes, the hub takes {self.limits.image_bytes}")
            return self._refuse(camera, event, error)
        partial = self._partials.get((camera, event.id))
        if partial is not None and (partial.event.sha256, partial.event.size) != (event.sha256, event.size):
            if partial.complete:
                return self._refuse(camera, event, HashMismatchError("is being stored with another sha256"))
            self._forget(camera, event.id)
            partial = None
        if event.held:
            if partial is None and self.accepts:
                return [Held(camera, event)]
            same = partial is not None and partial.wanted and partial.event.chunk_size == event.chunk_size
            if partial is not None and same and now - partial.touched < CROSSED_S:
                return []
            event = msgspec.structs.replace(event, held=False, thumbnail=None, embedding=None)  # wanted meanwhile
        if partial is None:
            self._make_room(camera, event.size)
            if not self.accepts or self._bytes + event.size > self.limits.partial_bytes:
                return [self._answer(camera, {"pause_ms": int(self.limits.pause_s * 1000)})]
            partial = self._begin(camera, event, now)
            if event.follows:
                return self.chunk(camera, event.id, 0, first, now) if first is not None else []
        partial.touched = now
        if partial.complete:
            return []
        if partial.event.chunk_size != event.chunk_size:
            partial.cut(event)
        effects = self.chunk(camera, event.id, 0, first, now) if first is not None else []
        if partial.complete or effects:
            return effects
        if not partial.missing:
            return self._finish(camera, partial)
        return [self._answer(camera, {"resend": {event.id: partial.holes()}})]

    def chunk(self, camera: str, event_id: str, index: int, data: bytes | memoryview, now: float) -> list[Effect]:
        """A chunk arrived; repeats are fine."""
        partial = self._partials.get((camera, event_id))
        if partial is None:
            return [_bad_chunk(camera, event_id, index, "belongs to no event that was offered")]
        if partial.complete:
            return []
        event, count = partial.event, len(partial.parts)
        if index >= count:
            return [_bad_chunk(camera, event_id, index, f"is out of range, the event has {count}")]
        expected = event.chunk_size if index < count - 1 else event.size - (count - 1) * event.chunk_size
        if len(data) != expected:
            return [_bad_chunk(camera, event_id, index, f"has {len(data)} bytes, expected {expected}")]
        partial.touched = now
        if partial.parts[index] is None:
            partial.parts[index] = data
            partial.missing -= 1
            partial.unspilled.add(index)
        if partial.missing:
            # In order, so whatever is missing once the last one came was lost on the way.
            return [self._answer(camera, {"resend": {event_id: partial.holes()}})] if index == count - 1 else []
        return self._finish(camera, partial)

    def want(self, camera: str, event: Event, now: float) -> list[Effect]:
        """The image of a preview is wanted: ask for its chunks; call it again and again until the image is stored.

        Nothing where it is on its way, the camera is away, or there is no room or credit for it now.
        """
        if camera not in self._cameras or not self.accepts:
            return []
        partial = self._partials.get((camera, event.id))
        if partial is None:
            own = self._held.get(camera, 0)
            if self._bytes + event.size > self.limits.partial_bytes:
                return []
            if own and own + event.size > self.credit(camera):
                return []
            partial = self._begin(camera, event, now)
        elif partial.complete or now - partial.touched < REMIND_AFTER:
            return []
        partial.wanted, partial.touched = True, now
        return [self._answer(camera, {"resend": {event.id: partial.holes()}})]

    def gone(self, camera: str, event_ids: Iterable[str]) -> None:
        """The camera does not have these images (any more)."""
        for one in event_ids:
            partial = self._partials.get((camera, one))
            if partial is not None and not partial.complete:
                self._forget(camera, one)

    def restore(self, camera: str, event: Event, chunks: Mapping[int, bytes | memoryview], now: float) -> None:
        """What was on disk of an unfinished image when the hub started; the camera will ask, and be told the rest."""
        if (camera, event.id) in self._partials or self._bytes + event.size > self.limits.partial_bytes:
            return
        partial = self._begin(camera, event, now)
        for index, data in chunks.items():
            if index < len(partial.parts):
                partial.parts[index] = data
        partial.missing = partial.parts.count(None)
        partial.spilled = True

    def durable(self, camera: str, event_ids: list[str]) -> list[Effect]:
        """These are on disk and in the database: the camera may delete its copies."""
        for one in event_ids:
            self._forget(camera, one)
        return [self._answer(camera, {"stored": event_ids})]

    def noted(self, camera: str, event_ids: list[str]) -> list[Effect]:
        """The previews of these are in the database: the camera holds the images until they are asked for."""
        return [self._answer(camera, {"noted": event_ids})]

    def stored_before(self, camera: str, event: Event, stored_hash: str) -> list[Effect]:
        """This (camera, id) is stored already, under `stored_hash`."""
        if stored_hash == event.sha256:
            return self.durable(camera, [event.id])
        self._forget(camera, event.id)
        return self._refuse(camera, event, HashMismatchError("was stored before with another sha256"))

    def not_durable(self, camera: str, event_ids: list[str]) -> list[Effect]:
        """These could not be stored now: pause; the camera still has them and asks again."""
        for one in event_ids:
            self._forget(camera, one)
        return [self._answer(camera, {"pause_ms": int(self.limits.pause_s * 1000)})]

    def tick(self, now: float) -> int:
        """Drop partials that nobody touched for `partial_ttl_s`; returns how many."""
        self._active = {camera: at for camera, at in self._active.items() if now - at < ACTIVE_FOR}
        old = [
            key
            for key, partial in self._partials.items()
            if not partial.complete and now - partial.touched > self.limits.partial_ttl_s
        ]
        for camera, event_id in old:
            self._forget(camera, event_id)
        return len(old)

    def spill(self, now: float) -> list[Keep | Drop]:
        """What shall be put on disk, or taken from it, so that slow uploads survive a restart; call it with `tick`."""
        work: list[Keep | Drop] = list(self._dropped)
        self._dropped.clear()
        for (camera, _), partial in self._partials.items():
            if partial.complete or not partial.unspilled or now - partial.begun < SPILL_AFTER:
                continue
            fresh = {i: part for i in sorted(partial.unspilled) if (part := partial.parts[i]) is not None}
            work.append(Keep(camera, partial.event, fresh))
            partial.unspilled.clear()
            partial.spilled = True
        return work

    # -- what the caller asks

    @property
    def online(self) -> Collection[str]:
        """The cameras that are online."""
        return self._cameras.keys()

    @property
    def partial_bytes(self) -> int:
        """Bytes that offered and unfinished events may come to."""
        return self._bytes

    @property
    def first_credit(self) -> int:
        """Bytes that a camera may have on their way before the first reply to it: the hub's status says it.

        Its share among all who are online, a few images at most: what is promised before anybody has sent anything
        must not be more than the broker can hold, however many come back at once.
        """
        share = self.limits.credit_total // max(1, len(self._cameras))
        most = self.limits.credit_first if self.settled else self.limits.credit_unsettled
        return min(self.limits.credit_camera, most, share)

    def credit(self, camera: str) -> int:
        """Bytes that one camera may have on their way.

        Its share of the total among those that have something to send, within its own limit; but from the share
        among all who are online it grows only twofold from reply to reply, so that a fleet that comes back at once
        cannot be promised too much.
        """
        told = self._cameras.get(camera) or self.first_credit
        active = len(self._active) + (camera not in self._active)
        share = min(self.limits.credit_camera, self.limits.credit_total // active)
        return min(share, max(self.first_credit, 2 * told))

    # -- below the surface

    def _begin(self, camera: str, event: Event, now: float) -> _Partial:
        count = chunk_count(event.size, event.chunk_size)
        partial = _Partial(event, [None] * count, touched=now, missing=count, begun=now)
        self._partials[camera, event.id] = partial
        self._bytes += event.size
        self._held[camera] += event.size
        return partial

    def _finish(self, camera: str, partial: _Partial) -> list[Effect]:
        event = partial.event
        parts = [part for part in partial.parts if part is not None]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
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
        partial.unspilled.clear()
        if partial.spilled:
            partial.spilled = False
            self._dropped.append(Drop(camera, event.id))
        error.subject = f"event {event.id} of {camera}"
        return [Problem(camera, error), self._answer(camera, {"resend": {event.id: partial.holes()}})]

    def _refuse(self, camera: str, event: Event, error: HoneError) -> list[Effect]:
        named = type(error)(error.what, subject=f"event {event.id} of {camera}")
        return [Problem(camera, named), self._answer(camera, {"refuse": {event.id: error.what}})]

    def _answer(self, camera: str, fields: dict[str, object]) -> Answer:
        """A reply, with the credit whenever the camera was not told its present one."""
        credit = self.credit(camera)
        if self._cameras.get(camera) != credit or "resend" in fields or "pause_ms" in fields:
            self._cameras[camera] = credit
            fields = {**fields, "credit": credit}
        return Answer(camera, Reply(**fields))  # type: ignore[arg-type]

    def _make_room(self, camera: str, size: int) -> None:
        """Hold one camera to its share: it loses its own oldest partials, and asks for them again, others none."""
        share = max(self.limits.image_bytes, 2 * self.limits.credit_camera)
        if self._held[camera] + size <= share:
            return
        own = [
            (partial.touched, event_id, partial.event.size)
            for (owner, event_id), partial in self._partials.items()
            if owner == camera and not partial.complete
        ]
        for _, event_id, _ in sorted(own):
            if self._held[camera] + size <= share:
                return
            self._forget(camera, event_id)

    def _forget(self, camera: str, event_id: str) -> None:
        partial = self._partials.pop((camera, event_id), None)
        if partial is None:
            return
        self._bytes -= partial.event.size
        self._held[camera] -= partial.event.size
        if not self._held[camera]:
            del self._held[camera]
        if partial.spilled:
            self._dropped.append(Drop(camera, event_id))


def _site(camera: str) -> str:
    return camera.partition("/")[0]


def _bad_chunk(camera: str, event_id: str, index: int, what: str) -> Problem:
    return Problem(camera, ChunkError(what, subject=f"chunk {index} of {camera} {event_id}"))
