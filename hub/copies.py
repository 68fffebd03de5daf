"""Copies of blobs and of segments, between a hub and its backups: durable, and checked by their hashes."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlmodel import Session

from hub import named
from hub.segments import BLOCK, Place, Segments
from hub.store import Blobs
from shared.errors import StoreError
from shared.files import sha256_hex

BATCH = 64
BATCH_BYTES = 64 << 20
PIECE = 4 << 20
SPARE = 64 << 20
"""Bytes that a backup or a restore leaves free."""
Progress = Callable[[str, int, int], None]
"""(step, done, in all)"""


class Places:
    """The index of a database through which one goes in the order of sha256: one query for each 1/256 of the blobs."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._prefix = ""
        self._known: dict[str, Place] = {}

    def find(self, sha256: str) -> Place | None:
        """Where a blob is; None when no segment has it."""
        if not self._prefix or not sha256.startswith(self._prefix):
            self._prefix = sha256[:2]
            self._known = dict(named.placed(self._session, self._prefix))
        return self._known.get(sha256)

    def all(self) -> Iterator[tuple[str, Place]]:
        """Every blob in a segment, and its place."""
        for prefix in named.PREFIXES:
            yield from named.placed(self._session, prefix)


class Copier:
    """Puts blobs into a folder, several with one round of fsync; `flush` at the end. StoreError."""

    def __init__(self, target: Blobs) -> None:
        self._target = target
        self._batch: list[bytes] = []
        self._bytes = 0
        self.copied = 0
        self.copied_bytes = 0

    def put(self, data: bytes) -> None:
        """Copy one blob, now or soon."""
        self._batch.append(data)
        self._bytes += len(data)
        if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make everything durable that was put."""
        if not self._batch:
            return
        self._target.put(self._batch)
        self.copied += len(self._batch)
        self.copied_bytes += self._bytes
        self._batch, self._bytes = [], 0


def read_blob(blobs: Blobs, sha256: str) -> bytes | None:
    """The bytes of a blob, or None when it is missing or damaged."""
    try:
        data = blobs.read(sha256)
    except StoreError:
        return None
    return data if sha256_hex(data) == sha256 else None


def copy_range(source: Path, target: Path, begin: int, end: int) -> None:
    """Have the bytes `begin` to `end` of a file in another one, at the same place and durable. OSError.

    Blocks that the disk cannot read become zeros: their neighbours are worth having.
    """
    with open(source, "rb", buffering=0) as here, open(target, "r+b" if target.exists() else "xb", buffering=0) as to:
        at = begin
        while at < end:
            data = memoryview(_read(here.fileno(), min(PIECE, end - at), at))
            while data:
                done = os.pwrite(to.fileno(), data, at)
                data, at = data[done:], at + done
        os.fsync(to.fileno())


def _read(file: int, size: int, at: int) -> bytes:
    try:
        data = os.pread(file, size, at)
    except OSError:
        if size <= BLOCK:
            return bytes(size)
        return b"".join(_read(file, min(BLOCK, size - done), at + done) for done in range(0, size, BLOCK))
    return data or bytes(size)  # shorter than it was: as good as unreadable


def damaged(segments: Segments, rows: Sequence[tuple[str, Place]]) -> set[str]:
    """Those of these blobs whose bytes in a segment do not have their sha256."""
    return {sha256 for sha256, place in rows if not _is_good(segments, sha256, place)}


def _is_good(segments: Segments, sha256: str, place: Place) -> bool:
    try:
        return sha256_hex(segments.read(place)) == sha256
    except OSError:
        return False


def check_room(folder: Path, needed: int) -> None:
    """StoreError when the disk of a folder has no room for so many bytes and SPARE."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise StoreError(
            f"its disk has {free >> 20} MiB free, {(needed + SPARE) >> 20} MiB are needed",
            subject=str(folder),
            remedy="Make room",
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Trouble with files comes out as StoreError."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise StoreError(
            f"failed ({error.strerror})", subject=str(where), remedy="Is the disk full, or gone?"
        ) from error
