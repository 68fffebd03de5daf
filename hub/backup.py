"""Backup: a snapshot of the database and the blobs that it names, while the hub runs.

    FOLDER/blobs/ab/abcdef…          every blob once, for all generations; they never change
    FOLDER/20260301T120000Z/         a generation: hone.db, keys/, hub.toml and, last of all, backup.json
    FOLDER/.lock                     held while somebody writes here

The snapshot comes first and the blobs after it: a row names only blobs that were there before it, and the hub deletes
none. backup.json comes last, when all else is durable: a generation without it is torn, and never restored.
"""

import fcntl
import importlib.metadata
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, func, select

from hub import named, snapshot
from hub.segments import Segments
from hub.settings import HubSettings
from hub.store import Blobs, StoredBlobs, TableIndex
from hub.tables import Epoch, Image
from shared.clock import Clock
from shared.errors import ConfigError, StoreError
from shared.files import TMP, sha256_hex, sync_folder, write_atomic
from shared.ids import SHA256

log = logging.getLogger(__name__)
MANIFEST = "backup.json"
DATABASE = "hone.db"
KEYS = "keys"
CONFIG = "hub.toml"
LOCK = ".lock"
GENERATION = re.compile(r"\d{8}T\d{6}Z")
FORMAT = 1
BATCH = 64
BATCH_BYTES = 64 << 20
SPARE = 64 << 20
"""Bytes that a backup leaves free."""
Progress = Callable[[str, int, int], None]
"""(step, done, in all)"""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """backup.json. schema: revision of the database's tables. size, sha256: of hone.db. images: rows; blobs: different
    ones, with model parts, of `bytes` in all. missing: blobs that rows name and that neither the hub nor the backup
    had. private_keys: whether keys/ has them.
    """

    format: int = FORMAT
    time: datetime
    hone: str
    schema: str
    project: str
    epoch: str
    images: int
    blobs: int
    bytes: int
    size: int
    sha256: str
    private_keys: bool
    missing: list[str] = []


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
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder):
            for torn in generations(folder, complete=False):
                log.warning("%s is not complete, an earlier backup was cut short; it goes", torn)
                shutil.rmtree(folder / torn)
            check_room(folder, database.stat().st_size)
            generation = _new_generation(folder, clock)
            taken = clock.utc()
            target = generation / DATABASE
            snapshot.take(database, target, lambda done, total: progress("copying the database", done, total))
            snapshot.check(target)
            copied, copied_bytes, blobs, in_all, missing = _copy_blobs(settings, folder, target, progress)
            has_private = _copy_keys(settings.state_folder / KEYS, generation / KEYS, private=private_keys)
            write_atomic(generation / CONFIG, config.read_bytes(), mode=0o600)
            with snapshot.reading(target) as session:
                images = session.exec(select(func.count()).select_from(Image)).one()
                epoch = _epoch(session)
            manifest = Manifest(
                time=taken,
                hone=importlib.metadata.version("hone"),
                schema=snapshot.revision(target),
                project=settings.project.name,
                epoch=epoch,
                images=images,
                blobs=blobs,
                bytes=in_all,
                size=target.stat().st_size,
                sha256=snapshot.sha256_of(target),
                private_keys=has_private,
                missing=sorted(one.sha256 for one in missing),
            )
            sync_folder(folder)
            write_atomic(generation / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)), mode=0o600)
            dropped = _prune(folder, keep, progress) if keep is not None else []
    unmarked = sorted(one.sha256 for one in missing if not one.marked)
    return Made(generation, manifest, copied, copied_bytes, dropped, unmarked)


def generations(folder: Path, *, complete: bool = True) -> list[str]:
    """The names of a backup's generations, the oldest first: the complete ones, or the torn ones. OSError."""
    return sorted(
        one.name
        for one in folder.iterdir()
        if GENERATION.fullmatch(one.name) and one.is_dir() and (one / MANIFEST).is_file() == complete
    )


def verified(generation: Path) -> Manifest:
    """The manifest of a generation whose database is, byte for byte, what was backed up. StoreError."""
    manifest, database = read_manifest(generation), generation / DATABASE
    if not database.is_file() or database.stat().st_size != manifest.size:
        raise StoreError(f"does not have the {manifest.size} bytes that were backed up", subject=str(database))
    if snapshot.sha256_of(database) != manifest.sha256:
        raise StoreError(f"is damaged: its sha256 is not the one in {MANIFEST}", subject=str(database))
    return manifest


