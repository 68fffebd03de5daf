"""fsck: does every row have its blob, and every blob its row? Reads only, unless asked to repair; a repair deletes
nothing: files go to the quarantine, rows are marked lost, an image whose blob is there again is healed, and where the
table of segments has lost a blob it is found again by what the segments say.

Safe beside a running hub, which writes a blob first and its row then: a row is judged by its own blob at that moment,
not by a list made before; it is marked in a transaction that looks once more, so no row can come in between. Files
are judged as `hub.strays` says, and segments as `hub.reindex` does.

One folder of blobs (1/256) at a time, then one segment at a time: neither memory nor a transaction grows with the
number of images.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from sqlmodel import col, delete, func, select, update

from hub import lost, named
from hub.findings import Bad, Finding, Verdict
from hub.quarantine import Quarantine
from hub.reindex import Reindex
from hub.store import Store
from hub.strays import Strays
from hub.tables import Blob, Image
from shared.clock import Clock
from shared.errors import StoreError
from shared.files import sha256_hex


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
        self._deep = deep
        self._quarantine = quarantine
        self._progress = progress
        self._strays = Strays(store, clock, quarantine, wait)
        self._reindex = Reindex(store, clock, quarantine)
        self._done = self._total = 0
        self._parts: dict[str, str] = {}
        self._bad: dict[str, Bad] = {}

    def run(self) -> Iterator[Finding]:
        with self._store.read() as session:
            self._parts = named.parts(session)
            self._total = session.exec(select(func.count()).select_from(Image)).one() + len(self._parts)
        self._check_mounted()
        for prefix in named.PREFIXES:
            yield from self._folder(prefix)
        yield from self._strays.beside()
        # Only now: until all rows were looked at, nobody knows what to look for in the segments.
        yield from self._reindex.run(self._bad)
        for sha256, bad in sorted(self._bad.items()):
            yield from self._give_up(sha256, bad)
        yield from self._strays.settle()

    def _check_mounted(self) -> None:
        """A repair does not mark every image lost because a disk is not mounted."""
        if self._quarantine is None or not self._total:
            return
        blobs = self._store.blobs
        with self._store.read() as session:
            indexed = session.exec(select(Blob.sha256).limit(1)).first() is not None
        if indexed and not blobs.segments.names():
            raise _empty(str(blobs.segments.folder))
        if not any(map(blobs.has, self._named())) and not self._reindex.holds_any():
            raise _empty(str(blobs.folder))

    def _named(self) -> Iterator[str]:
        yield from self._parts
        for prefix in named.PREFIXES:
            with self._store.read() as session:
                rows = named.images(session, prefix)
            yield from (one[1] for one in rows)

    def _folder(self, prefix: str) -> Iterator[Finding]:
        there, strays = self._strays.folder(prefix)
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
        yield from self._strays.judge(strays)
        yield from self._strays.orphans([one for one in there if one not in by_hash and one not in self._parts])

    # -- rows

    def _blob(self, sha256: str, rows: list[named.ImageRow]) -> Iterator[Finding]:
        """Judge a blob that rows name; one that is not good may be in another place, so no row is marked yet."""
        before = [one for one in rows if one[3] == lost.LOST]
        verdict = self._judge(sha256, sure=self._deep or bool(before) or any(self._differs(one) for one in rows))
        if verdict.kind != "good":
            self._bad[sha256] = Bad(verdict, rows, self._parts.get(sha256))
            return
        yield from self._sizes(sha256, [one for one in rows if self._differs(one)])
        if before:
            yield from self._found(sha256, before)

    def _give_up(self, sha256: str, bad: Bad) -> Iterator[Finding]:
        """No segment has it either."""
        verdict, mended = bad.verdict, False
        if self._quarantine is not None:
            verdict, mended = self._mark(self._quarantine, sha256, verdict)
        for image, _, _, state in bad.rows:
            if state == lost.LOST and verdict.kind == "missing":
                yield Finding("lost", f"image {image}", f"{verdict.text}; it is marked lost", mended=True)
            else:
                text = f"{verdict.text}; marked lost now" if mended else verdict.text
                yield Finding(verdict.kind, f"image {image}", text, mended=mended)
        if bad.part is not None:  # no row can do without it
            yield Finding(verdict.kind, bad.part, f"{verdict.text}; only a backup has it")

    def _differs(self, row: named.ImageRow) -> bool:
        return self._store.blobs.size(row[1]) != row[2]

    def _judge(self, sha256: str, *, sure: bool) -> Verdict:
        """Look at a blob; sure: read it all. StoreError when we are not let in, which is no fault of the blob."""
        missing = Verdict("missing", f"blob {sha256} is not there")
        if not self._store.blobs.has(sha256):
            return missing
        if not sure:
            return Verdict("good")
        try:
            data = self._store.blobs.read(sha256)
        except StoreError as error:
            match error.__cause__:
                case FileNotFoundError():
                    return missing
                case PermissionError():
                    raise
            return Verdict("damaged", str(error))
        if sha256_hex(data) == sha256:
            return Verdict("good")
        return Verdict("damaged", f"blob {sha256} has other bytes than its name says ({len(data)} of them)")

    def _mark(self, quarantine: Quarantine, sha256: str, verdict: Verdict) -> tuple[Verdict, bool]:
        """Move a damaged blob away and mark its images; (what is wrong, whether nothing trips over it any more)."""
        with self._store.write() as session:
            # No row can be committed now. One whose blob has just come is left to the next fsck.
            if self._judge(sha256, sure=True).kind == "good":
                return verdict, False
            path = self._store.blobs.path(sha256)
            try:
                if path.exists():
                    quarantine.move(path, verdict.kind, verdict.text)
            except OSError as error:
                return Verdict(verdict.kind, f"{verdict.text}; it cannot be moved ({error.strerror})"), False
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


def _empty(folder: str) -> StoreError:
    return StoreError(
        "holds none of the blobs that rows name", subject=folder, remedy="Is its disk mounted? Else: hone-hub restore"
    )
