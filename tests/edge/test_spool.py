"""The spool: bounded, in order of value, and after any crash as it was or as it would have been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import edge.spool
from edge.spool import Spool
from shared.errors import SpoolError
from shared.files import TMP
from shared.messages import Event, SpoolState, encode
from tests.fakes.messages import event_of, ident

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def opened(folder: Path, *, limit: int = MIB, quarantine: int = MIB) -> Spool:
    return Spool(folder, limit=limit, quarantine_limit=quarantine)


def balanced(state: SpoolState) -> SpoolState:
    """The invariant of the module."""
    assert state.spooled == state.stored + state.left + state.quarantined + state.dropped
    return state


def ids(spool: Spool) -> list[str]:
    return sorted(one.id for one in spool.offers())


def on_disk(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir() if one.is_file() and one.name != "journal.jsonl"}


def files(*numbers: int) -> set[str]:
    return {f"{ident(n)}{end}" for n in numbers for end in ("_IM.png", "_MD.json")}


def journal(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


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
        assert (state.spooled, state.left, state.bytes) == (1, 1, 1000 + len(encode(event)))
    assert on_disk(tmp_path) == files(1)


def test_stored_is_journalled_and_gone(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for n in range(3):
        spool.add(*event_of(n))
    spool.stored([ident(0), ident(2), ident(77)])
    spool.stored([ident(0)])
    assert journal(tmp_path) == [{"id": ident(0), "end": "stored"}, {"id": ident(2), "end": "stored"}]
    assert on_disk(tmp_path) == files(1)
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
    assert on_disk(tmp_path) == set()
    for one in (spool, opened(tmp_path)):
        state = balanced(one.state())
        assert (state.quarantined, state.left, state.bytes) == (1, 0, 0)


@pytest.mark.parametrize("limit", [0, 5000])
def test_the_quarantine_is_bounded(tmp_path: Path, limit: int) -> None:
    spool = opened(tmp_path, quarantine=limit)
    for n in range(12):
        spool.add(*event_of(n))
        spool.refused(ident(n), "no")
        assert sum(one.stat().st_size for one in (tmp_path / "quarantine").iterdir()) <= limit
    assert balanced(spool.state()).quarantined == 12
    if limit:
        assert (tmp_path / "quarantine" / f"{ident(11)}_IM.png").exists(), "the latest is kept"


def test_the_journal_is_folded_into_totals_and_the_counts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in an agent that runs for years without a restart."""
    monkeypatch.setattr(edge.spool, "JOURNAL_LIMIT", 400)
    spool = opened(tmp_path)
    for n in range(30):
        spool.add(*event_of(n))
        if n % 3:
            spool.stored([ident(n)])
        else:
            spool.refused(ident(n), "no")
        assert (tmp_path / "journal.jsonl").stat().st_size < 600
    for one in (spool, opened(tmp_path)):
        state = balanced(one.state())
        assert (state.spooled, state.stored, state.quarantined) == (30, 20, 10)


# ------------------------------------------------------------------------------------ full


def test_the_limit_is_hard_and_the_least_valuable_go(tmp_path: Path) -> None:
    limit = 200_000
    spool = opened(tmp_path, limit=limit)
    gone: list[str] = []
    spool.watch(gone.append)
    chance = random.Random(5)
    values = {ident(n): chance.random() for n in range(400)}
    refused = 0
    for n in range(400):
        try:
            spool.add(*event_of(n, size=chance.randrange(1, 4000), value=values[ident(n)]))
        except SpoolError:
            refused += 1
        assert spool.state().bytes <= limit
    kept = set(ids(spool))
    assert sum(one.stat().st_size for one in tmp_path.glob("*_??.*")) == spool.state().bytes
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
    need = 1000 + len(encode(event_of(1, value=0.5)[0]))
    spool = opened(tmp_path, limit=4 * need)
    for n, value in enumerate([0.5, 0.3, 0.9, 0.3]):
        spool.add(*event_of(n, value=value))
    spool.add(*event_of(10, value=0.3))
    assert ids(spool) == [ident(0), ident(2), ident(3), ident(10)]
    spool.add(*event_of(11, value=0.8))
    spool.add(*event_of(12, value=0.8))
    assert ids(spool) == [ident(0), ident(2), ident(11), ident(12)]


def test_one_that_is_worth_less_than_all_is_refused_and_nothing_goes(tmp_path: Path) -> None:
    need = 1000 + len(encode(event_of(1, value=0.5)[0]))
    spool = opened(tmp_path, limit=2 * need + 10)
    spool.add(*event_of(1, value=0.2))
    spool.add(*event_of(2, value=0.9))
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(3, value=0.1))
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(4, size=1500, value=0.5))  # the one that is worth less is not enough room
    with pytest.raises(SpoolError, match="full"):
        spool.add(*event_of(5, size=50_000, value=1.0))  # more than the spool ever holds
    state = balanced(spool.state())
    assert (state.left, state.dropped, state.unspooled) == (2, 0, 3)
    assert on_disk(tmp_path) == files(1, 2)


