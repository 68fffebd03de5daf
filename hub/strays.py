"""Strays: files that no row explains. fsck's look at the folders of blobs and segments; a repair moves them away.

- A file is judged only when it is older than GRACE, an orphan not while a run is under way (a run writes its parts
  long before its row names them), and both are asked once more just before the move.
- Whoever stores bytes that lie here as an orphan already does not write them again. So after SETTLE_S, longer than
  a transaction may wait, the rows are asked about every orphan that was moved, and one that is named goes back.
"""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import select

from hub import lost, named
from hub.findings import Finding, old
from hub.quarantine import Quarantine
from hub.store import Store
from hub.tables import Run
from shared.clock import Clock
from shared.files import TMP
from shared.ids import SHA256

SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Stray:
    """A file that no row explains by its name."""

    kind: str
    path: Path
    text: str


class Strays:
    """Finds strays; with a quarantine, moves them there. wait: as `time.sleep`."""

    def __init__(
        self, store: Store, clock: Clock, quarantine: Quarantine | None, wait: Callable[[float], None]
    ) -> None:
        self._store = store
        self._clock = clock
        self._quarantine = quarantine
        self._wait = wait
        self._moved: dict[str, Path] = {}

    def folder(self, prefix: str) -> tuple[list[str], list[Stray]]:
        """The blobs of a folder, and what else is in it."""
        there: list[str] = []
        strays: list[Stray] = []
        for path in _entries(self._store.blobs.folder / prefix):
            if SHA256.fullmatch(path.name) and path.name.startswith(prefix):
                there.append(path.name)
            elif TMP in path.name:
                strays.append(Stray("leftover", path, "half-written file of a crash (harmless)"))
            else:
                strays.append(Stray("foreign", path, "is no name of a blob of this folder"))
        return there, strays

    def beside(self) -> Iterator[Finding]:
        """What lies beside the folders of blobs (a disk's own lost+found does), and among the segments."""
        for path in _entries(self._store.blobs.folder):
            if path.name not in (*named.PREFIXES, "lost+found"):
                yield from self.judge([Stray("foreign", path, "does not belong among the folders of blobs")])
        segments = self._store.blobs.segments
        names = set(segments.names())
        for path in _entries(segments.folder):
            if TMP in path.name:
                yield from self.judge([Stray("leftover", path, "half-written file of a crash (harmless)")])
            elif path.name not in (*names, "lost+found"):
                yield from self.judge([Stray("foreign", path, "is no name of a segment")])

    def judge(self, strays: Collection[Stray]) -> Iterator[Finding]:
        """Those that are old enough."""
        for one in strays:
            if old(one.path, self._clock):
                yield self._away(one)[0]

    def orphans(self, hashes: Collection[str]) -> Iterator[Finding]:
        """Those of these blobs in files that are old enough and that no row names."""
        for sha256 in self._unnamed([one for one in hashes if old(self._store.blobs.path(one), self._clock)]):
            path = self._store.blobs.path(sha256)
            finding, moved = self._away(Stray("orphan", path, "no row names it (harmless)"))
            if moved is not None:
                self._moved[sha256] = moved
            yield finding

    def settle(self) -> Iterator[Finding]:
        """Give back what somebody has come to name while it was being moved."""
        if self._quarantine is None or not self._moved:
            return
        self._wait(SETTLE_S)
        with self._store.read() as session:
            names = named.among(session, self._moved)
        for sha256 in sorted(names):
            path = self._store.blobs.path(sha256)
            try:
                if not path.exists():
                    self._quarantine.back(self._moved[sha256], path)
            except OSError as error:
                yield Finding(
                    "missing", f"blob {sha256}", f"is in the quarantine ({error.strerror}), and a row names it"
                )
                continue
            with self._store.write() as session:
                lost.heal(session, [sha256])
            yield Finding("found", str(path.name), "a row names it after all; moved back", mended=True)

    def _unnamed(self, hashes: Collection[str]) -> Collection[str]:
        """Those that no row names, asked once more; none while a run is under way."""
        if not hashes:
            return []
        with self._store.read() as session:
            if session.exec(select(Run.id).where(Run.state == "running").limit(1)).first() is not None:
                return []
            names = named.among(session, hashes)
        return [one for one in hashes if one not in names]

    def _away(self, stray: Stray) -> tuple[Finding, Path | None]:
        """Move a file to the quarantine when repairing; where it is now, if it was moved."""
        folder = self._store.blobs.folder
        among = stray.path.is_relative_to(folder)
        subject = str(stray.path.relative_to(folder if among else self._store.blobs.segments.folder.parent))
        if self._quarantine is None:
            return Finding(stray.kind, subject, stray.text), None
        try:
            moved = self._quarantine.move(stray.path, stray.kind, stray.text)
        except OSError as error:
            return Finding(stray.kind, subject, f"{stray.text}; it cannot be moved ({error.strerror})"), None
        return Finding(stray.kind, subject, f"{stray.text}; moved to {moved}", mended=True), moved


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where there is none."""
    try:
        return sorted(folder / one for one in os.listdir(folder))
    except FileNotFoundError:
        return []
