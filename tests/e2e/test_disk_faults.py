"""A disk that fails at the worst moments: strace lets chosen system calls of the real collector and spool fail.

What was told stays true: `stored` only of what a fresh process finds on disk, synced; no event leaves a camera's spool
without an end in its journal. And when the disk is well again, nothing is missing.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlmodel import select

from edge.spool import Spool
from hub import epoch
from hub.store import open_store
from hub.tables import Blob, Image
from shared.clock import SystemClock
from shared.files import sha256_hex
from tests.e2e.disk_programs import hub_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _may_trace() -> None:
    done = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")


@dataclass
class Program:
    """One of the programs under strace, and what it told."""

    process: subprocess.Popen[bytes]
    said: Iterator[str]
    log: Path
    words: dict[str, list[list[str]]] = field(default_factory=dict)

    def hear(self, until: str = "", count: int = 1) -> None:
        """Listen until it has said a word so many times, or to its end."""
        for line in self.said:
            word, *rest = line.split()
            self.words.setdefault(word, []).append(rest)
            if word == until and len(self.words[word]) == count:
                return

    def end(self) -> None:
        """Listen to its end; it must be a good one."""
        self.hear()
        stderr = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, stderr.decode()

    def firsts(self, word: str) -> list[str]:
        return [one[0] for one in self.words.get(word, [])]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[object]:
    begun: list[tuple[Program, socket.socket]] = []

    def start(kind: str, count: int, inject: str, *paths: Path) -> Program:
        mine, its = socket.socketpair()
        mine.settimeout(60)
        log = tmp_path / "trace"
        calls = "pwrite64,fdatasync,fsync,write,rename,unlink"
        command = ["strace", "-ff", "-y", "-s", "0", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={inject}"]
        for one in paths:
            command += ["-P", str(one)]
        program = [sys.executable, "-m", "tests.e2e.disk_programs", kind, str(tmp_path), str(count), str(its.fileno())]
        process = subprocess.Popen(
            command + program, cwd=ROOT, pass_fds=[its.fileno()], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        its.close()
        begun.append((Program(process, iter(mine.makefile("r")), log), mine))
        return begun[-1][0]

    yield start
    for program, mine in begun:
        for [pid] in program.words.get("begun", []):
            if program.process.poll() is None:
                os.kill(int(pid), signal.SIGKILL)
        program.process.kill()
        program.process.communicate(timeout=10)
        mine.close()


def injected(program: Program) -> int:
    """How many calls strace let fail."""
    return sum(
        one.read_text(errors="replace").count("(INJECTED)") for one in program.log.parent.glob(f"{program.log.name}.*")
    )


# -- the hub


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A database that is there already, so that the faults hit the collecting."""
    store = open_store(hub_settings(tmp_path))
    epoch.current(store, SystemClock())
    store.close()
    return tmp_path


def check_hub(folder: Path, program: Program) -> None:
    """What a fresh process finds: each image that was called stored, once, with its bytes; and no row without."""
    store = open_store(hub_settings(folder))
    with store.read() as session:
        rows = session.exec(select(Image)).all()
        places = session.exec(select(Blob)).all()
    offered = dict(program.words["offered"])
    assert set(program.firsts("stored")) <= {row.event_id for row in rows}
    assert len({row.event_id for row in rows}) == len(rows)
    for row in rows:
        assert row.sha256 == offered[row.event_id]
        assert sha256_hex(store.blobs.read(row.sha256)) == row.sha256
    assert {one.sha256 for one in places} == {row.sha256 for row in rows}
    store.close()


DATABASE_SYNCED = re.compile(r"^fdatasync\(\d+<[^>]*hone\.db-wal>\)\s+= 0$", re.MULTILINE)
CALL = re.compile(r"^(pwrite64|fdatasync)\(\d+<([^>]*\.seg)>(?:, \"\"\.\.\., (\d+), (\d+))?\)\s+= (-?\d+)")


def check_synced(folder: Path, program: Program) -> None:
    """Every place that the database names was written, and after that its segment synced, without an error; and so was
    the database for each round of four.
    """
    synced: dict[str, list[tuple[int, int]]] = {}
    rounds = 0
    for log in program.log.parent.glob(f"{program.log.name}.*"):
        written: dict[str, list[tuple[int, int]]] = {}
        text = log.read_text(errors="replace")
        rounds += len(DATABASE_SYNCED.findall(text))
        for line in text.splitlines():
            if (call := CALL.match(line)) is None:
                continue
            name, path, _, at, came = call.groups()
            segment = Path(path).name
            if name == "pwrite64" and int(came) > 0:
                written.setdefault(segment, []).append((int(at), int(at) + int(came)))
            elif name == "fdatasync" and came == "0":
                synced.setdefault(segment, []).extend(written.pop(segment, []))
            elif name == "fdatasync":
                written.pop(segment, None)  # nobody knows what became of it
    store = open_store(hub_settings(folder))
    with store.read() as session:
        places = session.exec(select(Blob)).all()
    store.close()
    assert places
    assert rounds >= len(places) / 4
    for one in places:
        spans = synced.get(one.segment, [])
        assert any(begin <= one.offset and one.offset + one.size <= end for begin, end in spans), one


