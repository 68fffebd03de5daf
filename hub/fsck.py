"""fsck: does every row have its blob, and every blob its row? Reads only, unless asked to repair; a repair deletes
nothing: files go to the quarantine, rows are marked lost, and an image whose blob is there again is healed.

Safe beside a running hub, which writes a blob first and its row then:
- A row is judged by its own blob at that moment, not by a list made before; it is marked in a transaction that looks
  once more, so no row can come in between.
- A file is judged only when it is older than GRACE, an orphan not while a run is under way (a run writes its parts
  long before its row names them), and both are asked once more just before the move.
- Whoever stores bytes that lie here as an orphan already does not write them again. So after SETTLE_S, longer than
  a transaction may wait, the rows are asked about every orphan that was moved, and one that is named goes back.

One folder of blobs (1/256) at a time: neither memory nor a transaction grows with the number of images.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlmodel import col, delete, func, select, update

from hub import lost, named
from hub.quarantine import Quarantine
from hub.store import Store
from hub.tables import Blob, Image, Run
from shared.clock import Clock
from shared.errors import StoreError
from shared.files import TMP, sha256_hex
from shared.ids import SHA256

GRACE = timedelta(hours=1)
"""Younger files are not judged: their rows may be under way."""
SETTLE_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. mended: nothing is left to do about it.

    kind, of rows: "missing", "damaged" (their blob), "size" (their own number), "lost" (marked so before), "found" (was
    lost, the blob is there again). Of files: "orphan", "leftover", "foreign".
    """

    kind: str
    subject: str
    text: str
    mended: bool = False


@dataclass(frozen=True, slots=True)
class _Verdict:
    """kind: "good", or as in Finding."""

    kind: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Stray:
    """A file that no row explains by its name."""

    kind: str
    path: Path
    text: str


