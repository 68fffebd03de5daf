"""Backup: a snapshot of the database and the blobs that it names, while the hub runs. `hub.generations` has the layout.

The snapshot comes first and the blobs after it: a row names only bytes that were durable before it, the hub deletes
none, and segments only grow. So a segment is copied up to its last blob that the snapshot names, and the next backup
goes on where this one ended. What was copied is read again and hashed, once.

A generation that is complete tells how far its segments are good. What lies beyond, by a backup that was cut short, is
written anew. A blob that is damaged in its segment becomes a file, if the hub has it as one, or the backup.
"""

import importlib.metadata
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, func, select

from hub import copies, generations, named, snapshot
from hub.copies import Copier, Places, Progress
from hub.generations import BLOBS, CONFIG, DATABASE, KEYS, MANIFEST, SEGMENTS, Manifest
from hub.segments import Place, Segments
from hub.settings import HubSettings
from hub.store import Blobs, StoredBlobs
from hub.tables import Epoch, Image
from shared.clock import Clock
from shared.errors import ConfigError, StoreError
from shared.files import TMP, sync_folder, write_atomic
from shared.ids import SHA256

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup. copied: blobs that were not there yet, of `copied_bytes`. dropped: generations that went.

    unmarked: blobs that the hub misses without having marked their images lost.
    """

    generation: Path
    manifest: Manifest
    copied: int
    copied_bytes: int
    dropped: list[str]
    unmarked: list[str]


@dataclass(frozen=True, slots=True)
class _Blob:
    """A blob that rows name. marked: all its rows are marked lost."""

    sha256: str
    marked: bool


@dataclass(slots=True)
class _Copied:
    """What the backup has of a snapshot's blobs. good: name -> bytes of each segment that are there and durable.

    doubted: blobs whose bytes there may be bad. blobs, bytes: in all, without the missing ones.
    """

    good: dict[str, int]
    doubted: set[str]
    copied: int = 0
    copied_bytes: int = 0
    blobs: int = 0
    bytes: int = 0
    missing: list[_Blob] = field(default_factory=list)

    def reaches(self, place: Place) -> bool:
        """Whether a segment was copied that far."""
        return place.offset + place.size <= self.good.get(place.segment, 0)


def make(
    settings: HubSettings,
    config: Path,
    folder: Path,
    clock: Clock,
    *,
    keep: int | None = None,
    private_keys: bool = True,
    progress: Progress = lambda _step, _done, _total: None,
) -> Made:
    """Back up into `folder`. keep: of the complete generations the newest so many stay, and the blobs that they name.

    ConfigError for a folder or database that cannot be; StoreError when a disk is full or the database is damaged.
    What was complete before stays complete, whatever happens.
    """
    database = snapshot.file_of(settings)
    if not database.is_file():
        raise StoreError("is not there", subject=str(database), remedy="Is this the hub's configuration?")
    _check_place(settings.state_folder, folder)
    with copies.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with generations.locked(folder):
            for torn in generations.generations(folder, complete=False):
                log.warning("%s is not complete, an earlier backup was cut short; it goes", torn)
                shutil.rmtree(folder / torn)
            copies.check_room(folder, database.stat().st_size)
            generation = generations.create(folder, clock)
            taken = clock.utc()
            target = generation / DATABASE
            snapshot.take(database, target, lambda done, total: progress("copying the database", done, total))
            snapshot.check(target)
            has_private = _copy_keys(settings.state_folder / KEYS, generation / KEYS, private=private_keys)
            write_atomic(generation / CONFIG, config.read_bytes(), mode=0o600)
            with snapshot.reading(target) as session:
                done = _Copy(settings.state_folder, folder, session, progress).run()
                images = session.exec(select(func.count()).select_from(Image)).one()
                epoch = _epoch(session)
                segments = {name: min(end, done.good[name]) for name, end in named.segments(session).items()}
            manifest = Manifest(
                time=taken,
                hone=importlib.metadata.version("hone"),
                schema=snapshot.revision(target),
                project=settings.project.name,
                epoch=epoch,
                images=images,
                blobs=done.blobs,
                bytes=done.bytes,
                size=target.stat().st_size,
                sha256=snapshot.sha256_of(target),
                private_keys=has_private,
                missing=sorted(one.sha256 for one in done.missing),
                segments={name: end for name, end in segments.items() if end},
            )
            sync_folder(folder)
            write_atomic(generation / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)), mode=0o600)
            dropped = _prune(folder, keep, progress) if keep is not None else []
    unmarked = sorted(one.sha256 for one in done.missing if not one.marked)
    return Made(generation, manifest, done.copied, done.copied_bytes, dropped, unmarked)


# -- the steps


def _check_place(state: Path, folder: Path) -> None:
    """A backup does not lie within what it backs up: pruning would delete the hub's own blobs."""
    inner, outer = folder.resolve(), state.resolve()
    shared = any((inner / one).resolve() == (outer / one).resolve() for one in (BLOBS, SEGMENTS))
    if inner == outer or inner.is_relative_to(outer) or shared:
        raise ConfigError("lies in the hub's state folder", subject=str(folder), remedy="Give a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is not a folder", subject=str(folder))


