"""Fetch: the parts of a release that the shelf lacks, part by part, as windows of retained chunks.

A camera pulls by subscribing to the topics of single chunks, and unsubscribes from each as it comes. What the manifest
has packed comes packed.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from edge.shelf import Shelf
from shared import topics
from shared.bus import Bus
from shared.errors import PartError, ReloadError
from shared.files import chunk_count
from shared.manifest import PartSpec
from shared.messages import Want, encode
from shared.packed import unpack
from shared.transfer import to_ranges

WINDOW = 4
"""Retained chunks asked for at a time: a subscription each (a small window costs nothing, a large one memory)."""
PATIENCE = 5.0
"""Seconds without a chunk or manifest before the hub is asked to publish it anew."""
THIN_RATE = 1000.0
"""Bytes a second that a thin link is taken for while nothing is known of it."""
SLOW = 3.0
"""On a thin link a chunk may take so many times as long as it should."""
MAX_TRIES = 3
"""So often a part is fetched whose bytes do not have its hash."""


class _Part:
    """One part on its way: which chunks came, which are subscribed."""

    def __init__(self, spec: PartSpec) -> None:
        self.spec = spec
        self.blob = spec.travelling()
        self.chunks: list[bytes | None] = [None] * chunk_count(self.blob.size, self.blob.chunk_size)
        self.asked: set[int] = set()
        self.tries = 1

    def put(self, index: int, data: bytes) -> None:
        """Keep a chunk; PartError when it has another length than the manifest says: memory is for what was signed."""
        length = min(self.blob.chunk_size, self.blob.size - index * self.blob.chunk_size)
        if len(data) != length:
            raise PartError(
                f"has a chunk of {len(data)} bytes, not {length}", subject=f"model part {self.spec.sha256[:12]}"
            )
        self.chunks[index] = data

    def again(self) -> None:
        """Forget all chunks."""
        self.tries += 1
        self.chunks = [None] * len(self.chunks)

    def whole(self) -> bytes:
        """The part's bytes, once all chunks came; PartError when they cannot be unpacked."""
        data = b"".join(one for one in self.chunks if one is not None)
        return data if self.blob is self.spec else unpack(data, self.spec.size)

    def missing(self) -> list[int]:
        """Indices of the chunks that have not come."""
        return [index for index, one in enumerate(self.chunks) if one is None]


class Fetch:
    """What is on its way to the shelf. Not thread-safe: `edge.reload` alone uses it."""

    def __init__(
        self,
        camera: str,
        *,
        bus: Bus,
        shelf: Shelf,
        errors: Counter[str],
        thin: bool,
        goodput: Callable[[], float | None],
    ) -> None:
        self._camera = camera
        self._bus = bus
        self._shelf = shelf
        self._errors = errors
        self._thin = thin
        self._window = 1 if thin else WINDOW
        self._goodput = goodput
        self._parts: dict[str, _Part] = {}
        self._total = 0

    def begin(self, parts: Iterable[PartSpec]) -> None:
        """Go after those of these parts that the shelf lacks, in their order."""
        blobs = {one.travelling().sha256: one for one in parts}
        self._shelf.sweep(blobs.values())  # what failed releases left: no release finds less room than the one before
        self._total = sum(one.travelling().size for one in blobs.values())
        self._parts = {sha256: _Part(one) for sha256, one in blobs.items() if not self._shelf.has(one)}

    @property
    def done(self) -> bool:
        """Whether every part is on the shelf."""
        return not self._parts

    @property
    def percent(self) -> float:
        """How much of the release is here, 0 to 100."""
        left = sum(len(one.missing()) * one.spec.chunk_size for one in self._parts.values())
        return round(max(0.0, 100.0 * (1 - left / max(1, self._total))), 1)

    def ask(self) -> None:
        """Subscribe to the next chunks of the part whose turn it is."""
        part = next(iter(self._parts.values()))
        fresh = [one for one in part.missing() if one not in part.asked][: self._window - len(part.asked)]
        part.asked.update(fresh)
        self._bus.subscribe([topics.blob(part.blob.sha256, one) for one in fresh])

    def asked(self, sha256: str, index: int) -> bool:
        """Whether this chunk was asked for and has not come."""
        part = self._parts.get(sha256)
        return part is not None and index in part.asked

    def take(self, sha256: str, index: int, data: bytes) -> bool:
        """A chunk came that was asked for; whether the next ones can be.

        ReloadError when its part has had other bytes than the manifest says MAX_TRIES times.
        """
        part = self._parts[sha256]
        self._bus.unsubscribe([topics.blob(sha256, index)])
        part.asked.discard(index)
        try:
            part.put(index, data)
            if part.missing():
                return True
            self._shelf.write(part.spec, part.whole())
        except PartError as error:
            if part.tries >= MAX_TRIES:
                raise ReloadError(f"{error.what}, {MAX_TRIES} times", subject=error.subject) from error
            # The broker's copy is damaged, not the release: have the hub publish the part anew, and ask the broker
            # again only when it had time to (see `remind`).
            self._errors["part"] += 1
            part.again()
            self._want(part)
            return False
        del self._parts[sha256]
        return True

    def remind(self) -> None:
        """Have the hub publish anew what was asked for and did not come."""
        for part in self._parts.values():
            if part.asked:
                self._want(part)

    def patience(self) -> float:
        """Seconds without a chunk or manifest before the hub is reminded."""
        if not self._thin:
            return PATIENCE
        largest = max((one.spec.chunk_size for one in self._parts.values()), default=0)
        return PATIENCE + SLOW * largest / (self._goodput() or THIN_RATE)

    def drop(self) -> None:
        """Stop waiting for what is on its way; complete parts stay on the shelf."""
        for part in self._parts.values():
            self._bus.unsubscribe([topics.blob(part.blob.sha256, one) for one in part.asked])
        self._parts = {}

    def _want(self, part: _Part) -> None:
        want = Want(sha256=part.blob.sha256, ranges=to_ranges(part.missing()))
        self._bus.publish(topics.want(self._camera), encode(want))
