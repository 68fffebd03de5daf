"""What the hub keeps: a database by URL, and blobs by their sha256. The row is inserted last.

Blobs that come one by one (parts of models, imported images) are files of their own; images from cameras come by the
thousand and share segments, where the table `Blob` says which bytes are whose.
Invariant: a row names only blobs that are durable. A blob without a row is garbage that `fsck` shows.
"""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import alembic.command
import alembic.config
import sqlalchemy
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Executable, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlmodel import Session, SQLModel, col, create_engine

from hub.reserve import SCARCE_BYTES, Reserve
from hub.segments import Place, Segments
from hub.settings import HubSettings
from hub.tables import Blob, table_of
from shared.errors import StoreError
from shared.files import TMP, sha256_hex, sync_folder, write_aside

BUSY_S = 15.0
"""Seconds to wait for SQLite's lock."""
STOP_S = 2 * BUSY_S
"""Seconds in which a thread that is to end has surely let go of the database; nobody closes it before."""
LOOK_AGAIN_S = 0.001


class Blobs:
    """Content-addressed files: `folder/ab/abcdef…`, named by sha256, written once, never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where the file of a blob is, or would be."""
        return self.folder / sha256[:2] / sha256

    def put(self, blobs: Sequence[bytes]) -> list[str]:
        """Make blobs durable, all with one round of fsync; returns their sha256. StoreError, and then none counts."""
        names = [sha256_hex(blob) for blob in blobs]
        folders: set[Path] = set()
        try:
            for name, blob in zip(names, blobs, strict=True):
                path = self.path(name)
                # Synced also where the file is there: whoever wrote it may not have come to that.
                folders.update((path.parent, self.folder))
                if path.exists():
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                # Two threads may write the same content: each renames its own copy onto the same name.
                aside = write_aside(path.with_name(f"{name}.{threading.get_ident()}"), blob)
                os.replace(aside, path)
            for folder in folders:
                sync_folder(folder)
        except OSError as error:
            raise StoreError(
                f"cannot be written ({error.strerror})", subject=f"blob in {self.folder}", remedy="Is the disk full?"
            ) from error
        return names

    def read(self, sha256: str) -> bytes:
        """The bytes of a blob; StoreError when it is not there."""
        try:
            return self.path(sha256).read_bytes()
        except OSError as error:
            raise StoreError(
                f"cannot be read ({error.strerror})", subject=f"blob {sha256}", remedy="Run: hone-hub fsck"
            ) from error

    def has(self, sha256: str) -> bool:
        """Whether a blob is there."""
        return self.size(sha256) is not None

    def size(self, sha256: str) -> int | None:
        """Bytes of a blob that is there; None when it is not."""
        try:
            found = self.path(sha256).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def all(self) -> Iterator[str]:
        """The sha256 of every blob."""
        if self.folder.is_dir():
            for folder in sorted(self.folder.iterdir()):
                if folder.is_dir():
                    yield from sorted(one.name for one in folder.iterdir() if TMP not in one.name)

    def leftovers(self) -> Iterator[Path]:
        """Half-written files of a crash; safe to delete while no hub runs."""
        if self.folder.is_dir():
            yield from self.folder.glob(f"*/*{TMP}")


class Index(Protocol):
    """Which segment holds a blob."""

    def find(self, sha256: str) -> Place | None:
        """Where a blob is; None when no segment has it."""
        ...

    def all(self) -> Iterator[tuple[str, Place]]:
        """Every blob in a segment, and its place."""
        ...


_PLACES = sqlalchemy.select(col(Blob.sha256), col(Blob.segment), col(Blob.offset), col(Blob.size))


class TableIndex:
    """The index of segments in the table `Blob`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(hone_reads=True)

    def find(self, sha256: str) -> Place | None:
        """Where a blob is; None when no segment has it. StoreError."""
        found = list(self._rows(_PLACES.where(col(Blob.sha256) == sha256)))
        return found[0][1] if found else None

    def all(self) -> Iterator[tuple[str, Place]]:
        """Every blob in a segment, and its place. StoreError."""
        yield from self._rows(_PLACES)

    def _rows(self, query: Executable) -> Iterator[tuple[str, Place]]:
        with _database_errors(), self._engine.connect() as connection:
            for sha256, segment, offset, size in connection.execute(query):
                yield sha256, Place(segment, offset, size)


class StoredBlobs(Blobs):
    """The hub's blobs: files of their own, and those that share segments, found by the index. A file comes first."""

    def __init__(self, folder: Path, segments: Segments, index: Index) -> None:
        super().__init__(folder)
        self.segments = segments
        self._index = index

    def append(self, blobs: Sequence[tuple[str, bytes | memoryview]]) -> list[Place]:
        """Make (sha256, bytes) durable in a segment, with one sync; the caller indexes their places. StoreError."""
        try:
            return self.segments.append(blobs)
        except OSError as error:
            raise StoreError(
                f"cannot be written ({error.strerror})",
                subject=f"segment in {self.segments.folder}",
                remedy="Is the disk full?",
            ) from error

    def read(self, sha256: str) -> bytes:
        """The bytes of a blob; StoreError when it is not there."""
        if super().size(sha256) is not None or (place := self._index.find(sha256)) is None:
            return super().read(sha256)
        try:
            return self.segments.read(place)
        except OSError as error:
            raise StoreError(
                f"cannot be read ({error.strerror})", subject=f"blob {sha256}", remedy="Run: hone-hub fsck"
            ) from error

    def size(self, sha256: str) -> int | None:
        """Bytes of a blob that is there; None when it is not."""
        size = super().size(sha256)
        if size is None and (place := self._index.find(sha256)) is not None and self.segments.holds(place):
            return place.size
        return size

    def all(self) -> Iterator[str]:
        """The sha256 of every blob; of one in a segment, if its bytes are there."""
        yield from super().all()
        for sha256, place in self._index.all():
            if self.segments.holds(place) and not self.path(sha256).exists():
                yield sha256