def _named(session: Session) -> Iterator[list[_Blob]]:
    """The blobs that a snapshot names, a folder at a time."""
    parts = named.parts(session)
    for prefix in named.PREFIXES:
        marked = {one: False for one in parts if one.startswith(prefix)}
        for _, sha256, _, state in named.images(session, prefix):
            marked[sha256] = marked.get(sha256, True) and state == "lost"
        yield [_Blob(one, marked[one]) for one in sorted(marked)]


class _Copy:
    """Copies what the backup lacks of a snapshot's blobs: segments first, then those that are files."""

    def __init__(self, state: Path, folder: Path, session: Session, progress: Progress) -> None:
        self._folder = folder
        self._session = session
        self._progress = progress
        self._places = Places(session)
        self._segments = Segments(state / SEGMENTS)
        self._source = StoredBlobs(state / BLOBS, self._segments, self._places)
        self._target = Blobs(folder / BLOBS)
        self._copies = Segments(folder / SEGMENTS)

    def run(self) -> _Copied:
        for one in (self._target, self._copies):
            one.folder.mkdir(exist_ok=True)
        ends = named.segments(self._session)
        done = _known(self._folder)
        for name in ends:
            done.good[name] = min(done.good.get(name, 0), _size(self._copies.path(name)))
        wanted = {name: max(done.good[name], min(end, _size(self._segments.path(name)))) for name, end in ends.items()}
        self._check_room(done, wanted)
        for number, (name, end) in enumerate(sorted(wanted.items()), 1):
            if end > done.good[name]:
                self._copy_segment(done, name, end)
            self._progress("copying segments", number, len(wanted))
        sync_folder(self._copies.folder)
        self._copy_files(done)
        return done

    def _check_room(self, done: _Copied, wanted: dict[str, int]) -> None:
        needed = sum(end - done.good[name] for name, end in wanted.items())
        for some in _named(self._session):
            for one in some:
                place = self._places.find(one.sha256)
                if place is not None and place.offset + place.size <= wanted[place.segment]:
                    continue
                size = self._source.size(one.sha256)
                if size is not None and self._target.size(one.sha256) != size:
                    needed += size
        copies.check_room(self._folder, needed)

    def _copy_segment(self, done: _Copied, name: str, end: int) -> None:
        before = done.good[name]
        copies.copy_range(self._segments.path(name), self._copies.path(name), before, end)
        done.good[name] = end
        fresh = [
            (sha256, place)
            for sha256, place in named.placed(self._session, segment=name)
            if before < place.offset + place.size <= end
        ]
        bad = copies.damaged(self._copies, fresh)
        done.doubted |= bad
        done.copied += len(fresh) - len(bad)
        done.copied_bytes += sum(place.size for sha256, place in fresh if sha256 not in bad)

    def _copy_files(self, done: _Copied) -> None:
        total = sum(map(len, _named(self._session)))
        copier = Copier(self._target)
        for some in _named(self._session):
            for one in some:
                size = self._in_segment(done, one.sha256)
                if size is None:
                    size = self._copy_file(copier, one.sha256)
                if size is None:
                    done.missing.append(one)
                else:
                    done.blobs += 1
                    done.bytes += size
            self._progress("copying images", done.blobs + len(done.missing), total)
        copier.flush()
        done.copied += copier.copied
        done.copied_bytes += copier.copied_bytes

    def _in_segment(self, done: _Copied, sha256: str) -> int | None:
        """The size of a blob that the backup has in a segment."""
        place = self._places.find(sha256)
        if place is None or not done.reaches(place):
            return None
        if sha256 in done.doubted and copies.damaged(self._copies, [(sha256, place)]):
            return None
        return place.size

    def _copy_file(self, copier: Copier, sha256: str) -> int | None:
        """Have a blob in the backup as a file; its size, or None when neither side has it."""
        here, there = self._source.size(sha256), self._target.size(sha256)
        if there is not None and here == there:
            return there
        data = copies.read_blob(self._source, sha256)
        if data is None:  # the hub has lost it; the backup's own may be good
            kept = copies.read_blob(self._target, sha256)
            return None if kept is None else len(kept)
        if there is not None:
            self._target.path(sha256).unlink()  # of another size: not what its name says
        copier.put(data)
        return len(data)


