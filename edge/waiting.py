"""The events that wait in the spool, in memory: by id, and by value to choose what has to go. Nothing here is slow.

Audit events may be kept apart from the others: a random sample from which the less valuable are missing is none.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace

from shared.messages import Event
from shared.policy import AUDIT
from shared.transfer import Offer


def offer_of(event: Event) -> Offer:
    """What the rules of the transfer need to know of an event."""
    return Offer(event.id, event.size, event.chunk_size, event.value, event.held)


def entry_of(event: Event, size: int) -> "Entry":
    """What the spool needs to know of an event whose files take so many bytes on disk."""
    return Entry(offer_of(event), event.ext, size, event.why == AUDIT)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event on disk. ext: kind of its image. bytes: that its two files take on disk. audit: of the random sample."""

    offer: Offer
    ext: str
    bytes: int
    audit: bool = False


class Waiting:
    """Entries by id, and the least valuable of them; every step takes O(log n) or less, spread over many.

    audit_apart: whether audit events are looked at on their own, and the others without them.
    """

    def __init__(self, *, audit_apart: bool = False) -> None:
        self.bytes = 0
        self.audit_bytes = 0
        self._apart = audit_apart
        self._entries: dict[str, Entry] = {}
        # May name what has left, or has another value now, or name it twice; all that wait are in them.
        self._heaps: dict[bool, list[tuple[float, str]]] = {False: [], True: []}
        self._audits = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def audits(self) -> int:
        """How many audit events wait."""
        return self._audits

    def get(self, event_id: str) -> Entry | None:
        """The entry, or None when it does not wait."""
        return self._entries.get(event_id)

    def put(self, entry: Entry) -> None:
        """An event begins to wait; its id does not wait yet."""
        self._entries[entry.offer.id] = entry
        self._count(entry, 1)
        self._push(entry)

    def pop(self, event_id: str) -> Entry:
        """An event waits no more. KeyError when it does not wait."""
        entry = self._entries.pop(event_id)
        self._count(entry, -1)
        self._tidy()
        return entry

    def revalue(self, event_id: str, value: float) -> Offer:
        """An event that waits has another value. KeyError when it does not wait."""
        entry = self._entries[event_id]
        entry = replace(entry, offer=replace(entry.offer, value=value))
        self._entries[event_id] = entry
        self._push(entry)
        self._tidy()
        return entry.offer

    def least(self, need: int, value: float, *, audit: bool = False) -> list[str] | None:
        """The least valuable that take `need` bytes together, oldest first among equals, none above `value`.

        None when there are not enough. They still wait. audit: look among audit events, where they are apart.
        """
        heap = self._heaps[audit and self._apart]
        chosen: list[tuple[float, str]] = []
        while need > 0 and heap and heap[0][0] <= value:
            one = heapq.heappop(heap)
            entry = self._entries.get(one[1])
            if entry is not None and entry.offer.value == one[0] and (not chosen or chosen[-1] != one):
                chosen.append(one)
                need -= entry.bytes
        for one in chosen:
            heapq.heappush(heap, one)
        return [event_id for _, event_id in chosen] if need <= 0 else None

    def _push(self, entry: Entry) -> None:
        heapq.heappush(self._heaps[entry.audit and self._apart], (entry.offer.value, entry.offer.id))

    def _count(self, entry: Entry, by: int) -> None:
        self.bytes += by * entry.bytes
        if entry.audit:
            self.audit_bytes += by * entry.bytes
            self._audits += by

    def _tidy(self) -> None:
        if sum(map(len, self._heaps.values())) > 2 * len(self._entries) + 64:
            for audit, heap in self._heaps.items():
                heap[:] = [
                    (one.offer.value, one.offer.id)
                    for one in self._entries.values()
                    if (one.audit and self._apart) == audit
                ]
                heapq.heapify(heap)
