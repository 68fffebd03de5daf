"""What the folder of the spool means after a start, in one pass over it. Only reads; the spool does what follows."""

import os
from dataclasses import dataclass, field

import msgspec

from edge.eventfiles import EventFiles, says_damaged
from edge.journal import Line
from edge.waiting import Entry, entry_of
from shared.errors import MessageError

ID = 36
"""Characters of an event's id."""
Leftover = tuple[Line, list[str]]
"""How an event ended, and the paths of its files that are still there."""


@dataclass(slots=True)
class Recovered:
    """waiting, kept: whole events. damaged: their ends are not in the journal yet. ended: files that shall go.

    never: paths of writes that were cut, which are no events. strangers: names that are not ours; nobody touches them.
    """

    waiting: list[Entry] = field(default_factory=list)
    kept: list[tuple[Line, Entry]] = field(default_factory=list)
    damaged: list[Leftover] = field(default_factory=list)
    ended: list[Leftover] = field(default_factory=list)
    never: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


def recover(files: EventFiles, ended: dict[str, Line], now: float) -> Recovered:
    """Sort all that lies in the folder by what the journal says of it.

    ended: by the journal. now: UTC seconds; a copy stored later than that counts as stored now, or a clock set back
    would keep it for ever. OSError when the folder cannot be read just now.
    """
    found = files.scan()
    result = Recovered(never=found.unfinished, strangers=found.strangers)
    cut = {os.path.basename(path)[:ID] for path in found.unfinished}  # their names were not all durable
    for event_id in found.notes.keys() | found.images.keys():
        images, note, line = found.images.get(event_id, {}), found.notes.get(event_id), ended.get(event_id)
        paths = [*([note] if note else []), *images.values()]
        if line and (note is None or line.end != "stored"):
            result.ended.append((line, paths))
            continue
        if note is None or (not images and event_id in cut):
            result.never += paths
            continue
        try:
            event, size = files.check(event_id, images)
        except (OSError, MessageError) as error:
            if isinstance(error, OSError) and not says_damaged(error):
                raise
            if line:  # a kept copy, of no use any more
                result.ended.append((line, paths))
            else:
                result.damaged.append((Line(event_id, "dropped", reason=f"torn: {error}"), paths))
            continue
        result.never += [path for ext, path in images.items() if ext != event.ext]
        entry = entry_of(event, size)
        if line:
            result.kept.append((msgspec.structs.replace(line, at=min(line.at, now)), entry))
        else:
            result.waiting.append(entry)
    return result
