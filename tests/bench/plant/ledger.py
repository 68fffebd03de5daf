"""The ledger: a process beside the plant that writes down what becomes durable in the spools, and is never killed.

It trusts no counter of the cameras. The kernel (inotify) tells it of each `UUID_MD.json` that is renamed into a spool,
which is the moment when an event exists; the number of the event's picture it reads from the pixels. It also follows
each journal, line by line, so that nothing is forgotten when a camera replaces a long journal by its totals.

Its file has one JSON object a line: {"at", "camera", "spooled": id, "sha256", "mark"}, the last two null when the
picture was gone already; {"at", "camera", "journal": a journal's line}; {"at", "overflow": true} when the kernel told
too much at once, and the ledger is worth nothing.
"""

import ctypes
import json
import os
import select
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.files import sha256_hex
from tests.bench.plant import pictures
from tests.bench.plant.processes import die_with_parent

IN_MODIFY, IN_MOVED_TO, IN_Q_OVERFLOW = 0x2, 0x80, 0x4000
IMAGE, NOTE, JOURNAL = "_IM.", "_MD.json", "journal.jsonl"
Key = tuple[str, str]
"""camera, event id"""


@dataclass
class Witnessed:
    """What a ledger says. spooled: the picture's (sha256, mark) of each event, None where it was gone too soon.

    ends: the last journal line of each event. stored: every event that a journal ever called stored.
    """

    spooled: dict[Key, tuple[str, pictures.Mark | None] | None] = field(default_factory=dict)
    ends: dict[Key, dict[str, str]] = field(default_factory=dict)
    stored: set[Key] = field(default_factory=set)
    overflow: bool = False

    def journal(self, camera: str, line: Mapping[str, Any]) -> None:
        """Take a journal's line; totals name no event and say nothing new."""
        if "id" in line:
            self.ends[camera, line["id"]] = dict(line)
            if line["end"] == "stored":
                self.stored.add((camera, line["id"]))


def read(path: Path) -> Witnessed:
    """All that a ledger wrote down."""
    seen = Witnessed()
    for line in path.read_text().splitlines():
        one = json.loads(line)
        if "spooled" in one:
            mark = tuple(one["mark"]) if one["mark"] else None
            seen.spooled[one["camera"], one["spooled"]] = (one["sha256"], mark) if one["sha256"] else None
        elif "journal" in one:
            seen.journal(one["camera"], one["journal"])
        else:
            seen.overflow = True
    return seen


def journal_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal that are whole."""
    for line in Tail(path).lines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # cut short by a kill; the camera leaves it out too


class Tail:
    """Whole lines of a growing file, each once, also of one that is replaced by another meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = -1
        self._rest = b""

    def lines(self) -> Iterator[bytes]:
        """What came since the last time."""
        while True:
            yield from self._more()
            try:
                now = os.stat(self._path)
            except FileNotFoundError:
                return
            if self._handle >= 0:
                if os.path.samestat(now, os.fstat(self._handle)):
                    return
                yield from self._more()  # written between our read and the replacement
                os.close(self._handle)
            self._handle, self._rest = os.open(self._path, os.O_RDONLY), b""

    def _more(self) -> Iterator[bytes]:
        while self._handle >= 0 and (data := os.read(self._handle, 1 << 20)):
            *whole, self._rest = (self._rest + data).split(b"\n")
            yield from whole


def keep(spools: Mapping[str, Path], path: Path, pipe: Any, seen: Any) -> None:
    """The ledger's process: sends True through `pipe` when it watches, ends when something comes back.

    spools: camera -> folder. path: of the ledger. seen: two shared numbers, of events spooled and journalled `stored`.
    """
    die_with_parent()
    with open(path, "a", buffering=1) as out:
        writer = _Writer(spools, out, seen)
        pipe.send(True)
        while not pipe.poll():
            select.select([writer.handle, pipe], [], [], 1.0)
            writer.take()
        writer.take()
        writer.journals(spools)


class _Writer:
    """inotify by ctypes: the library that the cameras use holds moves back for half a second."""

    def __init__(self, spools: Mapping[str, Path], out: Any, seen: Any) -> None:
        self._out, self._seen = out, seen
        self._folders = dict(spools)
        self._tails = {camera: Tail(folder / JOURNAL) for camera, folder in spools.items()}
        self._pictures: dict[Key, tuple[str, pictures.Mark | None]] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        self.handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._cameras = {}
        for camera, folder in spools.items():
            watch = libc.inotify_add_watch(self.handle, os.fsencode(folder), IN_MODIFY | IN_MOVED_TO)
            if watch < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
            self._cameras[watch] = camera

    def take(self) -> None:
        """Write down all that the kernel has told."""
        touched = set()
        while True:
            try:
                data = os.read(self.handle, 1 << 16)
            except BlockingIOError:
                break
            while data:
                watch, mask, _, length = struct.unpack_from("iIII", data)
                name = data[16 : 16 + length].rstrip(b"\0").decode()
                data = data[16 + length :]
                if mask & IN_Q_OVERFLOW:
                    self._write(overflow=True)
                elif name == JOURNAL:
                    touched.add(self._cameras[watch])
                elif mask & IN_MOVED_TO:
                    self._moved(self._cameras[watch], name)
        self.journals(touched)

    def _moved(self, camera: str, name: str) -> None:
        """The picture comes first and is read at once: the camera may soon delete it."""
        if IMAGE in name:
            try:
                data = (self._folders[camera] / name).read_bytes()
            except FileNotFoundError:
                return
            self._pictures[camera, name.partition(IMAGE)[0]] = sha256_hex(data), pictures.read(data)
        elif name.endswith(NOTE):
            event = name.removesuffix(NOTE)
            sha256, mark = self._pictures.pop((camera, event), (None, None))
            self._write(camera=camera, spooled=event, sha256=sha256, mark=mark)
            self._seen[0] += 1

    def journals(self, cameras: Any) -> None:
        """Copy what is new in the journals."""
        for camera in cameras:
            for line in self._tails[camera].lines():
                try:
                    said = json.loads(line)
                except ValueError:
                    continue  # cut short by a kill
                self._write(camera=camera, journal=said)
                self._seen[1] += said.get("end") == "stored"

    def _write(self, **fields: object) -> None:
        self._out.write(json.dumps({"at": round(time.time(), 3), **fields}) + "\n")
