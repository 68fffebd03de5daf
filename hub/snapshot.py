"""A SQLite database as one file: taken while others write, checked, read, and written into one that is in use."""

import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import NullPool
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, create_engine

from hub.settings import HubSettings
from shared.errors import ConfigError, StoreError

PAGES = 2048  # copied at a time
BUSY_S = 60.0
"""How long another's transaction may keep us from writing."""
_OK = 0
_LOCK_START, _LOCK_LENGTH = 0x4000_0002, 510
"""The bytes that every open SQLite connection in WAL mode holds a shared lock on (sqlite.org/fileformat2.html)."""
Progress = Callable[[int, int], None]
"""(pages done, pages in all)"""


def file_of(settings: HubSettings) -> Path:
    """The hub's SQLite database; ConfigError when it has another one."""
    remedy = "Use that database's own tools, and copy the folders segments and blobs after it: docs/operations.md"
    try:
        url = sqlalchemy.make_url(settings.database_url)
    except SQLAlchemyError as error:
        raise ConfigError("is no URL of a database", subject="database") from error
    if url.get_backend_name() != "sqlite":
        raise ConfigError(f"is {url.get_backend_name()}, and this is for SQLite", subject="database", remedy=remedy)
    if not url.database or url.database == ":memory:":
        raise ConfigError("is in memory alone", subject="database", remedy="Give a file")
    return Path(url.database).absolute()


def take(source: Path, target: Path, progress: Progress = lambda _done, _total: None) -> None:
    """Copy the database `source` to a new file `target` as it is at one moment, while others use it; durable.

    StoreError for either. The copy needs no other file beside it.
    """
    with (
        _errors(source),
        closing(_connect(source, "mode=rw")) as here,
        closing(_connect(target, "vfs=unix-none")) as to,
    ):
        # Nobody else has the copy: without locks it can also be on a network share. A WAL needs them, or this.
        to.execute("PRAGMA locking_mode=EXCLUSIVE")
        # One read transaction around all: what others write meanwhile neither shows nor makes us start again.
        here.execute("BEGIN")
        here.execute("SELECT 1 FROM sqlite_master").fetchone()
        here.backup(to, pages=PAGES, progress=lambda _, left, total: progress(total - left, total))
        here.execute("ROLLBACK")
    settle(target)


def settle(path: Path) -> None:
    """Make a database that nobody else has open one durable file with nothing beside it. StoreError."""
    with _errors(path), closing(_connect(path, "vfs=unix-none")) as here:
        here.execute("PRAGMA locking_mode=EXCLUSIVE")
        here.execute("PRAGMA journal_mode=DELETE")
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check(path: Path) -> None:
    """StoreError when a snapshot is damaged."""
    with _errors(path), closing(_connect(path, "mode=ro&immutable=1")) as here:
        found = [str(one) for (one,) in here.execute("PRAGMA integrity_check(3)")]
    if found != ["ok"]:
        raise StoreError(f"is damaged ({found[0]})", subject=str(path))


def revision(path: Path) -> str:
    """The revision of a snapshot's schema; StoreError when it is no hub's database."""
    with _errors(path), closing(_connect(path, "mode=ro&immutable=1")) as here:
        [(found,)] = here.execute("SELECT version_num FROM alembic_version").fetchall()
        return str(found)


@contextmanager
def reading(path: Path, *, live: bool = False) -> Iterator[Session]:
    """A session on a snapshot, or on a database that is in use. StoreError."""
    mode = "mode=rw" if live else "mode=ro&immutable=1"
    engine = create_engine("sqlite://", creator=lambda: _connect(path, mode), poolclass=NullPool)
    try:
        with Session(engine, expire_on_commit=False) as session:
            yield session
    except SQLAlchemyError as error:
        raise StoreError(str(error).splitlines()[0], subject=str(path)) from error


def is_database(path: Path) -> bool:
    """Whether SQLite can open a file; StoreError when that cannot be told."""
    with _errors(path):
        try:
            # SQLite deletes the log beside a file that is no database, unless it takes the file for immutable.
            with closing(_connect(path, "mode=ro&immutable=1")) as here:
                here.execute("PRAGMA schema_version").fetchone()
            with closing(_connect(path, "mode=rw")) as here:
                here.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:  # busy, or we are not let in: no word on the file
            raise
        except sqlite3.DatabaseError:
            return False
    return True


def in_use(path: Path) -> bool:
    """Whether another process has this database open. Only for a file that this process has not open in SQLite."""
    with open(path, "rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_LENGTH, _LOCK_START)
        except OSError:
            return True
        return False


def write_into(source: Path, target: Path, *, locked: Callable[[], None], progress: Progress) -> None:
    """Replace all that the database `target` holds by `source`, in one transaction, while others have it open.

    They see it with their next transaction. locked: called once, when nobody else can write to `target` any more and
    it still has what it had; if it raises, nothing is changed. StoreError.
    """
    until = time.monotonic() + BUSY_S
    waits = True

    def step(status: int, left: int, total: int) -> None:
        nonlocal waits
        if status == _OK and waits:
            waits = False
            locked()
        elif status not in (_OK, sqlite3.SQLITE_DONE) and time.monotonic() > until:
            raise StoreError("is busy", subject=str(target), remedy="Try again, or stop the hub")
        if left % PAGES == 0:
            progress(total - left, total)

    with _errors(target), closing(_connect(source, "mode=rw")) as here, closing(_connect(target, "mode=rw")) as to:
        to.execute("PRAGMA synchronous=FULL")
        to.execute("PRAGMA journal_mode=WAL")  # as the hub's is: else nobody could read while we write
        # The last step commits, so the first must not be the last: page by page, which costs little.
        here.backup(to, pages=1, progress=step, sleep=0.1)


def sha256_of(path: Path) -> str:
    """Lower-case hex sha256 of a file that nobody has open; OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _connect(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None, timeout=15)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"cannot be used as a database ({error})", subject=str(path)) from error
