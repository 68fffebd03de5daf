"""A bounded folder for files that are set aside: refused or damaged events. The oldest go first."""

import os
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

BLOCK = 4096
"""Bytes of a disk block: what even the smallest file takes."""


def on_disk(size: int) -> int:
    """Bytes that a file of `size` bytes takes on disk."""
    return -(-size // BLOCK) * BLOCK


class Aside:
    """Files set aside, never more than `limit` bytes on disk; safe to use from several threads. OSError."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by name, oldest first
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        for one in sorted(folder.iterdir(), key=lambda path: path.lstat().st_ctime_ns):
            self._count(one)
        self._bound()

    def move(self, path: Path) -> None:
        """Take a file, or whatever it is, over into the folder; nothing when it is not there."""
        with self._lock:
            if not os.path.lexists(path):
                return
            self._delete(path.name)
            os.replace(path, self._folder / path.name)
            self._count(self._folder / path.name)
            self._bound()

    def write(self, name: str, text: str) -> None:
        """Put a note of one line beside the files."""
        with self._lock:
            self._delete(name)
            (self._folder / name).write_text(text + "\n", encoding="utf-8")
            self._count(self._folder / name)
            self._bound()

    def _count(self, path: Path) -> None:
        size = on_disk(path.lstat().st_size)
        if path.is_dir() and not path.is_symlink():
            size += sum(on_disk(one.lstat().st_size) for one in path.rglob("*"))
        self._sizes[path.name] = size
        self._bytes += size

    def _bound(self) -> None:
        while self._bytes > self._limit:
            self._delete(next(iter(self._sizes)))

    def _delete(self, name: str) -> None:
        path = self._folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        self._bytes -= self._sizes.pop(name, 0)
