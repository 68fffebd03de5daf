"""Segments against their index: garbage is told of and left alone, and what the index lost is found again, if the bytes
are what they claim to be.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlmodel import col, delete, select, update

from hub.__main__ import main
from hub.findings import GRACE, Finding
from hub.fsck import check
from hub.quarantine import Quarantine
from hub.segments import HEADER
from hub.settings import read
from hub.store import Store, open_store
from hub.tables import Blob, Image
from shared.clock import SystemClock
from shared.errors import StoreError
from shared.files import sha256_hex
from tests.hub.making import add_image, commit, toml_in

CLOCK = SystemClock()


def blobs(count: int, seed: int = 1) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(chance.randrange(1, 9000)) for _ in range(count)]


def age(store: Store) -> None:
    """Nothing was written to the segments for long."""
    for name in store.blobs.segments.names():
        os.utime(store.blobs.segments.path(name), (time.time() - 2 * GRACE.total_seconds(),) * 2)


def fsck(store: Store, *, repair: bool = False, deep: bool = False) -> list[Finding]:
    quarantine = Quarantine(store.blobs.folder.parent, CLOCK) if repair else None
    return list(check(store, CLOCK, deep=deep, quarantine=quarantine, wait=lambda _: None))


def told(findings: list[Finding]) -> list[tuple[str, str, bool]]:
    return sorted((one.kind, one.subject, one.mended) for one in findings)


def kinds(findings: list[Finding]) -> list[str]:
    return sorted(one.kind for one in findings)


def index(store: Store) -> dict[str, tuple[str, int, int]]:
    with store.read() as session:
        return {one.sha256: (one.segment, one.offset, one.size) for one in session.exec(select(Blob))}


def states(store: Store) -> dict[str, str]:
    with store.read() as session:
        return dict(session.exec(select(Image.sha256, Image.state)).all())


def forget(store: Store, *data: bytes) -> None:
    """The index loses these."""
    with store.write() as session:
        session.exec(delete(Blob).where(col(Blob.sha256).in_([sha256_hex(one) for one in data])))


def damage(store: Store, data: bytes) -> None:
    """Flip a bit of an image where it lies in its segment."""
    segment, offset, _ = index(store)[sha256_hex(data)]
    with open(store.blobs.segments.path(segment), "r+b") as file:
        file.seek(offset)
        file.write(bytes([data[0] ^ 1]))


# -- garbage


def test_segments_whose_records_all_have_rows_are_well(store):
    commit(store, *blobs(20))
    commit(store, *blobs(20, seed=2))
    age(store)
    assert fsck(store, deep=True) == []
    assert fsck(store, repair=True) == []


DYING = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from hub.settings import read
from hub.store import open_store
from tests.hub.making import commit
from tests.hub.test_reindex import blobs

store = open_store(read(Path(sys.argv[1])))
commit(store, *blobs(3))
event.listen(store.engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
commit(store, *blobs(2, seed=2))
"""


