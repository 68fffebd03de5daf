"""The spool's journal: how events ended, each line durable before a file of the event goes.

    {"totals":{"stored":902,"dropped":3,"quarantined":0}}   all that ended before, without the lines that follow
    {"id":"0189...","end":"stored","at":1772366400.25}      at: UTC seconds; its files may still be kept
    {"id":"0189...","end":"dropped"}                        with a "reason" if it was damaged, "audit":true if it was
                                                            of the random sample
    {"id":"0189...","end":"quarantined","reason":"..."}
    {"id":"0189...","end":"recalled"}                       was stored, and waits again

What was not wholly written has not happened: a last line without its end is cut off.
"""

import errno
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from shared.files import write_atomic

log = logging.getLogger(__name__)
JOURNAL_LIMIT = 1 << 20
"""Bytes below which a journal is never folded."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event ended, or is `recalled`. at: UTC seconds, of `stored`. reason: why it is set aside, else empty.

    audit: it was dropped, and of the random sample.
    """

    id: str
    end: Literal["stored", "dropped", "quarantined", "recalled"]
    at: float = 0.0
    reason: str = ""
    audit: bool = False


class Totals(msgspec.Struct):
    """How many events ended in which way. audit_dropped: those of `dropped` that were of the random sample."""

    stored: int
    dropped: int
    quarantined: int
    audit_dropped: int = 0

    def count(self, line: Line, by: int = 1) -> None:
        """One more, or less, that ended so; `recalled` takes one from `stored`."""
        end, by = ("stored", -by) if line.end == "recalled" else (line.end, by)
        setattr(self, end, getattr(self, end) + by)
        self.audit_dropped += by if line.audit else 0


class _First(msgspec.Struct):
    totals: Totals


_LINES = msgspec.json.Encoder()
_LINE = msgspec.json.Decoder(Line)
_FIRST = msgspec.json.Decoder(_First)


class Journal:
    """One file of lines. Its owner calls one method at a time; every method raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0  # bytes that are lines; what lies beyond is a write that failed
        self._folded = 0  # bytes after it was last folded

    @property
    def is_long(self) -> bool:
        """Whether it shall be folded; the cost of folding is spread over as many lines as it keeps."""
        return self._end > max(JOURNAL_LIMIT, 2 * self._folded)

    def read(self) -> tuple[Totals, dict[str, Line]]:
        """The totals, and the last line of each event that has ended; lines that mean nothing are left out.

        What it returns is durable: a line may have been written, and the process killed, before it was synced.
        """
        totals = Totals(0, 0, 0)
        ended: dict[str, Line] = {}
        with open(self._path, "a+b", buffering=0) as file:
            file.seek(0)
            data = file.readall()
            self._end = data.rfind(b"\n") + 1
            if self._end != len(data):
                log.warning("spool journal: its last %d bytes are no whole line and are cut off", len(data) - self._end)
                file.truncate(self._end)
            os.fsync(file.fileno())
        for number, raw in enumerate(data[: self._end].split(b"\n")[:-1], 1):
            try:
                line = _LINE.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                try:
                    totals = _FIRST.decode(raw).totals
                except (msgspec.DecodeError, UnicodeDecodeError):
                    log.warning("spool journal: line %d cannot be read (%s) and is left out", number, error)
                continue
            before = ended.get(line.id)
            if line.end == "recalled":
                if before is None or before.end != "stored":
                    continue
                del ended[line.id]
            elif before is None:
                ended[line.id] = line
            else:
                continue  # said before, by a write that failed after it had reached the disk
            totals.count(line)
        return totals, ended

    def append(self, lines: Sequence[Line]) -> None:
        """Add lines, durably; all or, with an OSError, none: half a line would spoil the next one."""
        data = _LINES.encode_lines(lines)
        with open(self._path, "ab", buffering=0) as file:
            self._end = min(self._end, file.tell())
            file.truncate(self._end)
            try:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._end)
                raise
        self._end += len(data)

    def fold(self, totals: Totals, live: Iterable[Line]) -> None:
        """Replace it by the totals and the lines that still mean something, all at once.

        totals: of everything, `live` included. The files of all that is not in `live` must be gone, durably.
        """
        first = msgspec.structs.replace(totals)
        data = _LINES.encode_lines(live := list(live))
        for line in live:
            first.count(line, -1)
        data = _LINES.encode(_First(first)) + b"\n" + data
        write_atomic(self._path, data)
        self._end = self._folded = len(data)
