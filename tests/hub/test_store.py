"""Database and blobs: the schema is what the tables say, threads do not disturb one another, `put` means on disk."""

import errno
import os
import resource
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import alembic.command
import alembic.config
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlmodel import SQLModel, col, func, select

import hub.store
from hub.segments import Segments
from hub.store import StoredBlobs, open_store
from hub.tables import Assignment, Camera, Image, Label, Number, Release, Run, Tombstone
from shared.errors import StoreError
from shared.files import sha256_hex
from tests.hub.making import NOW, add_image, get_image, settings_in


class NoSegments:
    """An index of nothing."""

    def find(self, _sha256):
        return None

    def all(self):
        yield from ()


def blobs_in(folder):
    return StoredBlobs(folder / "blobs", Segments(folder / "segments"), NoSegments())


@pytest.fixture
def blobs(tmp_path):
    return blobs_in(tmp_path)


# -- the schema


def test_an_empty_database_is_migrated_to_exactly_what_the_tables_say(store):
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, SQLModel.metadata) == []
        assert context.get_current_revision() is not None
    assert set(inspect(store.engine).get_table_names()) == {*SQLModel.metadata.tables, "alembic_version"}


def test_a_database_of_before_the_split_is_brought_up_with_all_that_is_in_it(settings, store):
    taught = add_image(store, label="good", decided=True, why="audit")
    held = add_image(store, label="good", decided=True, split="holdout")
    add_image(store)
    with store.write() as session:
        session.add(Run(project="cells", created_at=NOW, state="done", verdict="first"))
        session.flush()
        session.add(
            Release(project="cells", number=1, run_id=1, created_at=NOW, expires_at=NOW, envelope=b"x", model={"a": 1})
        )
        session.add(Label(image_id=taught, name="good", at=NOW))
    migrate(store, "0002")
    store.close()
    again = open_store(settings)
    with again.read() as session:
        assert [(one.image_id, one.near, one.side) for one in session.exec(select(Assignment))] == [
            (taught, "", "train")
        ]
        run, release = session.exec(select(Run)).one(), session.exec(select(Release)).one()
        assert (run.holdout, run.doubt, run.slices, run.left_out, run.verdict) == (0, "", [], 0, "first")
        assert (release.holdout, release.run_id, release.model) == (0, 1, {"a": 1})
        assert session.exec(select(Label.image_id)).all() == [taught]
        assert get_image(again, held).split == "holdout"
    again.close()


