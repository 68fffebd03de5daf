"""The spool dies at any call to the disk, with or without the power: the books balance, nothing that waits is lost."""

import errno
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import edge.journal
from edge.aside import BLOCK, on_disk
from edge.spool import Spool
from shared.clock import SystemClock
from shared.errors import SpoolError
from shared.files import TMP
from shared.messages import Event, SpoolState, encode
from tests.fakes.clock import FakeClock
from tests.fakes.messages import event_of, ident

ROOT = Path(__file__).parents[2]
EVENT = 2 * BLOCK
LIMIT = 6 * EVENT
KEEP_S = 100.0


class Died(BaseException):
    """The process is gone: no handler for errors runs."""


class Disk:
    """Counts the calls that change a folder, dies at one of them, and knows what a power cut could still undo.

    Names that changed since the folder was last synced may, each for itself, be as they were; the journal may end
    anywhere behind what was last synced. An fsync keeps its word.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.left: int | None = None  # calls until it dies
        self.undo: list[tuple[Path, Callable[[], None]]] = []  # whose name, and how
        self.synced = 0  # bytes of the journal
        self.full = 0  # calls that find the disk full before that
        self._real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the spool works."""
        with patch.multiple(os, fsync=self.fsync, replace=self.replace, unlink=self.unlink):
            yield

    def _step(self) -> None:
        assert self.size() <= self.limit, "the limit holds at every moment"
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Died

    def size(self) -> int:
        """Of all files of events, unfinished ones included."""
        return sum(on_disk(one.stat().st_size) for one in self.folder.glob("*_??*"))

    def fsync(self, handle: int) -> None:
        self._step()
        if self.full:
            self.full -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._real["fsync"](handle)
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            if os.path.samestat(about, self.folder.stat()):
                self.undo.clear()
        elif self.journal.exists() and os.path.samestat(about, self.journal.stat()):
            self.synced = about.st_size

    def replace(self, source: Any, target: Any) -> None:
        self._step()
        source, target = Path(source), Path(target)
        before = target.read_bytes() if target.exists() else None
        synced, self.synced = self.synced, source.stat().st_size if target == self.journal else self.synced
        self._real["replace"](source, target)

        def undo() -> None:
            if target.exists():
                self._real["replace"](target, source)
            if before is not None:
                target.write_bytes(before)
            if target == self.journal:
                self.synced = synced

        self.undo.append((target, undo))

    def unlink(self, path: Any) -> None:
        self._step()
        data = Path(path).read_bytes() if os.path.exists(path) else None
        self._real["unlink"](path)
        if data is None or Path(path).parent != self.folder:
            return

        def undo() -> None:
            if not os.path.exists(path):
                Path(path).write_bytes(data)

        self.undo.append((Path(path), undo))

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    def cut_power(self, chance: random.Random | None = None) -> None:
        """Undo all that was not synced, or by chance some of it."""
        for _, undo in reversed(self.undo):
            if chance is None or chance.random() < 0.5:
                undo()
        self.undo.clear()
        size = self.journal.stat().st_size
        if size > self.synced:
            os.truncate(self.journal, chance.randint(self.synced, size) if chance else self.synced)


def weigh(event: Event, data: bytes) -> int:
    return on_disk(len(data)) + on_disk(len(encode(event)))


