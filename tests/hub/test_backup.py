"""Backup and restore: what was backed up is whole whatever the hub does meanwhile, what is not whole is refused, and a
restore is seen by a hub that runs. All on real SQLite files.
"""

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, namedtuple
from pathlib import Path

import alembic.command
import alembic.config
import pytest
from sqlmodel import create_engine, select

from hub import backup, copies, epoch, generations, keys, named, snapshot
from hub import store as hub_store
from hub.__main__ import main
from hub.fsck import check
from hub.lease import Claims, Leases
from hub.quarantine import Quarantine
from hub.restore import restore
from hub.settings import read
from hub.store import Blobs, open_store
from hub.tables import Camera, Epoch, Image, Lease, Number, Run
from shared.clock import SystemClock
from shared.errors import ConfigError, StoreError
from shared.files import sha256_hex
from tests.fakes.clock import FakeClock
from tests.fakes.listener import wait_until
from tests.hub.making import NOW, add_image, get_image, toml_in

PROGRAM = """
import sys, time
from pathlib import Path
from hub.settings import read
from hub.store import open_store
from hub import epoch
from shared.clock import SystemClock
from sqlmodel import select, func
from hub.tables import Image, Number
store = open_store(read(Path(sys.argv[1])))
for line in sys.stdin:
    if line.strip() == "write":
        with store.write() as session:
            session.merge(Number(name="written", value=int(time.time())))
    with store.read() as session:
        count = session.exec(select(func.count()).select_from(Image)).one()
        mode = session.connection().exec_driver_sql("PRAGMA journal_mode").scalar()
    print(count, epoch.current(store, SystemClock()), mode, flush=True)
"""
"""A hub of sorts: keeps its connections open, and tells after each line what it sees."""


class Hub:
    """A hub's state folder beside the folder of its backups."""

    def __init__(self, folder, name="hub"):
        self.home = folder / name
        self.home.mkdir()
        self.config = toml_in(self.home)
        self.settings = read(self.config)
        self.state = self.settings.state_folder
        self.folder = folder / "backups"
        self.clock = FakeClock()
        self.store = open_store(self.settings)

    @property
    def database(self):
        return self.state / "hone.db"

    def add(self, *texts, **fields):
        return [add_image(self.store, one.encode(), event_id=one, **fields) for one in texts]

    def backup(self, **how):
        self.clock.advance(60)
        return backup.make(self.settings, self.config, self.folder, self.clock, **how)

    def restore(self, **how):
        return restore(self.settings, self.folder, self.clock, **how)

    @property
    def events(self):
        with self.store.read() as session:
            return set(session.exec(select(Image.event_id)).all())

    def reopen(self):
        self.store.close()
        self.store = open_store(self.settings)

    def lose_everything(self):
        self.store.close()
        shutil.rmtree(self.state)


@pytest.fixture
def hub(tmp_path):
    made = Hub(tmp_path)
    yield made
    made.store.close()


def findings(hub):
    return [(one.kind, one.subject) for one in check(hub.store, SystemClock(), deep=True)]


def files(folder):
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


# -- backup


def test_a_backup_has_all_that_the_rows_name_and_says_so(hub):
    images = hub.add("one", "two")
    [head] = hub.store.blobs.put([b"head"])
    hub.store.blobs.put([b"an orphan"])
    with hub.store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="done", parts={"head": head}))
    now = epoch.current(hub.store, hub.clock)
    made = hub.backup()
    assert files(hub.folder / "blobs") == {f"{one[:2]}/{one}" for one in map(sha256_hex, (b"one", b"two", b"head"))}
    assert (made.copied, made.copied_bytes, made.dropped, made.unmarked) == (3, 10, [], [])
    manifest = generations.read_manifest(made.generation)
    assert manifest == made.manifest
    assert (manifest.images, manifest.blobs, manifest.bytes, manifest.epoch) == (len(images), 3, 10, now)
    assert (manifest.project, manifest.schema, manifest.missing) == ("cells", "0006", [])
    assert manifest.sha256 == sha256_hex((made.generation / "hone.db").read_bytes())
    assert manifest.time == hub.clock.utc()
    assert made.generation.name == "20260301T120100Z"
    assert files(made.generation) == {"hone.db", "hub.toml", "backup.json"}
    assert (made.generation / "hub.toml").read_text() == hub.config.read_text()


