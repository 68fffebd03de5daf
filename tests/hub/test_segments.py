"""Segments: what was appended is read back, whatever its size, and a torn or failed write costs only itself."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub import segments
from hub.segments import BLOCK, BUFFER_BYTES, HEADER, MAGIC, Place, Segments
from shared.files import sha256_hex

EDGES = sorted(
    {
        size
        for whole in (BLOCK, 2 * BLOCK, BUFFER_BYTES, 2 * BUFFER_BYTES)
        for size in (whole - HEADER.size - 1, whole - HEADER.size, whole - HEADER.size + 1, whole - 1, whole, whole + 1)
    }
)
"""Sizes at which a record, or its bytes, just fit a block or the buffer."""


def blob(seed: int, size: int) -> tuple[str, bytes]:
    data = random.Random(seed).randbytes(size)
    return sha256_hex(data), data


def readable(store: Segments, blobs: list[tuple[str, bytes]], places: list[Place]) -> None:
    assert len(places) == len(blobs)
    for (sha256, data), place in zip(blobs, places, strict=True):
        assert place.size == len(data)
        assert store.holds(place)
        assert store.read(place) == data
        assert sha256_hex(data) == sha256


def scanned(store: Segments) -> list[tuple[str, Place]]:
    return [one for name in store.names() for one in store.scan(name)]


def path_of(store: Segments) -> Path:
    [name] = store.names()
    return store.path(name)


# -- what goes in comes out


@given(
    batches=st.lists(
        st.lists(st.one_of(st.integers(0, 300), st.integers(3900, 4300), st.integers(8000, 8300)), max_size=5),
        min_size=1,
        max_size=5,
    ),
    reopened=st.sets(st.integers(0, 4)),
)
@settings(max_examples=60)
def test_what_is_appended_is_read_and_scanned(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], reopened: set[int]
) -> None:
    store = Segments(tmp_path_factory.mktemp("state") / "segments")
    every: list[tuple[str, Place]] = []
    for number, sizes in enumerate(batches):
        if number in reopened:
            store.close()
        blobs = [blob(1000 * number + at, size) for at, size in enumerate(sizes)]
        places = store.append(blobs)
        readable(store, blobs, places)
        every += [(sha256, place) for (sha256, _), place in zip(blobs, places, strict=True)]
    store.close()
    assert scanned(store) == every
    later = Segments(store.folder)
    assert [sha256_hex(later.read(place)) for _, place in every] == [sha256 for sha256, _ in every]
    assert all(later.path(name).stat().st_size % BLOCK == 0 for name in later.names())


@pytest.mark.parametrize("size", EDGES)
def test_sizes_around_a_block_and_the_buffer(tmp_path: Path, size: int) -> None:
    store = Segments(tmp_path)
    blobs = [blob(1, size), blob(2, 10), blob(3, size), blob(4, 5000)]
    first = store.append(blobs)
    second = store.append(blobs[:1])
    readable(store, blobs + blobs[:1], first + second)
    assert [place for _, place in scanned(store)] == first + second
    store.close()


def test_a_batch_larger_than_the_buffer_many_times(tmp_path: Path) -> None:
    store = Segments(tmp_path)
    blobs = [blob(at, size) for at, size in enumerate(random.Random(7).choices(range(200_000), k=200))]
    assert sum(len(data) for _, data in blobs) > 3 * BUFFER_BYTES
    places = store.append(blobs)
    readable(store, blobs, places)
    assert [place for _, place in scanned(store)] == places
    store.close()


def test_nothing_appended_makes_no_segment(tmp_path: Path) -> None:
    store = Segments(tmp_path / "segments")
    assert store.append([]) == []
    assert store.names() == []


def test_one_sync_for_a_batch_and_none_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    really_write, really_sync = os.pwrite, os.fdatasync
    monkeypatch.setattr(os, "pwrite", lambda *args: (told.append("write"), really_write(*args))[1])
    monkeypatch.setattr(os, "fdatasync", lambda file: (told.append("sync"), really_sync(file))[1])
    store = Segments(tmp_path)
    store.append([blob(at, 3_000_000) for at in range(3)])
    assert told == ["write", "write", "write", "sync"]
    store.close()


def test_a_new_segment_is_durable_by_name_before_its_batch_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, int]] = []
    monkeypatch.setattr(segments, "sync_folder", lambda folder: synced.append((folder, len(list(folder.iterdir())))))
    store = Segments(tmp_path / "segments")
    store.append([blob(1, 10)])
    store.append([blob(2, 10)])
    assert synced == [(tmp_path / "segments", 1)]
    store.close()


def test_a_long_segment_is_closed_and_another_one_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 3 * BLOCK)
    store = Segments(tmp_path)
    blobs = [blob(at, 3000) for at in range(10)]
    places = [store.append([one])[0] for one in blobs]
    readable(store, blobs, places)
    assert len(store.names()) == 3
    assert [place.segment for place in places] == sorted(place.segment for place in places), "names sort by time"
    store.close()


def test_two_writers_have_segments_of_their_own(tmp_path: Path) -> None:
    one, other = Segments(tmp_path), Segments(tmp_path)
    blobs = [blob(at, 5000) for at in range(6)]
    places = [(one, other)[at % 2].append([each])[0] for at, each in enumerate(blobs)]
    readable(one, blobs, places)
    assert len(one.names()) == 2
    one.close()
    other.close()


def test_threads_may_append_and_read_at_once(tmp_path: Path) -> None:
    store = Segments(tmp_path)
    done: list[int] = []

    def work(number: int) -> None:
        for round_ in range(10):
            blobs = [blob(1000 * number + 10 * round_ + at, 2000 + at) for at in range(4)]
            readable(store, blobs, store.append(blobs))
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    assert sorted(done) == [0, 1, 2, 3]
    assert len(scanned(store)) == 160
    store.close()


# -- what is torn, or not there


def test_a_torn_tail_costs_only_what_lies_beyond(tmp_path: Path) -> None:
    store = Segments(tmp_path / "whole")
    batches = [[blob(10 * number + at, size) for at, size in enumerate((700, 0, 4096, 5000))] for number in range(3)]
    places = [place for one in batches for place in store.append(one)]
    store.close()
    whole = path_of(store)
    hashes = [sha256 for one in batches for sha256, _ in one]
    ends = [place.offset + place.size for place in places]
    cuts = {0, whole.stat().st_size, *(end + more for end in ends for more in (-1, 0, 1))}
    cuts |= set(random.Random(1).choices(range(whole.stat().st_size), k=150))
    torn = Segments(tmp_path / "torn")
    torn.folder.mkdir()
    copy = torn.path(whole.name)
    shutil.copyfile(whole, copy)
    for cut in sorted(cuts, reverse=True):
        os.truncate(copy, max(0, cut))
        left = [(sha256, place) for sha256, place, end in zip(hashes, places, ends, strict=True) if end <= cut]
        found = scanned(torn)
        assert [one for one in found if one[1] in places] == left
        for sha256, place in left:
            assert sha256_hex(torn.read(place)) == sha256
        for place in places[len(left) :]:
            if place.size:
                assert not torn.holds(place)
                with pytest.raises(OSError, match="too short"):
                    torn.read(place)


def test_a_batch_that_broke_off_is_passed_over(tmp_path: Path) -> None:
    """A power cut while a batch was written; another process appends a segment of its own, and a scan finds both."""
    store = Segments(tmp_path)
    first, second = [blob(1, 9000)], [blob(2, 9000), blob(3, 100)]
    [kept] = store.append(first)
    places = store.append(second)
    store.close()
    path = path_of(store)
    with open(path, "r+b") as file:  # the first block of the second batch never came to the disk
        file.seek(places[0].offset - HEADER.size)
        file.write(bytes(BLOCK))
    found = scanned(store)
    assert (first[0][0], kept) in found
    assert places[0] not in [place for _, place in found]
    assert store.read(kept) == first[0][1]


@given(junk=st.binary(max_size=3 * BLOCK), claims=st.integers(0, 2**64 - 1))
@settings(max_examples=50)
def test_a_scan_ends_whatever_lies_there(tmp_path_factory: pytest.TempPathFactory, junk: bytes, claims: int) -> None:
    store = Segments(tmp_path_factory.mktemp("segments"))
    (store.folder / "x.seg").write_bytes(HEADER.pack(MAGIC, bytes(32), claims) + junk)
    size = HEADER.size + len(junk)
    for _, place in store.scan("x.seg"):
        assert place.offset + place.size <= size


def test_a_segment_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    store = Segments(tmp_path)
    [place] = store.append([blob(1, 100)])
    store.close()
    path_of(store).unlink()
    assert not store.holds(place)
    with pytest.raises(FileNotFoundError):
        store.read(place)


# -- a disk that fails


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Segments]:
    made = Segments(tmp_path / "segments")
    yield made
    made.close()


FAULTS = ["ENOSPC", "EIO", "short", "sync", "open", "folder"]


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_failed_write_what_was_there_is_readable_and_a_new_segment_is_begun(
    store: Segments, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = [blob(1, 5000), blob(2, 10)]
    places = store.append(before)
    if fault in ("open", "folder"):
        store.close()
    with monkeypatch.context() as broken:
        really = os.pwrite

        def fails(*_args: object, **_more: object) -> int:
            raise OSError(errno.EIO if fault != "ENOSPC" else errno.ENOSPC, "no")

        def short(file: int, view: memoryview, at: int) -> int:
            return really(file, view[:1000], at)

        match fault:
            case "ENOSPC" | "EIO":
                broken.setattr(os, "pwrite", fails)
            case "short":
                broken.setattr(os, "pwrite", short)
                broken.setattr(os, "O_DIRECT", 0)
                store.close()  # what is written so need not be aligned
            case "sync":
                broken.setattr(os, "fdatasync", fails)
            case "open":
                broken.setattr(os, "open", fails)
            case "folder":
                broken.setattr(segments, "sync_folder", fails)
        with pytest.raises(OSError, match=r"no|No space"):
            store.append([blob(3, 6000)])
    after = [blob(4, 7000)]
    later = store.append(after)
    readable(store, before + after, places + later)
    assert later[0].segment != places[0].segment
    assert len({place.segment for place in places + later} & set(store.names())) == 2


def test_a_write_that_is_cut_short_at_a_block_goes_on(store: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, view, at: really(file, view[:BLOCK], at))
    blobs = [blob(1, 3 * BLOCK), blob(2, 100)]
    readable(store, blobs, store.append(blobs))
    assert len(scanned(store)) == 2


GROWING = """
import resource, signal, sys
from pathlib import Path
from hub.segments import Segments
from shared.files import sha256_hex

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Segments(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
for number in range(40):
    data = number.to_bytes(2, "big") * 30_000
    try:
        [place] = store.append([(sha256_hex(data), data)])
    except OSError as error:
        print("failed", error.errno, flush=True)
        continue
    print(place.segment, place.offset, place.size, sha256_hex(data), flush=True)
"""


def test_a_file_that_may_not_grow_costs_one_batch_and_another_segment_is_begun(tmp_path: Path) -> None:
    """The kernel's own refusal, by a limit on the size of files."""
    done = subprocess.run(
        [sys.executable, "-c", GROWING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    failed = [at for at, line in enumerate(lines) if line[0] == "failed"]
    assert len(lines) == 40
    assert 1 <= len(failed) <= 3
    assert {lines[at][1] for at in failed} == {str(errno.EFBIG)}
    store = Segments(tmp_path)
    assert len(store.names()) == len(failed) + 1
    for line in lines:
        if line[0] != "failed":
            place = Place(line[0], int(line[1]), int(line[2]))
            assert sha256_hex(store.read(place)) == line[3]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of 1 MiB: no O_DIRECT, and soon full."""
    if os.geteuid():
        pytest.skip("only root may mount a file system")
    where = tmp_path / "disk"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.strip()})")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_a_file_system_without_direct_writes_that_is_full(small_disk: Path) -> None:
    store = Segments(small_disk / "segments")
    blobs = [blob(number, 30_000) for number in range(28)]
    places = [store.append([one])[0] for one in blobs]
    readable(store, blobs, places)
    with pytest.raises(OSError, match="No space"):
        store.append([blob(800, 200_000)])
    readable(store, blobs, places)
    with pytest.raises(OSError, match="No space"):
        store.append([blob(900, 200_000)])
    for path in small_disk.glob("segments/*"):
        if path.name != places[0].segment:
            path.unlink()  # somebody makes room
    store.path(places[0].segment).unlink()
    after = [blob(1000, 30_000)]
    readable(store, after, store.append(after))
    store.close()


def test_this_machines_disk_takes_direct_writes_or_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where O_DIRECT is refused the segment is an ordinary file."""
    really = os.open
    tried: list[bool] = []

    def refuses(path: Path, flags: int, mode: int = 0o777) -> int:
        tried.append(bool(flags & os.O_DIRECT))
        if flags & os.O_DIRECT:
            os.close(really(path, flags & ~os.O_DIRECT, mode))  # made all the same, as tmpfs does
            raise OSError(errno.EINVAL, "no")
        return really(path, flags, mode)

    store = Segments(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", refuses)
        blobs = [blob(1, 5000)]
        places = store.append(blobs)
    assert tried[:2] == [True, False]
    readable(store, blobs, places)
    assert len(store.names()) == 1
    store.close()


APPENDING = """
import random, sys
from pathlib import Path
from hub.segments import Segments
from shared.files import sha256_hex

store, chance = Segments(Path(sys.argv[1])), random.Random(int(sys.argv[2]))
while True:
    blobs = [chance.randbytes(chance.randrange(20_000)) for _ in range(chance.randrange(1, 8))]
    for one, place in zip(blobs, store.append([(sha256_hex(one), one) for one in blobs])):
        print(place.segment, place.offset, place.size, sha256_hex(one), flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_leaves_every_place_that_it_told_readable(tmp_path: Path, seed: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", APPENDING, str(tmp_path), str(seed)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(random.Random(seed).randrange(20, 200))]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait(10)
    process.stdout.close()
    store = Segments(tmp_path)
    found = {sha256 for sha256, _ in scanned(store)}
    for line in told:
        segment, offset, size, sha256 = line.decode().split()
        assert sha256_hex(store.read(Place(segment, int(offset), int(size)))) == sha256
        assert sha256 in found
