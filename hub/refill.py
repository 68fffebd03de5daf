"""Refill: have every blob in the state folder that the restored rows name, from a backup's segments and files.

First all are looked for, so that nothing is copied from a backup that lacks something. A segment comes as a whole, up
to where the generation needs it; one that is here and long enough stays, since the hub may be writing to it. Each blob
is hashed after it was copied. What is damaged in a segment is taken from a file, if the backup has it so. Segments are
put in place last of all, when it is clear that the restore goes on.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sqlmodel import Session, col, delete

from hub import copies, named
from hub.copies import Copier, Places, Progress
from hub.generations import BLOBS, SEGMENTS, Manifest
from hub.quarantine import Quarantine
from hub.segments import Place, Segments
from hub.store import Blobs, Store, StoredBlobs
from hub.tables import Blob
from shared.errors import StoreError
from shared.files import TMP, sync_folder


class Refill:
    """From one generation in `folder` to the folders of `store`, whose database is the restored one. `look` first.

    quarantine: where what is here and damaged goes to. copied: blobs that the state folder lacked.
    """

    def __init__(
        self, store: Store, folder: Path, manifest: Manifest, quarantine: Quarantine, progress: Progress
    ) -> None:
        self._store = store
        self._folder = folder
        self._manifest = manifest
        self._excused = set(manifest.missing)
        self._quarantine = quarantine
        self._progress = progress
        self._from = Segments(folder / SEGMENTS)
        self._here = store.blobs.segments
        self._wanted: dict[str, int] = {}  # segments to be copied, and how far
        self._bad: set[str] = set()  # blobs that are damaged in those
        self._total = 0
        self.copied = 0

    def look(self, *, incomplete: bool) -> None:
        """Look for all blobs, and for room. StoreError, unless `incomplete`, when the backup lacks some."""
        needed = lacking = 0
        example = ""
        with self._store.read() as session:
            for name, end in named.segments(session).items():
                there = min(end, self._manifest.segments.get(name, 0), _size(self._from.path(name)))
                if _size(self._here.path(name)) < there:
                    self._wanted[name] = there
                    needed += there
            source, target, places = self._source(session), self._target(session), Places(session)
            for sha256 in self._hashes(session):
                self._total += 1
                if target.has(sha256):
                    continue
                size = source.size(sha256)
                if not self._comes(places.find(sha256)):
                    needed += size or 0
                if size is None and sha256 not in self._excused:
                    lacking, example = lacking + 1, sha256
        if lacking and not incomplete:
            raise self._refused(lacking, f"not there, for example {example}")
        copies.check_room(self._store.blobs.folder, needed)

    def bring(self, *, incomplete: bool) -> None:
        """Copy what lacks. StoreError, unless `incomplete`, when some of it is damaged; OSError."""
        with self._store.read() as session:
            for number, name in enumerate(sorted(self._wanted), 1):
                self._copy_segment(session, name)
                self._progress("copying segments", number, len(self._wanted))
            nowhere = self._bring_files(session)
        damaged = nowhere - self._excused
        if damaged and not incomplete:
            for name in self._wanted:
                self._aside(name).unlink()
            raise self._refused(len(damaged), f"damaged, for example {min(damaged)}")
        self._put_segments()
        with self._store.write() as session:  # a place that has other bytes is none
            for sha256 in nowhere:
                session.exec(delete(Blob).where(col(Blob.sha256) == sha256))

    def _aside(self, name: str) -> Path:
        return self._here.path(name + TMP)

    def _copy_segment(self, session: Session, name: str) -> None:
        aside, end, had = self._aside(name), self._wanted[name], _size(self._here.path(name))
        aside.parent.mkdir(exist_ok=True)
        aside.unlink(missing_ok=True)
        copies.copy_range(self._from.path(name), aside, 0, end)
        rows = [one for one in named.placed(session, segment=name) if self._comes(one[1])]
        bad = copies.damaged(self._here, [(sha256, replace(place, segment=aside.name)) for sha256, place in rows])
        self._bad |= bad
        self.copied += sum(place.offset + place.size > had and sha256 not in bad for sha256, place in rows)

    def _comes(self, place: Place | None) -> bool:
        """Whether a blob is in a segment that is copied, where that goes so far."""
        return place is not None and place.offset + place.size <= self._wanted.get(place.segment, 0)

    def _put_segments(self) -> None:
        for name, end in self._wanted.items():
            path = self._here.path(name)
            if path.exists():
                self._quarantine.move(path, "damaged", f"has {_size(path)} bytes, the backup's has {end}")
            os.rename(self._aside(name), path)
        if self._wanted:
            sync_folder(self._here.folder)

    def _bring_files(self, session: Session) -> set[str]:
        """Bring what comes in no segment and is not here yet; returns what is damaged and nowhere else."""
        source, target, places = self._source(session), self._target(session), Places(session)
        files = Blobs(self._store.blobs.folder)
        copier = Copier(target)
        nowhere: set[str] = set()
        for done, sha256 in enumerate(self._hashes(session), 1):
            self._progress("copying images", done, self._total)
            comes = self._comes(places.find(sha256))
            if comes and sha256 not in self._bad:
                continue
            size, own = source.size(sha256), (files if comes else target).size(sha256)
            if own is not None and sha256 in self._excused and copies.read_blob(target, sha256) is None:
                own = None  # as bad as the hub's was when it was backed up
            elif size is None or own == size:
                continue
            data = copies.read_blob(source, sha256)
            if data is None:
                if own is None:
                    nowhere.add(sha256)
                continue
            if files.has(sha256):
                why = f"the backup has a good one, of {len(data)} bytes"
                self._quarantine.move(files.path(sha256), "damaged", why)
            copier.put(data)
        copier.flush()
        self.copied += copier.copied
        return nowhere

    def _source(self, session: Session) -> StoredBlobs:
        return StoredBlobs(self._folder / BLOBS, self._from, Places(session))

    def _target(self, session: Session) -> StoredBlobs:
        return StoredBlobs(self._store.blobs.folder, self._here, Places(session))

    def _hashes(self, session: Session) -> Iterator[str]:
        """Every blob that rows name, in the order of their sha256."""
        parts = named.parts(session)
        for prefix in named.PREFIXES:
            images = {one[1] for one in named.images(session, prefix)}
            yield from sorted(images | {one for one in parts if one.startswith(prefix)})

    def _refused(self, count: int, what: str) -> StoreError:
        return StoreError(
            f"{count} of {self._total} blobs are {what}; the database was not touched",
            subject=str(self._folder),
            remedy="Restore another backup, or add --incomplete to mark their images lost",
        )


def _size(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    return path.stat().st_size if path.exists() else 0