def test_a_second_backup_copies_only_what_is_new(hub):
    hub.add("one", "two")
    hub.backup()
    kept = {one: one.stat().st_ino for one in (hub.folder / "blobs").rglob("*") if one.is_file()}
    hub.add("three")
    made = hub.backup()
    assert (made.copied, made.copied_bytes, made.manifest.blobs) == (1, 5, 3)
    assert {one: one.stat().st_ino for one in kept} == kept
    assert generations.generations(hub.folder) == ["20260301T120100Z", "20260301T120200Z"]


def test_a_blob_of_another_size_in_the_backup_is_copied_anew(hub):
    hub.add("one")
    hub.backup()
    path = Blobs(hub.folder / "blobs").path(sha256_hex(b"one"))
    path.write_bytes(b"o")
    assert hub.backup().copied == 1
    assert path.read_bytes() == b"one"


def test_rows_and_blobs_agree_however_busy_the_hub_is(hub):
    stop, ended = threading.Event(), []
    hub.add("first")

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            hub.add(f"image {number} " + "x" * 500)
        ended.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    counts = []
    try:
        for _ in range(4):
            seen = len(hub.events)
            wait_until(lambda seen=seen: len(hub.events) > seen + 5, "more images")
            made = hub.backup()
            counts.append(made.manifest.images)
            with snapshot.reading(made.generation / "hone.db") as session:
                rows = [one for prefix in named.PREFIXES for one in named.images(session, prefix)]
            copies = Blobs(hub.folder / "blobs")
            assert len(rows) == made.manifest.images
            assert all(sha256_hex(copies.read(one[1])) == one[1] for one in rows)
            assert made.manifest.missing == []
    finally:
        stop.set()
        writer.join()
    assert ended
    assert counts == sorted(set(counts))
    hub.lose_everything()
    hub.restore()
    hub.reopen()
    assert len(hub.events) == counts[-1]
    assert findings(hub) == []


def test_what_is_written_while_the_database_is_copied_is_not_in_it(hub, monkeypatch):
    hub.add("before", *(f"filler {one}" for one in range(50)))
    monkeypatch.setattr(snapshot, "PAGES", 1)
    written = []

    def meanwhile(step, done, _total):
        if step == "copying the database" and not written:
            written.extend(hub.add("while it was copied"))

    made = hub.backup(progress=meanwhile)
    assert written
    assert made.manifest.images == 51
    assert hub.backup().manifest.images == 52


def test_keys_come_with_their_mode_or_without_the_private_ones(hub):
    keys.make(hub.state / "keys", SystemClock())
    made = hub.backup()
    copies = {one.name: one.stat().st_mode & 0o777 for one in (made.generation / "keys").iterdir()}
    assert copies == {"root.pem": 0o600, "release.pem": 0o600, "delegation.json": 0o600}
    assert made.manifest.private_keys
    assert made.generation.stat().st_mode & 0o777 == 0o700
    without = hub.backup(private_keys=False)
    assert files(without.generation / "keys") == {"delegation.json"}
    assert not without.manifest.private_keys


def test_an_image_that_the_hub_lost_is_told_and_the_rest_is_backed_up(hub):
    hub.add("gone", "damaged", "there")
    hub.add("marked", state="lost")
    blobs = hub.store.blobs
    blobs.path(sha256_hex(b"gone")).unlink()
    blobs.path(sha256_hex(b"marked")).unlink()
    blobs.path(sha256_hex(b"damaged")).write_bytes(b"dXmaged")
    made = hub.backup()
    assert made.unmarked == sorted([sha256_hex(b"gone"), sha256_hex(b"damaged")])
    assert made.manifest.missing == sorted([*made.unmarked, sha256_hex(b"marked")])
    assert made.copied == 1