def _known(folder: Path) -> _Copied:
    """What the complete generations say of the segments that they need."""
    known = _Copied({}, set())
    for one in generations.manifests(folder):
        known.doubted.update(one.missing)
        for name, end in one.segments.items():
            known.good[name] = max(end, known.good.get(name, 0))
    return known


def _size(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _copy_keys(source: Path, target: Path, *, private: bool) -> bool:
    """Copy the keys, mode 0600; whether private ones are among them."""
    target.mkdir(mode=0o700)
    has_private = False
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        is_private = path.suffix == ".pem"
        if path.is_file() and TMP not in path.name and (private or not is_private):
            write_atomic(target / path.name, path.read_bytes(), mode=0o600)
            has_private |= is_private
    return has_private


def _epoch(session: Session) -> str:
    """The epoch in a snapshot; empty when it has none yet."""
    try:
        return session.exec(select(Epoch.id).order_by(col(Epoch.number).desc())).first() or ""
    except SQLAlchemyError:  # a schema from before there were epochs
        return ""


def _prune(folder: Path, keep: int, progress: Progress) -> list[str]:
    """Drop the oldest generations, then the blobs and segments that none of the others names."""
    complete = generations.generations(folder)
    wanted: set[bytes] = set()  # 32 bytes each
    segments: set[str] = set()
    for name in complete[-keep:]:
        segments.update(generations.verified(folder / name).segments)  # a damaged one may not tell all that it needs
        with snapshot.reading(folder / name / DATABASE) as session:
            for some in _named(session):
                wanted.update(bytes.fromhex(one.sha256) for one in some)
    dropped = complete[:-keep]
    for name in dropped:
        (folder / name / MANIFEST).unlink()  # first: a generation that is half gone is a torn one
        sync_folder(folder / name)
        shutil.rmtree(folder / name)
    for name in Segments(folder / SEGMENTS).names():
        if name not in segments:
            (folder / SEGMENTS / name).unlink()
    for number, prefix in enumerate(named.PREFIXES):
        at = folder / BLOBS / prefix
        for path in sorted(at.iterdir()) if at.is_dir() else []:
            foreign = not SHA256.fullmatch(path.name)
            if (TMP in path.name) if foreign else bytes.fromhex(path.name) not in wanted:
                path.unlink()
        progress("dropping old images", number + 1, len(named.PREFIXES))
    return dropped
