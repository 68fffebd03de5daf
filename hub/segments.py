"""Segments: append-only files that hold many images each, because making a file costs more than writing an image.

    segment  = batch*                          name: nanoseconds since 1970 and 8 random digits, so they sort by time
    batch    = record+, zeros up to 4096 bytes
    record   = "HONEBLOB", sha256 (32 bytes), size (8 bytes, little-endian), the bytes

A record says itself what it is, so an index that was lost can be made anew by `scan`. Written past the page cache
where the file system allows it: filling that costs more than the disk does (docs/adr/0007-segments.md).
"""

import errno
import mmap
import os
import secrets
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.files import sync_folder

MAGIC = b"HONEBLOB"
HEADER = struct.Struct("<8s32sQ")
BLOCK = 4096
SEGMENT_BYTES = 256 << 20
"""A segment that has grown beyond this is closed and another one begun."""
BUFFER_BYTES = 4 << 20
SUFFIX = ".seg"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a blob are: segment's name, offset of the first byte after the record's header, bytes."""

    segment: str
    offset: int
    size: int


class Segments:
    """The segments of one folder; each process that appends has a segment of its own. Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._file = -1
        self._name = ""
        self._end = 0
        self._buffer: mmap.mmap | None = None

    def path(self, segment: str) -> Path:
        """Where a segment is."""
        return self.folder / segment

    def append(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[Place]:
        """Make (sha256, bytes) durable with one sync; returns their places. OSError, and then none counts."""
        if not blobs:
            return []
        with self._lock:
            try:
                if self._file < 0 or self._end > SEGMENT_BYTES:
                    self._begin()
                places, end = self._write(blobs)
                os.fdatasync(self._file)
            except OSError:
                # What a failed write or sync has left behind is anybody's guess: never write there again.
                self._close()
                raise
            self._end = end
            return places

    def read(self, place: Place) -> bytes:
        """The bytes at a place; OSError when they are not there."""
        with open(self.path(place.segment), "rb", buffering=0) as file:
            data = os.pread(file.fileno(), place.size, place.offset)
        if len(data) != place.size:
            raise OSError(errno.EIO, "the segment is too short", str(self.path(place.segment)))
        return data

    def holds(self, place: Place) -> bool:
        """Whether the segment is there and long enough."""
        try:
            return self.path(place.segment).stat().st_size >= place.offset + place.size
        except FileNotFoundError:
            return False

    def names(self) -> list[str]:
        """All segments, oldest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(one.name for one in found if one.name.endswith(SUFFIX))

    def scan(self, segment: str) -> Iterator[tuple[str, Place]]:
        """Every record of a segment as (sha256 that it claims, place), in order; what is torn is passed over."""
        with open(self.path(segment), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            at = 0
            while at + HEADER.size <= size:
                magic, sha256, length = HEADER.unpack(os.pread(file.fileno(), HEADER.size, at))
                if magic == MAGIC and at + HEADER.size + length <= size:
                    yield sha256.hex(), Place(segment, at + HEADER.size, length)
                    at += HEADER.size + length
                else:  # zeros at the end of a batch, or a batch that broke off: the next one begins with a block
                    at = (at // BLOCK + 1) * BLOCK

    def close(self) -> None:
        """End the segment that is being written."""
        with self._lock:
            self._close()

    # -- below the surface; the lock is held

    def _begin(self) -> None:
        self._close()
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():019d}-{secrets.token_hex(4)}{SUFFIX}"
        path, flags = self.path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._file = os.open(path, flags | os.O_DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)  # made, though it cannot be opened so (tmpfs)
            self._file = os.open(path, flags, 0o644)
        sync_folder(self.folder)
        self._name, self._end = name, 0

    def _write(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> tuple[list[Place], int]:
        """One batch, through an aligned buffer; returns the places and the new end."""
        if self._buffer is None:
            self._buffer = mmap.mmap(-1, BUFFER_BYTES)
        buffer = memoryview(self._buffer)
        places: list[Place] = []
        at, used = self._end, 0  # offset of the buffer in the file, bytes in it
        try:
            for sha256, data in blobs:
                places.append(Place(self._name, at + used + HEADER.size, len(data)))
                for piece in (HEADER.pack(MAGIC, bytes.fromhex(sha256), len(data)), memoryview(data)):
                    done = 0
                    while done < len(piece):
                        count = min(len(piece) - done, BUFFER_BYTES - used)
                        buffer[used : used + count] = piece[done : done + count]
                        done, used = done + count, used + count
                        if used == BUFFER_BYTES:
                            self._put(buffer, at)
                            at, used = at + used, 0
            if used:
                whole = -(-used // BLOCK) * BLOCK
                buffer[used:whole] = bytes(whole - used)
                self._put(buffer[:whole], at)
                at += whole
        finally:
            buffer.release()
        return places, at

    def _put(self, view: memoryview, at: int) -> None:
        while view:
            count = os.pwrite(self._file, view, at)
            if count < len(view) and count % BLOCK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view, at = view[count:], at + count

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
