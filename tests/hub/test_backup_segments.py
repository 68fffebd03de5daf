"""Backups of segments: every row has its bytes, copied once however often one backs up, whatever is killed or torn."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlmodel import col, select, update

from hub import copies, generations, lost, named, snapshot
from hub.copies import Places
from hub.fsck import check
from hub.segments import BLOCK, Place, Segments
from hub.store import StoredBlobs
from hub.tables import Blob, Image
from shared.clock import SystemClock
from shared.errors import StoreError
from shared.files import sha256_hex
from tests.fakes.listener import wait_until
from tests.hub.making import commit
from tests.hub.test_backup import Hub, files


def blobs(count: int, seed: int = 1, most: int = 9000) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(chance.randrange(1, most)) for _ in range(count)]


@pytest.fixture
def hub(tmp_path):
    made = Hub(tmp_path)
    yield made
    made.store.close()


def index(store) -> dict[str, Place]:
    with store.read() as session:
        return {one.sha256: Place(one.segment, one.offset, one.size) for one in session.exec(select(Blob))}


def names(hub) -> list[str]:
    return hub.store.blobs.segments.names()


def copy_of(hub, name: str) -> Path:
    return hub.folder / "segments" / name


def damage(path: Path, place: Place) -> None:
    with open(path, "r+b") as file:
        file.seek(place.offset)
        first = file.read(1)
        file.seek(place.offset)
        file.write(bytes([first[0] ^ 1]))


def damage_hub(hub, data: bytes) -> None:
    place = index(hub.store)[sha256_hex(data)]
    damage(hub.store.blobs.segments.path(place.segment), place)


def held(hub, generation: Path) -> set[str]:
    """The blobs of a generation's images that the backup has, by reading all of them as far as it says."""
    good = generations.read_manifest(generation).segments
    found = set()
    with snapshot.reading(generation / "hone.db") as session:
        places = Places(session)
        kept = StoredBlobs(hub.folder / "blobs", Segments(hub.folder / "segments"), places)
        for prefix in named.PREFIXES:
            for _, sha256, size, _ in named.images(session, prefix):
                place = places.find(sha256)
                inside = place is None or place.offset + place.size <= good.get(place.segment, 0)
                if inside and (data := copies.read_blob(kept, sha256)) is not None:
                    assert len(data) == size
                    found.add(sha256)
    return found


def named_by(generation: Path) -> set[str]:
    with snapshot.reading(generation / "hone.db") as session:
        return set(session.exec(select(Image.sha256)))


def whole(hub, generation: Path | None = None) -> None:
    """A restore of the generation into an empty folder gives every image."""
    hub.lose_everything()
    hub.restore(generation=generation and generation.name)
    hub.reopen()
    assert [one for one in check(hub.store, SystemClock(), deep=True) if one.kind != "garbage"] == []


def states(hub) -> dict[str, str]:
    with hub.store.read() as session:
        return dict(session.exec(select(Image.sha256, Image.state)).all())


# -- backup


def test_segments_are_copied_as_they_are_up_to_the_last_blob(hub):
    data = blobs(20)
    commit(hub.store, *data)
    made = hub.backup()
    [name] = names(hub)
    end = max(place.offset + place.size for place in index(hub.store).values())
    assert made.manifest.segments == {name: end}
    assert copy_of(hub, name).read_bytes() == hub.store.blobs.segments.path(name).read_bytes()[:end]
    assert files(hub.folder / "blobs") == set()
    assert (made.copied, made.copied_bytes) == (20, sum(map(len, data)))
    assert (made.manifest.blobs, made.manifest.bytes, made.manifest.missing) == (20, sum(map(len, data)), [])
    whole(hub)
    assert {hub.store.blobs.read(sha256_hex(one)) for one in data} == set(data)


def test_a_second_backup_copies_only_what_was_appended(hub, monkeypatch):
    first, second = blobs(10), blobs(5, seed=2)
    commit(hub.store, *first)
    before = hub.backup().manifest.segments
    commit(hub.store, *second)
    hub.store.blobs.segments.close()
    commit(hub.store, *blobs(3, seed=3))
    ranges = []
    really = copies.copy_range
    monkeypatch.setattr(copies, "copy_range", lambda *args: (ranges.append(args[2:]), really(*args))[1])
    made = hub.backup()
    [old, new] = names(hub)
    assert ranges == [(before[old], made.manifest.segments[old]), (0, made.manifest.segments[new])]
    assert made.copied == 8
    assert made.copied_bytes == sum(map(len, second + blobs(3, seed=3)))
    ranges.clear()
    assert hub.backup().copied == 0
    assert ranges == []
    whole(hub)


