"""The spool: bounded, in order of value, and after any crash as it was or as it would have been."""

import builtins
import errno
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import edge.eventfiles
import edge.journal
from edge.aside import BLOCK, on_disk
from edge.spool import SWEEP, Spool
from shared.clock import Clock
from shared.errors import SpoolError
from shared.files import TMP, write_aside
from shared.messages import SpoolState, encode
from tests.fakes.clock import FakeClock
from tests.fakes.messages import event_of, ident

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


EVENT = 2 * BLOCK
"""What an event with a small image takes on disk."""


def opened(
    folder: Path, *, limit: int = MIB, quarantine: int = MIB, keep_s: float = 0.0, clock: Clock | None = None
) -> Spool:
    return Spool(folder, limit=limit, quarantine_limit=quarantine, keep_s=keep_s, clock=clock or FakeClock())


def swept(spool: Spool) -> Spool:
    """The spool after all that may go has gone."""
    while spool.sweep():
        pass
    return spool


def balanced(state: SpoolState) -> SpoolState:
    """The invariant of the module."""
    assert state.spooled == state.stored + state.left + state.quarantined + state.dropped
    return state


def ids(spool: Spool) -> list[str]:
    return sorted(one.id for one in spool.offers())


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir() if one.is_file() and one.name != "journal.jsonl"}


def files(*numbers: int) -> set[str]:
    return {f"{ident(n)}{end}" for n in numbers for end in ("_IM.png", "_MD.json")}


