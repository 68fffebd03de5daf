"""The camera's disk queue: bounded, crash-safe, the only place that holds images that the hub does not have.

An event is two files, `UUID_IM.<ext>` (the image) and `UUID_MD.json` (its `C/event` message), each written aside,
synced and renamed; the metadata last, so an event without it never existed. Whatever ends an event (stored, dropped,
refused) is written to `journal.jsonl` and synced before a file is deleted. Invariant, through any crash:

    spooled = stored + left + quarantined + dropped
"""

import errno
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shared.errors import MessageError, SpoolError
from shared.files import TMP, sync_folder, write_aside, write_atomic
from shared.messages import Event, SpoolState, decode, encode
from shared.transfer import Offer

log = logging.getLogger(__name__)
JOURNAL_LIMIT = 1 << 20
ENDS = ("stored", "dropped", "quarantined")


@dataclass(frozen=True, slots=True)
class _Entry:
    offer: Offer
    ext: str
    bytes: int  # of both files


class Spool:
    """Events on disk; safe to use from several threads.

    folder: made if missing. limit: bytes of all files that wait. quarantine_limit: bytes of refused files, and as many
    of torn ones. Opening recovers after a crash in one pass; SpoolError when the folder is unusable.
    """

    def __init__(self, folder: Path, *, limit: int, quarantine_limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._quarantine = folder / "quarantine"
        self._quarantine_limit = quarantine_limit
        self._torn_folder = folder / "torn"
        self._journal = folder / "journal.jsonl"
        self._gone: Callable[[str], None] = lambda _event_id: None
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._bytes = 0
        self._totals = dict.fromkeys(ENDS, 0)
        self._torn = 0
        self._unspooled = 0
        try:
            for one in (folder, self._quarantine, self._torn_folder):
                one.mkdir(parents=True, exist_ok=True)
            self._recover()
        except OSError as error:
            raise SpoolError(f"cannot be used ({error.strerror})", subject=str(folder)) from error

    def watch(self, gone: Callable[[str], None]) -> None:
        """Have `gone` told the id of every event that leaves without being stored or refused."""
        self._gone = gone

    # -- in

    def add(self, event: Event, data: bytes) -> None:
        """Make an event durable, evicting less valuable ones if it does not fit.

        SpoolError when it cannot be written, or is worth less than all that would have to go; counted `unspooled`.
        """
        metadata = encode(event)
        need = len(data) + len(metadata)
        with self._lock:
            try:
                self._make_room(need, event.value)
                image = self._image(event.id, event.ext)
                note = self._note(event.id)
                aside = write_aside(image, data)
                note_aside = write_aside(note, metadata)
                os.replace(aside, image)
                os.replace(note_aside, note)
                sync_folder(self._folder)
            except OSError as error:
                self._unspooled += 1
                for path in (self._note(event.id), self._image(event.id, event.ext)):
                    path.with_name(path.name + TMP).unlink(missing_ok=True)
                self._discard(event.id, event.ext)
                raise SpoolError(
                    f"cannot be written ({error.strerror})", subject=f"event {event.id}", remedy="Is the disk full?"
                ) from error
            offer = Offer(event.id, event.size, event.chunk_size, event.value)
            self._entries[event.id] = _Entry(offer, event.ext, need)
            self._bytes += need

    def not_written(self) -> None:
        """Count an event that never reached `add` because the writer was behind."""
        with self._lock:
            self._unspooled += 1

    # -- out

    def offers(self) -> list[Offer]:
        """All events that wait."""
        with self._lock:
            return [entry.offer for entry in self._entries.values()]

    def event(self, event_id: str) -> Event | None:
        """The metadata of an event; None (and set aside as torn) when it cannot be read any more."""
        with self._lock:
            if event_id not in self._entries:
                return None
            try:
                return decode(self._note(event_id).read_bytes(), Event, subject=f"spool {event_id}")
            except (OSError, MessageError) as error:
                self._set_torn(event_id, str(error))
                return None

    def image(self, event_id: str) -> bytes | None:
        """The image bytes of an event; None (and set aside as torn) when they cannot be read any more."""
        with self._lock:
            entry = self._entries.get(event_id)
            if entry is None:
                return None
            try:
                data = self._image(event_id, entry.ext).read_bytes()
            except OSError as error:
                self._set_torn(event_id, str(error))
                return None
            if len(data) != entry.offer.size:
                self._set_torn(event_id, f"has {len(data)} bytes, expected {entry.offer.size}")
                return None
            return data

    def stored(self, event_ids: Sequence[str]) -> None:
        """The hub has these: journal, then delete."""
        with self._lock:
            self._end([one for one in event_ids if one in self._entries], "stored")

    def refused(self, event_id: str, reason: str) -> None:
        """The hub will never take this one: move it to the bounded quarantine, with the reason."""
        with self._lock:
            entry = self._entries.get(event_id)
            if entry is None:
                return
            log.warning("event %s was refused (%s); it is in %s", event_id, reason, self._quarantine)
            for path in (self._image(event_id, entry.ext), self._note(event_id)):
                if path.exists():
                    (self._quarantine / path.name).write_bytes(path.read_bytes())
            (self._quarantine / f"{event_id}.reason.txt").write_text(reason + "\n", encoding="utf-8")
            self._bound(self._quarantine)
            self._end([event_id], "quarantined", reason)

    def state(self) -> SpoolState:
        """All counts, ever since the spool exists."""
        with self._lock:
            left = len(self._entries)
            return SpoolState(
                spooled=sum(self._totals.values()) + left,
                stored=self._totals["stored"],
                left=left,
                quarantined=self._totals["quarantined"],
                dropped=self._totals["dropped"],
                unspooled=self._unspooled,
                torn=self._torn,
                bytes=self._bytes,
                limit=self._limit,
            )

    # -- below the surface; the lock is held

    def _image(self, event_id: str, ext: str) -> Path:
        return self._folder / f"{event_id}_IM.{ext}"

    def _note(self, event_id: str) -> Path:
        return self._folder / f"{event_id}_MD.json"

    def _make_room(self, need: int, value: float) -> None:
        """Evict the least valuable events until `need` bytes fit, journalled first."""
        if self._bytes + need <= self._limit:
            return
        victims: list[str] = []
        room = self._limit - self._bytes
        for one, entry in sorted(self._entries.items(), key=lambda item: (item[1].offer.value, item[0])):
            if room >= need or entry.offer.value > value:
                break
            victims.append(one)
            room += entry.bytes
        if room < need:
            self._unspooled += 1
            raise SpoolError(
                f"spool is full ({self._bytes} of {self._limit} bytes) of more valuable events",
                subject=f"event of {need} bytes",
                remedy="Is the hub reachable? Raise spool.limit_mb",
            )
        log.warning("the spool is full: %d least valuable events are dropped", len(victims))
        self._end(victims, "dropped")
        for one in victims:
            self._gone(one)

    def _end(self, event_ids: Sequence[str], how: str, reason: str = "") -> None:
        """Journal the end of events, durably, then delete their files."""
        if not event_ids:
            return
        lines = "".join(
            json.dumps({"id": one, "end": how, **({"reason": reason} if reason else {})}) + "\n" for one in event_ids
        )
        self._append(lines)
        self._totals[how] += len(event_ids)
        for one in event_ids:
            entry = self._entries.pop(one)
            self._bytes -= entry.bytes
            self._discard(one, entry.ext)
        self._bound_journal()

    def _append(self, lines: str) -> None:
        """Add to the journal, durably; all or, with an OSError, nothing: half a line would spoil the next one."""
        data = lines.encode()
        with open(self._journal, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _bound_journal(self) -> None:
        """Replace a long journal by its totals, once the files of all it names are gone."""
        if self._journal.stat().st_size > JOURNAL_LIMIT:
            sync_folder(self._folder)
            write_atomic(self._journal, json.dumps({"totals": self._totals}).encode() + b"\n")

    def _discard(self, event_id: str, ext: str) -> None:
        """Delete an event's files; the metadata first, so that what is left is no event."""
        for path in (self._note(event_id), self._image(event_id, ext)):
            path.unlink(missing_ok=True)

    def _set_torn(self, event_id: str, reason: str) -> None:
        """An event that cannot be read any more is set aside, counted as torn and as dropped."""
        log.warning("spool: event %s is damaged (%s); it is in %s", event_id, reason, self._torn_folder)
        entry = self._entries[event_id]
        for path in (self._image(event_id, entry.ext), self._note(event_id)):
            if path.exists():
                os.replace(path, self._torn_folder / path.name)
        self._torn += 1
        self._bound(self._torn_folder)
        self._end([event_id], "dropped", f"torn: {reason}")
        self._gone(event_id)

    def _bound(self, folder: Path) -> None:
        """Delete the oldest files of a folder until the rest is within the quarantine's limit."""
        files = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime)
        total = sum(one.stat().st_size for one in files)
        for one in files:
            if total <= self._quarantine_limit:
                return
            total -= one.stat().st_size
            one.unlink()

    def _recover(self) -> None:
        """One pass over the folder: finish what the journal ended, delete `.tmp`, set torn files aside."""
        ended = self._read_journal()
        images: dict[str, Path] = {}
        notes: dict[str, Path] = {}
        for path in self._folder.iterdir():
            if path.name.endswith(TMP):
                path.unlink()
            elif path.name.endswith("_MD.json"):
                notes[path.name.removesuffix("_MD.json")] = path
            elif "_IM." in path.name:
                images[path.name.partition("_IM.")[0]] = path
        for event_id in images.keys() | notes.keys():
            image, note = images.get(event_id), notes.get(event_id)
            if event_id in ended or note is None:
                # Ended before the crash; or its metadata never came to be, so it was never spooled.
                for one in (note, image):
                    if one is not None:
                        one.unlink()
                continue
            try:
                event = decode(note.read_bytes(), Event, subject=note.name)
                size = image.stat().st_size if image is not None else -1
                if event.id != event_id or size != event.size:
                    raise MessageError(f"image has {size} bytes, expected {event.size}", subject=note.name)
            except MessageError as error:
                log.warning("spool: %s; set aside in %s", error, self._torn_folder)
                for one in (image, note):
                    if one is not None:
                        os.replace(one, self._torn_folder / one.name)
                self._torn += 1
                self._append(json.dumps({"id": event_id, "end": "dropped", "reason": "torn"}) + "\n")
                self._totals["dropped"] += 1
                continue
            offer = Offer(event.id, event.size, event.chunk_size, event.value)
            self._entries[event_id] = _Entry(offer, event.ext, event.size + note.stat().st_size)
            self._bytes += self._entries[event_id].bytes
        self._bound(self._torn_folder)
        self._journal.touch()
        sync_folder(self._folder)
        self._bound_journal()

    def _read_journal(self) -> set[str]:
        """Ids that ended, by the journal; a torn last line (crash while writing) is cut off."""
        ended: set[str] = set()
        if not self._journal.exists():
            return ended
        good: list[bytes] = []
        data = self._journal.read_bytes()
        for line in data.splitlines(keepends=True):
            try:
                record = msgspec.json.decode(line)
                if "totals" in record:
                    self._totals = {how: int(record["totals"][how]) for how in ENDS}
                elif record["id"] not in ended:
                    self._totals[record["end"]] += 1
                    ended.add(record["id"])
            except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
                log.warning("spool journal: a line cannot be read (%s) and is left out", error)
                continue
            good.append(line if line.endswith(b"\n") else line + b"\n")
        if b"".join(good) != data:
            write_atomic(self._journal, b"".join(good))
        return ended