def test_rows_and_segments_agree_however_busy_the_hub_is(hub):
    stop, written = threading.Event(), []
    commit(hub.store, *blobs(3))

    def write():
        while not stop.is_set():
            written.append(commit(hub.store, *blobs(4, seed=100 + len(written))))
            if len(written) % 5 == 0:
                hub.store.blobs.segments.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            seen = len(written)
            wait_until(lambda seen=seen: len(written) > seen + 3, "more images")
            made = hub.backup()
            assert made.manifest.missing == []
            assert held(hub, made.generation) == named_by(made.generation)
    finally:
        stop.set()
        writer.join()
    for name in generations.generations(hub.folder):
        assert held(hub, hub.folder / name) == named_by(hub.folder / name)
    whole(hub)
    assert set(states(hub)) == named_by(made.generation)


KILLED = """
import os, signal, sys
from pathlib import Path
from hub import backup, copies
from hub.settings import read
from shared.clock import SystemClock

copies.PIECE = 4096
left, really = int(sys.argv[3]), os.pwrite

def pwrite(file, data, at):
    global left
    left -= 1
    if left < 0:
        really(file, data[: len(data) // 2], at)
        os.kill(os.getpid(), signal.SIGKILL)
    return really(file, data, at)

os.pwrite = pwrite
backup.make(read(Path(sys.argv[1])), Path(sys.argv[1]), Path(sys.argv[2]), SystemClock())
"""


