"""Quarantine: files that do not belong where they were. They are moved to `STATE/quarantine/TIME/`, never deleted, and
`index.jsonl` there tells what each was and why it was moved. Safe to delete by hand.
"""

import errno
import os
import shutil
from pathlib import Path

import msgspec

from shared.clock import Clock
from shared.files import sync_folder

FOLDER = "quarantine"
INDEX = "index.jsonl"
STAMP = "%Y%m%dT%H%M%SZ"


class Quarantine:
    """The quarantine of one command; its folder is made with the first file. Not for several threads."""

    def __init__(self, state: Path, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._folder: Path | None = None

    def move(self, path: Path, kind: str, why: str) -> Path:
        """Move a file here; returns where it is now. OSError when it cannot be, and then it is where it was."""
        target = self.place(path, kind, why)
        _rename(path, target)
        return target

    def back(self, moved: Path, path: Path) -> None:
        """Move a file back to where it was. OSError."""
        self._note(path, "back", "a row names it after all")
        _rename(moved, path)

    def place(self, path: Path, kind: str, why: str) -> Path:
        """Where a file belongs here; the index tells of it already, the folder is made. OSError."""
        target = self._made() / self._relative(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # The index first: a power cut leaves no file here that nobody can explain.
        self._note(path, kind, why)
        return target

    def _note(self, path: Path, kind: str, why: str) -> None:
        said = {"what": str(self._relative(path)), "kind": kind, "why": why, "at": self._clock.utc()}
        with open(self._made() / INDEX, "ab") as file:
            file.write(msgspec.json.encode(said) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _relative(self, path: Path) -> Path:
        return path.relative_to(self._state) if path.is_relative_to(self._state) else Path(path.name)

    def _made(self) -> Path:
        if self._folder is None:
            stamp = self._clock.utc().strftime(STAMP)
            number = 1
            while self._folder is None:
                folder = self._state / FOLDER / (stamp if number == 1 else f"{stamp}-{number}")
                try:
                    folder.mkdir(parents=True, mode=0o700)
                except FileExistsError:  # another command's, of the same second
                    number += 1
                else:
                    self._folder = folder
                    sync_folder(folder.parent)
        return self._folder


def _rename(path: Path, target: Path) -> None:
    """Move, durably; by copying where the quarantine is on another disk."""
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(path, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
        path.unlink()
    sync_folder(target.parent)
    sync_folder(path.parent)