def test_what_the_hub_lost_stays_in_the_backup(hub):
    [image] = hub.add("precious")
    hub.backup()
    hub.store.blobs.path(sha256_hex(b"precious")).unlink()
    assert hub.backup(keep=1).manifest.missing == []
    assert hub.restore(force=True).copied == 1
    assert hub.store.blobs.read(get_image(hub.store, image).sha256) == b"precious"


def test_old_generations_go_and_the_blobs_that_nobody_names_any_more(hub):
    hub.add("always")
    [image] = hub.add("for a while")
    hub.backup()
    with hub.store.write() as session:
        session.delete(session.get(Image, image))
    hub.backup()
    half = Blobs(hub.folder / "blobs").path(sha256_hex(b"always")).with_name("x.1.tmp")
    half.write_bytes(b"of a crash")
    strange = half.with_name("readme")
    strange.write_bytes(b"not ours")
    made = hub.backup(keep=2)
    assert made.dropped == ["20260301T120100Z"]
    assert generations.generations(hub.folder) == ["20260301T120200Z", "20260301T120300Z"]
    always = sha256_hex(b"always")
    assert files(hub.folder / "blobs") == {f"{always[:2]}/{always}", f"{always[:2]}/readme"}


def test_nothing_is_dropped_while_a_generation_that_stays_is_damaged(hub):
    for name in ("a", "b", "c"):
        hub.add(name)
        hub.backup()
    path = hub.folder / "20260301T120300Z" / "hone.db"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    before = files(hub.folder)
    with pytest.raises(StoreError, match="damaged"):
        hub.backup(keep=2)
    assert before <= files(hub.folder)
    assert len(generations.generations(hub.folder)) == 4


def test_a_backup_that_was_cut_short_goes_with_the_next_one(hub, monkeypatch):
    hub.add("one")
    hub.backup()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(backup, "write_atomic", full)
        with pytest.raises(StoreError, match="No space left"):
            hub.backup()
    assert generations.generations(hub.folder, complete=False) == ["20260301T120200Z"]
    assert generations.generations(hub.folder) == ["20260301T120100Z"]
    hub.backup()
    assert generations.generations(hub.folder, complete=False) == []
    assert generations.generations(hub.folder) == ["20260301T120100Z", "20260301T120300Z"]


def test_a_disk_without_room_is_told_before_an_image_is_copied(hub, monkeypatch):
    hub.add("one")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(copies.SPARE + 1000))
    with pytest.raises(StoreError, match=r"MiB free, .* are needed"):
        hub.backup()
    free = iter([1 << 40, copies.SPARE + 2])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(next(free)))
    with pytest.raises(StoreError, match="Make room"):
        hub.backup()
    assert files(hub.folder / "blobs") == set()


@pytest.mark.parametrize("place", [".", "blobs", "backups"])
def test_a_folder_within_the_state_folder_is_refused(hub, place):
    hub.add("one")
    hub.folder = hub.state / place
    with pytest.raises(ConfigError, match="state folder"):
        hub.backup(keep=1)
    assert findings(hub) == []


def test_a_link_to_the_hubs_own_blobs_is_refused(hub):
    hub.folder.mkdir()
    (hub.folder / "blobs").symlink_to(hub.state / "blobs")
    with pytest.raises(ConfigError, match="state folder"):
        hub.backup(keep=1)