def journal(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def size_on_disk(folder: Path) -> int:
    """What the folder's files take on disk, by the file system's own word."""
    return sum(one.stat().st_blocks * 512 for one in folder.iterdir() if one.is_file())


def size_of_events(folder: Path) -> int:
    """The same of the files of events, unfinished ones included, by the rule that the spool goes by."""
    return sum(on_disk(one.stat().st_size) for one in folder.glob("*_??*"))


# ------------------------------------------------------------------------------------ without trouble


def test_what_goes_in_is_there_also_after_opening_again(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    event, data = event_of(1, value=0.25)
    spool.add(event, data)
    for one in (spool, opened(tmp_path)):
        assert one.event(event.id) == event
        assert one.image(event.id) == data
        assert [(o.id, o.size, o.chunk_size, o.value) for o in one.offers()] == [(event.id, 1000, 256, 0.25)]
        state = balanced(one.state())
        assert (state.spooled, state.left, state.bytes) == (1, 1, EVENT)
    assert names(tmp_path) == files(1)


def test_stored_is_journalled_and_gone(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for n in range(3):
        spool.add(*event_of(n))
    spool.stored([ident(0), ident(2), ident(77)])
    spool.stored([ident(0)])
    at = FakeClock().utc().timestamp()
    assert journal(tmp_path) == [{"id": ident(n), "end": "stored", "at": at} for n in (0, 2)]
    assert spool.sweep() == 2
    assert names(tmp_path) == files(1)
    for one in (spool, opened(tmp_path)):
        state = balanced(one.state())
        assert (state.spooled, state.stored, state.left) == (3, 2, 1)
        assert ids(one) == [ident(1)]
        assert one.event(ident(0)) is one.image(ident(0)) is None


def test_refused_goes_to_the_quarantine_with_its_reason(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    _, data = event_of(1)
    spool.add(*event_of(1))
    spool.refused(ident(1), "is too large")
    spool.refused(ident(1), "twice")
    spool.refused(ident(5), "never heard of")
    quarantine = tmp_path / "quarantine"
    assert (quarantine / f"{ident(1)}_IM.png").read_bytes() == data
    assert (quarantine / f"{ident(1)}.reason.txt").read_text() == "is too large\n"
    assert names(tmp_path) == set()
    for one in (spool, opened(tmp_path)):
        state = balanced(one.state())
        assert (state.quarantined, state.left, state.bytes) == (1, 0, 0)


@pytest.mark.parametrize("limit", [0, 5 * BLOCK])
def test_the_quarantine_is_bounded(tmp_path: Path, limit: int) -> None:
    spool = opened(tmp_path, quarantine=limit)
    for n in range(12):
        spool.add(*event_of(n))
        spool.refused(ident(n), "no")
        assert size_on_disk(tmp_path / "quarantine") <= limit
    assert balanced(spool.state()).quarantined == 12
    if limit:
        assert (tmp_path / "quarantine" / f"{ident(11)}_IM.png").exists(), "the latest is kept"


def test_the_journal_is_folded_into_totals_and_the_counts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in an agent that runs for years without a restart."""
    monkeypatch.setattr(edge.journal, "JOURNAL_LIMIT", 400)
    spool = opened(tmp_path)
    for n in range(30):
        spool.add(*event_of(n))
        if n % 3:
            spool.stored([ident(n)])
        else:
            spool.refused(ident(n), "no")
        spool.sweep()
        assert (tmp_path / "journal.jsonl").stat().st_size < 600
    for one in (spool, opened(tmp_path)):
        state = balanced(one.state())
        assert (state.spooled, state.stored, state.quarantined) == (30, 20, 10)


# ------------------------------------------------------------------------------------ full


def test_the_limit_is_hard_and_the_least_valuable_go(tmp_path: Path) -> None:
    limit = 600_000
    spool = opened(tmp_path, limit=limit)
    gone: list[str] = []
    spool.watch(gone.append)
    chance = random.Random(5)
    values = {ident(n): chance.random() for n in range(400)}
    refused = 0
    for n in range(400):
        try:
            spool.add(*event_of(n, size=chance.randrange(1, 12_000), value=values[ident(n)]))
        except SpoolError:
            refused += 1
        assert size_on_disk(tmp_path) - on_disk((tmp_path / "journal.jsonl").stat().st_size) <= limit
    kept = set(ids(spool))
    assert size_of_events(tmp_path) == spool.state().bytes
    assert spool.state().bytes > 0.9 * limit
    state = balanced(spool.state())
    assert (state.dropped, state.unspooled, state.spooled) == (len(gone), refused, 400 - refused)
    assert {one["id"] for one in journal(tmp_path) if one["end"] == "dropped"} == set(gone)
    assert not kept & set(gone)
    assert len(kept) > 50
    mean = sum(values[one] for one in kept) / len(kept)
    assert mean > 0.75, "the more valuable half is what is left"
    assert balanced(opened(tmp_path, limit=limit).state()) == state.__class__(
        **{**{name: getattr(state, name) for name in state.__struct_fields__}, "unspooled": 0}
    )


def test_least_valuable_first_oldest_among_equals(tmp_path: Path) -> None:
    spool = opened(tmp_path, limit=4 * EVENT)
    for n, value in enumerate([0.5, 0.3, 0.9, 0.3]):
        spool.add(*event_of(n, value=value))
    spool.add(*event_of(10, value=0.3))
    assert ids(spool) == [ident(0), ident(2), ident(3), ident(10)]
    spool.add(*event_of(11, value=0.8))
    spool.add(*event_of(12, value=0.8))
    assert ids(spool) == [ident(0), ident(2), ident(11), ident(12)]


def test_one_that_is_worth_less_than_all_is_refused_and_nothing_goes(tmp_path: Path) -> None:
    spool = opened(tmp_path, limit=2 * EVENT + BLOCK - 1)
    spool.add(*event_of(1, value=0.2))
    spool.add(*event_of(2, value=0.9))
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(3, value=0.1))
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(4, size=BLOCK + 1, value=0.5))  # the one that is worth less is not enough room
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(5, size=50_000, value=1.0))  # more than the spool ever holds
    with pytest.raises(SpoolError, match="already"):
        spool.add(*event_of(1, value=1.0))
    state = balanced(spool.state())
    assert (state.left, state.dropped, state.unspooled) == (2, 0, 4)
    assert names(tmp_path) == files(1, 2)


def test_a_lower_limit_holds_from_the_next_event_on(tmp_path: Path) -> None:
    for n in range(10):
        opened(tmp_path).add(*event_of(n, value=n / 10))
    spool = opened(tmp_path, limit=3 * EVENT)
    spool.add(*event_of(20, value=0.95))
    assert spool.state().bytes <= 3 * EVENT
    assert ident(9) in ids(spool)
    assert ident(0) not in ids(spool)
    assert balanced(spool.state()).spooled == 11


def test_the_end_is_journalled_before_a_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, limit=2 * EVENT)
    spool.add(*event_of(1, value=0.1))
    spool.add(*event_of(2, value=0.2))
    unlink = os.unlink
    gone = []

    def watched(path: str | Path, **others: int) -> None:
        if os.path.exists(path) and Path(path).parent == tmp_path:
            gone.append(Path(path).name[:36])
            assert gone[-1] in {one["id"] for one in journal(tmp_path)}
        unlink(path, **others)

    monkeypatch.setattr(os, "unlink", watched)
    spool.add(*event_of(3, value=0.9))
    spool.stored([ident(2)])
    swept(spool)
    assert gone == [ident(1)] * 2 + [ident(2)] * 2
    assert names(tmp_path) == files(3)


# ------------------------------------------------------------------------------------ kept copies


def test_a_stored_event_is_kept_for_its_time_also_through_restarts(tmp_path: Path) -> None:
    clock = FakeClock()
    spool = opened(tmp_path, keep_s=100, clock=clock)
    for n in (1, 2):
        spool.add(*event_of(n))
        spool.stored([ident(n)])
        clock.advance(30)
    assert ids(spool) == [] == [one for one in (spool.event(ident(1)), spool.image(ident(1))) if one]
    state = balanced(spool.state())
    assert (state.stored, state.left, state.bytes) == (2, 0, 0)
    clock.advance(39)
    spool = opened(tmp_path, keep_s=100, clock=clock)
    assert spool.sweep() == 0
    assert names(tmp_path) == files(1, 2)
    clock.advance(1)
    assert spool.sweep() == 1
    assert names(tmp_path) == files(2)
    clock.advance(30)
    spool = opened(tmp_path, keep_s=100, clock=clock)
    assert spool.sweep() == 1
    assert names(tmp_path) == set()
    assert balanced(opened(tmp_path).state()).stored == 2


def test_what_was_stored_is_recalled(tmp_path: Path) -> None:
    spool = opened(tmp_path, keep_s=100)
    for n in range(4):
        spool.add(*event_of(n, value=n / 4))
    spool.stored([ident(0), ident(2), ident(3)])
    before = spool.state()
    back = spool.recall()
    assert sorted((one.id, one.value, one.size) for one in back) == [(ident(n), n / 4, 1000) for n in (0, 2, 3)]
    assert spool.recall() == []
    for one in (spool, opened(tmp_path, keep_s=100)):
        state = balanced(one.state())
        assert (state.stored, state.left, state.spooled) == (0, 4, before.spooled)
        assert ids(one) == [ident(n) for n in range(4)]
        assert one.image(ident(2)) == event_of(2)[1]
    spool.stored([ident(2)])
    for one in (spool, opened(tmp_path, keep_s=100)):
        assert balanced(one.state()).stored == 1
    assert [one.id for one in opened(tmp_path, keep_s=100).recall()] == [ident(2)], "and again"


def test_a_journal_that_cannot_be_written_recalls_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, keep_s=100)
    spool.add(*event_of(1))
    spool.stored([ident(1)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            spool.recall()
    assert balanced(spool.state()).stored == 1
    assert balanced(opened(tmp_path, keep_s=100).state()).stored == 1
    assert [one.id for one in spool.recall()] == [ident(1)]


def test_copies_are_the_first_to_go_and_cost_no_waiting_event_its_place(tmp_path: Path) -> None:
    """The oldest copy first, whatever it was worth; and nobody is told of it as of a loss."""
    clock = FakeClock()
    spool = opened(tmp_path, limit=4 * EVENT, keep_s=1000, clock=clock)
    gone: list[str] = []
    spool.watch(gone.append)
    for n, value in enumerate([0.9, 0.9, 0.1, 0.1]):
        spool.add(*event_of(n, value=value))
    for n in (1, 0):
        spool.stored([ident(n)])
        clock.advance(1)
    spool.add(*event_of(4, value=0.0))
    assert names(tmp_path) == files(0, 2, 3, 4)
    spool.add(*event_of(5, value=0.0))
    assert names(tmp_path) == files(2, 3, 4, 5)
    state = balanced(spool.state())
    assert (state.dropped, state.left, gone) == (0, 4, [])
    spool.add(*event_of(6, value=0.5))
    assert gone == [ident(4)]
    assert balanced(spool.state()).dropped == 1


def test_copies_stay_when_the_new_event_does_not_fit_even_so(tmp_path: Path) -> None:
    spool = opened(tmp_path, limit=3 * EVENT, keep_s=1000)
    for n in range(3):
        spool.add(*event_of(n, value=0.5))
    spool.stored([ident(0)])
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(9, size=5 * BLOCK, value=0.1))
    assert names(tmp_path) == files(0, 1, 2)
    assert [one.id for one in spool.recall()] == [ident(0)]


def test_a_lower_limit_takes_copies_at_once(tmp_path: Path) -> None:
    spool = opened(tmp_path, keep_s=1000)
    for n in range(6):
        spool.add(*event_of(n))
    spool.stored([ident(n) for n in range(4)])
    spool = opened(tmp_path, keep_s=1000, limit=3 * EVENT)
    assert ids(spool) == [ident(4), ident(5)]
    assert size_of_events(tmp_path) == 3 * EVENT


def test_a_sweep_is_bounded(tmp_path: Path) -> None:
    many = SWEEP + 10
    spool = opened(tmp_path, limit=many * EVENT)
    for n in range(many):
        spool.add(*event_of(n, size=10))
    spool.stored([ident(n) for n in range(many)])
    assert len(names(tmp_path)) == 2 * many, "storing does not wait for the deleting"
    assert (spool.sweep(), spool.sweep(), spool.sweep()) == (SWEEP, 10, 0)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("hours", [-1000, 1000])
def test_a_clock_that_is_set_does_not_matter_while_running(tmp_path: Path, hours: int) -> None:
    clock = FakeClock()
    spool = opened(tmp_path, keep_s=100, clock=clock)
    spool.add(*event_of(1))
    spool.stored([ident(1)])
    clock.set_utc(clock.utc() + timedelta(hours=hours))
    clock.advance(99)
    assert spool.sweep() == 0
    clock.advance(1)
    assert spool.sweep() == 1


def test_a_time_in_the_future_counts_as_now(tmp_path: Path) -> None:
    """Also for the restarts that follow: a camera that is switched off every night keeps nothing for ever."""
    clock = FakeClock()
    spool = opened(tmp_path, keep_s=100, clock=clock)
    spool.add(*event_of(1))
    clock.set_utc(clock.utc() + timedelta(days=5000))
    spool.stored([ident(1)])
    clock.set_utc(clock.utc() - timedelta(days=5000))
    for seconds in (0, 60, 39):
        clock.advance(seconds)
        spool = opened(tmp_path, keep_s=100, clock=clock)
        assert spool.sweep() == 0
    assert balanced(spool.state()).stored == 1
    clock.advance(1)
    assert opened(tmp_path, keep_s=100, clock=clock).sweep() == 1
    assert names(tmp_path) == set()


def test_a_journal_from_before_copies_were_kept(tmp_path: Path) -> None:
    """Its lines have no time: such files go at once."""
    leave(tmp_path, 1)
    (tmp_path / "journal.jsonl").write_text(
        '{"totals": {"stored": 5, "dropped": 1, "quarantined": 2}}\n'
        + json.dumps({"id": ident(1), "end": "stored"})
        + "\n"
    )
    spool = opened(tmp_path, keep_s=10**6)
    state = balanced(spool.state())
    assert (state.stored, state.dropped, state.quarantined, state.left) == (6, 1, 2, 0)
    assert spool.sweep() == 1


def test_folding_keeps_the_lines_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done once for as many lines as it has to write, and loses neither copies nor their times."""
    monkeypatch.setattr(edge.journal, "JOURNAL_LIMIT", 400)
    clock = FakeClock()
    spool = opened(tmp_path, keep_s=100, clock=clock)
    inodes = set()
    for n in range(64):
        spool.add(*event_of(n, size=10))
        spool.stored([ident(n)])
        clock.advance(1)
        spool.sweep()
        inodes.add((tmp_path / "journal.jsonl").stat().st_ino)
    folds = len([one for one in journal(tmp_path) if "totals" in one])
    assert folds == 1
    assert len(inodes) < 7, "a fold for each doubling, no more"
    spool = opened(tmp_path, keep_s=100, clock=clock)
    assert balanced(spool.state()).stored == 64
    clock.advance(37)  # the first is 101 s old now, the second 100
    assert spool.sweep() == 2
    assert len(opened(tmp_path, keep_s=100, clock=clock).recall()) == 62
    assert balanced(opened(tmp_path, keep_s=100, clock=clock).state()).left == 62


# ------------------------------------------------------------------------------------ threads


def test_nobody_who_reads_or_stores_waits_for_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer hangs in its fsync; all that the sender does goes on."""
    spool = opened(tmp_path, keep_s=100)
    for n in range(3):
        spool.add(*event_of(n))
    hangs, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(handle: int) -> None:
        if threading.current_thread() is writer:
            hangs.set()
            assert go_on.wait(30)
        fsync(handle)

    done = []

    def reads() -> None:
        assert spool.event(ident(1)) is not None
        assert spool.image(ident(1)) is not None
        spool.stored([ident(0)])
        spool.refused(ident(2), "no")
        spool.not_written()
        assert len(spool.recall()) == 1
        spool.sweep()
        done.append(spool.state().left)

    monkeypatch.setattr(os, "fsync", slow)
    writer = threading.Thread(target=lambda: spool.add(*event_of(7)), daemon=True)
    sender = threading.Thread(target=reads, daemon=True)
    writer.start()
    assert hangs.wait(30)
    sender.start()
    sender.join(30)
    go_on.set()
    writer.join(30)
    assert done == [2]
    assert ids(spool) == [ident(0), ident(1), ident(7)]


def test_reading_waits_for_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    spool.add(*event_of(1))
    spool.add(*event_of(2))
    fsync = os.fsync

    def meanwhile(handle: int) -> None:
        seen = []
        other = threading.Thread(target=lambda: seen.append((spool.image(ident(1)), spool.state(), spool.offers())))
        other.start()
        other.join(30)
        assert seen, "the journal is being synced"
        assert seen[0][0] == event_of(1)[1], "what is not journalled has not ended"
        assert balanced(seen[0][1]).left == len(seen[0][2]) == 2
        fsync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    spool.stored([ident(1)])
    assert ids(spool) == [ident(2)]


def test_an_event_that_ends_while_it_is_read_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    spool.add(*event_of(1))
    read = spool._files.read_image

    def late(*args: Any) -> bytes:
        spool.stored([ident(1)])
        swept(spool)
        return read(*args)

    monkeypatch.setattr(spool._files, "read_image", late)
    assert spool.image(ident(1)) is None
    state = balanced(spool.state())
    assert (state.stored, state.torn, state.dropped) == (1, 0, 0)


def test_many_threads_at_once(tmp_path: Path) -> None:
    """Two write into a spool that is always full, others store, read, recall and sweep."""
    spool = opened(tmp_path, limit=12 * EVENT, keep_s=100)
    over = threading.Event()
    threads: list[threading.Thread] = []

    def loop(work: Callable[[random.Random], object]) -> None:
        chance = random.Random(len(threads))

        def run() -> None:
            while not over.is_set():
                work(chance)

        threads.append(threading.Thread(target=run))

    def add(first: int) -> None:
        chance = random.Random(first)
        for n in range(first, first + 150):
            try:
                spool.add(*event_of(n, value=chance.random()))
            except SpoolError:
                continue
            assert size_of_events_now(tmp_path) <= 12 * EVENT

    def one(chance: random.Random) -> list[str]:
        return [offer.id for offer in spool.offers() if chance.random() < 0.2]

    loop(lambda chance: spool.stored(one(chance)))
    loop(lambda chance: [balanced(spool.state()), spool.sweep(), chance.random() < 0.1 and spool.recall()])
    loop(lambda chance: [(spool.event(i), spool.image(i)) for i in one(chance)])
    writers = [threading.Thread(target=add, args=(first,)) for first in (0, 1000)]
    for thread in (*threads, *writers):
        thread.start()
    for thread in writers:
        thread.join(120)
    over.set()
    for thread in threads:
        thread.join(120)
    state = balanced(spool.state())
    assert state.spooled + state.unspooled == 300
    assert state.torn == 0
    again = balanced(opened(tmp_path, limit=12 * EVENT, keep_s=100).state())
    assert (again.stored, again.left, again.dropped) == (state.stored, state.left, state.dropped)


def size_of_events_now(folder: Path) -> int:
    """The same while others delete files."""
    total = 0
    for path in folder.glob("*_??*"):
        try:
            total += on_disk(path.stat().st_size)
        except FileNotFoundError:
            continue
    return total


# ------------------------------------------------------------------------------------ no room on the disk


LIMITED = """
import resource, sys
from pathlib import Path
from edge.spool import Spool
from shared.clock import SystemClock
from shared.errors import SpoolError
from tests.fakes.messages import event_of, ident
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
spool = Spool(folder, limit=1 << 20, quarantine_limit=1 << 20, keep_s=0.0, clock=SystemClock())
spool.add(*event_of(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
for size, good in ((5000, False), (1500, True), (2001, False)):
    try:
        spool.add(*event_of(size, size=size))
        assert good, size
    except SpoolError as error:
        assert not good, (size, error)
        assert "cannot be written" in str(error)
# There is room for the image, and none for what is said of it.
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
try:
    spool.add(*event_of(100, size=100))
    raise SystemExit("no error")
except SpoolError:
    assert not list(folder.glob("*.tmp")), "half an event is left"
# The journal runs full in the middle of a line: then nothing has ended.
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
try:
    spool.stored([ident(1)])
    raise SystemExit("no error")
except OSError:
    pass
assert (folder / "journal.jsonl").stat().st_size == 0
assert spool.image(ident(1)) is not None
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.stored([ident(1)])
assert spool.sweep() == 1
state = spool.state()
assert (state.stored, state.left, state.unspooled, state.spooled) == (1, 1, 3, 2), state
"""


def test_no_room_on_the_disk_is_counted_and_leaves_nothing_half(tmp_path: Path) -> None:
    """RLIMIT_FSIZE instead of a full disk: the kernel cuts the write in the middle all the same."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == files(1500)
    state = balanced(opened(tmp_path).state())
    assert (state.stored, state.left, state.torn) == (1, 1, 0)


def failing(number: int) -> Callable[..., None]:
    """A call to the system that fails."""

    def fail(*_args: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


class SmallDisk:
    """A disk that holds so many bytes of event files, whatever the spool was told."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder = folder
        self.room = room

    def write_aside(self, path: Path, data: bytes) -> Path:
        if size_of_events(self.folder) + on_disk(len(data)) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_aside(path, data)


def test_copies_make_room_on_a_disk_that_others_have_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.eventfiles, "write_aside", SmallDisk(tmp_path, 4 * EVENT).write_aside)
    spool = opened(tmp_path, keep_s=1000)
    for n in range(4):
        spool.add(*event_of(n))
    spool.stored([ident(n) for n in range(3)])
    spool.add(*event_of(4, size=3 * BLOCK))
    assert ids(spool) == [ident(3), ident(4)]
    assert names(tmp_path) == files(2, 3, 4)
    spool.add(*event_of(5))
    with pytest.raises(SpoolError, match="No space"):
        spool.add(*event_of(6))
    state = balanced(spool.state())
    assert (state.left, state.stored, state.dropped, state.unspooled) == (3, 3, 0, 1)
    assert names(tmp_path) == files(3, 4, 5)


def test_copies_make_room_for_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a full disk would never become empty: no event ends without a line."""
    spool = opened(tmp_path, keep_s=1000)
    for n in range(3):
        spool.add(*event_of(n))
    spool.stored([ident(0)])
    append = edge.journal.Journal.append

    def full(one: edge.journal.Journal, lines: list[edge.journal.Line]) -> None:
        if (tmp_path / f"{ident(0)}_IM.png").exists():
            failing(errno.ENOSPC)()
        append(one, lines)

    monkeypatch.setattr(edge.journal.Journal, "append", full)
    spool.stored([ident(1)])
    assert names(tmp_path) == files(1, 2)
    assert balanced(spool.state()).stored == 2


@pytest.mark.parametrize("truncates", [True, False])
def test_a_journal_that_fails_is_tried_again_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncates: bool
) -> None:
    """Also where even the undoing fails, so that the line is on disk all the same, and a drop of another follows."""
    spool = opened(tmp_path, limit=3 * EVENT, keep_s=1000)
    for n in range(3):
        spool.add(*event_of(n))
    spool.stored([ident(0)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        if not truncates:
            patch.setattr(builtins, "open", StubbornFile)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                spool.stored([ident(1)])
        with pytest.raises(OSError, match="Input/output"):
            spool.refused(ident(2), "no")
    assert len(journal(tmp_path)) == (1 if truncates else 2)
    state = balanced(spool.state())
    assert (state.stored, state.left, state.quarantined) == (1, 2, 0)
    spool.stored([ident(1)])
    spool.refused(ident(2), "no")
    assert len(journal(tmp_path)) == 3
    for one in (spool, opened(tmp_path, keep_s=1000)):
        state = balanced(one.state())
        assert (state.stored, state.left, state.quarantined, state.spooled) == (2, 0, 1, 3)


class StubbornFile:
    """A file whose end cannot be cut off once something was written."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._file = io.FileIO(args[0], "a")
        self._written = False

    def __enter__(self) -> "StubbornFile":
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        self._written = True
        return self._file.write(data)

    def truncate(self, size: int) -> None:
        if self._written:
            failing(errno.EIO)()
        self._file.truncate(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_journal_that_cannot_be_folded_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(edge.journal, "JOURNAL_LIMIT", 100)
    spool = opened(tmp_path, keep_s=10)
    for n in range(4):
        spool.add(*event_of(n))
        spool.stored([ident(n)])
    with monkeypatch.context() as patch:
        patch.setattr(edge.journal, "write_atomic", failing(errno.ENOSPC))
        spool.sweep()
    assert "cannot be folded" in caplog.text
    assert len(journal(tmp_path)) == 4
    spool.sweep()
    assert len(journal(tmp_path)) == 5
    assert balanced(opened(tmp_path).state()).stored == 4


def test_files_that_cannot_be_deleted_keep_their_room_and_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A dropped event must not come back as a waiting one, and the limit holds on disk, not on paper."""
    monkeypatch.setattr(edge.journal, "JOURNAL_LIMIT", 10)
    spool = opened(tmp_path, limit=2 * EVENT)
    spool.add(*event_of(1, value=0.1))
    spool.add(*event_of(2, value=0.2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing(errno.EPERM))
        with pytest.raises(SpoolError, match="cannot be deleted"):
            spool.add(*event_of(3, value=0.9))
        assert spool.sweep() == 0
        spool = opened(tmp_path, limit=2 * EVENT)
        spool.sweep()
        assert balanced(opened(tmp_path, limit=2 * EVENT).state()).dropped == 1
    assert caplog.text.count("cannot be deleted") == 3, "told once a start"
    assert names(tmp_path) == files(1, 2)
    spool = opened(tmp_path, limit=2 * EVENT)
    state = balanced(spool.state())
    assert (state.dropped, state.left) == (1, 1)
    assert names(tmp_path) == files(2)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be used"):
        opened(tmp_path / "file" / "spool")


def test_an_event_that_the_writer_had_no_time_for_is_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.not_written()
    assert balanced(spool.state()).unspooled == 1


# ------------------------------------------------------------------------------------ crashes


def leave(folder: Path, *numbers: int) -> None:
    """A spool with whole events, closed."""
    spool = opened(folder)
    for n in numbers:
        spool.add(*event_of(n))


def parts_of(number: int) -> tuple[str, bytes, str, bytes]:
    event, data = event_of(number)
    return f"{event.id}_IM.png", data, f"{event.id}_MD.json", encode(event)


@pytest.mark.parametrize("step", range(6))
def test_a_crash_at_each_step_of_adding(tmp_path: Path, step: int) -> None:
    """image.tmp torn, image.tmp whole, note.tmp torn, note.tmp whole, image in place, note in place."""
    leave(tmp_path, 1)
    image, data, note, metadata = parts_of(2)
    (tmp_path / (image + TMP)).write_bytes(data if step > 0 else data[:500])
    if step > 1:
        (tmp_path / (note + TMP)).write_bytes(metadata if step > 2 else metadata[:20])
    if step > 3:
        os.replace(tmp_path / (image + TMP), tmp_path / image)
    if step > 4:
        os.replace(tmp_path / (note + TMP), tmp_path / note)
    spool = opened(tmp_path)
    there = [1, 2] if step == 5 else [1]
    assert ids(spool) == [ident(n) for n in there]
    assert names(tmp_path) == files(*there)
    state = balanced(spool.state())
    assert (state.spooled, state.left, state.dropped, state.torn) == (len(there), len(there), 0, 0)
    spool.add(*event_of(3))
    assert opened(tmp_path).state().left == len(there) + 1


@pytest.mark.parametrize("end", ["stored", "dropped", "quarantined"])
@pytest.mark.parametrize("left", ["both", "image", "none"])
def test_a_crash_between_the_journal_and_the_files(tmp_path: Path, end: str, left: str) -> None:
    leave(tmp_path, 1, 2)
    with open(tmp_path / "journal.jsonl", "a") as file:
        reason = {"reason": "no"} if end == "quarantined" else {}
        file.write(json.dumps({"id": ident(2), "end": end, **reason}) + "\n")
    if left != "both":
        (tmp_path / f"{ident(2)}_MD.json").unlink()
    if left == "none":
        (tmp_path / f"{ident(2)}_IM.png").unlink()
    for _ in range(2):
        spool = swept(opened(tmp_path))
        state = balanced(spool.state())
        assert (state.spooled, state.left, getattr(state, end)) == (2, 1, 1)
        assert names(tmp_path) == files(1)
    if end == "quarantined" and left != "none":
        assert (tmp_path / "quarantine" / f"{ident(2)}.reason.txt").read_text() == "no\n", "it was finished"
        assert (tmp_path / "quarantine" / f"{ident(2)}_IM.png").exists()


@pytest.mark.parametrize("cut", range(1, 70, 7))
def test_a_journal_that_was_cut_in_its_last_line(tmp_path: Path, cut: int) -> None:
    """What was not wholly written has not happened; and the next line is not spoilt by it."""
    leave(tmp_path, 1, 2, 3)
    spool = opened(tmp_path)
    spool.stored([ident(1)])
    whole = (tmp_path / "journal.jsonl").read_bytes()
    line = json.dumps({"id": ident(2), "end": "stored"}).encode() + b"\n"
    (tmp_path / "journal.jsonl").write_bytes(whole + line[:cut])
    spool = opened(tmp_path)
    state = balanced(spool.state())
    assert (state.stored, state.left) == ((2, 1) if cut >= len(line) else (1, 2))
    spool.stored([ident(3)])
    again = balanced(opened(tmp_path).state())
    assert (again.stored, again.left) == (state.stored + 1, state.left - 1)


@pytest.mark.parametrize(
    "line",
    [b"\xff\xfe\n", b"[]\n", b"5\n", b'{"id": 1}\n', b'{"id": [1], "end": "stored"}\n', b'{"end": "x", "id": "y"}\n',
     b"\x00" * 100 + b"\n", b'{"totals": {}}\n', b'{"totals": 3}\n', b"\n"],
)  # fmt: skip
def test_a_line_of_the_journal_that_means_nothing_is_left_out(tmp_path: Path, line: bytes) -> None:
    leave(tmp_path, 1, 2)
    opened(tmp_path).stored([ident(1)])
    with open(tmp_path / "journal.jsonl", "ab") as file:
        file.write(line)
    spool = opened(tmp_path)
    spool.stored([ident(2)])
    state = balanced(opened(tmp_path).state())
    assert (state.stored, state.left, state.spooled) == (2, 0, 2)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "no image": lambda image, _note: image.unlink(),
    "short image": lambda image, _note: image.write_bytes(image.read_bytes()[:-1]),
    "long image": lambda image, _note: image.write_bytes(image.read_bytes() + b"x"),
    "empty image": lambda image, _note: image.write_bytes(b""),
    "image is a folder": lambda image, _note: (image.unlink(), image.mkdir(), (image / "x").write_bytes(b"x")),
    "image is a dead link": lambda image, _note: (image.unlink(), image.symlink_to("nowhere")),
    "image is a pipe": lambda image, _note: (image.unlink(), os.mkfifo(image)),
    "bad note": lambda _image, note: note.write_bytes(note.read_bytes()[:-5]),
    "empty note": lambda _image, note: note.write_bytes(b""),
    "zeros": lambda _image, note: note.write_bytes(b"\0" * 4096),
    "endless note": lambda _image, note: os.truncate(note, 1 << 33),
    "note is a folder": lambda _image, note: (note.unlink(), note.mkdir()),
    "note is a pipe": lambda _image, note: (note.unlink(), os.mkfifo(note)),
    "other id": lambda _image, note: note.write_bytes(encode(event_of(3)[0])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_event_is_set_aside_and_counted(tmp_path: Path, damage: str) -> None:
    leave(tmp_path, 1, 2)
    image, note = tmp_path / f"{ident(2)}_IM.png", tmp_path / f"{ident(2)}_MD.json"
    DAMAGE[damage](image, note)
    for round_ in range(2):
        spool = opened(tmp_path)
        state = balanced(spool.state())
        assert (state.left, state.dropped, state.spooled) == (1, 1, 2)
        assert state.torn == (1 if round_ == 0 else 0)
        assert ids(spool) == [ident(1)]
        assert {one.name for one in tmp_path.glob("*_*")} == files(1)
    assert os.path.lexists(tmp_path / "torn" / note.name) == (damage != "endless note"), "that one is above the bound"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_of_no_use_and_not_a_loss(tmp_path: Path, damage: str) -> None:
    leave(tmp_path, 1, 2)
    opened(tmp_path, keep_s=60).stored([ident(1), ident(2)])
    DAMAGE[damage](tmp_path / f"{ident(2)}_IM.png", tmp_path / f"{ident(2)}_MD.json")
    spool = opened(tmp_path, keep_s=60)
    state = balanced(spool.state())
    assert (state.stored, state.dropped, state.torn, state.left) == (2, 0, 0, 0)
    assert [one.id for one in spool.recall()] == [ident(1)]


def test_one_that_may_not_be_read_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all: so the refusal is played. Too many open files, on the other hand, speak against no event."""
    leave(tmp_path, 1, 2)
    real, number = open, errno.EMFILE

    def refusing(path: str | Path, *args: Any, **more: Any) -> Any:
        if str(path).endswith(f"{ident(2)}_MD.json"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **more)

    monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(SpoolError, match="Too many open files"):
        opened(tmp_path)
    number = errno.EACCES
    spool = opened(tmp_path)
    state = balanced(spool.state())
    assert (state.left, state.torn, state.dropped) == (1, 1, 1)
    assert (tmp_path / "torn" / f"{ident(2)}_IM.png").exists()


def test_reading_fails_for_a_reason_that_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    spool.add(*event_of(1))

    def refusing(*_args: object, **_more: object) -> None:
        raise OSError(errno.ENFILE, "Too many open files in system")

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", refusing)
        with pytest.raises(OSError, match="Too many"):
            spool.image(ident(1))
        with pytest.raises(OSError, match="Too many"):
            spool.event(ident(1))
    assert spool.image(ident(1)) == event_of(1)[1]
    assert spool.state().torn == 0


def test_names_that_are_not_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leave(tmp_path, 1)
    (tmp_path / "README").write_text("hands off")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "folder.tmp").mkdir()
    (tmp_path / f"{ident(5)}_IM.png.tmp").write_bytes(b"half")
    (tmp_path / f"{ident(6)}_IM.png").write_bytes(b"never finished")
    (tmp_path / f"{ident(1)}_IM.jpg").write_bytes(b"another image")
    (tmp_path / "dog_IM.png").write_bytes(b"a dog")
    (tmp_path / "dog_MD.json").write_bytes(encode(event_of(2)[0]))
    (tmp_path / os.fsdecode(b"\xff\xfe_MD.json")).write_bytes(b"{}")
    caplog.set_level(logging.INFO)
    spool = opened(tmp_path)
    state = balanced(spool.state())
    assert (state.left, state.torn, state.dropped) == (1, 2, 2), "what claims to be an event is counted"
    assert balanced(opened(tmp_path).state()).dropped == 2
    assert names(tmp_path) == files(1) | {"README", "dog_IM.png"}
    assert {one.name for one in tmp_path.iterdir() if one.is_dir()} == {
        "torn", "quarantine", "lost+found", "folder.tmp"
    }  # fmt: skip
    assert (tmp_path / "torn" / "dog_MD.json").exists()
    assert "3 files of writes that were cut" in caplog.text


@pytest.mark.parametrize("damage", ["no image", "short image", "no note", "bad note"])
def test_an_event_that_is_damaged_while_it_waits(tmp_path: Path, damage: str) -> None:
    spool = opened(tmp_path)
    gone: list[str] = []
    spool.watch(gone.append)
    for n in (1, 2):
        spool.add(*event_of(n))
    image, note = tmp_path / f"{ident(2)}_IM.png", tmp_path / f"{ident(2)}_MD.json"
    match damage:
        case "no image":
            image.unlink()
        case "short image":
            image.write_bytes(b"x")
        case "no note":
            note.unlink()
        case "bad note":
            note.write_bytes(b"{")
    read = spool.image if "image" in damage else spool.event
    assert read(ident(2)) is None
    assert gone == [ident(2)]
    assert spool.image(ident(1)) is not None
    for one in (spool, opened(tmp_path)):
        state = balanced(one.state())
        assert (state.left, state.dropped, state.spooled) == (1, 1, 2)
    assert spool.state().torn == 1
    assert names(tmp_path) == files(1)


def test_torn_files_are_bounded_too(tmp_path: Path) -> None:
    for n in range(10):
        leave(tmp_path, n)
        (tmp_path / f"{ident(n)}_MD.json").write_bytes(b"{")
        opened(tmp_path, quarantine=3 * BLOCK)
    assert size_on_disk(tmp_path / "torn") <= 3 * BLOCK


def test_a_crash_while_refusing(tmp_path: Path) -> None:
    """Copies are in quarantine, the journal knows nothing: it is offered, and refused, again."""
    leave(tmp_path, 1)
    shutil.copy(tmp_path / f"{ident(1)}_IM.png", tmp_path / "quarantine")
    spool = opened(tmp_path)
    assert ids(spool) == [ident(1)]
    spool.refused(ident(1), "no")
    assert balanced(opened(tmp_path).state()).quarantined == 1


# ------------------------------------------------------------------------------------ the random sample


def with_room_for_audits(folder: Path, *, limit: int = 10 * EVENT, audit: int = 3 * EVENT) -> Spool:
    return Spool(folder, limit=limit, audit_limit=audit, quarantine_limit=0, keep_s=3600, clock=FakeClock())


def test_audit_events_have_their_own_room_and_the_oldest_goes_first(tmp_path: Path) -> None:
    """What is left is the whole sample of a shorter time; other events, however valuable, take none of it."""
    spool = with_room_for_audits(tmp_path)
    for n in range(20):
        spool.add(*event_of(n, value=1.0, why="audit"))
        spool.add(*event_of(100 + n, value=0.9 + n / 1000))
    assert ids(spool) == [ident(n) for n in (17, 18, 19, *range(113, 120))]
    for one in (spool, with_room_for_audits(tmp_path)):
        state = balanced(one.state())
        assert (state.audit_left, state.audit_dropped, state.dropped, state.bytes) == (3, 17, 30, 10 * EVENT)


def test_an_audit_event_takes_no_room_of_others(tmp_path: Path) -> None:
    spool = with_room_for_audits(tmp_path)
    for n in range(7):
        spool.add(*event_of(n, value=0.1))
    for n in range(10, 20):
        spool.add(*event_of(n, value=1.0, why="audit"))
    assert ids(spool) == [ident(n) for n in (*range(7), 17, 18, 19)]
    spool.stored([ident(18), ident(0)])
    spool.add(*event_of(30, value=0.2))
    assert balanced(spool.state()).left == 9, "kept copies go before anything that waits"
    assert ident(17) in ids(spool)
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(40, size=4 * EVENT, value=1.0, why="audit"))
    state = balanced(spool.state())
    assert (state.audit_unspooled, state.unspooled, state.audit_dropped) == (1, 1, 7)
    spool.not_written(audit=True)
    assert (spool.state().audit_unspooled, spool.state().unspooled) == (2, 2)


def test_a_damaged_audit_event_is_missing_of_the_sample(tmp_path: Path) -> None:
    spool = with_room_for_audits(tmp_path)
    spool.add(*event_of(1, why="audit"))
    (tmp_path / f"{ident(1)}_IM.png").write_bytes(b"cut")
    assert spool.image(ident(1)) is None
    assert (balanced(spool.state()).audit_dropped, spool.state().torn) == (1, 1)
    assert with_room_for_audits(tmp_path).state().audit_dropped == 1


def test_without_room_of_their_own_audit_events_share(tmp_path: Path) -> None:
    spool = opened(tmp_path, limit=3 * EVENT)
    for n, why in enumerate(["audit", "low_score", "audit"]):
        spool.add(*event_of(n, value=1.0 if why == "audit" else 0.6, why=why))
    spool.add(*event_of(5, value=0.7))
    assert ids(spool) == [ident(0), ident(2), ident(5)]
    state = spool.state()
    assert (state.audit_left, state.audit_dropped) == (2, 0)


def test_audit_drops_are_counted_through_a_folded_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.journal, "JOURNAL_LIMIT", 300)
    spool = with_room_for_audits(tmp_path)
    for n in range(25):
        spool.add(*event_of(n, value=1.0, why="audit"))
        spool.sweep()
    assert (tmp_path / "journal.jsonl").stat().st_size < 600
    for one in (spool, with_room_for_audits(tmp_path)):
        assert (balanced(one.state()).audit_dropped, one.state().dropped) == (22, 22)