def test_a_lower_limit_holds_from_the_next_event_on(tmp_path: Path) -> None:
    for n in range(10):
        opened(tmp_path).add(*event_of(n, value=n / 10))
    spool = opened(tmp_path, limit=5000)
    spool.add(*event_of(20, value=0.95))
    assert spool.state().bytes <= 5000
    assert ident(9) in ids(spool)
    assert ident(0) not in ids(spool)
    assert balanced(spool.state()).spooled == 11


def test_the_end_is_journalled_before_a_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, limit=3000)
    spool.add(*event_of(1, value=0.1))
    spool.add(*event_of(2, value=0.2))
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        if path.exists() and path.parent == tmp_path:
            assert path.name[:36] in {one["id"] for one in journal(tmp_path)}
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    spool.add(*event_of(3, value=0.9))
    spool.stored([ident(2)])
    spool.refused(ident(3), "no")
    assert on_disk(tmp_path) == set()


# ------------------------------------------------------------------------------------ no room on the disk


LIMITED = """
import resource, sys
from pathlib import Path
from edge.spool import Spool
from shared.errors import SpoolError
from tests.fakes.messages import event_of, ident
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
spool = Spool(folder, limit=1 << 20, quarantine_limit=1 << 20)
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
    assert on_disk(tmp_path) == files(1500)
    state = balanced(opened(tmp_path).state())
    assert (state.stored, state.left, state.torn) == (1, 1, 0)


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
    assert on_disk(tmp_path) == files(*there)
    state = balanced(spool.state())
    assert (state.spooled, state.left, state.dropped, state.torn) == (len(there), len(there), 0, 0)
    spool.add(*event_of(3))
    assert opened(tmp_path).state().left == len(there) + 1


@pytest.mark.parametrize("end", ["stored", "dropped", "quarantined"])
@pytest.mark.parametrize("left", ["both", "image", "none"])
def test_a_crash_between_the_journal_and_the_files(tmp_path: Path, end: str, left: str) -> None:
    leave(tmp_path, 1, 2)
    with open(tmp_path / "journal.jsonl", "a") as file:
        file.write(json.dumps({"id": ident(2), "end": end}) + "\n")
    if left != "both":
        (tmp_path / f"{ident(2)}_MD.json").unlink()
    if left == "none":
        (tmp_path / f"{ident(2)}_IM.png").unlink()
    for _ in range(2):
        spool = opened(tmp_path)
        state = balanced(spool.state())
        assert (state.spooled, state.left, getattr(state, end)) == (2, 1, 1)
        assert on_disk(tmp_path) == files(1)


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
    assert (state.stored, state.left) == ((2, 1) if cut >= len(line) - 1 else (1, 2))
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


@pytest.mark.parametrize("damage", ["no image", "short image", "long image", "bad note", "empty note", "other id"])
def test_a_torn_event_is_set_aside_and_counted(tmp_path: Path, damage: str) -> None:
    leave(tmp_path, 1, 2)
    image, note = tmp_path / f"{ident(2)}_IM.png", tmp_path / f"{ident(2)}_MD.json"
    match damage:
        case "no image":
            image.unlink()
        case "short image":
            image.write_bytes(image.read_bytes()[:-1])
        case "long image":
            image.write_bytes(image.read_bytes() + b"x")
        case "bad note":
            note.write_bytes(note.read_bytes()[:-5])
        case "empty note":
            note.write_bytes(b"")
        case "other id":
            note.write_bytes(encode(event_of(3)[0]))
    for round_ in range(2):
        spool = opened(tmp_path)
        state = balanced(spool.state())
        assert (state.left, state.dropped, state.spooled) == (1, 1, 2)
        assert state.torn == (1 if round_ == 0 else 0)
        assert ids(spool) == [ident(1)]
        assert on_disk(tmp_path) == files(1)
    assert (tmp_path / "torn" / note.name).exists()


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
    assert on_disk(tmp_path) == files(1)


def test_torn_files_are_bounded_too(tmp_path: Path) -> None:
    for n in range(10):
        leave(tmp_path, n)
        (tmp_path / f"{ident(n)}_MD.json").write_bytes(b"{")
        opened(tmp_path, quarantine=3000)
    assert sum(one.stat().st_size for one in (tmp_path / "torn").iterdir()) <= 3000


def test_a_crash_while_refusing(tmp_path: Path) -> None:
    """Copies are in quarantine, the journal knows nothing: it is offered, and refused, again."""
    leave(tmp_path, 1)
    shutil.copy(tmp_path / f"{ident(1)}_IM.png", tmp_path / "quarantine")
    spool = opened(tmp_path)
    assert ids(spool) == [ident(1)]
    spool.refused(ident(1), "no")
    assert balanced(opened(tmp_path).state()).quarantined == 1


ADDS = """
import sys
from pathlib import Path
from edge.spool import Spool
from shared.errors import SpoolError
from tests.fakes.messages import event_of, ident
spool = Spool(Path(sys.argv[1]), limit=60_000, quarantine_limit=20_000)
for n in range(int(sys.argv[2]), 10**9):
    try:
        spool.add(*event_of(n, size=3000, value=(n * 7919 % 101) / 101))
        print("added", n, flush=True)
    except SpoolError:
        pass
    if n % 5 == 4:
        one = spool.offers()[0].id
        spool.stored([one])
        print("stored", int(one[-12:], 16), flush=True)
    if n % 11 == 10:
        one = spool.offers()[0].id
        spool.refused(one, "no")
