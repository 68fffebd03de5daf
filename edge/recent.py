"""Recent: the embeddings of the last events in one matrix, so that one product tells how near a frame is to them."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from shared.litert import Floats


class Recent:
    """Remembers embeddings, float32 [dims] at length 1: the last `most` of each number of dims, for a backbone may have
    another one than that before it, and come back.
    """

    def __init__(self, most: int, units: Iterable[Floats] = ()) -> None:
        self._most = most
        self._rows: dict[int, Floats] = {}
        self._added: Counter[int] = Counter()  # how many ever; the next one goes where the oldest is
        for one in units:
            self.add(one)

    def __iter__(self) -> Iterator[Floats]:
        """Those that are remembered, of equal dims the oldest first."""
        for dims, rows in self._rows.items():
            added = self._added[dims]
            for number in range(max(0, added - self._most), added):
                yield rows[number % self._most]

    def add(self, unit: Floats) -> None:
        """One more; when there are `most` of its dims, the oldest of them goes."""
        if not self._most:
            return
        dims = len(unit)
        if dims not in self._rows:
            self._rows[dims] = np.empty((self._most, dims), np.float32)
        self._rows[dims][self._added[dims] % self._most] = unit
        self._added[dims] += 1

    def nearest(self, unit: Floats) -> float:
        """Cosine to the nearest one of these dims; -1.0, the least that it can be, where there is none."""
        rows = self._rows.get(len(unit))
        if rows is None:
            return -1.0
        cosines: list[float] = rows[: self._added[len(unit)]].dot(unit).tolist()
        return max(cosines)
