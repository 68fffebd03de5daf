"""The events that ended and whose files are still there, in memory: kept copies, next to go first, and the doomed."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from edge.journal import Line
from edge.waiting import Entry


@dataclass(slots=True)
class Ended:
    """due: seconds on the monotonic clock, when a kept copy goes. failed: its files could not be deleted."""

    entry: Entry
    line: Line
    due: float = 0.0
    failed: bool = False


class EndedFiles:
    """Which files of ended events are there. A kept copy can be recalled until it is doomed; doomed files must go."""

    def __init__(self) -> None:
        self.bytes = 0
        self._kept: OrderedDict[str, Ended] = OrderedDict()
        self._doomed: dict[str, Ended] = {}
        self._stuck: list[Line] = []

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._kept or event_id in self._doomed

    def lines(self) -> list[Line]:
        """What the journal must go on saying."""
        return self._stuck + [one.line for one in (*self._kept.values(), *self._doomed.values())]

    def stay(self, line: Line) -> None:
        """The files of this one could not be deleted after a start, and nothing more is known of them."""
        self._stuck.append(line)

    def put(self, ended: Ended) -> None:
        """An event ended; a stored one is kept and goes after all that were kept before."""
        (self._kept if ended.line.end == "stored" else self._doomed)[ended.line.id] = ended
        self.bytes += ended.entry.bytes

    def kept(self) -> list[str]:
        """Ids of all kept copies."""
        return list(self._kept)

    def recall(self, event_ids: Iterable[str]) -> list[Entry]:
        """Take kept copies out. KeyError for one that is not kept."""
        entries = [self._kept.pop(one).entry for one in event_ids]
        self.bytes -= sum(one.bytes for one in entries)
        return entries

    def oldest(self, need: int) -> tuple[list[str], int]:
        """Which to delete for `need` bytes: the doomed, then kept copies; and the bytes that they take, maybe fewer."""
        chosen = list(self._doomed) if need > 0 else []
        size = sum(self._doomed[one].entry.bytes for one in chosen)
        for one, ended in self._kept.items():
            if size >= need:
                break
            chosen.append(one)
            size += ended.entry.bytes
        return chosen, size

    def due(self, now: float, most: int) -> list[str]:
        """At most `most` to delete: the doomed, then kept copies whose time is over.

        Doomed files that cannot be deleted do not crowd out the others.
        """
        chosen = list(islice(self._doomed, most // 2))
        for one, ended in self._kept.items():
            if len(chosen) >= most or ended.due > now:
                break
            chosen.append(one)
        return chosen

    def doom(self, event_ids: Iterable[str]) -> None:
        """Kept copies shall go."""
        for one in event_ids:
            if one in self._kept:
                self._doomed[one] = self._kept.pop(one)

    def doomed(self, event_id: str) -> Ended | None:
        """One whose files shall go, if they are still there."""
        return self._doomed.get(event_id)

    def gone(self, event_id: str) -> bool:
        """The files of a doomed one are gone; False when they were before."""
        ended = self._doomed.pop(event_id, None)
        self.bytes -= ended.entry.bytes if ended else 0
        return ended is not None
