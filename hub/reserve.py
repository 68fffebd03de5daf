"""Reserve: bytes of the disk that nobody uses, given up when it is full, so that the hub can still start on it.

SQLite needs a few files of its own beside the database even to read it, and a log to write: on a disk that is full to
the last byte neither can be made.
"""

import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)
NAME = "reserve"
RESERVE_BYTES = 8 << 20
"""Twice what SQLite's log grows to before it is used again from its beginning."""
SCARCE_BYTES = RESERVE_BYTES // 2
"""With less than this free a hub that starts gives the reserve up."""
ROOMY = 4
"""It is made when so many times its bytes are free."""


class Reserve:
    """A file of RESERVE_BYTES in `folder`; any number of processes may keep the same one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / NAME

    @property
    def room(self) -> int:
        """Bytes that are free on the disk; 0 where it cannot be looked at."""
        try:
            return shutil.disk_usage(self._folder).free
        except OSError:
            return 0

    def keep(self) -> None:
        """Have it, if there is plenty of room; without it only a start on a full disk may fail."""
        if self._file.exists() or self.room < ROOMY * RESERVE_BYTES:
            return
        try:
            handle = os.open(self._file, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, RESERVE_BYTES)
            finally:
                os.close(handle)
        except OSError as error:
            self._file.unlink(missing_ok=True)
            log.warning("%s cannot be made (%s)", self._file, error.strerror)

    def spend(self) -> None:
        """Give it up where the disk is full."""
        if self._file.exists() and self.room < SCARCE_BYTES:
            log.warning("the disk of %s is full; its reserve is given up", self._folder)
            self._file.unlink(missing_ok=True)