class SpoolMachine(RuleBasedStateMachine):
    """Any order of everything against a dictionary, each step whole or cut in its midst."""

    DEATHS = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 14), st.booleans(), st.integers(0, 99)))

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.disk = Disk(self.folder, LIMIT)
        self.clock = FakeClock()
        self.limit_of_the_journal = patch.object(edge.journal, "JOURNAL_LIMIT", 300)
        self.limit_of_the_journal.start()
        self.waiting: dict[str, tuple[Event, bytes]] = {}
        self.stored_ones: dict[str, tuple[Event, bytes]] = {}
        self.counts = {"stored": 0, "quarantined": 0, "dropped": 0}
        self.next = 0
        self.open()

    def open(self) -> None:
        with self.disk.watched():
            self.spool = Spool(
                self.folder, limit=LIMIT, quarantine_limit=5 * BLOCK, keep_s=KEEP_S, clock=self.clock
            )  # fmt: skip
        self.spool.watch(self.gone)

    def gone(self, one: str) -> None:
        del self.waiting[one]
        self.counts["dropped"] += 1

    def pick(self, number: int) -> str:
        known = sorted(self.waiting)
        return known[number % len(known)] if known else ident(999)

    def whole(self, death: tuple[int, bool, int] | None, work: Callable[[], None]) -> bool:
        """Do it; False when it was cut, and the spool is open again."""
        if death is None:
            with self.disk.watched():
                work()
            return True
        calls, power, seed = death
        before = dict(self.waiting), dict(self.counts)
        try:
            self.disk.left = calls
            with self.disk.watched():
                work()
        except Died:
            self.disk.left, self.disk.full = None, 0
            self.waiting, self.counts = before
            if power:
                self.disk.cut_power(random.Random(seed))
                self.disk.limit = 10 * LIMIT  # what comes back from the dead may be too much until it is open
            self.open()
            self.disk.limit = LIMIT
            return False
        finally:
            self.disk.left = None
        return True

    def after(self, leaves: dict[str, str], comes: dict[str, tuple[Event, bytes]]) -> None:
        """After a cut: some of `leaves` has ended as named, some of `comes` waits; and nothing else has changed."""
        now = {one.id for one in self.spool.offers()}
        for one in self.waiting.keys() - now:
            assert one in leaves, "lost"
            self.counts[leaves[one]] += 1
            if leaves[one] == "stored":
                self.stored_ones[one] = self.waiting[one]
            del self.waiting[one]
        for one in now - self.waiting.keys():
            assert one in comes, "from nowhere"
            self.waiting[one] = comes[one]
            if one in self.stored_ones:
                del self.stored_ones[one]
                self.counts["stored"] -= 1

    @rule(
        size=st.integers(1, 14_000), value=st.sampled_from([0.1, 0.2, 0.5, 0.9]), full=st.integers(0, 1), death=DEATHS
    )
    def add(self, size: int, value: float, full: int, death: tuple[int, bool, int] | None) -> None:
        self.next += 1
        event, data = event_of(self.next, size=size, value=value)
        need = weigh(event, data)
        before = dict(self.waiting)
        room = LIMIT - sum(weigh(*one) for one in before.values() if one[0].value > value)
        refused: list[SpoolError] = []

        def work() -> None:
            self.disk.full = full
            try:
                self.spool.add(event, data)
            except SpoolError as error:
                refused.append(error)
            self.disk.full = 0

        if not self.whole(death, work):
            self.after(
                {one: "dropped" for one, (e, _) in before.items() if e.value <= value}, {event.id: (event, data)}
            )
        elif refused:
            assert room < need or "No space" in str(refused[0])
            assert "No space" in str(refused[0]) or self.waiting == before
        else:
            assert room >= need
            left = [before[one][0].value for one in self.waiting]
            went = [before[one][0].value for one in before.keys() - self.waiting.keys()]
            assert max(went, default=0.0) <= min([*left, value]), "the least valuable went"
            if went:
                assert self.copies() == {event.id}, "copies go first"
                assert sum(weigh(*one) for one in before.values()) + need > LIMIT, "without need"
            self.waiting[event.id] = (event, data)

    def copies(self) -> set[str]:
        """Ids of whole events on disk that do not wait."""
        there = {one.name[:36] for one in self.folder.glob("*_MD.json")}
        return there - self.waiting.keys()

    @rule(numbers=st.lists(st.integers(0, 50), max_size=4), full=st.integers(0, 1), death=DEATHS)
    def stored(self, numbers: list[int], full: int, death: tuple[int, bool, int] | None) -> None:
        chosen = [self.pick(n) for n in numbers]
        failed = []

        def work() -> None:
            self.disk.full = full
            try:
                self.spool.stored(chosen)
            except OSError:
                failed.append(1)
            self.disk.full = 0

        if not self.whole(death, work):
            self.after(dict.fromkeys(chosen, "stored"), {})
        elif not failed:
            for one in set(chosen) & self.waiting.keys():
                self.stored_ones[one] = self.waiting.pop(one)
                self.counts["stored"] += 1

    @rule(number=st.integers(0, 50), death=DEATHS)
    def refused(self, number: int, death: tuple[int, bool, int] | None) -> None:
        one = self.pick(number)
        if not self.whole(death, lambda: self.spool.refused(one, "no")):
            self.after({one: "quarantined"}, {})
        elif self.waiting.pop(one, None):
            self.counts["quarantined"] += 1

    @rule(death=DEATHS)
    def recall(self, death: tuple[int, bool, int] | None) -> None:
        copies = self.copies()
        back: list[str] = []
        if not self.whole(death, lambda: back.extend(one.id for one in self.spool.recall())):
            self.after({}, {one: self.stored_ones[one] for one in copies})
            return
        assert set(back) == copies
        assert len(back) == len(copies)
        for one in back:
            self.waiting[one] = self.stored_ones.pop(one)
            self.counts["stored"] -= 1

    @rule(death=DEATHS)
    def sweep(self, death: tuple[int, bool, int] | None) -> None:
        before = self.copies()
        if not self.whole(death, lambda: self.spool.sweep() and None):
            self.after({}, {})
        assert self.copies() <= before | self.stored_ones.keys()

    @rule(seconds=st.integers(0, 80))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def all_copies_are_over(self) -> None:
        self.clock.advance(KEEP_S)
        with self.disk.watched():
            self.spool.sweep()
        assert not self.copies()
        assert not [one for one in self.folder.glob("*_IM.*") if one.name[:36] not in self.waiting]

    @rule(number=st.integers(0, 50), note=st.booleans())
    def damage(self, number: int, note: bool) -> None:
        one = self.pick(number)
        if one in self.waiting:
            path = self.folder / (f"{one}_MD.json" if note else f"{one}_IM.png")
            path.write_bytes(path.read_bytes()[:-1])
            with self.disk.watched():
                assert (self.spool.event(one) if note else self.spool.image(one)) is None
            assert one not in self.waiting

    @rule(junk=st.booleans(), death=DEATHS)
    def reopen(self, junk: bool, death: tuple[int, bool, int] | None) -> None:
        if junk and self.disk.size() + EVENT <= LIMIT:
            (self.folder / f"{ident(500)}_IM.png{TMP}").write_bytes(b"half")
            (self.folder / f"{ident(501)}_IM.png").write_bytes(b"no note")
        if not self.whole(death, self.open):
            self.after({}, {})

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "spool"):
            return
        state = self.spool.state()
        assert {one.id for one in self.spool.offers()} == self.waiting.keys()
        assert {name: getattr(state, name) for name in self.counts} == self.counts
        assert state.spooled == state.stored + state.left + state.quarantined + state.dropped
        assert state.left == len(self.waiting)
        assert state.bytes == sum(weigh(*one) for one in self.waiting.values())
        assert self.disk.size() <= LIMIT
        assert self.copies() <= self.stored_ones.keys()
        for one, (event, data) in self.waiting.items():
            assert self.spool.event(one) == event
            assert self.spool.image(one) == data
        assert sum(on_disk(one.stat().st_size) for one in (self.folder / "quarantine").iterdir()) <= 5 * BLOCK

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.limit_of_the_journal.stop()
            shutil.rmtree(self.folder)


SpoolMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_against_a_model = SpoolMachine.TestCase


def spool_on(disk: Disk, clock: FakeClock | None = None) -> Spool:
    return Spool(disk.folder, limit=LIMIT, quarantine_limit=1 << 20, keep_s=KEEP_S, clock=clock or FakeClock())


@pytest.mark.parametrize("calls", range(7))
def test_a_power_cut_in_a_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Copies were deleted, and the new journal says nothing of them: so their names must be gone for good by then.

    The worst order: the journal's new name is durable, and what was not synced before is not.
    """
    monkeypatch.setattr(edge.journal, "JOURNAL_LIMIT", 10)
    disk, clock = Disk(tmp_path, LIMIT), FakeClock()
    with disk.watched():
        spool = spool_on(disk, clock)
        spool.add(*event_of(1))
        spool.stored([ident(1)])
        clock.advance(KEEP_S)
        if calls < 6:
            dies(disk, calls, spool.sweep)
        else:
            assert spool.sweep() == 1
        disk.undo = [(path, undo) for path, undo in disk.undo if path != disk.journal]
        disk.cut_power()
        state = spool_on(disk, clock).state()
    assert (state.stored, state.left, state.spooled) == (1, 0, 1)


def dies(disk: Disk, calls: int, work: Callable[[], object]) -> None:
    """The process is killed; what it wrote stays, for now."""
    disk.left = calls
    with pytest.raises(Died):
        work()
    disk.left = None


def test_a_kill_and_then_a_power_cut_while_refusing(tmp_path: Path) -> None:
    """The line was written and not synced; a start acts on it; then it must not be lost."""
    disk = Disk(tmp_path, LIMIT)
    with disk.watched():
        spool = spool_on(disk)
        spool.add(*event_of(1))
        dies(disk, 0, lambda: spool.refused(ident(1), "no"))
        assert spool_on(disk).state().quarantined == 1
        disk.cut_power()
        state = spool_on(disk).state()
    assert (state.quarantined, state.left, state.spooled) == (1, 0, 1)
    assert (tmp_path / "quarantine" / f"{ident(1)}_IM.png").exists()


def test_a_kill_and_then_a_power_cut_while_adding(tmp_path: Path) -> None:
    """Both names were there, and not synced; a start takes the event for whole; then it must not be lost."""
    disk = Disk(tmp_path, LIMIT)
    with disk.watched():
        spool = spool_on(disk)
        dies(disk, 4, lambda: spool.add(*event_of(1)))
        assert spool_on(disk).state().left == 1
        disk.cut_power()
        spool = spool_on(disk)
        assert spool.state().left == spool.state().spooled == 1
        assert spool.image(ident(1)) == event_of(1)[1]


def test_names_that_became_durable_in_the_wrong_order(tmp_path: Path) -> None:
    """The metadata is in place and the image not yet: `add` had not returned, so there is no event to lose."""
    event, data = event_of(1)
    (tmp_path / f"{event.id}_MD.json").write_bytes(encode(event))
    (tmp_path / f"{event.id}_IM.png{TMP}").write_bytes(data)
    state = spool_on(Disk(tmp_path, LIMIT)).state()
    assert (state.spooled, state.torn, state.dropped) == (0, 0, 0)
    assert not list(tmp_path.glob("*_*"))


def test_a_line_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    """By a write that failed after it had reached the disk, and was done again."""
    lines = [{"id": ident(1), "end": "stored"}] * 2 + [{"id": ident(1), "end": "dropped"}]
    lines += [{"id": ident(2), "end": "recalled"}, {"id": ident(2), "end": "dropped"}]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    state = spool_on(Disk(tmp_path, LIMIT)).state()
    assert (state.stored, state.dropped, state.spooled) == (1, 1, 2)


@pytest.mark.parametrize("cut", range(0, 1500, 61))
def test_a_journal_that_has_lost_its_tail(tmp_path: Path, cut: int) -> None:
    """More than a crash can do: lines that were synced are gone. Nothing that waits is lost, and the books balance."""
    spool = Spool(tmp_path, limit=1 << 20, quarantine_limit=1 << 20, keep_s=KEEP_S, clock=FakeClock())
    for n in range(12):
        spool.add(*event_of(n))
    spool.stored([ident(n) for n in range(6)])
    spool.refused(ident(6), "no")
    spool.recall()
    spool.stored([ident(0), ident(1)])
    waiting = {one.id for one in spool.offers()}
    journal = tmp_path / "journal.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data[: max(0, len(data) - cut)])
    for _ in range(2):
        spool = Spool(tmp_path, limit=1 << 20, quarantine_limit=1 << 20, keep_s=KEEP_S, clock=FakeClock())
        state = spool.state()
        assert state.spooled == state.stored + state.left + state.quarantined + state.dropped
        there = {one.id for one in spool.offers()}
        assert state.left == len(there)
        assert state.spooled in (11, 12), "the refused one may be forgotten"
        kept = {one.name[:36] for one in tmp_path.glob("*_MD.json")} - there
        assert waiting <= there | kept, "each waits or is kept"
    spool.recall()
    assert waiting <= {one.id for one in spool.offers()}


WORKS = """
import random, sys
from pathlib import Path
import edge.journal
from edge.spool import Spool
from shared.clock import SystemClock
from shared.errors import SpoolError
from tests.fakes.messages import event_of, ident
edge.journal.JOURNAL_LIMIT = int(sys.argv[3])
spool = Spool(Path(sys.argv[1]), limit=120_000, quarantine_limit=20_000, keep_s=float(sys.argv[4]), clock=SystemClock())
chance = random.Random(int(sys.argv[2]))
for n in range(int(sys.argv[2]), 10**9):
    try:
        spool.add(*event_of(n, size=3000, value=(n * 7919 % 101) / 101))
        print("added", n, flush=True)
    except SpoolError:
        pass
    if n % 5 == 4:
        some = [one.id for one in spool.offers() if chance.random() < 0.3]
        spool.stored(some)
        print("stored", *(int(one[-12:], 16) for one in some), flush=True)
    if n % 11 == 10 and spool.offers():
        spool.refused(spool.offers()[0].id, "no")
    if n % 7 == 0:
        spool.sweep()
    if n % 17 == 0:
        print("recalls", flush=True)
        spool.recall()
