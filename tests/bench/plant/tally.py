"""The count at the end, from the disks alone: the hub's database and blobs, the cameras' spools, and the ledger."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.files import sha256_hex
from tests.bench.plant import ledger, pictures
from tests.bench.plant.ledger import IMAGE, JOURNAL, NOTE, Key, Witnessed

Owned = tuple[str, pictures.Mark]
"""camera under which it was found, mark that its pixels show"""


@dataclass
class Tally:
    """Each event of the ledger once, in the first place where it was found: stored, left, quarantined, dropped, lost.

    duplicated: pictures with more rows than times they were spooled. acked_not_on_disk: journalled `stored` without
    a row whose blob has the right bytes. bad_rows: rows whose blob is missing or does not have its hash.
    unwitnessed: events that the ledger should know and does not; then the ledger failed, not the plant.
    captured_twice: pictures spooled as two events. overflowed: cameras that dropped events for want of room.
    torn: events that a camera set aside as damaged.
    """

    spooled: int = 0
    stored: list[Key] = field(default_factory=list)
    left: list[Key] = field(default_factory=list)
    quarantined: list[Key] = field(default_factory=list)
    dropped: list[Key] = field(default_factory=list)
    lost: list[Key] = field(default_factory=list)
    duplicated: list[Owned] = field(default_factory=list)
    acked_not_on_disk: list[Key] = field(default_factory=list)
    bad_rows: list[Key] = field(default_factory=list)
    unwitnessed: list[Key] = field(default_factory=list)
    captured_twice: list[Owned] = field(default_factory=list)
    overflowed: set[str] = field(default_factory=set)
    torn: int = 0


def left_in(spool: Path) -> set[str]:
    """Ids of the events that wait in a spool: both files are there, and the journal has not ended them."""
    seen = Witnessed()
    for line in ledger.journal_lines(spool / JOURNAL):
        seen.journal("", line)
    return _ids(spool, seen, "")


def _ids(spool: Path, seen: Witnessed, camera: str) -> set[str]:
    names = [one.name for one in spool.iterdir()]
    notes = {one.removesuffix(NOTE) for one in names if one.endswith(NOTE)}
    images = {one.partition(IMAGE)[0] for one in names if IMAGE in one and not one.endswith(".tmp")}
    return {one for one in notes & images if (camera, one) not in seen.ends}


def _marks(folder: Path) -> dict[str, pictures.Mark | None]:
    """Event id -> mark of every picture in a folder."""
    if not folder.is_dir():
        return {}
    found = [one for one in folder.iterdir() if IMAGE in one.name and not one.name.endswith(".tmp")]
    return {one.name.partition(IMAGE)[0]: pictures.read(one.read_bytes()) for one in found}


@dataclass
class _Hub:
    """Rows with a whole blob: its hash and mark. bad: the other rows. times: how many rows there are of a mark."""

    rows: dict[Key, tuple[str, pictures.Mark | None]] = field(default_factory=dict)
    times: Counter[Owned] = field(default_factory=Counter)
    bad: list[Key] = field(default_factory=list)


def _in_segment(folder: Path, place: Sequence[Any] | None) -> bytes:
    """The bytes at a row of the table `blob`; none where the segment is not there, or too short."""
    if place is None or not (path := folder / "segments" / place[0]).is_file():
        return b""
    with open(path, "rb") as file:
        file.seek(place[1])
        return file.read(place[2])


def _read_hub(folder: Path) -> _Hub:
    database = sqlite3.connect(folder / "hone.db")
    try:
        rows = database.execute("SELECT camera, event_id, sha256 FROM image WHERE camera != ''").fetchall()
        places = {
            sha256: place for sha256, *place in database.execute('SELECT sha256, segment, "offset", size FROM blob')
        }
    finally:
        database.close()
    hub = _Hub()
    for camera, event, sha256 in rows:
        path = folder / "blobs" / sha256[:2] / sha256
        data = path.read_bytes() if path.is_file() else _in_segment(folder, places.get(sha256))
        if sha256_hex(data) == sha256:
            mark = pictures.read(data)
            hub.rows[camera, event] = sha256, mark
            if mark is not None:
                hub.times[camera, mark] += 1
        else:
            hub.bad.append((camera, event))
    return hub


def count(book: Path, hub_folder: Path, spools: Mapping[str, Path]) -> Tally:
    """Count everything while no process of the plant runs. book: the ledger's file. spools: camera -> folder."""
    seen = ledger.read(book)
    if seen.overflow:
        raise RuntimeError("the kernel's queue for the ledger overflowed; nothing can be said")
    hub = _read_hub(hub_folder)
    tally = Tally(spooled=len(seen.spooled), bad_rows=hub.bad)

    for camera, spool in spools.items():  # the journal's last word is the one on disk
        for line in ledger.journal_lines(spool / JOURNAL):
            seen.journal(camera, line)
    ended = {key: line["end"] for key, line in seen.ends.items()}
    for key, line in seen.ends.items():
        if line.get("reason", "").startswith("torn"):
            tally.torn += 1
        elif line["end"] == "dropped":
            tally.overflowed.add(key[0])

    waiting: dict[Key, pictures.Mark | None] = {}
    aside: dict[Key, pictures.Mark | None] = {}
    for camera, spool in spools.items():
        marks = _marks(spool)
        waiting |= {(camera, one): marks[one] for one in _ids(spool, seen, camera)}
        aside |= {(camera, one): mark for one, mark in _marks(spool / "quarantine").items()}
        aside |= {(camera, one): mark for one, mark in _marks(spool / "torn").items()}
    waiting_marks = {(camera, mark) for (camera, _), mark in waiting.items() if mark}
    aside_marks = {(camera, mark) for (camera, _), mark in aside.items() if mark}

    spooled: Counter[Owned] = Counter()
    for key, seen_picture in seen.spooled.items():
        mark = seen_picture[1] if seen_picture else None
        if mark is None:  # gone before the ledger could look: where it ended says which one it was
            mark = hub.rows[key][1] if key in hub.rows else waiting.get(key) or aside.get(key)
        owned = (key[0], mark)
        if mark is not None:
            spooled[key[0], mark] += 1
        if owned in hub.times:
            tally.stored.append(key)
        elif owned in waiting_marks:
            tally.left.append(key)
        elif owned in aside_marks or ended.get(key) == "quarantined":
            tally.quarantined.append(key)
        elif ended.get(key) == "dropped":
            tally.dropped.append(key)
        else:
            tally.lost.append(key)

    tally.duplicated = [one for one, times in hub.times.items() if times > max(1, spooled[one])]
    tally.captured_twice = [one for one, times in spooled.items() if times > 1]
    for key in seen.stored:
        was = seen.spooled.get(key)
        if key not in hub.rows or (was is not None and was[0] != hub.rows[key][0]):
            tally.acked_not_on_disk.append(key)
    known = hub.rows.keys() | set(hub.bad) | ended.keys() | waiting.keys() | aside.keys()
    tally.unwitnessed = sorted(known - seen.spooled.keys())
    return tally


def describe(tally: Tally, book: Path) -> list[str]:
    """A line for each event that is not as it must be: what the ledger wrote of it."""
    wrong = {
        "lost": tally.lost,
        "acknowledged, not on disk": tally.acked_not_on_disk,
        "row without its blob": tally.bad_rows,
        "not in the ledger": tally.unwitnessed,
    }
    said: dict[Key, list[str]] = {key: [] for some in wrong.values() for key in some}
    for line in book.read_text().splitlines():
        one = json.loads(line)
        key = one.get("camera", ""), one.get("spooled") or one.get("journal", {}).get("id", "")
        if key in said:
            said[key].append(line)
    lines = [
        f"{what}: {camera} {event}: {said[camera, event]}" for what, some in wrong.items() for camera, event in some
    ]
    return lines + [f"stored twice: {camera}, picture {mark}" for camera, mark in tally.duplicated]