def test_what_a_hub_leaves_that_dies_between_sync_and_commit_is_garbage_and_no_error(tmp_path, capsys):
    config = toml_in(tmp_path)
    done = subprocess.run([sys.executable, "-c", DYING, str(config)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    store = open_store(read(config))
    try:
        segments = store.blobs.segments
        [name] = segments.names()
        before = segments.path(name).read_bytes()
        assert len(states(store)) == 3
        assert fsck(store) == [], "it may be under way"
        age(store)
        lost = {sha256_hex(one): len(one) for one in blobs(2, seed=2)}
        at = {sha256: place.offset for sha256, place in segments.scan(name) if sha256 in lost}
        found = fsck(store, repair=True, deep=True)
        assert told(found) == sorted(("garbage", f"{name} at {one}", True) for one in at.values())
        assert sum(one.size for one in found) == sum(lost.values())
        assert all(sum(sha256 in one.text for one in found) == 1 for sha256 in lost)
        assert segments.path(name).read_bytes() == before
        assert not (store.blobs.folder.parent / "quarantine").exists()
        assert main(["fsck", "--repair", "--config", str(config)]) == 0
        said = capsys.readouterr().out
        assert f"2 records of {sum(lost.values())} bytes in segments are garbage (harmless)" in said
        assert all(sha256 in said for sha256 in lost)
    finally:
        store.close()


def test_the_older_of_two_records_is_garbage(store):
    one, other = blobs(2)
    commit(store, one, other)
    first = index(store)[sha256_hex(one)]
    commit(store, one, camera="site/cam-2")
    age(store)
    assert told(fsck(store)) == [("garbage", f"{first[0]} at {first[1]}", True)]


def test_a_record_whose_image_is_gone_from_the_database_is_garbage(store):
    one, other = blobs(2)
    commit(store, one, other)
    with store.write() as session:
        session.exec(delete(Image).where(col(Image.sha256) == sha256_hex(one)))
    age(store)
    segment, offset, size = index(store)[sha256_hex(one)]
    [found] = fsck(store)
    assert (found.kind, found.subject, found.size) == ("garbage", f"{segment} at {offset}", size)


def test_other_files_among_the_segments_are_found_and_moved(store):
    commit(store, *blobs(2))
    folder = store.blobs.segments.folder
    for name in ("notes.txt", "1-a.seg.tmp"):
        (folder / name).write_bytes(b"x")
        assert fsck(store) == [], "it is young"
        os.utime(folder / name, (0, 0))
        kind = "leftover" if name.endswith(".tmp") else "foreign"
        assert told(fsck(store)) == [(kind, f"segments/{name}", False)]
        assert told(fsck(store, repair=True)) == [(kind, f"segments/{name}", True)]
        [kept] = (store.blobs.folder.parent / "quarantine").rglob(name)
        assert kept.read_bytes() == b"x"
    assert fsck(store, deep=True) == []


# -- an index that is lost


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_rows_of_the_index_that_are_gone_are_made_anew(store, share):
    data = [*blobs(30), b""]
    commit(store, *data[:15])
    commit(store, *data[15:])
    before = index(store)
    gone = data[: int(share * len(data))]
    forget(store, *gone)
    images = {one.sha256: one.id for one in rows(store)}
    expected = sorted(("unindexed", f"image {images[sha256_hex(one)]}", False) for one in gone)
    assert told(fsck(store)) == expected
    assert len(index(store)) == len(data) - len(gone), "it only reads"
    assert told(fsck(store, repair=True)) == [(kind, subject, True) for kind, subject, _ in expected]
    assert index(store) == before
    age(store)
    assert fsck(store, deep=True) == []
    assert {store.blobs.read(sha256_hex(one)) for one in data} == set(data)


def rows(store: Store) -> list[Image]:
    with store.read() as session:
        return list(session.exec(select(Image).order_by(col(Image.id))))


def test_what_was_marked_lost_while_the_disk_was_away_is_found_again(store):
    data = blobs(3)
    commit(store, *data)
    add_image(store, b"imported", split="train")
    folder = store.blobs.segments.folder
    store.blobs.segments.close()
    folder.rename(folder.with_name("away"))
    commit(store, *blobs(1, seed=2))  # makes a folder of its own, so that it does not look empty
    assert kinds(fsck(store, repair=True)) == ["missing"] * 3
    assert all(states(store)[sha256_hex(one)] == "lost" for one in data)
    for one in folder.with_name("away").iterdir():
        one.rename(folder / one.name)
    assert [(kind, mended) for kind, _, mended in told(fsck(store))] == [("found", False)] * 3
    assert [(kind, mended) for kind, _, mended in told(fsck(store, repair=True))] == [("found", True)] * 3
    assert "lost" not in states(store).values()
    assert fsck(store, deep=True) == []


def test_a_record_that_lies_is_not_believed(store):
    one, other = blobs(2)
    commit(store, one, other)
    damage(store, one)
    forget(store, one)
    image = rows(store)[0].id
    assert told(fsck(store, repair=True)) == [("missing", f"image {image}", True)]
    assert states(store)[sha256_hex(one)] == "lost"
    assert sha256_hex(one) not in index(store)


def test_a_damaged_record_is_replaced_by_its_twin(store):
    one, other = blobs(2)
    commit(store, one, other)
    first = index(store)[sha256_hex(one)]
    commit(store, one, camera="site/cam-2")
    damage(store, one)
    assert fsck(store) == []
    assert kinds(fsck(store, deep=True)) == ["unindexed"] * 2, "an image each"
    assert kinds(fsck(store, deep=True, repair=True)) == ["unindexed"] * 2
    assert index(store)[sha256_hex(one)] == first
    assert fsck(store, deep=True) == []


def test_a_place_that_is_wrong_is_found_by_reading_and_corrected(store):
    data = blobs(4)
    commit(store, *data)
    before = index(store)
    with store.write() as session:
        session.exec(update(Blob).where(col(Blob.sha256) == sha256_hex(data[1])).values(offset=HEADER.size))
        session.exec(update(Blob).where(col(Blob.sha256) == sha256_hex(data[2])).values(segment="gone.seg"))
    assert kinds(fsck(store)) == ["unindexed"]
    assert kinds(fsck(store, deep=True, repair=True)) == ["unindexed"] * 2
    assert index(store) == before


def test_a_damaged_file_goes_where_a_segment_has_the_blob(store):
    [one] = blobs(1)
    commit(store, one)
    [sha256] = store.blobs.put([one])  # the same image was imported
    store.blobs.path(sha256).write_bytes(b"short")
    assert kinds(fsck(store, repair=True)) == ["unindexed"]
    [kept] = (store.blobs.folder.parent / "quarantine").rglob(sha256)
    assert kept.read_bytes() == b"short"
    assert store.blobs.read(sha256) == one
    assert fsck(store, deep=True) == []


def test_whatever_is_torn_and_forgotten_no_image_is_lost_that_can_be_read(store, tmp_path):
    """A segment cut off anywhere and an index with holes: what is whole is found again, the rest is marked."""
    data = blobs(25)
    for start in range(0, 25, 5):
        commit(store, *data[start : start + 5])
    names = store.blobs.segments.names()
    shutil.copytree(store.blobs.segments.folder, tmp_path / "whole")
    places = index(store)
    chance = random.Random(3)
    for _ in range(6):
        name = chance.choice(names)
        whole = (tmp_path / "whole" / name).read_bytes()
        cut = chance.randrange(len(whole))
        store.blobs.segments.path(name).write_bytes(whole[:cut])
        forget(store, *chance.sample(data, 10))
        findings = fsck(store, repair=True)
        assert all(one.mended for one in findings)
        gone = {sha256 for sha256, (segment, offset, size) in places.items() if segment == name and offset + size > cut}
        assert {sha256 for sha256, state in states(store).items() if state == "lost"} == gone
        assert all(sha256_hex(store.blobs.read(one)) == one for one in places.keys() - gone)
        shutil.copyfile(tmp_path / "whole" / name, store.blobs.segments.path(name))
        fsck(store, repair=True)
        assert set(states(store).values()) == {"new"}
        assert index(store) == places


def test_a_repair_is_refused_where_no_segment_is(store):
    commit(store, *blobs(2))
    add_image(store, b"imported", split="train")
    folder: Path = store.blobs.segments.folder
    folder.rename(folder.with_name("away"))
    with pytest.raises(StoreError, match="mounted"):
        fsck(store, repair=True)
    assert "lost" not in states(store).values()
    assert kinds(fsck(store)) == ["missing"] * 2


def test_a_hub_that_stores_meanwhile_loses_nothing_by_a_repair(store):
    """Rows come between every look: none is taken for garbage, none is marked."""
    commit(store, *blobs(5))
    forget(store, *blobs(2))
    seen: list[Finding] = []
    for seed, finding in enumerate(check(store, CLOCK, quarantine=Quarantine(store.blobs.folder.parent, CLOCK)), 2):
        seen.append(finding)
        commit(store, *blobs(3, seed=seed))
    assert kinds(seen) == ["unindexed"] * 2
    age(store)
    assert fsck(store, deep=True) == []
    assert set(states(store).values()) == {"new"}