"""


def test_killed_while_it_works(tmp_path: Path) -> None:
    """SIGKILL in the middle, again and again; what was said to be there is there, and the books balance."""
    start = 0
    added: set[str] = set()
    before: SpoolState | None = None
    for round_ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", ADDS, str(tmp_path), str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(25 + 13 * round_)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        said = [line.split() for line in lines if line.endswith("\n")]
        now = {ident(int(n)) for word, n in said if word == "added"}
        assert now
        added |= now
        spool = opened(tmp_path, limit=60_000, quarantine=20_000)
        state = balanced(spool.state())
        assert state.torn == 0
        assert state.bytes <= 60_000
        ended = {one["id"] for one in journal(tmp_path)}
        assert added <= ended | set(ids(spool)), "each is there, or the journal says how it ended"
        assert not ended & set(ids(spool))
        assert on_disk(tmp_path) == {f"{one}{end}" for one in ids(spool) for end in ("_IM.png", "_MD.json")}
        for one in ids(spool):
            number = int(one[-12:], 16)
            assert spool.image(one) == event_of(number, size=3000)[1]
        assert state.stored >= sum(word == "stored" for word, _ in said) + (before.stored if before else 0)
        before = state
        start = max(int(one[-12:], 16) for one in added) + 100


# ------------------------------------------------------------------------------------ against a model


class SpoolMachine(RuleBasedStateMachine):
    """Any order of everything against a dictionary."""

    LIMIT = 12_000

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.model: dict[str, tuple[Event, bytes]] = {}
        self.counts = {"stored": 0, "quarantined": 0, "dropped": 0}
        self.added = 0
        self.next = 0
        self.open()

    def open(self) -> None:
        self.spool = opened(self.folder, limit=self.LIMIT, quarantine=2000)
        self.spool.watch(self.gone)

    def gone(self, one: str) -> None:
        del self.model[one]
        self.counts["dropped"] += 1

    def pick(self, number: int) -> str:
        known = sorted(self.model)
        return known[number % len(known)] if known else ident(999)

    @rule(size=st.integers(1, 6000), value=st.sampled_from([0.1, 0.2, 0.5, 0.9]))
    def add(self, size: int, value: float) -> None:
        self.next += 1
        event, data = event_of(self.next, size=size, value=value)
        before = dict(self.model)
        room = self.LIMIT - sum(self.weigh(one) for one in before)
        room += sum(self.weigh(one) for one, (e, _) in before.items() if e.value <= value)
        try:
            self.spool.add(event, data)
        except SpoolError:
            assert room < size + len(encode(event))
            assert self.model == before
        else:
            assert room >= size + len(encode(event))
            left = [before[one][0].value for one in self.model]
            went = [before[one][0].value for one in before.keys() - self.model.keys()]
            assert all(one <= value for one in went)
            assert max(went, default=0.0) <= min(left, default=1.0), "the least valuable went"
            self.model[event.id] = (event, data)
            self.added += 1

    def weigh(self, one: str) -> int:
        event, data = self.model[one]
        return len(data) + len(encode(event))

    @rule(numbers=st.lists(st.integers(0, 50), max_size=4))
    def stored(self, numbers: list[int]) -> None:
        chosen = {self.pick(n) for n in numbers}
        self.spool.stored(sorted(chosen))
        for one in chosen & self.model.keys():
            del self.model[one]
            self.counts["stored"] += 1

    @rule(number=st.integers(0, 50))
    def refused(self, number: int) -> None:
        one = self.pick(number)
        self.spool.refused(one, "no")
        if self.model.pop(one, None):
            self.counts["quarantined"] += 1

    @rule(number=st.integers(0, 50), note=st.booleans())
    def damage(self, number: int, note: bool) -> None:
        one = self.pick(number)
        if one in self.model:
            path = self.folder / (f"{one}_MD.json" if note else f"{one}_IM.png")
            path.write_bytes(path.read_bytes()[:-1])
            assert (self.spool.event(one) if note else self.spool.image(one)) is None
            assert one not in self.model

    @rule(junk=st.booleans())
    def reopen(self, junk: bool) -> None:
        if junk:
            (self.folder / f"{ident(500)}_IM.png{TMP}").write_bytes(b"half")
            (self.folder / f"{ident(501)}_IM.png").write_bytes(b"no note")
        self.open()

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "spool"):
            return
        assert set(ids(self.spool)) == set(self.model)
        state = balanced(self.spool.state())
        assert {name: getattr(state, name) for name in self.counts} == self.counts
        assert (state.left, state.spooled) == (len(self.model), self.added)
        assert state.bytes == sum(self.weigh(one) for one in self.model) <= self.LIMIT
        for one, (event, data) in self.model.items():
            assert self.spool.event(one) == event
            assert self.spool.image(one) == data

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


SpoolMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
test_against_a_model = SpoolMachine.TestCase