def test_two_at_once_are_refused(hub):
    hub.backup()
    with open(hub.folder / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another backup"):
            hub.backup()
        with pytest.raises(ConfigError, match="another backup"):
            hub.restore(force=True)
    hub.backup()


def test_another_database_is_told_what_to_use(capsys, tmp_path):
    config = toml_in(tmp_path, more='database = "postgresql://me:secret@db/hone"')
    for command in ("backup", "restore"):
        assert main([command, str(tmp_path), "--config", str(config)]) == 1
        said = capsys.readouterr().err
        assert "postgresql" in said
        assert "own tools" in said
        assert "secret" not in said


def test_a_damaged_database_makes_no_complete_backup(hub):
    """Damaged where nobody looks: its good generations would go, one each night."""
    hub.add("one")
    hub.backup()
    with hub.store.read() as session:
        page = (
            session.connection().exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'embedding'").scalar()
        )
    hub.store.close()
    with open(hub.database, "rb+") as file:
        file.seek(4096 * (page - 1))
        file.write(bytes([13, 0, 0, 0, 99]))  # a leaf with 99 cells, says the page, and it has none
    with pytest.raises(StoreError, match="is damaged"):
        hub.backup(keep=1)
    assert generations.generations(hub.folder) == ["20260301T120100Z"]


# -- restore


def test_an_empty_state_folder_gets_everything(hub):
    keys.make(hub.state / "keys", SystemClock())
    key = (hub.state / "keys" / "release.pem").read_bytes()
    hub.add("one", "two")
    before = epoch.current(hub.store, hub.clock)
    hub.backup()
    hub.lose_everything()
    done = hub.restore()
    assert (done.generation, done.copied, done.lost, done.aside, done.took_over) == (
        "20260301T120100Z", 2, 0, None, False,
    )  # fmt: skip
    assert done.keys == "restored"
    assert (hub.state / "keys" / "release.pem").read_bytes() == key
    assert (hub.state / "keys" / "release.pem").stat().st_mode & 0o777 == 0o600
    assert files(hub.state) == {
        "hone.db", "keys/root.pem", "keys/release.pem", "keys/delegation.json",
        *(f"blobs/{one[:2]}/{one}" for one in map(sha256_hex, (b"one", b"two"))),
    }  # fmt: skip
    hub.reopen()
    assert hub.events == {"one", "two"}
    assert findings(hub) == []
    assert epoch.current(hub.store, hub.clock) == done.epoch != before
    with hub.store.read() as session:
        assert [one.why for one in session.exec(select(Epoch).order_by(Epoch.number))] == [
            "the first",
            "restored from the backup 20260301T120100Z",
        ]


def test_another_generation_may_be_chosen(hub):
    hub.add("one")
    hub.backup()
    hub.add("two")
    hub.backup()
    hub.lose_everything()
    hub.restore(generation="20260301T120100Z")
    hub.reopen()
    assert hub.events == {"one"}
    with pytest.raises(ConfigError, match="It has: 20260301T120100Z, 20260301T120200Z"):
        hub.restore(generation="20250101T000000Z", force=True)


def test_a_database_that_is_there_is_replaced_only_when_forced_and_kept(hub):
    hub.add("one")
    hub.backup()
    hub.add("after the backup")
    with pytest.raises(ConfigError, match="--force"):
        hub.restore()
    assert hub.events == {"one", "after the backup"}
    done = hub.restore(force=True)
    assert hub.events == {"one"}
    assert done.aside.is_relative_to(hub.state / "quarantine")
    with snapshot.reading(done.aside) as session:
        assert set(session.exec(select(Image.event_id)).all()) == {"one", "after the backup"}
    assert "replaced by a restore" in (done.aside.parent / "index.jsonl").read_text()
    assert not list(hub.state.glob("*restoring*"))


def test_a_running_hub_sees_what_was_restored_and_goes_on(hub):
    hub.add("one", "two")
    hub.backup()
    hub.add(*(f"later {one}" for one in range(100)))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hub.config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(line):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return process.stdout.readline().split()

    try:
        count, before, mode = ask("look")
        assert (count, mode) == ("102", "wal")
        done = hub.restore(force=True)
        assert ask("write") == ["2", done.epoch, "wal"]
        assert before != done.epoch
        hub.add("after the restore")
        assert ask("write")[0] == "3"
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert hub.events == {"one", "two", "after the restore"}
    with hub.store.read() as session:
        assert session.get(Number, "written") is not None
    with sqlite3.connect(hub.database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_what_is_put_aside_has_the_last_row_that_was_written(hub, monkeypatch):
    """Up to the moment from which nobody can write to the old database any more."""
    hub.add("one")
    hub.backup()
    take = snapshot.take
    tried = []

    def late(source, target, *how):
        other = sqlite3.connect(hub.database, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("INSERT INTO number VALUES ('too late', 1)")
        other.close()
        tried.append(source)
        take(source, target, *how)

    write = snapshot.write_into

    def last_row(*args, **how):
        hub.add("at the last moment")
        write(*args, **how)

    monkeypatch.setattr(snapshot, "take", late)
    monkeypatch.setattr(snapshot, "write_into", last_row)
    done = hub.restore(force=True)
    assert tried == [hub.database]
    with snapshot.reading(done.aside) as session:
        assert "at the last moment" in session.exec(select(Image.event_id)).all()


def test_if_the_old_database_cannot_be_kept_it_stays_in_place(hub, monkeypatch):
    hub.add("one")
    hub.backup()
    hub.add("later")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Quarantine, "place", full)
    with pytest.raises(StoreError, match="No space left"):
        hub.restore(force=True)
    assert hub.events == {"one", "later"}
    hub.add("goes on")


def test_who_serves_which_site_is_not_restored(hub):
    leases = Leases(Claims("x", "boot", ["a"]), hub.store, hub.clock, Counter(), lambda: True)
    leases.look()
    hub.backup()
    leases.look()
    hub.restore(force=True)
    with hub.store.read() as session:
        assert session.exec(select(Lease)).all() == []
    leases.look()
    with hub.store.read() as session:
        assert session.exec(select(Lease.owner)).all() == ["x"]


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_restore_that_is_killed_leaves_the_database_as_it_was(hub, share):
    hub.add("one", *(f"filler {one}" for one in range(100)))
    hub.backup()
    hub.add("later")
    program = f"""
import os
from pathlib import Path
from hub import snapshot
from hub.restore import restore
from hub.settings import read
from shared.clock import SystemClock
snapshot.PAGES = 1
def progress(step, done, total):
    if step == "writing the database" and done > {share} * total:
        os._exit(9)
restore(read(Path({str(hub.config)!r})), Path({str(hub.folder)!r}), SystemClock(), force=True, progress=progress)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 9
    assert len(hub.events) == 102
    hub.add("goes on")
    hub.restore(force=True)
    assert len(hub.events) == 101
    hub.reopen()
    assert findings(hub) == []


def test_numbers_and_cameras_are_taken_over(hub):
    def camera(floor, release):
        return Camera(
            name="s/c", project="cells", first_seen=NOW, last_seen=NOW, online=True, floor=floor, release=release
        )

    with hub.store.write() as session:
        session.add_all([Number(name="release/cells", value=3), Number(name="old", value=9), camera(3, 3)])
    hub.backup()
    with hub.store.write() as session:
        session.merge(Number(name="release/cells", value=7))
        session.merge(Number(name="old", value=8))
        session.merge(camera(7, 7))
    assert hub.restore(force=True).took_over
    with hub.store.read() as session:
        numbers = {one.name: one.value for one in session.exec(select(Number))}
        [row] = session.exec(select(Camera)).all()
    assert numbers == {"release/cells": 7, "old": 9}
    assert (row.floor, row.release, row.online) == (7, 7, True)


def test_keys_that_are_there_stay(hub):
    keys.make(hub.state / "keys", SystemClock())
    hub.backup()
    shutil.rmtree(hub.state / "keys")
    keys.make(hub.state / "keys", SystemClock())
    newer = (hub.state / "keys" / "release.pem").read_bytes()
    assert hub.restore(force=True).keys == "kept"
    assert (hub.state / "keys" / "release.pem").read_bytes() == newer


def test_a_backup_without_private_keys_restores_none(hub):
    keys.make(hub.state / "keys", SystemClock())
    hub.backup(private_keys=False)
    hub.lose_everything()
    assert hub.restore().keys == "none"
    assert not (hub.state / "keys").exists()


def test_a_database_that_is_none_is_moved_away_with_its_log(hub):
    hub.add("one")
    hub.backup()
    hub.store.close()
    hub.database.write_bytes(b"not a database" * 1000)
    hub.database.with_name("hone.db-wal").write_bytes(b"an old log")
    done = hub.restore(force=True)
    assert not done.took_over
    assert done.aside.read_bytes().startswith(b"not a database")
    assert done.aside.with_name("hone.db-wal").read_bytes() == b"an old log"
    hub.reopen()
    assert hub.events == {"one"}


def test_a_database_that_is_damaged_within_is_replaced_and_kept_as_it_is(hub):
    hub.add(*(f"image {one}" for one in range(200)))
    hub.backup()
    hub.store.close()
    data = bytearray(hub.database.read_bytes())
    data[4096 * 2 :] = os.urandom(len(data) - 4096 * 2)
    hub.database.write_bytes(data)
    done = hub.restore(force=True)
    assert len(done.aside.read_bytes()) == len(data)
    assert not done.took_over
    hub.reopen()
    assert len(hub.events) == 200


def test_an_empty_file_is_replaced(hub):
    hub.add("one")
    hub.backup()
    hub.store.close()
    hub.database.write_bytes(b"")
    hub.restore(force=True)
    hub.reopen()
    assert hub.events == {"one"}


def test_a_log_without_its_database_is_not_played_into_the_new_one(hub):
    hub.add("one")
    hub.backup()
    hub.add("after the backup")
    log = hub.database.with_name("hone.db-wal").read_bytes()
    assert log
    hub.store.close()
    hub.database.unlink()
    hub.database.with_name("hone.db-wal").write_bytes(log)
    hub.restore()
    assert not hub.database.with_name("hone.db-wal").exists()
    hub.reopen()
    assert hub.events == {"one"}


def test_a_damaged_database_that_somebody_has_open_is_not_moved(hub):
    """A hub that wrote into a file which was moved away would lose what it calls stored."""
    hub.add("one")
    hub.backup()
    holder = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hub.config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        holder.stdin.write("look\n")
        holder.stdin.flush()
        assert holder.stdout.readline()
        hub.store.close()
        assert snapshot.in_use(hub.database)
        with open(hub.database, "rb+") as file:
            file.write(b"no longer a database")
        for end in ("-wal", "-shm"):
            hub.database.with_name(f"hone.db{end}").unlink(missing_ok=True)
        with pytest.raises(StoreError, match="Stop the hub"):
            hub.restore(force=True)
        assert hub.database.read_bytes().startswith(b"no longer")
    finally:
        holder.stdin.close()
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert not snapshot.in_use(hub.database)
    hub.restore(force=True)
    hub.reopen()
    assert hub.events == {"one"}


def test_images_that_the_backup_lacked_already_are_marked_lost(hub):
    [gone] = hub.add("gone")
    hub.add("there")
    hub.store.blobs.path(sha256_hex(b"gone")).unlink()
    hub.backup()
    hub.lose_everything()
    assert hub.restore().lost == 1
    hub.reopen()
    assert get_image(hub.store, gone).state == "lost"
    assert findings(hub) == [("lost", f"image {gone}")]


def test_a_lost_image_whose_bytes_are_in_the_state_folder_is_healed(hub):
    [image] = hub.add("lost once", state="lost", width=64)
    hub.store.blobs.path(sha256_hex(b"lost once")).unlink()
    hub.backup()
    hub.store.blobs.put([b"lost once"])
    assert hub.restore(force=True).lost == 0
    assert get_image(hub.store, image).state == "verified"


# -- what is refused


def damaged(hub, what):
    """Damage the newest generation."""
    generation = hub.folder / generations.generations(hub.folder)[-1]
    database, manifest = generation / "hone.db", generation / "backup.json"
    blob = Blobs(hub.folder / "blobs").path(sha256_hex(b"one"))
    said = json.loads(manifest.read_bytes())
    match what:
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_bytes(manifest.read_bytes()[:50])
        case "a newer format":
            manifest.write_text(json.dumps({**said, "format": 3}))
        case "no database":
            database.unlink()
        case "half a database":
            database.write_bytes(database.read_bytes()[:8192])
        case "another byte":
            data = bytearray(database.read_bytes())
            data[5000] ^= 1
            database.write_bytes(data)
        case "not sound":  # as it was when it was copied
            data = bytearray(database.read_bytes())
            data[8192:20480] = bytes(12288)
            database.write_bytes(data)
            manifest.write_text(json.dumps({**said, "sha256": sha256_hex(bytes(data))}))
        case "a newer schema":
            with sqlite3.connect(database) as connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.close()
            changed = {"sha256": sha256_hex(database.read_bytes()), "size": database.stat().st_size}
            manifest.write_text(json.dumps({**said, **changed}))
        case "no blob":
            blob.unlink()
        case "another blob":
            blob.write_bytes(b"oNe")


REFUSED = {
    "no manifest": "no complete backup",
    "half a manifest": "cannot be read",
    "a newer format": "has format 3",
    "no database": "does not have the",
    "half a database": "does not have the",
    "another byte": "its sha256 is not the one",
    "not sound": "is damaged",
    "a newer schema": "use that version or a newer one",
    "no blob": "1 of 2 blobs are not there",
    "another blob": "1 of 2 blobs are damaged",
}


@pytest.mark.parametrize(("what", "says"), REFUSED.items())
def test_a_damaged_backup_is_refused_before_anything_is_touched(hub, what, says):
    hub.add("one", "two")
    hub.backup()
    damaged(hub, what)
    for name in ("one", "two"):
        hub.store.blobs.path(sha256_hex(name.encode())).unlink()
    hub.add("later")
    before = epoch.current(hub.store, hub.clock)
    with pytest.raises(StoreError, match=says):
        hub.restore(force=True)
    assert hub.events == {"one", "two", "later"}
    assert epoch.current(hub.store, hub.clock) == before
    assert not (hub.state / "quarantine").exists()
    assert not list(hub.state.glob("*restoring*"))
    hub.lose_everything()
    with pytest.raises(StoreError, match=says):
        hub.restore()
    assert not hub.database.exists()
    hub.reopen()


@pytest.mark.parametrize("what", ["no blob", "another blob"])
def test_with_incomplete_the_rest_is_restored(hub, what):
    [one, _] = hub.add("one", "two")
    hub.backup()
    damaged(hub, what)
    hub.lose_everything()
    assert hub.restore(incomplete=True).lost == 1
    hub.reopen()
    assert hub.events == {"one", "two"}
    assert get_image(hub.store, one).state == "lost"
    assert findings(hub) == [("lost", f"image {one}")]


def test_a_torn_newer_generation_is_left_out_and_told(hub):
    hub.add("one")
    hub.backup()
    hub.add("two")
    hub.backup()
    damaged(hub, "no manifest")
    hub.lose_everything()
    done = hub.restore()
    assert (done.generation, done.skipped) == ("20260301T120100Z", ["20260301T120200Z"])
    with pytest.raises(StoreError, match="not complete"):
        hub.restore(generation="20260301T120200Z", force=True)
    hub.reopen()
    assert hub.events == {"one"}


def test_a_state_folder_of_another_user_is_refused(hub, monkeypatch):
    hub.backup()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="sudo -u"):
        hub.restore(force=True)


def test_a_damaged_blob_here_is_replaced_and_kept(hub):
    hub.add("one")
    hub.backup()
    path = hub.store.blobs.path(sha256_hex(b"one"))
    path.write_bytes(b"o")
    assert hub.restore(force=True).copied == 1
    assert path.read_bytes() == b"one"
    [kept] = list((hub.state / "quarantine").rglob(path.name))
    assert kept.read_bytes() == b"o"


def test_an_old_schema_is_brought_up_to_date(hub):
    """A backup made before an upgrade, restored after it. The backup itself changes nothing."""
    hub.add("one")
    hub.store.close()
    downgrade(hub.database)
    made = hub.backup()
    assert (made.manifest.schema, made.manifest.epoch) == ("0001", "")
    assert snapshot.revision(made.generation / "hone.db") == "0001"
    hub.lose_everything()
    done = hub.restore()
    hub.reopen()
    assert hub.events == {"one"}
    assert epoch.current(hub.store, hub.clock) == done.epoch


def downgrade(database):
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(hub_store.__file__).parent / "migrations"))
    engine = create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "0001")
        connection.commit()
    engine.dispose()


# -- epochs


def test_an_epoch_lasts_until_another_begins(hub):
    first = epoch.current(hub.store, hub.clock)
    assert first
    assert epoch.current(hub.store, hub.clock) == first
    hub.reopen()
    assert epoch.current(hub.store, hub.clock) == first
    with hub.store.write() as session:
        second = epoch.begin(session, "a test", NOW)
    assert epoch.current(hub.store, hub.clock) == second != first
    assert len(second) <= 64


# -- the commands


def test_the_commands_tell_what_they_do(hub, capsys):
    keys.make(hub.state / "keys", SystemClock())
    hub.add("one")
    config = ["--config", str(hub.config)]
    assert main(["backup", str(hub.folder), "--keep", "2", *config]) == 0
    said = capsys.readouterr().out
    assert "1 images, 1 blobs of 3 bytes; 1 new ones of 3 bytes were copied" in said
    assert "private keys" in said
    assert main(["restore", str(hub.folder), *config]) == 1
    assert "--force" in capsys.readouterr().err
    hub.add("two")
    assert main(["restore", str(hub.folder), "--force", *config]) == 0
    said = " ".join(capsys.readouterr().out.split())
    [name] = generations.generations(hub.folder)
    assert f"restored generation {name}" in said
    for part in (
        "quarantine",
        "epoch",
        "spool.keep_hours",
        "images stored after",
        "labels made after",
        "numbers above",
    ):
        assert part in said
    assert hub.events == {"one"}


def test_dropped_and_missing_are_told(hub, capsys):
    config = ["--config", str(hub.config)]
    hub.add("one")
    hub.backup()
    hub.store.blobs.put([b"two"])
    hub.add("two")
    hub.store.blobs.path(sha256_hex(b"two")).unlink()
    assert main(["backup", str(hub.folder), "--keep", "1", "--without-keys", *config]) == 1
    said = capsys.readouterr().out
    assert "dropped generation 20260301T120100Z" in said
    assert f"missing: blob {sha256_hex(b'two')}" in said
    assert "private keys" not in said
    assert main(["fsck", "--repair", *config]) == 0
    assert "missing: image 2" in capsys.readouterr().out
    assert main(["backup", str(hub.folder), *config]) == 0


@pytest.mark.parametrize("keep", ["0", "-1"])
def test_at_least_one_generation_stays(hub, capsys, keep):
    assert main(["backup", str(hub.folder), "--keep", keep, "--config", str(hub.config)]) == 1
    assert "--keep must be 1 or more" in capsys.readouterr().err


def test_a_folder_that_is_no_backup_is_told(hub, capsys, tmp_path):
    config = ["--config", str(hub.config)]
    assert main(["restore", str(tmp_path / "gone"), *config]) == 1
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["restore", str(tmp_path / "empty"), *config]) == 1
    assert "no complete backup" in capsys.readouterr().err
