"""Nothing lost, nothing twice, while everything dies: the chaos bench itself, and proof that its count can fail."""

import itertools
import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.files import sha256_hex
from tests.bench.plant import faults, ledger, pictures, tally
from tests.bench.plant.proxy import Proxy
from tests.fakes.listener import wait_until

ROOT = Path(__file__).parents[2]
CAMERA = "plant/cam-1"


def mounts_allowed():
    """Whether the bench can have its small disk here."""
    how = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*how, "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and not subprocess.run(command, capture_output=True, check=False).returncode


def test_a_minute_of_chaos_loses_nothing_and_stores_nothing_twice(tmp_path):
    command = [sys.executable, "-m", "tests.bench.chaos", "--seconds", "60", "--seed", "1", "--drain", "30"]
    done = subprocess.run(
        [*command, "--keep", str(tmp_path / "plant")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    said = f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, said
    result = json.loads(done.stdout.splitlines()[-1])
    for name in ("lost", "duplicated", "acked_not_on_disk", "bad_rows", "unwitnessed", "torn", "quarantined", "hung"):
        assert result[name] == 0, said
    ended = result["stored"] + result["left"] + result["dropped_counted"]
    assert result["spooled"] == ended, said
    assert result["drained"], said
    assert result["stored"] > 100
    assert result["kills"] >= 8
    assert result["cuts"] >= 4
    assert result["overflowed"]
    assert result["dropped_counted"] >= 1
    assert result["disk_full"] >= 1 or not mounts_allowed()


# -- the count, on disks that are made up


class Disks:
    """The state of one camera and a hub after a run, all well until a test breaks it."""

    def __init__(self, folder):
        self.hub, self.spool, self.book = folder / "hub", folder / "spool", folder / "ledger.jsonl"
        self.hub.mkdir()
        self.spool.mkdir()
        self.book.touch()
        self.database = sqlite3.connect(self.hub / "hone.db")
        self.database.execute("CREATE TABLE image (camera TEXT, event_id TEXT, sha256 TEXT)")
        self.database.execute('CREATE TABLE blob (sha256 TEXT, segment TEXT, "offset" INTEGER, size INTEGER)')
        self.serials = itertools.count(1)

    def spooled(self, *, seen=True, serial=None):
        """An event that the ledger saw, with its picture unless that was gone too soon; returns id and picture."""
        serial = serial or next(self.serials)
        event, data = f"event-{next(self.serials)}", pictures.draw(0, serial)
        mark, sha256 = ([0, serial], sha256_hex(data)) if seen else (None, None)
        self.write(camera=CAMERA, spooled=event, sha256=sha256, mark=mark)
        return event, data

    def write(self, **line):
        with self.book.open("a") as book:
            book.write(json.dumps({"at": 0, **line}) + "\n")

    def row(self, event, data, *, blob=True):
        """The hub has a row, and the blob."""
        sha256 = sha256_hex(data)
        self.database.execute("INSERT INTO image VALUES (?, ?, ?)", (CAMERA, event, sha256))
        self.database.commit()
        path = self.hub / "blobs" / sha256[:2] / sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        if blob:
            path.write_bytes(data)
        return path

    def files(self, event, data, *, folder=""):
        """The camera has the event's two files."""
        (self.spool / folder).mkdir(exist_ok=True)
        (self.spool / folder / f"{event}_IM.png").write_bytes(data)
        (self.spool / folder / f"{event}_MD.json").write_text("{}")

    def journal(self, event, end, **more):
        with (self.spool / "journal.jsonl").open("a") as journal:
            journal.write(json.dumps({"id": event, "end": end, **more}) + "\n")

    def stored(self):
        """An event whose way ended well."""
        event, data = self.spooled()
        self.row(event, data)
        self.journal(event, "stored")
        return event, data

    def count(self):
        return tally.count(self.book, self.hub, {CAMERA: self.spool})

    def wrong(self):
        """What is not as it must be."""
        counted = self.count()
        names = ("lost", "duplicated", "acked_not_on_disk", "bad_rows", "unwitnessed")
        return {name: found for name in names if (found := getattr(counted, name))}


@pytest.fixture
def disks(tmp_path):
    one = Disks(tmp_path)
    for _ in range(3):
        one.stored()
    yield one
    one.database.close()


def test_each_event_is_counted_once_where_it_ended(disks):
    disks.files(*disks.spooled())
    dropped, _ = disks.spooled()
    disks.journal(dropped, "dropped")
    refused, data = disks.spooled()
    disks.files(refused, data, folder="quarantine")
    disks.journal(refused, "quarantined", reason="too large")
    late, data = disks.spooled()  # stored, evicted before the camera heard of it
    disks.row(late, data)
    disks.journal(late, "dropped")
    counted = disks.count()
    figures = [len(one) for one in (counted.stored, counted.left, counted.dropped, counted.quarantined)]
    assert figures == [4, 1, 1, 1]
    assert counted.spooled == 7
    assert counted.overflowed == {CAMERA}
    assert disks.wrong() == {}


def test_an_event_that_is_nowhere_is_lost(disks):
    event, _ = disks.spooled()
    assert disks.wrong() == {"lost": [(CAMERA, event)]}
    assert any(event in line for line in tally.describe(disks.count(), disks.book))


def test_an_event_whose_picture_the_ledger_missed_is_lost_too_unless_it_is_found(disks):
    event, data = disks.spooled(seen=False)
    assert disks.wrong() == {"lost": [(CAMERA, event)]}
    disks.row(event, data)
    assert disks.wrong() == {}


def test_a_picture_without_its_metadata_does_not_count_as_left(disks):
    event, data = disks.spooled()
    disks.files(event, data)
    assert len(disks.count().left) == 1
    (disks.spool / f"{event}_MD.json").unlink()
    assert disks.wrong() == {"lost": [(CAMERA, event)]}


def test_a_copy_that_is_kept_after_stored_is_not_left(disks):
    event, data = disks.stored()
    disks.files(event, data)
    assert tally.left_in(disks.spool) == set()
    assert disks.count().left == []
    disks.database.execute("DELETE FROM image WHERE event_id = ?", (event,))
    disks.database.commit()
    assert disks.wrong() == {"lost": [(CAMERA, event)], "acked_not_on_disk": [(CAMERA, event)]}


def test_one_picture_in_two_rows_is_a_duplicate(disks):
    event, data = disks.stored()
    _, serial = pictures.read(data)
    disks.row(event, data)
    assert disks.wrong() == {"duplicated": [(CAMERA, (0, serial))]}


def test_one_picture_under_two_ids_is_a_duplicate_unless_it_was_spooled_twice(disks):
    _, data = disks.stored()
    _, serial = pictures.read(data)
    disks.row("another", data)
    assert disks.wrong() == {"duplicated": [(CAMERA, (0, serial))], "unwitnessed": [(CAMERA, "another")]}
    disks.write(camera=CAMERA, spooled="another", sha256=sha256_hex(data), mark=[0, serial])
    assert disks.wrong() == {}
    assert disks.count().captured_twice == [(CAMERA, (0, serial))]


def test_stored_without_a_row_is_acknowledged_and_not_on_disk(disks):
    event, data = disks.spooled()
    disks.files(event, data)
    disks.journal(event, "stored")
    assert disks.wrong()["acked_not_on_disk"] == [(CAMERA, event)]


def test_stored_in_a_journal_that_was_replaced_by_its_totals_counts_all_the_same(disks):
    event, _ = disks.spooled()
    disks.write(camera=CAMERA, journal={"id": event, "end": "stored"})
    (disks.spool / "journal.jsonl").write_text('{"totals":{"stored":4,"dropped":0,"quarantined":0}}\n')
    assert disks.wrong()["acked_not_on_disk"] == [(CAMERA, event)]
    dropped, _ = disks.spooled()
    disks.write(camera=CAMERA, journal={"id": dropped, "end": "dropped"})
    assert disks.count().dropped == [(CAMERA, dropped)]


@pytest.mark.parametrize("break_it", [Path.unlink, lambda path: path.write_bytes(b"x" + path.read_bytes()[1:])])
def test_a_row_without_its_bytes_is_not_stored(disks, break_it):
    event, data = disks.spooled()
    path = disks.row(event, data)
    disks.journal(event, "stored")
    assert disks.wrong() == {}
    break_it(path)
    assert disks.wrong() == {name: [(CAMERA, event)] for name in ("lost", "acked_not_on_disk", "bad_rows")}


def test_a_row_with_the_bytes_of_another_event_is_told(disks):
    first, data = disks.spooled()
    second, _ = disks.spooled()
    disks.row(first, data)
    disks.row(second, data)
    disks.journal(second, "stored")
    assert disks.wrong() == {
        "lost": [(CAMERA, second)],
        "duplicated": [(CAMERA, pictures.read(data))],
        "acked_not_on_disk": [(CAMERA, second)],
    }


def test_what_the_ledger_should_have_seen_is_told(disks):
    disks.row("unseen", pictures.draw(0, 999))
    assert disks.wrong() == {"unwitnessed": [(CAMERA, "unseen")]}


def test_a_ledger_that_was_told_too_much_at_once_is_worth_nothing(disks):
    disks.write(overflow=True)
    with pytest.raises(RuntimeError, match="overflowed"):
        disks.count()


# -- the parts of the plant


def test_a_picture_tells_its_number_from_its_pixels_alone():
    data = pictures.draw(2, 70_000)
    assert pictures.read(data) == (2, 70_000)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pictures.read(cv2.imencode(".jpg", pixels)[1].tobytes()) == (2, 70_000)
    assert data == pictures.draw(2, 70_000) != pictures.draw(2, 70_001)
    assert all(15_000 < len(pictures.draw(1, one)) < 70_000 for one in range(20))


def test_a_picture_with_a_wrong_bit_tells_nothing():
    data = pictures.draw(2, 7)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    pixels[: pictures.BLOCK, : pictures.BLOCK] = 255 - pixels[: pictures.BLOCK, : pictures.BLOCK]
    assert pictures.read(cv2.imencode(".png", pixels)[1].tobytes()) is None
    assert pictures.read(data[: len(data) // 4]) is None
    assert pictures.read(b"") is None
    assert pictures.read(b"no picture") is None


def appear(folder, name, data):
    """A file comes as the camera makes it: aside, then renamed."""
    aside = folder / f"{name}.tmp"
    aside.write_bytes(data)
    aside.rename(folder / name)


def test_the_ledger_sees_events_and_journals_also_when_these_are_replaced(tmp_path):
    spool, book = tmp_path / "spool", tmp_path / "ledger.jsonl"
    spool.mkdir()
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    seen = context.Array("L", 2, lock=False)
    process = context.Process(target=ledger.keep, args=({CAMERA: spool}, book, theirs, seen), daemon=True)
    process.start()
    try:
        assert pipe.recv()
        for number in range(5):
            appear(spool, f"e{number}_IM.png", pictures.draw(0, number))
            appear(spool, f"e{number}_MD.json", b"{}")
        wait_until(lambda: seen[0] == 5, "the events")
        appear(spool, "orphan_IM.png", pictures.draw(0, 9))
        appear(spool, "blind_MD.json", b"{}")
        with (spool / "journal.jsonl").open("a") as journal:
            journal.write('{"id": "e0", "end": "stored"}\n{"id": "e1", ')
            journal.flush()
            journal.write('"end": "dropped"}\n')
            journal.flush()
            wait_until(lambda: seen[1] == 1, "the journal")
            journal.write('{"id": "e2", "end": "stored"}\n')
        appear(spool, "journal.jsonl", b'{"totals": {"stored": 2, "dropped": 1}}\n{"id": "e3", "end": "stored"}\n')
        wait_until(lambda: seen[1] == 3, "the replaced journal")
        pipe.send(True)
        process.join(10)
        assert process.exitcode == 0
    finally:
        process.kill()
    found = ledger.read(book)
    assert {event: picture and picture[1] for (_, event), picture in found.spooled.items()} == {
        **{f"e{number}": (0, number) for number in range(5)},
        "blind": None,
    }
    assert {event: line["end"] for (_, event), line in found.ends.items()} == {
        "e0": "stored", "e1": "dropped", "e2": "stored", "e3": "stored",
    }  # fmt: skip
    assert {event for _, event in found.stored} == {"e0", "e2", "e3"}


def test_a_seed_decides_the_faults():
    assert list(islice(faults.hits(7), 50)) == list(islice(faults.hits(7), 50)) != list(islice(faults.hits(8), 50))
    assert list(islice(faults.fills(7), 9)) == list(islice(faults.fills(7), 9))
    hits = list(islice(faults.hits(7), 100))
    assert {one.kind for one in hits} == {"kill", "cut"}
    assert {target for one in hits if one.kind == "kill" for target in one.targets} == set(faults.EVERYONE)
    assert {target for one in hits if one.kind == "cut" for target in one.targets} == set(faults.SIDES)
    assert ("broker", "hub") in [one.targets for one in hits]


def test_the_proxy_silences_one_direction_and_cuts():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        proxy = Proxy(server.getsockname()[1], {"cameras": "down"})
        try:
            with socket.create_connection(("127.0.0.1", proxy.ports["cameras"]), timeout=10) as camera:
                broker, _ = server.accept()
                with broker:
                    broker.settimeout(10)
                    camera.sendall(b"hello")
                    assert broker.recv(10) == b"hello"
                    broker.sendall(b"yes")
                    assert camera.recv(10) == b"yes"
                    proxy.mute("cameras")
                    broker.sendall(b"stored")
                    camera.sendall(b"more")
                    assert broker.recv(10) == b"more"
                    assert proxy.cut("cameras") == 1
                    with pytest.raises(ConnectionResetError):
                        camera.recv(10)
                    with pytest.raises(ConnectionResetError):
                        broker.recv(10)
            with socket.create_connection(("127.0.0.1", proxy.ports["cameras"]), timeout=10) as camera:
                broker, _ = server.accept()
                with broker:
                    broker.sendall(b"back")
                    assert camera.recv(10) == b"back"
        finally:
            proxy.stop()
