"""The line of events that wait for their turn to be sent, the most valuable first, whose values may change."""

import heapq

from shared.transfer import Offer


class Line:
    """Offers by value, equal ones by id; every step takes O(log n), spread over many. Not thread-safe."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        self._heap: list[tuple[float, str]] = []  # may name what has left, or has another value now

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._offers

    def __len__(self) -> int:
        return len(self._offers)

    def put(self, offer: Offer) -> None:
        """An event waits, or has another value than before."""
        self._offers[offer.id] = offer
        heapq.heappush(self._heap, place(offer))
        if len(self._heap) > 2 * len(self._offers) + 64:
            self._heap = [place(one) for one in self._offers.values()]
            heapq.heapify(self._heap)

    def pop(self, event_id: str) -> Offer | None:
        """An event waits no more; None when it did not."""
        return self._offers.pop(event_id, None)

    def first(self) -> Offer | None:
        """The one whose turn it is; it still waits."""
        while self._heap:
            offer = self._offers.get(self._heap[0][1])
            if offer is not None and place(offer) == self._heap[0]:
                return offer
            heapq.heappop(self._heap)
        return None


def place(offer: Offer) -> tuple[float, str]:
    """By what the line is sorted: less is earlier."""
    return -offer.value, offer.id