def read_manifest(generation: Path) -> Manifest:
    """The manifest of a generation; StoreError when there is none, or not one that we know."""
    path = generation / MANIFEST
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise StoreError(f"is not complete, it has no {MANIFEST}", subject=str(generation)) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"cannot be read ({error})", subject=str(path)) from error
    if found.format != FORMAT:
        raise StoreError(f"has format {found.format}", subject=str(path), remedy=f"Restore it with Hone {found.hone}")
    return found


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the backup's lock, for reading with others (`shared`) or alone; ConfigError when somebody else has it."""
    path = folder / LOCK
    if shared and not path.exists():  # a copy of a backup, without the lock's file: nobody writes here
        yield
        return
    handle = os.open(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("another backup or restore uses it", subject=str(folder), remedy="Wait for it") from error
        except OSError as error:  # some network shares have no locks
            log.warning("%s: cannot be locked (%s); make sure that no other backup writes here", folder, error.strerror)
        yield
    finally:
        os.close(handle)


def read_blob(blobs: Blobs, sha256: str) -> bytes | None:
    """The bytes of a blob, or None when it is missing or damaged."""
    try:
        data = blobs.read(sha256)
    except StoreError:
        return None
    return data if sha256_hex(data) == sha256 else None


class Copier:
    """Puts blobs into a folder, several with one round of fsync; `flush` at the end. StoreError."""

    def __init__(self, target: Blobs) -> None:
        self._target = target
        self._batch: list[bytes] = []
        self._bytes = 0
        self.copied = 0
        self.copied_bytes = 0

    def put(self, data: bytes) -> None:
        """Copy one blob, now or soon."""
        self._batch.append(data)
        self._bytes += len(data)
        if len(self._batch) >= BATCH or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make everything durable that was put."""
        if not self._batch:
            return
        self._target.put(self._batch)
        self.copied += len(self._batch)
        self.copied_bytes += self._bytes
        self._batch, self._bytes = [], 0


def check_room(folder: Path, needed: int) -> None:
    """StoreError when the disk of a folder has no room for so many bytes and SPARE."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise StoreError(
            f"its disk has {free >> 20} MiB free, {(needed + SPARE) >> 20} MiB are needed",
            subject=str(folder),
            remedy="Make room",
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Trouble with files comes out as StoreError."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise StoreError(
            f"failed ({error.strerror})", subject=str(where), remedy="Is the disk full, or gone?"
        ) from error


# -- the steps


def _check_place(state: Path, folder: Path) -> None:
    """A backup does not lie within what it backs up: pruning would delete the hub's own blobs."""
    inner, outer = folder.resolve(), state.resolve()
    if inner == outer or inner.is_relative_to(outer) or (inner / "blobs").resolve() == (outer / "blobs").resolve():
        raise ConfigError("lies in the hub's state folder", subject=str(folder), remedy="Give a folder elsewhere")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is not a folder", subject=str(folder))


def _new_generation(folder: Path, clock: Clock) -> Path:
    """A folder named by the present second, or the next free one."""
    at = clock.utc()
    while True:
        generation = folder / at.strftime("%Y%m%dT%H%M%SZ")
        try:
            generation.mkdir(mode=0o700)
        except FileExistsError:
            at += timedelta(seconds=1)
        else:
            return generation


def _named(session: Session) -> Iterator[list[_Blob]]:
    """The blobs that a snapshot names, a folder at a time."""
    parts = named.parts(session)
    for prefix in named.PREFIXES:
        marked = {one: False for one in parts if one.startswith(prefix)}
        for _, sha256, _, state in named.images(session, prefix):
            marked[sha256] = marked.get(sha256, True) and state == "lost"
        yield [_Blob(one, marked[one]) for one in sorted(marked)]


def _copy_blobs(
    settings: HubSettings, folder: Path, database: Path, progress: Progress
) -> tuple[int, int, int, int, list[_Blob]]:
    """Copy what lacks; (copied, bytes copied, blobs in all, bytes in all, the missing ones)."""
    target, state = Blobs(folder / "blobs"), settings.state_folder
    target.folder.mkdir(exist_ok=True)
    needed = total = 0
    with snapshot.reading(database) as session:
        # Where the bytes lie is told by the snapshot, too; segments only grow.
        source = StoredBlobs(state / "blobs", Segments(state / "segments"), TableIndex(session.get_bind().engine))
        for some in _named(session):
            total += len(some)
            for one in some:
                size = source.size(one.sha256)
                if size is not None and target.size(one.sha256) != size:
                    needed += size
        check_room(folder, needed)
        copier = Copier(target)
        done = in_all = 0
        missing: list[_Blob] = []
        for some in _named(session):
            for one in some:
                size = _copy_one(source, target, copier, one.sha256)
                if size is None:
                    missing.append(one)
                in_all += size or 0
            done += len(some)
            progress("copying images", done, total)
        copier.flush()
    return copier.copied, copier.copied_bytes, total - len(missing), in_all, missing


def _copy_one(source: Blobs, target: Blobs, copier: Copier, sha256: str) -> int | None:
    """Have a blob in the backup; its size, or None when neither side has it."""
    here, there = source.size(sha256), target.size(sha256)
    if there is not None and here == there:
        return there
    data = read_blob(source, sha256)
    if data is None:  # the hub has lost it; the backup's own may be good
        kept = read_blob(target, sha256)
        return None if kept is None else len(kept)
    if there is not None:
        target.path(sha256).unlink()  # of another size: not what its name says
    copier.put(data)
    return len(data)


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
    """Drop the oldest generations, then the blobs that none of the others names."""
    complete = generations(folder)
    wanted: set[bytes] = set()  # 32 bytes each
    for name in complete[-keep:]:
        verified(folder / name)  # a damaged one may not tell all that it needs
        with snapshot.reading(folder / name / DATABASE) as session:
            for some in _named(session):
                wanted.update(bytes.fromhex(one.sha256) for one in some)
    dropped = complete[:-keep]
    for name in dropped:
        (folder / name / MANIFEST).unlink()  # first: a generation that is half gone is a torn one
        sync_folder(folder / name)
        shutil.rmtree(folder / name)
    for number, prefix in enumerate(named.PREFIXES):
        at = folder / "blobs" / prefix
        for path in sorted(at.iterdir()) if at.is_dir() else []:
            foreign = not SHA256.fullmatch(path.name)
            if (TMP in path.name) if foreign else bytes.fromhex(path.name) not in wanted:
                path.unlink()
        progress("dropping old images", number + 1, len(named.PREFIXES))
    return dropped
