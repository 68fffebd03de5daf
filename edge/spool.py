"""The camera's disk queue: bounded, crash-safe, the only place that holds images that the hub does not have.

An event is two files (`eventfiles`), the metadata last, so an event without it never existed. Whatever ends an event
(stored, dropped, refused) is written to `journal.jsonl` and synced before a file goes. A stored event's files are kept
for a while, against the day the hub loses its data; they are the first to go when room is needed. Invariant, through
any crash:

    spooled = stored + left + quarantined + dropped

    waiting  -> kept     stored                       kept  -> waiting  recall
    waiting  -> doomed   dropped, refused, damaged    kept  -> doomed   its time is over, or room is needed
    doomed   -> gone     its files are deleted, or set aside
"""

import errno
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from edge.aside import on_disk
from edge.ended import Ended, EndedFiles
from edge.eventfiles import JOURNAL, QUARANTINE, TORN, EventFiles, says_damaged
from edge.journal import Journal, Line, Totals
from edge.recovery import recover
from edge.waiting import Entry, Waiting, entry_of
from shared.clock import Clock
from shared.errors import MessageError, SpoolError
from shared.files import sync_folder
from shared.messages import Event, SpoolState, encode
from shared.transfer import Offer

log = logging.getLogger(__name__)
SWEEP = 128
"""Events whose files one sweep deletes at most."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
ROOM = 1 << 20
"""Bytes of kept copies that go when the disk has no room for the journal."""
T = TypeVar("T")


class Spool:
    """Events on disk; safe to use from several threads, and none that reads waits for one that writes.

    folder: made if missing. limit: bytes on disk of all files that wait or are kept. audit_limit: those of them that
    are for audit events alone, and all that these may take; of audit events the oldest goes first, so that what is left
    is the whole sample of a shorter time, each with the chance that is stored with it. 0: they have no room of their
    own, and share that of the others. quarantine_limit: bytes of refused files, and as many of damaged ones. keep_s:
    seconds that the files of a stored event are kept, room permitting. Somebody must call `sweep` now and then. Opening
    recovers after a crash in one pass; SpoolError when the folder is unusable.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit: int,
        quarantine_limit: int,
        keep_s: float,
        clock: Clock,
        audit_limit: int = 0,
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._audit_limit = audit_limit
        self._keep_s = keep_s
        self._clock = clock
        self._journal = Journal(folder / JOURNAL)
        self._gone: Callable[[str], None] = lambda _event_id: None
        # Always taken in this order. A file of an event is deleted only after the event has left waiting and kept.
        self._adding = threading.Lock()  # one event is written at a time
        self._ending = threading.RLock()  # what ends or comes back, from the choice to the journal to the memory
        self._lock = threading.Lock()  # the memory below; never held over I/O
        self._waiting = Waiting(audit_apart=audit_limit > 0)
        self._ended = EndedFiles()
        self._totals = Totals(0, 0, 0)
        self._torn = 0
        self._unspooled = self._audit_unspooled = 0
        try:
            self._files = EventFiles(folder, quarantine_limit)
            self._recover()
        except OSError as error:
            raise SpoolError(f"cannot be used ({error.strerror})", subject=str(folder)) from error

    def watch(self, gone: Callable[[str], None]) -> None:
        """Have `gone` told the id of every event that leaves without being stored or refused."""
        self._gone = gone

    # -- in

    def add(self, event: Event, data: bytes) -> None:
        """Make an event durable; kept copies go if it does not fit, then waiting events that are worth no more.

        SpoolError when it cannot be written, or is worth less than all that would have to go; counted `unspooled`.
        """
        metadata = encode(event)
        entry = entry_of(event, on_disk(len(data)) + on_disk(len(metadata)))
        with self._adding:
            try:
                self._make_room(entry)
                self._or_make_room(lambda: self._files.write(event.id, event.ext, metadata, data), entry.bytes)
            except OSError as error:
                self.not_written(audit=entry.audit)
                raise SpoolError(
                    f"cannot be written ({error.strerror})", subject=f"event {event.id}", remedy="Is the disk full?"
                ) from error
            except SpoolError:
                self.not_written(audit=entry.audit)
                raise
            with self._lock:
                self._waiting.put(entry)

    def not_written(self, *, audit: bool = False) -> None:
        """Count an event that never reached `add` because the writer was behind. audit: it is of the random sample."""
        with self._lock:
            self._unspooled += 1
            self._audit_unspooled += audit

    def revalue(self, values: Mapping[str, float]) -> list[Offer]:
        """Give events that still wait other values; their offers as they are now. Not durable: do it at each start."""
        with self._lock:
            return [self._waiting.revalue(one, value) for one, value in values.items() if one in self._waiting]

    # -- out

    def offers(self) -> list[Offer]:
        """All events that wait."""
        with self._lock:
            return [entry.offer for entry in self._waiting]

    def event(self, event_id: str) -> Event | None:
        """The metadata of an event that waits, with its value as it is now, else None. One that is damaged is set aside
        as torn.

        OSError when the machine cannot read it, or set it aside, just now.
        """

        def read(entry: Entry) -> Event:
            return msgspec.structs.replace(self._files.read_event(event_id), value=entry.offer.value)

        return self._read(event_id, read)

    def image(self, event_id: str) -> bytes | None:
        """The image bytes of an event that waits; else as `event`."""
        return self._read(event_id, lambda entry: self._files.read_image(event_id, entry.ext, entry.offer.size))

    def stored(self, event_ids: Sequence[str]) -> None:
        """The hub has these: one line each in the journal, and one sync; OSError when nothing came of it."""
        at = round(self._clock.utc().timestamp(), 3)
        self._end([Line(one, "stored", at) for one in dict.fromkeys(event_ids)])

    def refused(self, event_id: str, reason: str) -> None:
        """The hub will never take this one: it goes to the bounded quarantine, with the reason. OSError as `stored`."""
        if self._end([Line(event_id, "quarantined", reason=reason)]):
            log.warning("event %s was refused (%s); it is in %s", event_id, reason, self._folder / QUARANTINE)
            self._clear([event_id])

    def recall(self) -> list[Offer]:
        """The hub lost what it had stored: all kept copies wait again, and are returned. OSError: none does."""
        with self._ending:
            with self._lock:
                back = self._ended.kept()
            if not back:
                return []
            lines = [Line(one, "recalled") for one in back]
            self._journal.append(lines)
            with self._lock:
                entries = self._ended.recall(back)
                for line in lines:
                    self._totals.count(line)
                for entry in entries:
                    self._waiting.put(entry)
        log.warning("%d stored events are recalled from their kept copies", len(back))
        return [entry.offer for entry in entries]

    def sweep(self) -> int:
        """Delete kept copies whose time is over, a bounded number; fold a long journal. How many events' files went."""
        now = self._clock.monotonic()
        with self._ending, self._lock:
            chosen = self._ended.due(now, SWEEP)
            self._ended.doom(chosen)
        gone = self._clear(chosen)
        if self._journal.is_long:
            self._fold()
        return gone

    def state(self) -> SpoolState:
        """All counts, ever since the spool exists."""
        with self._lock:
            left, totals = len(self._waiting), self._totals
            return SpoolState(
                spooled=totals.stored + totals.quarantined + totals.dropped + left,
                stored=totals.stored,
                left=left,
                quarantined=totals.quarantined,
                dropped=totals.dropped,
                unspooled=self._unspooled,
                torn=self._torn,
                bytes=self._waiting.bytes,
                limit=self._limit,
                audit_left=self._waiting.audits,
                audit_dropped=totals.audit_dropped,
                audit_unspooled=self._audit_unspooled,
            )

    # -- room

    def _make_room(self, entry: Entry) -> None:
        """Delete files until those of `entry` fit: of ended events, kept ones, then the least valuable that wait.

        Of those that share its room: that of audit events, or of the others.
        """
        with self._lock:
            if entry.offer.id in self._waiting or entry.offer.id in self._ended:
                raise SpoolError("is in the spool already", subject=f"event {entry.offer.id}")
            if self._used + entry.bytes <= self._limit and self._beyond(entry) <= 0:
                return
        with self._ending:
            with self._lock:
                ended, _ = self._ended.oldest(self._used + entry.bytes - self._limit - max(0, self._beyond(entry)))
                fits = entry.bytes <= self._room(entry)
                victims = (
                    self._waiting.least(self._beyond(entry), entry.offer.value, audit=entry.audit) if fits else None
                )
                if victims is None:
                    raise SpoolError(
                        f"spool is full ({self._waiting.bytes} of {self._limit} bytes) of more valuable events",
                        subject=f"event of {entry.bytes} bytes",
                        remedy="Is the hub reachable? Raise spool.limit_mb",
                    )
            if victims:
                log.warning("the spool is full: %d least valuable events are dropped", len(victims))
                self._end([Line(one, "dropped") for one in victims])
            with self._lock:
                self._ended.doom(ended)
        self._clear([*ended, *victims])
        for one in victims:
            self._gone(one)
        with self._lock:
            if self._used + entry.bytes > self._limit:
                raise SpoolError("files of ended events cannot be deleted", subject=str(self._folder))

    def _or_make_room(self, write: Callable[[], T], need: int) -> T:
        """Do `write`; while the disk itself is full, kept copies of `need` bytes go, and it is done again."""
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                if not self._let_go(need):
                    raise

    def _let_go(self, need: int) -> int:
        """Delete kept copies of `need` bytes, or all there are. How many went."""
        with self._ending, self._lock:
            chosen, _ = self._ended.oldest(need)
            self._ended.doom(chosen)
        return self._clear(chosen)

    def _room(self, entry: Entry) -> int:
        """Bytes that events of its kind may take together."""
        return self._audit_limit if entry.audit and self._audit_limit else self._limit - self._audit_limit

    def _beyond(self, entry: Entry) -> int:
        """Bytes by which they would pass that with this one. The lock is held."""
        audits = self._waiting.audit_bytes if self._audit_limit else 0
        used = audits if entry.audit and self._audit_limit else self._waiting.bytes - audits
        return used + entry.bytes - self._room(entry)

    @property
    def _used(self) -> int:
        """Bytes on disk of all files of events. The lock is held."""
        return self._waiting.bytes + self._ended.bytes

    # -- the end of events

    def _end(self, lines: Sequence[Line]) -> list[str]:
        """Journal the end of those that wait, durably; with an OSError none has ended. Returns their ids."""
        with self._ending:
            with self._lock:
                lines = [self._told(line) for line in lines if line.id in self._waiting]
            if lines:
                self._or_make_room(lambda: self._journal.append(lines), ROOM)
            due = self._clock.monotonic() + self._keep_s
            with self._lock:
                for line in lines:
                    self._ended.put(Ended(self._waiting.pop(line.id), line, due))
                    self._totals.count(line)
        return [line.id for line in lines]

    def _told(self, line: Line) -> Line:
        """The line, and whether what was dropped is of the random sample. The lock is held; the event waits."""
        entry = self._waiting.get(line.id)
        return msgspec.structs.replace(line, audit=line.end == "dropped" and entry is not None and entry.audit)

    def _clear(self, event_ids: Iterable[str]) -> int:
        """Delete, or set aside, the files of doomed events; what fails is tried again by `sweep`. How many went."""
        gone = 0
        for one in event_ids:
            with self._lock:
                ended = self._ended.doomed(one)
            if ended is None:
                continue
            try:
                self._files.dispose(ended.line, [self._files.note(one), self._files.image(one, ended.entry.ext)])
            except OSError as error:
                if not ended.failed:
                    log.error("event %s: its files cannot be deleted (%s)", one, error)
                ended.failed = True
                continue
            with self._lock:
                gone += self._ended.gone(one)
        return gone

    def _read(self, event_id: str, read: Callable[[Entry], T]) -> T | None:
        with self._lock:
            entry = self._waiting.get(event_id)
        if entry is None:
            return None
        try:
            return read(entry)
        except MessageError as error:
            damage = str(error)
        except OSError as error:
            if not says_damaged(error):
                raise
            damage = str(error)
        # It is no damage if the event has just ended.
        if self._end([Line(event_id, "dropped", reason=f"torn: {damage}")]):
            log.warning("spool: event %s is damaged (%s); it is in %s", event_id, damage, self._folder / TORN)
            with self._lock:
                self._torn += 1
            self._clear([event_id])
            self._gone(event_id)
        return None

    def _fold(self) -> None:
        """Fold the journal; what is gone from memory is gone from the folder, durably, before its line goes."""
        with self._ending:
            with self._lock:
                totals = msgspec.structs.replace(self._totals)
                live = self._ended.lines()
            try:
                sync_folder(self._folder)
                self._journal.fold(totals, live)
            except OSError as error:
                log.error("spool journal: cannot be folded (%s)", error)

    # -- after a start

    def _recover(self) -> None:
        """Finish what the journal ended, delete what was cut, set damaged events aside."""
        self._totals, ended = self._journal.read()
        now, monotonic = self._clock.utc().timestamp(), self._clock.monotonic()
        found = recover(self._files, ended, now)
        if found.never:
            log.info("spool: %d files of writes that were cut are deleted", len(found.never))
        if found.strangers:
            log.warning("spool: %d files are not ours and stay, such as %r", len(found.strangers), found.strangers[0])
        for entry in found.waiting:
            self._waiting.put(entry)
        for line, entry in sorted(found.kept, key=lambda one: (one[0].at, one[0].id)):
            self._ended.put(Ended(entry, line, monotonic + self._keep_s - (now - line.at)))
        if found.damaged and self._journal_damaged([line for line, _ in found.damaged]):
            found.ended += found.damaged
        for line, paths in found.ended:
            try:
                self._files.dispose(line, paths)
            except OSError as error:
                log.error("event %s: its files cannot be deleted (%s)", line.id, error)
                self._ended.stay(line)
        for path in found.never:
            try:
                self._files.delete([path])
            except OSError as error:
                log.error("spool: cannot be deleted (%s)", error)
        self._let_go(self._used - self._limit)
        sync_folder(self._folder)
        if self._journal.is_long or any(line.at < ended[line.id].at for line, _ in found.kept):
            self._fold()

    def _journal_damaged(self, lines: list[Line]) -> bool:
        """Count damaged events; False when the journal cannot be written: they stay there until the next start."""
        try:
            self._or_make_room(lambda: self._journal.append(lines), ROOM)
        except OSError as error:
            log.error("spool journal: %d damaged events cannot be set aside (%s)", len(lines), error)
            return False
        for line in lines:
            log.warning("spool: event %s is damaged (%s); it is in %s", line.id, line.reason, self._folder / TORN)
            self._torn += 1
            self._totals.count(line)
        return True