def check(
    store: Store,
    clock: Clock,
    *,
    deep: bool = False,
    quarantine: Quarantine | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """Every finding. deep: read every blob and compute its hash. quarantine: repair, and move files there.

    progress: is told (blobs looked at, about how many). StoreError when folder or database cannot be used.
    """
    try:
        yield from _Check(store, clock, deep=deep, quarantine=quarantine, progress=progress, wait=wait).run()
    except OSError as error:
        raise StoreError(
            f"cannot be looked at ({error.strerror})", subject=str(error.filename), remedy="Run it as the hub's user"
        ) from error


class _Check:
    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        deep: bool,
        quarantine: Quarantine | None,
        progress: Callable[[int, int], None],
        wait: Callable[[float], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._deep = deep
        self._quarantine = quarantine
        self._progress = progress
        self._wait = wait
        self._done = self._total = 0
        self._parts: dict[str, str] = {}
        self._moved: dict[str, Path] = {}

    def run(self) -> Iterator[Finding]:
        with self._store.read() as session:
            self._parts = named.parts(session)
            self._total = session.exec(select(func.count()).select_from(Image)).one() + len(self._parts)
        self._check_mounted()
        for prefix in named.PREFIXES:
            yield from self._folder(prefix)
        yield from self._strays(self._top())
        yield from self._settle()

    def _check_mounted(self) -> None:
        """A repair does not mark every image lost because a disk is not mounted."""
        if self._quarantine is None or not self._total or any(map(self._store.blobs.has, self._named())):
            return
        raise StoreError(
            "holds none of the blobs that rows name",
            subject=str(self._store.blobs.folder),
            remedy="Is its disk mounted? Else: hone-hub restore",
        )

    def _named(self) -> Iterator[str]:
        yield from self._parts
        for prefix in named.PREFIXES:
            with self._store.read() as session:
                rows = named.images(session, prefix)
            yield from (one[1] for one in rows)

    # -- one folder

    def _folder(self, prefix: str) -> Iterator[Finding]:
        there, strays = self._list(prefix)
        # The rows after the files: a row is never without its blob, a blob may be without its row for a moment.
        with self._store.read() as session:
            rows = named.images(session, prefix)
        by_hash: dict[str, list[named.ImageRow]] = defaultdict(list)
        for row in rows:
            by_hash[row[1]].append(row)
        parts = [one for one in self._parts if one.startswith(prefix)]
        for sha256 in sorted({*by_hash, *parts}):
            yield from self._blob(sha256, by_hash.get(sha256, []))
            self._done += max(1, len(by_hash.get(sha256, [])))
            self._progress(min(self._done, self._total), self._total)
        yield from self._strays(strays)
        yield from self._orphans([one for one in there if one not in by_hash and one not in self._parts])

    def _list(self, prefix: str) -> tuple[list[str], list[_Stray]]:
        """The blobs of a folder, and what else is in it."""
        there: list[str] = []
        strays: list[_Stray] = []
        for path in _entries(self._store.blobs.folder / prefix):
            if SHA256.fullmatch(path.name) and path.name.startswith(prefix):
                there.append(path.name)
            elif TMP in path.name:
                strays.append(_Stray("leftover", path, "half-written file of a crash (harmless)"))
            else:
                strays.append(_Stray("foreign", path, "is no name of a blob of this folder"))
        return there, strays

    def _top(self) -> list[_Stray]:
        """What lies beside the folders of blobs; a disk's own lost+found does."""
        return [
            _Stray("foreign", path, "does not belong among the folders of blobs")
            for path in _entries(self._store.blobs.folder)
            if path.name not in (*named.PREFIXES, "lost+found")
        ]

    # -- rows

    def _blob(self, sha256: str, rows: list[named.ImageRow]) -> Iterator[Finding]:
        """Judge a blob that rows name, and mend them."""
        before = [one for one in rows if one[3] == lost.LOST]
        verdict = self._judge(sha256, sure=self._deep or bool(before) or any(self._differs(one) for one in rows))
        if verdict.kind == "good":
            yield from self._sizes(sha256, [one for one in rows if self._differs(one)])
            if before:
                yield from self._found(sha256, before)
            return
        mended = False
        if self._quarantine is not None:
            verdict, mended = self._mark(self._quarantine, sha256, verdict)
        for image, _, _, state in rows:
            if state == lost.LOST and verdict.kind == "missing":
                yield Finding("lost", f"image {image}", f"{verdict.text}; it is marked lost", mended=True)
            else:
                text = f"{verdict.text}; marked lost now" if mended else verdict.text
                yield Finding(verdict.kind, f"image {image}", text, mended=mended)
        if sha256 in self._parts:  # no row can do without it
            yield Finding(verdict.kind, self._parts[sha256], f"{verdict.text}; only a backup has it")

    def _differs(self, row: named.ImageRow) -> bool:
        return self._store.blobs.size(row[1]) != row[2]

    def _judge(self, sha256: str, *, sure: bool) -> _Verdict:
        """Look at a blob; sure: read it all. StoreError when we are not let in, which is no fault of the blob."""
        missing = _Verdict("missing", f"blob {sha256} is not there")
        if not self._store.blobs.has(sha256):
            return missing
        if not sure:
            return _Verdict("good")
        try:
            data = self._store.blobs.read(sha256)
        except StoreError as error:
            match error.__cause__:
                case FileNotFoundError():
                    return missing
                case PermissionError():
                    raise
            return _Verdict("damaged", str(error))
        if sha256_hex(data) == sha256:
            return _Verdict("good")
        return _Verdict("damaged", f"blob {sha256} has other bytes than its name says ({len(data)} of them)")

    def _mark(self, quarantine: Quarantine, sha256: str, verdict: _Verdict) -> tuple[_Verdict, bool]:
        """Move a damaged blob away and mark its images; (what is wrong, whether nothing trips over it any more)."""
        with self._store.write() as session:
            # No row can be committed now. One whose blob has just come is left to the next fsck.
            if verdict.kind == "missing":
                if self._store.blobs.has(sha256):
                    return verdict, False
            else:
                path = self._store.blobs.path(sha256)
                try:
                    if path.exists():
                        quarantine.move(path, verdict.kind, verdict.text)
                except OSError as error:
                    return _Verdict(verdict.kind, f"{verdict.text}; it cannot be moved ({error.strerror})"), False
            session.exec(delete(Blob).where(col(Blob.sha256) == sha256))  # the bytes stay where they are
            lost.mark(session, [sha256])
        return verdict, True

    def _sizes(self, sha256: str, rows: list[named.ImageRow]) -> Iterator[Finding]:
        """The blob is good, so it is the row that does not know its size."""
        if not rows:
            return
        size = self._store.blobs.size(sha256)
        if self._quarantine is not None:
            with self._store.write() as session:
                session.exec(update(Image).where(col(Image.sha256) == sha256).values(size=size))
        for row in rows:
            text = f"its row says {row[2]} bytes, blob {sha256} is good and has {size}"
            yield Finding("size", f"image {row[0]}", text, mended=self._quarantine is not None)

    def _found(self, sha256: str, rows: list[named.ImageRow]) -> Iterator[Finding]:
        if self._quarantine is not None:
            with self._store.write() as session:
                lost.heal(session, [sha256])
        for row in rows:
            text = f"was lost, blob {sha256} is there again"
            yield Finding("found", f"image {row[0]}", text, mended=self._quarantine is not None)

    # -- files

    def _old(self, path: Path) -> bool:
        try:
            return self._clock.utc().timestamp() - path.lstat().st_mtime > GRACE.total_seconds()
        except FileNotFoundError:  # a half-written file that is whole by now
            return False

    def _strays(self, strays: list[_Stray]) -> Iterator[Finding]:
        for one in strays:
            if self._old(one.path):
                yield self._away(one)[0]

    def _orphans(self, hashes: list[str]) -> Iterator[Finding]:
        for sha256 in self._unnamed([one for one in hashes if self._old(self._store.blobs.path(one))]):
            path = self._store.blobs.path(sha256)
            finding, moved = self._away(_Stray("orphan", path, "no row names it (harmless)"))
            if moved is not None:
                self._moved[sha256] = moved
            yield finding

    def _unnamed(self, hashes: list[str]) -> list[str]:
        """Those that no row names, asked once more; none while a run is under way."""
        if not hashes:
            return []
        with self._store.read() as session:
            if session.exec(select(Run.id).where(Run.state == "running").limit(1)).first() is not None:
                return []
            names = named.among(session, hashes)
        return [one for one in hashes if one not in names]

    def _away(self, stray: _Stray) -> tuple[Finding, Path | None]:
        """Move a file to the quarantine when repairing; where it is now, if it was moved."""
        subject = str(stray.path.relative_to(self._store.blobs.folder))
        if self._quarantine is None:
            return Finding(stray.kind, subject, stray.text), None
        try:
            moved = self._quarantine.move(stray.path, stray.kind, stray.text)
        except OSError as error:
            return Finding(stray.kind, subject, f"{stray.text}; it cannot be moved ({error.strerror})"), None
        return Finding(stray.kind, subject, f"{stray.text}; moved to {moved}", mended=True), moved

    def _settle(self) -> Iterator[Finding]:
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


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where there is none."""
    try:
        return sorted(folder / one for one in os.listdir(folder))
    except FileNotFoundError:
        return []
