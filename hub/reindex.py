"""Reindex: what the segments hold, against what the table `Blob` says of it.

- A blob that rows name, and that is not where the table says or of which it says nothing, is looked for among all
  records. A record claims a sha256; it counts when its bytes have it. A repair makes the row anew.
- A record that no row names is garbage: the hub ended between the sync of a segment and the commit, or stored the same
  bytes twice, or an older database was restored. It is told of and stays where it is: to copy it out frees nothing,
  and nobody misses it (docs/adr/0007-segments.md). Segments that were written to within GRACE are not judged.

One segment at a time: memory grows with what is damaged, not with what there is.
"""

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

from sqlmodel import Session

from hub import lost, named
from hub.findings import Bad, Finding, old
from hub.quarantine import Quarantine
from hub.segments import Place
from hub.store import Store
from hub.tables import Blob
from shared.clock import Clock
from shared.files import sha256_hex

ROWS = 500
"""Rows made in one transaction: the hub waits meanwhile."""


@dataclass(frozen=True, slots=True)
class _Record:
    """A record of a segment, which says of itself that its bytes have this sha256."""

    sha256: str
    place: Place


class Reindex:
    """Looks through all segments; with a quarantine, makes the rows that lack."""

    def __init__(self, store: Store, clock: Clock, quarantine: Quarantine | None) -> None:
        self._store = store
        self._segments = store.blobs.segments
        self._clock = clock
        self._quarantine = quarantine

    def run(self, bad: MutableMapping[str, Bad]) -> Iterator[Finding]:
        """Findings in the segments. bad: blobs by sha256, of which those that are found here are taken out.

        OSError when a segment may not be read; one that the disk cannot read is a finding.
        """
        for name in self._segments.names():
            judged = old(self._segments.path(name), self._clock)  # asked first: what comes meanwhile is not judged
            records: list[_Record] = []
            try:
                records.extend(_Record(sha256, place) for sha256, place in self._segments.scan(name))
            except (PermissionError, FileNotFoundError):
                raise
            except OSError as error:
                yield Finding("damaged", f"segment {name}", f"cannot be read to its end ({error.strerror})")
            good = {one.sha256: one for one in records if one.sha256 in bad and self._is_good(one)}
            yield from self._found(list(good.values()), bad)
            if judged:
                yield from self._garbage(name, [one for one in records if good.get(one.sha256) is not one])

    def holds_any(self) -> bool:
        """Whether there is a record that a row names."""
        for name in self._segments.names():
            hashes = [sha256 for sha256, _ in self._segments.scan(name)]
            for start in range(0, len(hashes), ROWS):
                with self._store.read() as session:
                    if named.among(session, hashes[start : start + ROWS]):
                        return True
        return False

    def _is_good(self, record: _Record) -> bool:
        try:
            return sha256_hex(self._segments.read(record.place)) == record.sha256
        except PermissionError:
            raise
        except OSError:
            return False

    # -- blobs that were found

    def _found(self, records: list[_Record], bad: MutableMapping[str, Bad]) -> Iterator[Finding]:
        for start in range(0, len(records), ROWS):
            some = records[start : start + ROWS]
            if self._quarantine is not None:
                some = [one for one in some if self._clear_way(self._quarantine, one, bad[one.sha256])]
                with self._store.write() as session:
                    self._index(session, some)
                    lost.heal(session, [one.sha256 for one in some])
            for one in some:
                yield from self._tell(one, bad.pop(one.sha256))

    def _clear_way(self, quarantine: Quarantine, record: _Record, bad: Bad) -> bool:
        """A damaged file would come before the segment; whether it does not any more."""
        path = self._store.blobs.path(record.sha256)
        try:
            if path.exists():
                quarantine.move(path, bad.verdict.kind, bad.verdict.text)
        except OSError:
            return False  # told of with what is wrong with the blob
        return True

    def _index(self, session: Session, records: list[_Record]) -> None:
        rows = [
            {"sha256": one.sha256, "segment": one.place.segment, "offset": one.place.offset, "size": one.place.size}
            for one in records
        ]
        if rows:
            upsert = self._store.upsert(Blob, by=["sha256"], fresh=["segment", "offset", "size"])
            session.connection().execute(upsert, rows)

    def _tell(self, record: _Record, bad: Bad) -> Iterator[Finding]:
        mended = self._quarantine is not None
        where = f"{record.place.segment} at {record.place.offset}"
        done = "; the row that says so is made anew" if mended else ""
        subjects = [(f"image {one[0]}", one[3] == lost.LOST) for one in bad.rows]
        if bad.part is not None:
            subjects.append((bad.part, False))
        for subject, was_lost in subjects:
            if was_lost:
                text = f"was lost, a segment has blob {record.sha256}: {where}{done}"
                yield Finding("found", subject, text, mended=mended)
            else:
                text = f"{bad.verdict.text}, but a segment has it: {where}{done}"
                yield Finding("unindexed", subject, text, mended=mended)

    # -- records without a row

    def _garbage(self, name: str, records: list[_Record]) -> Iterator[Finding]:
        with self._store.read() as session:
            known = set(named.placed(session, segment=name))
        for one in records:
            if (one.sha256, one.place) not in known:
                yield Finding(
                    "garbage",
                    f"{name} at {one.place.offset}",
                    f"{one.place.size} bytes of {one.sha256} that no row names (harmless; they stay)",
                    mended=True,
                    size=one.place.size,
                )