"""


@pytest.mark.parametrize(("journal_limit", "keep_s"), [(1 << 30, 1000.0), (1 << 30, 0.0), (500, 1000.0), (500, 0.0)])
def test_killed_while_it_works(tmp_path: Path, journal_limit: int, keep_s: float) -> None:
    """SIGKILL in the middle, again and again; what was said to be there is there, and the books balance."""
    start = 0
    added: set[str] = set()
    before: SpoolState | None = None
    for round_ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WORKS, str(tmp_path), str(start), str(journal_limit), str(keep_s)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(25 + 13 * round_)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        said = [line.split() for line in lines if line.endswith("\n")]
        now = {ident(int(n)) for word, *numbers in said for n in numbers if word == "added"}
        assert now
        added |= now
        spool = Spool(tmp_path, limit=120_000, quarantine_limit=20_000, keep_s=keep_s, clock=SystemClock())
        state = spool.state()
        assert state.spooled == state.stored + state.left + state.quarantined + state.dropped
        assert state.torn == 0
        waiting = {one.id for one in spool.offers()}
        assert state.left == len(waiting)
        # One more than was said may have been written.
        assert len(added) <= state.spooled <= len(added) + round_ + 1
        there = {one.name[:36] for one in tmp_path.glob("*_MD.json")}
        assert {one.name[:36] for one in tmp_path.glob("*_IM.png")} == there
        assert waiting <= there
        assert sum(on_disk(one.stat().st_size) for one in tmp_path.glob("*_??*")) <= 120_000
        if journal_limit > 1 << 20:
            ended = ends(tmp_path)
            assert added <= ended.keys() | waiting, "each is there, or the journal says how it ended"
            assert not ended.keys() & waiting
            assert all(ended[one] == "stored" for one in there - waiting)
        else:
            assert (tmp_path / "journal.jsonl").stat().st_size < 20_000
        for one in waiting:
            assert spool.image(one) == event_of(int(one[-12:], 16), size=3000)[1]
        if before and not any(word == "recalls" for word, *_ in said):
            numbers = sum(len(numbers) for word, *numbers in said if word == "stored")
            assert state.stored >= before.stored + numbers
        before = state
        start = max(int(one[-12:], 16) for one in added) + 100


def ends(folder: Path) -> dict[str, str]:
    """How each event ended, by the journal as it stands."""
    result: dict[str, str] = {}
    for line in (folder / "journal.jsonl").read_text().splitlines():
        said = json.loads(line)
        if said["end"] == "recalled":
            del result[said["id"]]
        else:
            assert said["id"] not in result, "ended twice"
            result[said["id"]] = said["end"]
    return result
