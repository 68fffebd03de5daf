"""Generations: what lies in the folder of a backup, and what of it is complete.

    FOLDER/blobs/ab/abcdef…          every blob that is a file, once, for all generations; they never change
    FOLDER/segments/…                segments as the hub has them, once for all generations; they only grow
    FOLDER/20260301T120000Z/         a generation: hone.db, keys/, hub.toml and, last of all, backup.json
    FOLDER/.lock                     held while somebody writes here

backup.json is written last, when all else is durable: a generation without it is torn, and never restored. It tells how
far the segments go that it needs: what lies beyond that is of a newer generation, or of a backup that was cut short.
"""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from hub import snapshot
from shared.clock import Clock
from shared.errors import ConfigError, StoreError

log = logging.getLogger(__name__)
BLOBS = "blobs"
SEGMENTS = "segments"
MANIFEST = "backup.json"
DATABASE = "hone.db"
KEYS = "keys"
CONFIG = "hub.toml"
LOCK = ".lock"
GENERATION = re.compile(r"\d{8}T\d{6}Z")
FORMAT = 2
READABLE = (1, FORMAT)
"""Format 1 had no segments: every blob was a file."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """backup.json. schema: revision of the database's tables. size, sha256: of hone.db. images: rows; blobs: different
    ones, with model parts, of `bytes` in all. missing: blobs that rows name and that neither the hub nor the backup
    had. private_keys: whether keys/ has them. segments: name -> bytes of it that belong to this generation.
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
    segments: dict[str, int] = {}


def generations(folder: Path, *, complete: bool = True) -> list[str]:
    """The names of a backup's generations, the oldest first: the complete ones, or the torn ones. OSError."""
    return sorted(
        one.name
        for one in folder.iterdir()
        if GENERATION.fullmatch(one.name) and one.is_dir() and (one / MANIFEST).is_file() == complete
    )


def create(folder: Path, clock: Clock) -> Path:
    """The folder of a new generation, named by the present second or the next free one. OSError."""
    at = clock.utc()
    while True:
        generation = folder / at.strftime("%Y%m%dT%H%M%SZ")
        try:
            generation.mkdir(mode=0o700)
        except FileExistsError:
            at += timedelta(seconds=1)
        else:
            return generation


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
    if found.format not in READABLE:
        raise StoreError(f"has format {found.format}", subject=str(path), remedy=f"Restore it with Hone {found.hone}")
    return found


def manifests(folder: Path) -> Iterator[Manifest]:
    """The manifests of the complete generations, as far as they can be read, the oldest first. OSError."""
    for name in generations(folder):
        try:
            yield read_manifest(folder / name)
        except StoreError as error:
            log.warning("%s", error)


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
