"""What the hub keeps: a database by URL, and blobs by their sha256 in a folder. The row is inserted last.

Invariant: a row names only blobs that are durable. A blob without a row is garbage that `fsck` shows.
"""

import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy
from alembic.util import CommandError
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, create_engine

from hub.settings import HubSettings
from shared.errors import StoreError
from shared.files import TMP, sha256_hex, sync_folder, write_aside


class Blobs:
    """Content-addressed files: `folder/ab/abcdef…`, named by sha256, written once, never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where a blob is, or would be."""
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
        except FileNotFoundError:
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


class Store:
    """Database and blobs; safe to use from several threads and processes."""

    def __init__(self, engine: Engine, blobs: Blobs) -> None:
        self.engine = engine
        self.blobs = blobs
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
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (SQLAlchemyError, OverflowError) as error:  # a number beyond 64 bits comes as the latter
            raise StoreError(
                f"{type(error).__name__}: {str(error).splitlines()[0]}", subject="database", remedy="See the hub's log"
            ) from error

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    """WAL for readers beside one writer; synchronous FULL, since `stored` must mean on disk."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=15000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    connection.isolation_level = None  # SQLAlchemy's own BEGIN below, not sqlite3's late one


def _begin(connection: sqlalchemy.Connection) -> None:
    """Take SQLite's write lock at the start of a writing transaction: a read that turns into a write may fail."""
    reads = connection.get_execution_options().get("hone_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


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
    try:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        sync_folder(folder)
        engine = create_engine(settings.database_url)
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _sqlite_pragmas)
            event.listen(engine, "begin", _begin)
        _migrate(engine)
    except (SQLAlchemyError, CommandError, ImportError, OSError) as error:
        raise StoreError(
            f"cannot be opened ({str(error).splitlines()[0]})",
            subject=_without_password(settings.database_url),
            remedy="Check [state]",
        ) from error
    return Store(engine, Blobs(folder / "blobs"))
