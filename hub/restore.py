"""Restore: a hub's data from a backup, into an empty state folder, over another one, or under a running hub.

1. Check: manifest, sha256 and integrity of the database, and that every image is there. Nothing was touched so far.
2. Make ready: a work copy of the database, brought to the newest schema; segments and images are copied, each image
   checked by its hash. What the present database knows of the cameras, and the numbers that only grow, are taken over
   into it. Last a new epoch begins in it, for the cameras to offer what they still keep.
3. Put in place: one transaction replaces all that the present database holds, and while it holds the lock a copy of
   that goes to the quarantine. A running hub goes on with its next transaction.

Cut short at any point, the present database is whole, the old or the new one.
"""

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
from sqlmodel import delete, select

from hub import epoch, generations, lost, named, snapshot
from hub.copies import Places, Progress, check_room, disk_errors
from hub.generations import DATABASE, KEYS, Manifest
from hub.quarantine import Quarantine
from hub.refill import Refill
from hub.settings import HubSettings
from hub.store import Store, StoredBlobs, open_store
from hub.tables import Camera, Lease, Number
from shared.clock import Clock
from shared.errors import ConfigError, StoreError
from shared.files import sync_folder, write_atomic

BESIDE = ("", "-wal", "-shm", "-journal")
WORK = ".restoring"


@dataclass(frozen=True, slots=True)
class Restored:
    """generation: its name. skipped: newer ones that are not complete. copied: blobs that the state folder lacked.

    lost: images whose bytes are nowhere. aside: where the database that was there is now. took_over: whether its
    numbers and cameras could be taken over. keys: "restored", "kept" (there were some already), "none".
    """

    generation: str
    manifest: Manifest
    epoch: str
    skipped: list[str]
    copied: int
    lost: int
    aside: Path | None
    took_over: bool
    keys: str


def restore(
    settings: HubSettings,
    folder: Path,
    clock: Clock,
    *,
    generation: str | None = None,
    force: bool = False,
    incomplete: bool = False,
    progress: Progress = lambda _step, _done, _total: None,
) -> Restored:
    """Restore a generation, by default the newest complete one. force: also over a database that is there.

    incomplete: also when the backup lacks images; they are marked lost. ConfigError, or StoreError, say what is
    wrong with the backup or the disk; the present database is as it was then.
    """
    database = snapshot.file_of(settings)
    if not folder.is_dir():
        raise ConfigError("is not a folder", subject=str(folder))
    with disk_errors(folder), generations.locked(folder, shared=True):
        name, skipped = _choose(folder, generation)
        source = folder / name
        manifest = generations.verified(source)
        snapshot.check(source / DATABASE)
        if database.exists() and not force:
            raise ConfigError(
                "is there already",
                subject=str(database),
                remedy="Add --force to replace it; it is kept in the quarantine",
            )
        _check_owner(settings.state_folder)
        database.parent.mkdir(parents=True, exist_ok=True)
        quarantine = Quarantine(settings.state_folder, clock)
        work = database.with_name(database.name + WORK)
        try:
            store = _work_copy(settings, source, manifest, work)
            try:
                blobs = Refill(store, folder, manifest, quarantine, progress)
                blobs.look(incomplete=incomplete)
                blobs.bring(incomplete=incomplete)
                missing = _settle_lost(store)
                took_over = database.exists() and _take_over(store, database)
                with store.write() as session:
                    session.exec(delete(Lease))  # those who serve now take theirs again
                    began = epoch.begin(session, f"restored from the backup {name}", clock.utc())
            finally:
                store.close()
            aside = _put_in_place(work, database, quarantine, progress)
        finally:
            for end in BESIDE:
                work.with_name(work.name + end).unlink(missing_ok=True)
        keys = _restore_keys(source / KEYS, settings.state_folder / KEYS)
    return Restored(name, manifest, began, skipped, blobs.copied, missing, aside, took_over, keys)


# -- 1. check


def _choose(folder: Path, generation: str | None) -> tuple[str, list[str]]:
    """The generation to restore, and newer ones that are torn."""
    complete, torn = generations.generations(folder), generations.generations(folder, complete=False)
    if generation is not None:
        if generation not in (*complete, *torn):
            raise ConfigError(
                f"has no generation {generation}",
                subject=str(folder),
                remedy=f"It has: {', '.join(complete) or 'none'}",
            )
        return generation, []
    if not complete:
        raise StoreError("has no complete backup", subject=str(folder), remedy="Is this the right folder?")
    return complete[-1], [one for one in torn if one > complete[-1]]