def migrate(store, revision):
    """Take the schema back."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(hub.store.__file__).parent / "migrations"))
    with store.engine.connect() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, revision)
        connection.commit()


def test_opening_again_keeps_what_is_there(settings, store):
    image = add_image(store, b"x")
    store.close()
    again = open_store(settings)
    assert get_image(again, image).size == 1
    again.close()


def test_sqlite_is_set_to_keep_its_word(store):
    with store.engine.connect() as connection:
        values = {
            one: connection.exec_driver_sql(f"PRAGMA {one}").scalar()
            for one in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_database_of_a_newer_hub_is_refused_in_one_line(settings, store):
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(settings)


def test_a_file_that_is_no_database_is_refused(settings):
    settings.state_folder.mkdir()
    (settings.state_folder / "hone.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(settings)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(settings_in(tmp_path))


@pytest.mark.parametrize("url", ["nonsense", "postgresql+nodriver://me:secret@db/hone"])
def test_a_url_that_cannot_be_used_is_an_error_of_ours_without_its_password(tmp_path, url):
    with pytest.raises(StoreError) as caught:
        open_store(settings_in(tmp_path, database=url))
    assert "secret" not in str(caught.value)


def test_times_come_back_in_utc(store):
    image = add_image(store, captured_at=datetime(2026, 3, 1, 13, 0, tzinfo=timezone(timedelta(hours=1))))
    assert get_image(store, image).captured_at == NOW
    assert get_image(store, image).captured_at.tzinfo is UTC


# -- sessions


def test_a_failed_block_leaves_nothing(store):
    def fails():
        with store.write() as session:
            session.add(Number(name="n", value=1))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with store.read() as session:
        assert session.get(Number, "n") is None


def test_database_errors_come_out_as_store_errors(store):
    add_image(store, event_id="one")
    with pytest.raises(StoreError, match="UNIQUE"):
        add_image(store, event_id="one")


def test_a_number_too_large_for_the_database_is_a_store_error(store):
    with pytest.raises(StoreError):
        add_image(store, release=1 << 70)


def test_threads_write_and_read_side_by_side(store):
    failed: list[BaseException] = []
    done = threading.Event()

    def write(name):
        try:
            for _ in range(25):
                with store.write() as session:
                    row = session.get(Number, "shared") or Number(name="shared", value=0)
                    row.value += 1  # read, then written: lost updates would show
                    session.add(row)
                    session.add(Tombstone(camera=name, event_id=f"{row.value}", sha256="", purged_at=NOW))
        except StoreError as error:
            failed.append(error)

    def read():
        seen: list[int] = []
        try:
            while not done.is_set():
                with store.read() as session:
                    row = session.get(Number, "shared")
                    seen.append(row.value if row else 0)
                    count = session.exec(select(func.count()).select_from(Tombstone)).one()
                    assert count == seen[-1]  # one transaction sees one state
            assert seen == sorted(seen)
        except (StoreError, AssertionError) as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(f"w{one}",)) for one in range(4)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in writers + readers:
        one.start()
    for one in writers:
        one.join(60)
    done.set()
    for one in readers:
        one.join(60)
    assert not failed
    with store.read() as session:
        assert session.exec(select(Number.value).where(col(Number.name) == "shared")).one() == 100


def test_a_reader_is_not_kept_waiting_by_a_writer(store):
    with store.write() as writer:
        writer.add(Camera(name="a/b", first_seen=NOW, last_seen=NOW))
        writer.flush()
        with store.read() as reader:
            assert reader.exec(select(Camera)).all() == []


# -- blobs


def test_blobs_are_named_by_their_content(blobs):
    names = blobs.put([b"one", b"two"])
    assert names == [sha256_hex(b"one"), sha256_hex(b"two")]
    assert blobs.read(names[0]) == b"one"
    assert blobs.path(names[1]) == blobs.folder / names[1][:2] / names[1]
    assert sorted(blobs.all()) == sorted(names)
    assert blobs.has(names[0])
    assert not blobs.has(sha256_hex(b"three"))
    assert list(blobs.leftovers()) == []


def test_putting_again_changes_nothing(blobs):
    [name] = blobs.put([b"one"])
    before = blobs.path(name).stat()
    assert blobs.put([b"one", b"one"]) == [name, name]
    after = blobs.path(name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@contextmanager
def synced():
    """The files and folders that were fsynced, by path, and the names that appeared before each."""
    order: list[str] = []
    really = os.fsync, os.replace

    def fsync(handle):
        order.append("sync " + os.readlink(f"/proc/self/fd/{handle}"))
        really[0](handle)

    def replace(source, target):
        order.append(f"name {target}")
        really[1](source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", replace)
        yield order


def test_bytes_are_synced_before_the_name_and_the_folders_after(blobs):
    with synced() as order:
        [name] = blobs.put([b"one"])
    path = str(blobs.path(name))
    named = order.index(f"name {path}")
    assert any(one.startswith(f"sync {path}.") for one in order[:named])
    assert f"sync {blobs.path(name).parent}" in order[named:]
    assert f"sync {blobs.folder}" in order[named:]


def test_a_put_whose_last_sync_failed_is_synced_by_the_next(blobs, monkeypatch):
    def fails(_folder):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(hub.store, "sync_folder", fails)
        with pytest.raises(StoreError, match="Input/output error"):
            blobs.put([b"one"])
    with synced() as order:
        [name] = blobs.put([b"one"])  # the file is there, but nobody knows yet if its name is durable
    assert f"sync {blobs.path(name).parent}" in order
    assert f"sync {blobs.folder}" in order


def test_a_write_that_breaks_off_leaves_no_blob(blobs):
    big = bytes(100_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # a real short write, as on a full disk
    try:
        with pytest.raises(StoreError, match="File too large"):
            blobs.put([b"small", big])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not blobs.has(sha256_hex(big))
    assert sha256_hex(big) not in set(blobs.all())
    assert list(blobs.leftovers()) == []
    assert blobs.put([b"small", big]) == [sha256_hex(b"small"), sha256_hex(big)]
    assert blobs.read(sha256_hex(big)) == big


def test_a_full_disk_is_said(blobs, monkeypatch):
    def full(*_args, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub.store, "write_aside", full)
    with pytest.raises(StoreError, match=r"No space left on device.*Is the disk full\?"):
        blobs.put([b"one"])
    assert list(blobs.all()) == []


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "blobs").write_text("a file where the folder belongs")
    with pytest.raises(StoreError, match="cannot be written"):
        blobs_in(tmp_path).put([b"one"])


def test_a_missing_blob_is_named(blobs):
    with pytest.raises(StoreError, match=r"abcd.*fsck"):
        blobs.read("abcd")


def test_threads_put_the_same_blob_at_once(blobs):
    data = bytes(200_000)
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.extend(blobs.put([data]))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert names == [sha256_hex(data)] * 8
    assert blobs.read(names[0]) == data
    assert list(blobs.leftovers()) == []


def test_a_purged_events_tombstone_is_not_an_image(store):
    with store.write() as session:
        session.add(Tombstone(camera="a/b", event_id="e", sha256="x", purged_at=NOW))
    with store.read() as session:
        assert session.exec(select(Image)).all() == []
        found = session.get(Tombstone, ("a/b", "e"))
        assert found is not None
        assert found.purged_at == NOW


def test_who_waits_for_the_lock_gets_it_beside_one_that_writes_round_after_round(settings, store):
    """Counted in rounds of the busy one: SQLite's own waiting, ten looks a second, takes hundreds for each."""
    other = open_store(settings)
    rounds, stop = [0], threading.Event()

    def busy():
        while not stop.is_set():
            with store.write() as session:
                rounds[0] += 1
                session.merge(Number(name="busy", value=rounds[0]))
                session.flush()
                stop.wait(0.02)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for one in range(10):
            before = rounds[0]
            while rounds[0] == before:
                stop.wait(0.005)
            with other.write() as session:
                session.merge(Number(name="patient", value=one))
    finally:
        stop.set()
        thread.join(30)
        other.close()
    assert rounds[0] < 400