@contextmanager
def _database_errors() -> Iterator[None]:
    """Errors of the database come out as StoreError."""
    try:
        yield
    except (SQLAlchemyError, OverflowError) as error:  # a number beyond 64 bits comes as the latter
        raise StoreError(
            f"{type(error).__name__}: {str(error).splitlines()[0]}", subject="database", remedy="See the hub's log"
        ) from error


class Store:
    """Database and blobs, and the reserve of the database's disk; safe to use from several threads and processes."""

    def __init__(self, engine: Engine, blobs: StoredBlobs, reserve: Reserve) -> None:
        self.engine = engine
        self.blobs = blobs
        self.reserve = reserve
        self._reader = engine.execution_options(hone_reads=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only reads, beside any writer. Database errors come out as StoreError."""
        with self._session(self._reader) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose block is one transaction: committed at its end, rolled back on any error.

        Database errors come out as StoreError.
        """
        with self._session(self.engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """As `write`, without the mapper: for what is done thousands of times a second."""
        with _database_errors(), self.engine.begin() as connection:
            yield connection

    def upsert(self, model: type[SQLModel], *, by: Sequence[str], fresh: Sequence[str]) -> Executable:
        """Insert rows; where one with the same columns `by` is there, set its columns `fresh`."""
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        insert: sqlite.Insert | postgresql.Insert = dialect.insert(table_of(model))
        return insert.on_conflict_do_update(index_elements=by, set_={one: insert.excluded[one] for one in fresh})

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """As `read`, without the mapper."""
        with _database_errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        with _database_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Let go of the database and of the segment that is being written."""
        self.blobs.segments.close()
        self.engine.dispose()


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    """WAL for readers beside one writer; synchronous FULL, since `stored` must mean on disk."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(1000 * BUSY_S)}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not sqlite3's late one


def _begin(connection: sqlalchemy.Connection) -> None:
    """Take SQLite's write lock at the start of a writing transaction: a read that turns into a write may fail.

    SQLite itself looks for the lock ten times a second, once it has waited long: beside a process that writes round
    after round it would hardly ever find it free.
    """
    if connection.get_execution_options().get("hone_reads", False):
        connection.exec_driver_sql("BEGIN")
        return
    deadline = time.monotonic() + BUSY_S
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_AGAIN_S)
            else:
                return
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={int(1000 * BUSY_S)}")


def _is_busy(error: OperationalError) -> bool:
    return (
        isinstance(error.orig, sqlite3.OperationalError) and error.orig.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
    )


def _migrate(engine: Engine) -> None:
    """Bring the database to the newest schema."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        connection.commit()


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return "database"


def open_store(settings: HubSettings) -> Store:
    """Open database and blobs of a hub, creating or migrating them where needed; StoreError says what is wrong."""
    folder = settings.state_folder
    reserve = Reserve(folder)
    try:
        engine = create_engine(settings.database_url)
        if engine.dialect.name == "sqlite":
            reserve = Reserve(Path(engine.url.database or "").parent)
            event.listen(engine, "connect", _sqlite_pragmas)
            event.listen(engine, "begin", _begin)
        reserve.spend()
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        sync_folder(folder)
        _migrate(engine)
    except (SQLAlchemyError, CommandError, ImportError, OSError) as error:
        full = reserve.room < SCARCE_BYTES
        raise StoreError(
            f"cannot be opened ({str(error).splitlines()[0]})",
            subject=_without_password(settings.database_url),
            remedy="Its disk is full, and SQLite needs room even to read: make some" if full else "Check [state]",
        ) from error
    return Store(engine, StoredBlobs(folder / "blobs", Segments(folder / "segments"), TableIndex(engine)), reserve)