def _check_owner(state: Path) -> None:
    """Files of another user in the state folder would keep the hub from writing."""
    if state.is_dir() and (owner := state.stat().st_uid) != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = str(owner)
        raise ConfigError("belongs to another user", subject=str(state), remedy=f"Run it as {name}: sudo -u {name} …")


# -- 2. make ready


def _work_copy(settings: HubSettings, source: Path, manifest: Manifest, work: Path) -> Store:
    """A copy of the snapshot to change, at the newest schema. StoreError when it is newer than this program."""
    check_room(work.parent, 4 * manifest.size)  # this one, the one put aside, the new one, and a log of it
    for end in BESIDE:
        work.with_name(work.name + end).unlink(missing_ok=True)
    shutil.copyfile(source / DATABASE, work)
    try:
        return open_store(msgspec.structs.replace(settings, database=f"sqlite:///{work}"))
    except StoreError as error:
        raise StoreError(
            f"its database cannot be used here: {error.what}",
            subject=str(source),
            remedy=f"It was made by Hone {manifest.hone}: use that version or a newer one",
        ) from error


def _settle_lost(store: Store) -> int:
    """Mark the images whose bytes are nowhere, heal the others; how many are lost."""
    count = 0
    for prefix in named.PREFIXES:
        with store.read() as session:
            rows = named.images(session, prefix)
            blobs = StoredBlobs(store.blobs.folder, store.blobs.segments, Places(session))
            there = {one[1] for one in rows if blobs.has(one[1])}
        gone = [one for one in rows if one[1] not in there]
        back = [one for one in rows if one[3] == lost.LOST and one[1] in there]
        count += len(gone)
        if gone or back:
            with store.write() as session:
                lost.mark(session, {one[1] for one in gone})
                lost.heal(session, {one[1] for one in back})
    return count


def _take_over(store: Store, present: Path) -> bool:
    """Numbers never go back, and cameras are as they are, whatever the backup says; False when the present database
    cannot be read.
    """
    if not snapshot.is_database(present):
        return False
    try:
        with snapshot.reading(present, live=True) as session:
            numbers = [(one.name, one.value) for one in session.exec(select(Number))]
            cameras = [one.model_dump() for one in session.exec(select(Camera))]
    except StoreError:
        return False
    with store.write() as session:
        for name, value in numbers:
            row = session.get(Number, name) or Number(name=name)
            row.value = max(row.value, value)
            session.add(row)
        for fields in cameras:
            session.merge(Camera(**fields))
    return True


# -- 3. put in place


def _put_in_place(work: Path, database: Path, quarantine: Quarantine, progress: Progress) -> Path | None:
    """Make the work copy the hub's database; where the one before is now."""
    aside: Path | None = None
    why = "replaced by a restore"
    if database.exists() and snapshot.is_database(database):

        def keep() -> None:
            nonlocal aside
            aside = quarantine.place(database, "database", why)
            snapshot.take(database, aside)

        def show(done: int, total: int) -> None:
            progress("writing the database", done, total)

        snapshot.write_into(work, database, locked=keep, progress=show)
        return aside
    if database.exists() and snapshot.in_use(database):
        raise StoreError("is damaged, and a process has it open", subject=str(database), remedy="Stop the hub first")
    for end in BESIDE:  # a log that is left would be played into the new database
        path = database.with_name(database.name + end)
        if path.exists():
            moved = quarantine.move(path, "database", why)
            aside = aside or moved
    snapshot.settle(work)
    os.rename(work, database)
    sync_folder(database.parent)
    return aside


def _restore_keys(source: Path, target: Path) -> str:
    """Restore the keys, unless there are some: those may be newer, and cameras may trust only them by now."""
    if target.is_dir() and any(target.iterdir()):
        return "kept"
    found = sorted(one for one in source.iterdir() if one.is_file()) if source.is_dir() else []
    if not any(one.suffix == ".pem" for one in found):
        return "none"
    target.mkdir(exist_ok=True, mode=0o700)
    for path in found:
        write_atomic(target / path.name, path.read_bytes(), mode=0o600)
    return "restored"