@pytest.mark.parametrize("pieces", [0, 3, 12])
def test_a_backup_that_is_killed_spoils_nothing_and_the_next_one_is_whole(hub, pieces):
    commit(hub.store, *blobs(10))
    first = hub.backup()
    commit(hub.store, *blobs(12, seed=2))
    hub.store.blobs.segments.close()
    commit(hub.store, *blobs(2, seed=3))
    command = [sys.executable, "-c", KILLED, str(hub.config), str(hub.folder), str(pieces)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    for path in (hub.folder / "segments").iterdir():  # a power cut: what was not synced yet is anything
        good = first.manifest.segments.get(path.name, 0)
        assert path.stat().st_size >= good
        path.write_bytes(path.read_bytes()[:good] + os.urandom(path.stat().st_size - good + 5000))
    assert held(hub, first.generation) == named_by(first.generation)
    made = hub.backup()
    assert made.copied == 14
    assert held(hub, made.generation) == named_by(made.generation) == set(states(hub))
    assert held(hub, first.generation) == named_by(first.generation)
    whole(hub, made.generation)
    whole(hub, first.generation)


def test_what_is_damaged_in_its_segment_is_told_each_time_until_it_comes_again(hub):
    data = blobs(4)
    commit(hub.store, *data)
    bad = sha256_hex(data[1])
    damage_hub(hub, data[1])
    for _ in range(2):
        made = hub.backup()
        assert made.unmarked == made.manifest.missing == [bad]
        assert made.manifest.blobs == 3
        assert held(hub, made.generation) == named_by(made.generation) - {bad}
    with hub.store.write() as session:
        lost.mark(session, [bad])
    assert hub.backup().unmarked == []
    commit(hub.store, data[1], camera="site/cam-2")  # the same bytes, in a new place
    made = hub.backup()
    assert (made.copied, made.manifest.missing) == (1, [])
    assert held(hub, made.generation) == named_by(made.generation)


def test_what_is_damaged_in_its_segment_is_taken_from_a_file(hub):
    data = blobs(3)
    commit(hub.store, *data)
    damage_hub(hub, data[0])
    hub.store.blobs.put([data[0]])  # imported, too
    for copied in (3, 0):
        made = hub.backup(keep=1)
        assert (made.copied, made.manifest.missing) == (copied, [])
    sha256 = sha256_hex(data[0])
    assert files(hub.folder / "blobs") == {f"{sha256[:2]}/{sha256}"}
    whole(hub)
    assert hub.store.blobs.read(sha256) == data[0]


def test_what_the_hub_lost_stays_in_the_backup(hub):
    data = blobs(6)
    commit(hub.store, *data)
    hub.backup()
    [name] = names(hub)
    path = hub.store.blobs.segments.path(name)
    path.write_bytes(os.urandom(path.stat().st_size))
    assert hub.backup(keep=1).manifest.missing == []
    hub.store.blobs.segments.close()
    path.unlink()
    assert hub.backup(keep=1).manifest.missing == []
    hub.restore(force=True)
    assert {hub.store.blobs.read(sha256_hex(one)) for one in data} == set(data)


def test_a_block_that_the_disk_cannot_read_costs_only_what_lies_in_it(hub, monkeypatch):
    data = [random.Random(seed).randbytes(2 * BLOCK) for seed in range(8)]
    commit(hub.store, *data)
    places = index(hub.store)
    rotten = places[sha256_hex(data[3])].offset // BLOCK + 1
    really = os.pread

    def pread(file, size, at):
        if at < (rotten + 1) * BLOCK and at + size > rotten * BLOCK:
            raise OSError(errno.EIO, "Input/output error")
        return really(file, size, at)

    with monkeypatch.context() as broken:
        broken.setattr(os, "pread", pread)
        made = hub.backup()
    assert made.unmarked == [sha256_hex(data[3])]
    assert held(hub, made.generation) == named_by(made.generation) - set(made.unmarked)


def test_old_segments_go_with_the_last_generation_that_names_them(hub):
    commit(hub.store, *blobs(3))
    hub.store.blobs.segments.close()
    [old] = names(hub)
    hub.backup()
    with hub.store.write() as session:
        for table in (Image, Blob):
            for one in session.exec(select(table)):
                session.delete(one)
    commit(hub.store, *blobs(3, seed=2))
    hub.backup(keep=2)
    assert sorted(one.name for one in (hub.folder / "segments").iterdir()) == names(hub)
    hub.backup(keep=2)
    assert [one.name for one in (hub.folder / "segments").iterdir()] == [one for one in names(hub) if one != old]
    whole(hub)


def test_a_link_to_the_hubs_own_segments_is_refused(hub):
    commit(hub.store, *blobs(1))
    hub.folder.mkdir()
    (hub.folder / "segments").symlink_to(hub.state / "segments")
    with pytest.raises(Exception, match="state folder"):
        hub.backup(keep=1)


# -- restore


def as_format_1(hub, generation: Path) -> None:
    """Make of a generation what it would have been before backups had segments: a file for each blob."""
    with snapshot.reading(generation / "hone.db") as session:
        places = Places(session)
        segments = Segments(hub.folder / "segments")
        for sha256, place in places.all():
            path = hub.folder / "blobs" / sha256[:2] / sha256
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(segments.read(place))
    manifest = generation / "backup.json"
    said = json.loads(manifest.read_bytes())
    del said["segments"]
    manifest.write_text(json.dumps({**said, "format": 1}))
    shutil.rmtree(hub.folder / "segments")


def test_a_backup_of_before_there_were_segments_is_restored(hub):
    data = blobs(10)
    commit(hub.store, *data)
    hub.add("imported")
    as_format_1(hub, hub.backup().generation)
    whole(hub)
    assert names(hub) == []
    assert {hub.store.blobs.read(sha256_hex(one)) for one in data} == set(data)
    commit(hub.store, *blobs(3, seed=2))
    assert len(names(hub)) == 1


def test_both_forms_may_lie_in_one_folder(hub):
    commit(hub.store, *blobs(5))
    old = hub.backup().generation
    as_format_1(hub, old)
    commit(hub.store, *blobs(5, seed=2))
    new = hub.backup().generation
    assert generations.read_manifest(old).format == 1
    assert held(hub, new) == named_by(new)
    whole(hub, new)
    whole(hub, old)
    whole(hub, new)


@pytest.mark.parametrize("how", ["damaged", "cut", "gone"])
def test_a_damaged_segment_is_refused_or_costs_what_is_damaged(hub, how):
    data = blobs(8)
    commit(hub.store, *data)
    made = hub.backup()
    [name] = names(hub)
    order = sorted(index(hub.store).items(), key=lambda one: one[1].offset)
    sha256, place = order[5]
    copy = copy_of(hub, name)
    expected = {sha256}
    if how == "damaged":
        damage(copy, place)
    else:
        os.truncate(copy, place.offset)
        expected = {one for one, at in order if at.offset + at.size > place.offset}
    if how == "gone":
        copy.unlink()
        expected = {one for one, _ in order}
    hub.lose_everything()
    count = f"{len(expected)} of 8 blobs are {'damaged' if how == 'damaged' else 'not there'}"
    with pytest.raises(StoreError, match=count):
        hub.restore()
    assert not hub.database.exists()
    assert hub.restore(incomplete=True).lost == len(expected)
    hub.reopen()
    assert {one for one, state in states(hub).items() if state == "lost"} == expected
    assert named_by(made.generation) == set(states(hub))
    assert {one.kind for one in check(hub.store, SystemClock(), deep=True)} == {"lost"}


def test_what_the_backup_lacked_already_is_marked_lost(hub):
    data = blobs(4)
    commit(hub.store, *data)
    damage_hub(hub, data[2])
    hub.backup()
    hub.lose_everything()
    done = hub.restore()
    assert (done.lost, done.copied) == (1, 3)
    for _ in range(2):
        hub.reopen()
        assert {one for one, state in states(hub).items() if state == "lost"} == {sha256_hex(data[2])}
        hub.restore(force=True)  # the segment is here already


def test_a_segment_that_is_here_and_longer_is_left_alone(hub):
    """The hub that runs is writing to it."""
    commit(hub.store, *blobs(5))
    hub.backup()
    commit(hub.store, *blobs(5, seed=2))
    [name] = names(hub)
    path = hub.store.blobs.segments.path(name)
    before = (path.stat().st_ino, path.read_bytes())
    assert hub.restore(force=True).copied == 0
    assert (path.stat().st_ino, path.read_bytes()) == before
    commit(hub.store, *blobs(5, seed=3))
    assert set(states(hub)) == {sha256_hex(one) for one in blobs(5) + blobs(5, seed=3)}
    assert list(check(hub.store, SystemClock(), deep=True)) == []


def test_a_segment_that_is_here_and_shorter_is_replaced_and_kept(hub):
    data = blobs(5)
    commit(hub.store, *data)
    hub.backup()
    [name] = names(hub)
    hub.store.blobs.segments.close()
    path = hub.store.blobs.segments.path(name)
    os.truncate(path, 100)
    done = hub.restore(force=True)
    assert done.lost == 0
    assert {hub.store.blobs.read(sha256_hex(one)) for one in data} == set(data)
    [kept] = (hub.state / "quarantine").rglob(name)
    assert kept.stat().st_size == 100


RESTORE_KILLED = """
import os, signal, sys
from pathlib import Path
from hub import copies
from hub.restore import restore
from hub.settings import read
from shared.clock import SystemClock

copies.PIECE = 4096
left, really = 5, os.pwrite

def pwrite(*args):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return really(*args)

os.pwrite = pwrite
restore(read(Path(sys.argv[1])), Path(sys.argv[2]), SystemClock())
"""


def test_a_restore_that_is_killed_is_done_again(hub):
    data = blobs(30)
    commit(hub.store, *data)
    hub.backup()
    hub.lose_everything()
    command = [sys.executable, "-c", RESTORE_KILLED, str(hub.config), str(hub.folder)]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    assert not hub.database.exists()
    assert names(hub) == []
    hub.restore()
    hub.reopen()
    assert list(check(hub.store, SystemClock(), deep=True)) == []
    assert not list(hub.state.glob("segments/*.tmp"))


def test_a_place_that_is_wrong_in_the_index_costs_only_its_image(hub):
    data = blobs(5)
    commit(hub.store, *data)
    with hub.store.write() as session:
        session.exec(update(Blob).where(col(Blob.sha256) == sha256_hex(data[0])).values(offset=10 << 30))
        session.exec(update(Blob).where(col(Blob.sha256) == sha256_hex(data[1])).values(segment="gone.seg"))
    made = hub.backup()
    assert made.unmarked == sorted(map(sha256_hex, data[:2]))
    assert held(hub, made.generation) == set(map(sha256_hex, data[2:]))
