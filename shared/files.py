"""Files that survive a power cut: written aside, synced, renamed, the folder synced."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

TMP = ".tmp"


def sha256_hex(data: bytes | memoryview) -> str:
    """Lower-case hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (fsync of the folder)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_aside(path: Path, data: bytes, *, mode: int = 0o644) -> Path:
    """Write `data` durably to `path` + `.tmp` and return that; the caller renames it. OSError if it fails."""
    aside = path.with_name(path.name + TMP)
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return aside


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably and all at once; OSError leaves the old file as it was."""
    aside = write_aside(path, data, mode=mode)
    try:
        os.replace(aside, path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def chunk_count(size: int, chunk_size: int) -> int:
    """How many chunks `size` bytes make; at least one, so that an empty part has a chunk to send."""
    return max(1, -(-size // chunk_size))


def chunks(data: bytes, chunk_size: int) -> Iterator[bytes]:
    """Cut bytes into chunks; all but the last are `chunk_size` long."""
    for index in range(chunk_count(len(data), chunk_size)):
        yield data[index * chunk_size : (index + 1) * chunk_size]
