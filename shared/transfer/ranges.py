"""Ranges of chunk indices, both ends included."""

from collections.abc import Iterable

from shared.messages import Range


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


def indices_in(ranges: Iterable[Range], count: int) -> set[int]:
    """The indices below `count` that some ranges name; they come from outside and may overlap, or reach far beyond.

    >>> sorted(indices_in([(0, 2), (1, 10**15)], 4))
    [0, 1, 2, 3]
    """
    found: set[int] = set()
    free = 0
    for first, end in sorted(ranges):
        found.update(range(max(first, free), min(end, count - 1) + 1))
        free = max(free, end + 1)
    return found