# Counted for each thread. The one that commits syncs a segment first and the database then, in turn; the one that
# opens the database writes fewer than 30 times.
HUB_FAULTS = [
    "fdatasync:error=EIO:when=1..13+2",
    "fdatasync:error=EIO:when=2..14+2",
    "fdatasync:error=ENOSPC:when=3..15+3",
    "pwrite64:error=EIO:when=40..150+7",
    "pwrite64:error=ENOSPC:when=41..200+13",
]


@pytest.mark.parametrize("inject", HUB_FAULTS)
def test_what_the_hub_called_stored_is_on_disk_whatever_fails(hub_folder: Path, begin, inject: str) -> None:
    program = begin("hub", 48, inject)
    program.end()
    check_all_stored(hub_folder, program)
    check_synced(hub_folder, program)


def test_a_segment_whose_name_cannot_be_made_durable_is_not_used(hub_folder: Path, begin) -> None:
    folder = hub_folder / "state" / "segments"
    folder.mkdir()
    program = begin("hub", 12, "fsync:error=EIO:when=1..3", folder)
    program.end()
    check_all_stored(hub_folder, program)
    store = open_store(hub_settings(hub_folder))
    with store.read() as session:
        assert {one.segment for one in session.exec(select(Blob))} == {store.blobs.segments.names()[3]}
    store.close()


def check_all_stored(folder: Path, program: Program) -> None:
    """The faults were felt, and when the disk was well again nothing was missing."""
    assert injected(program) >= 2
    assert int(program.firsts("errors")[0]) >= 2
    assert program.firsts("left") == ["0"]
    assert set(program.firsts("stored")) == set(program.firsts("offered"))
    check_hub(folder, program)


def test_faults_of_the_database_alone(hub_folder: Path, begin) -> None:
    database = hub_folder / "state" / "hone.db"
    program = begin("hub", 48, "pwrite64:error=EIO:when=40..200+9", database, database.with_name("hone.db-wal"))
    program.end()
    check_all_stored(hub_folder, program)


@pytest.mark.parametrize("seed", range(2))
def test_a_hub_that_is_killed_while_its_disk_fails(hub_folder: Path, begin, seed: int) -> None:
    program = begin("hub", 60, "fdatasync:error=EIO:when=3+3")
    program.hear("stored", random.Random(seed).randrange(4, 40))
    [pid] = program.firsts("begun")
    os.kill(int(pid), signal.SIGKILL)
    program.hear()
    program.process.communicate(timeout=30)
    assert program.firsts("stored")
    check_hub(hub_folder, program)
    check_synced(hub_folder, program)


# -- the camera


def journalled(folder: Path) -> dict[str, str]:
    """The end of each event, as the journal says."""
    lines = [json.loads(line) for line in (folder / "spool" / "journal.jsonl").read_text().splitlines()]
    return {line["id"]: line["end"] for line in lines if "id" in line}


CAMERA_FAULTS = [
    "fsync:error=EIO:when=5..17+3",
    "fsync:error=ENOSPC:when=6..14+2",
    "write:error=ENOSPC:when=2..12+3",
    "write:error=EIO:when=3..9+2",
    "rename:error=EIO:when=2..14+3",
    "unlink:error=EIO:when=1..9+2",
]


@pytest.mark.parametrize("inject", CAMERA_FAULTS)
def test_no_event_leaves_the_spool_without_an_end_in_its_journal(tmp_path: Path, begin, inject: str) -> None:
    program = begin("camera", 40, inject)
    program.end()
    assert injected(program) >= 2
    spooled, hub = set(program.firsts("spooled")), set(program.firsts("hub"))
    assert program.firsts("left") == ["0"], "nothing waits for ever"
    [[failed, counted]] = program.words["unspooled"]
    assert failed == counted == str(40 - len(spooled)), "what could not be written is counted"
    ends = journalled(tmp_path)
    assert {one for one, end in ends.items() if end == "stored"} <= hub, "acknowledged, and the hub does not have it"
    assert hub == spooled
    later = Spool(tmp_path / "spool", limit=1 << 24, quarantine_limit=1 << 20, keep_s=0, clock=SystemClock())
    left = {one.id for one in later.offers()}
    assert left | ends.keys() == spooled, "no event is forgotten"
    state = later.state()
    assert state.spooled == len(spooled) == state.stored + state.left + state.quarantined + state.dropped


def test_a_journal_that_cannot_be_written_keeps_every_event(tmp_path: Path, begin) -> None:
    """For as long as it fails nothing is let go; a fresh start finds all of it, and offers it again."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "journal.jsonl").touch()
    program = begin("camera", 20, "write:error=ENOSPC", tmp_path / "spool" / "journal.jsonl")
    program.hear("spooled", 20)
    [pid] = program.firsts("begun")
    while injected(program) < 2:
        assert program.process.poll() is None
    os.kill(int(pid), signal.SIGKILL)
    program.hear()
    program.process.communicate(timeout=30)
    assert journalled(tmp_path) == {}
    later = Spool(tmp_path / "spool", limit=1 << 24, quarantine_limit=1 << 20, keep_s=0, clock=SystemClock())
    assert {one.id for one in later.offers()} == set(program.firsts("spooled"))
