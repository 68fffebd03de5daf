"""The events that wait in the spool, in memory: by id, and by value to choose what has to go. Nothing here is slow."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from shared.messages import Event
from shared.transfer import Offer


def offer_of(event: Event) -> Offer:
    """What the rules of the transfer need to know of an event."""
    return Offer(event.id, event.size, event.chunk_size, event.value, event.held)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event on disk. ext: kind of its image. bytes: that its two files take on disk."""

    offer: Offer
    ext: str
    bytes: int


class Waiting:
    """Entries by id, and the least valuable of them; every step takes O(log n) or less, spread over many."""

    def __init__(self) -> None:
        self.bytes = 0
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[float, str]] = []  # may name what has left, or name it twice; all that wait are in it

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, event_id: str) -> Entry | None:
        """The entry, or None when it does not wait."""
        return self._entries.get(event_id)

    def put(self, entry: Entry) -> None:
        """An event begins to wait; its id does not wait yet."""
        self._entries[entry.offer.id] = entry
        self.bytes += entry.bytes
        heapq.heappush(self._heap, (entry.offer.value, entry.offer.id))

    def pop(self, event_id: str) -> Entry:
        """An event waits no more. KeyError when it does not wait."""
        entry = self._entries.pop(event_id)
        self.bytes -= entry.bytes
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [(one.offer.value, one.offer.id) for one in self._entries.values()]
            heapq.heapify(self._heap)
        return entry

    def least(self, need: int, value: float) -> list[str] | None:
        """The least valuable that take `need` bytes together, oldest first among equals, none above `value`.

        None when there are not enough. They still wait.
        """
        chosen: list[tuple[float, str]] = []
        while need > 0 and self._heap and self._heap[0][0] <= value:
            one = heapq.heappop(self._heap)
            if one[1] in self._entries and (not chosen or chosen[-1] != one):
                chosen.append(one)
                need -= self._entries[one[1]].bytes
        for one in chosen:
            heapq.heappush(self._heap, one)
        return [event_id for _, event_id in chosen] if need <= 0 else None
