"""Commit: a round is all or nothing, says the truth about each image, and stores none twice."""

import queue
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import event as happening
from sqlalchemy import text
from sqlmodel import col, select

from hub import commit, lost
from hub.commit import Committer, Round, stored_hashes
from hub.store import Store, open_store
from hub.tables import Blob, Image, Label, Pair, Preview, Release, Skew, Tombstone
from shared.clock import SystemClock
from shared.errors import StoreError
from shared.files import sha256_hex
from shared.messages import Rival, encode
from shared.transfer import Complete, Held
from tests.fakes.listener import wait_until
from tests.hub.making import NOW, event_of, settings_in

CAMERA = "site/cam-1"


def complete(data: bytes, *, camera: str = CAMERA, **fields: object) -> Complete:
    return Complete(camera, event_of(data, **fields), data)


def some(*seeds: int, size: int = 500) -> list[Complete]:
    return [complete(random.Random(seed).randbytes(size)) for seed in seeds]


class Rounds:
    """A committer and what it said."""

    def __init__(self, store: Store, *, batch: int = 256) -> None:
        self.store = store
        self.told: queue.SimpleQueue[Round] = queue.SimpleQueue()
        self.committer = Committer(store, SystemClock(), self.told.put, batch=batch)

    def one(self, images: list[Complete]) -> Round:
        """These images as one round."""
        return self.committer._commit(images)

    def rows(self) -> list[Image]:
        with self.store.read() as session:
            return list(session.exec(select(Image).order_by(col(Image.id))))

    def whole(self) -> None:
        """Every row has bytes, and they have its hash; every place in the index can be read."""
        for row in self.rows():
            assert sha256_hex(self.store.blobs.read(row.sha256)) == row.sha256
            assert len(self.store.blobs.read(row.sha256)) == row.size
        with self.store.read() as session:
            hashes = session.exec(select(Blob.sha256)).all()
        assert set(hashes) == {row.sha256 for row in self.rows()}


@pytest.fixture
def rounds(store: Store) -> Iterator[Rounds]:
    made = Rounds(store)
    yield made
    made.whole()


# -- one round


def test_a_round_stores_every_image_with_what_the_camera_said(rounds: Rounds) -> None:
    images = some(1, 2, 3)
    assert rounds.one(images) == Round(images, [], [])
    assert [(row.camera, row.event_id, row.sha256, row.state, row.split) for row in rounds.rows()] == [
        (CAMERA, one.event.id, one.event.sha256, "new", "pool") for one in images
    ]
    assert [rounds.store.blobs.read(one.event.sha256) for one in images] == [one.data for one in images]


def test_what_came_in_an_earlier_round_is_known_and_not_stored_again(rounds: Rounds) -> None:
    first, second = some(1, 2), some(3)
    rounds.one(first)
    result = rounds.one([first[1], *second, first[0]])
    assert result.stored == second
    assert result.known == [(first[1], first[1].event.sha256), (first[0], first[0].event.sha256)]
    assert len(rounds.rows()) == 3


def test_the_same_id_with_other_bytes_is_known_under_the_hash_it_has(rounds: Rounds) -> None:
    [first] = some(1)
    rounds.one([first])
    other = complete(b"other bytes", id=first.event.id)
    result = rounds.one([other])
    assert result == Round([], [(other, first.event.sha256)], [])
    assert [row.sha256 for row in rounds.rows()] == [first.event.sha256]


def test_the_same_bytes_of_two_cameras_or_events_in_one_round(rounds: Rounds) -> None:
    data = b"the same" * 100
    images = [complete(data), complete(data), complete(data, camera="site/cam-2")]
    assert rounds.one(images) == Round(images, [], [])
    assert len(rounds.rows()) == 3
    again = complete(data)
    assert rounds.one([again]).stored == [again]
    assert rounds.store.blobs.read(again.event.sha256) == data


def test_every_round_takes_the_rows_of_blobs_in_the_same_order(rounds: Rounds) -> None:
    """PostgreSQL locks them as they come: two rounds in two orders would be a deadlock."""
    orders: list[list[str]] = []

    def saw(_connection: object, _cursor: object, sql: str, parameters: list[tuple[str, ...]], *_more: object) -> None:
        if sql.startswith("INSERT INTO blob"):
            orders.append([one[0] for one in parameters])

    happening.listen(rounds.store.engine, "before_cursor_execute", saw)
    images = some(*range(8))
    rounds.one(images)
    rounds.one([complete(one.data) for one in reversed(images)])
    assert orders == [sorted(one.event.sha256 for one in images)] * 2


def test_the_same_id_of_two_cameras_are_two_images(rounds: Rounds) -> None:
    one = complete(b"one")
    other = complete(b"other", camera="site/cam-2", id=one.event.id)
    assert rounds.one([one, other]).stored == [one, other]
    assert rounds.one([complete(b"third", camera="site/cam-3", id=one.event.id)]).known == []


def test_the_same_image_twice_in_one_round_stores_nothing_wrong(rounds: Rounds) -> None:
    """It never comes to that: the receiver hands an image over once. If it did, the round fails and is asked for."""
    [one] = some(1)
    result = rounds.one([one, one])
    assert (result.stored, result.failed) in (([one], []), ([], [one, one]))
    assert len(rounds.rows()) == len(result.stored)


def test_a_purged_image_is_known_and_does_not_come_back(rounds: Rounds) -> None:
    [one], [other] = some(1), some(2)
    with rounds.store.write() as session:
        session.add(Tombstone(camera=CAMERA, event_id=one.event.id, sha256=one.event.sha256, purged_at=NOW))
        session.add(Tombstone(camera="site/cam-2", event_id=other.event.id, sha256="0" * 64, purged_at=NOW))
    result = rounds.one([one, other])
    assert result.known == [(one, one.event.sha256)]
    assert result.stored == [other], "the tombstone is another camera's"


def test_an_image_that_comes_ends_its_preview_and_no_other(rounds: Rounds) -> None:
    images = some(1, 2)
    for camera, one in ((CAMERA, images[0]), (CAMERA, images[1]), ("site/cam-2", images[0])):
        add_preview(rounds.store, camera, one)
    rounds.one(images[:1])
    with rounds.store.read() as session:
        left = {(row.camera, row.event_id) for row in session.exec(select(Preview))}
    assert left == {(CAMERA, images[1].event.id), ("site/cam-2", images[0].event.id)}


def test_the_embedding_that_a_preview_brought_outlives_it(rounds: Rounds) -> None:
    images = some(1, 2, 3)
    add_preview(rounds.store, CAMERA, images[0], embedding=b"\x01\x02")
    add_preview(rounds.store, CAMERA, images[1])
    add_preview(rounds.store, "site/cam-2", images[2], embedding=b"\x03\x04")
    rounds.one(images)
    rounds.one(images)
    with rounds.store.read() as session:
        found = [(row.camera, row.event_id, row.vector, row.distance) for row in session.exec(select(Skew))]
    assert found == [(CAMERA, images[0].event.id, b"\x01\x02", None)]


def test_the_embedding_that_an_image_brings_itself_is_kept_to_compare(rounds: Rounds) -> None:
    first, second, third, broken = (
        complete(random.Random(seed).randbytes(500), embedding=text)
        for seed, text in enumerate(("AQI=", "AwQ=", None, "no base64"))
    )
    add_preview(rounds.store, CAMERA, second, embedding=b"\x07\x08")
    result = rounds.one([first, second, third, broken])
    assert len(result.stored) == 4
    rounds.one([first])
    with rounds.store.read() as session:
        found = {row.event_id: (row.vector, row.distance) for row in session.exec(select(Skew))}
    assert found == {first.event.id: (b"\x01\x02", None), second.event.id: (b"\x03\x04", None)}


@pytest.mark.parametrize(("made_by", "kept"), [("b" * 64, True), (None, True), ("8" * 64, False)])
@pytest.mark.parametrize("way", ["event", "preview"])
def test_only_embeddings_by_the_float_backbone_are_kept_to_compare(
    rounds: Rounds, made_by: str | None, kept: bool, way: str
) -> None:
    """What a camera computed that runs the int8 variant of the same release says nothing about its pictures."""
    with rounds.store.write() as session:
        session.add(
            Release(
                project="cells",
                number=3,
                created_at=NOW,
                expires_at=NOW,
                envelope=b"",
                model={"backbone": {"sha256": "b" * 64}, "int8": {"backbone": {"sha256": "8" * 64}}},
            )
        )
    data = random.Random(1).randbytes(500)
    one = complete(data, embedding="AQI=", backbone=made_by, release=3)
    if way == "preview":
        rounds.committer._commit([Held(CAMERA, msgspec.structs.replace(one.event, held=True))])
        one = complete(data, id=one.event.id, release=3)
    rounds.one([one])
    with rounds.store.read() as session:
        assert [row.vector for row in session.exec(select(Skew))] == ([b"\x01\x02"] if kept else [])


def test_rows_of_skew_cost_a_round_nothing_where_no_image_brings_an_embedding(rounds: Rounds) -> None:
    told: list[str] = []
    happening.listen(rounds.store.engine, "before_cursor_execute", lambda *given: told.append(given[2]))
    rounds.one(some(1, 2))
    assert sum("INTO skew" in one for one in told) == 1, "those that previews brought"


def add_preview(store: Store, camera: str, one: Complete, embedding: bytes = b"") -> None:
    with store.write() as session:
        session.add(
            Preview(
                camera=camera,
                event_id=one.event.id,
                project=one.event.project,
                captured_at=NOW,
                received_at=NOW,
                event=encode(one.event),
                embedding=embedding,
            )
        )


# -- bytes that were lost


def bereave(store: Store, *images: Complete) -> None:
    """The bytes of these are gone, and fsck has said so."""
    with store.write() as session:
        lost.mark(session, [one.event.sha256 for one in images])
        for one in images:
            found = session.get(Blob, one.event.sha256)
            assert found is not None
            found.segment = "gone.seg"
            session.add(found)


def test_a_lost_image_that_comes_again_is_what_it_was(rounds: Rounds) -> None:
    one, other = some(1, 2)
    rounds.one([one, other])
    with rounds.store.write() as session:
        row = session.exec(select(Image).where(Image.event_id == one.event.id)).one()
        row.state, row.width, row.label, row.decided = "verified", 64, "defect", True
        session.add(row)
        session.add(Label(image_id=row.id, name="defect", at=NOW))
    bereave(rounds.store, one, other)
    result = rounds.one([one])
    assert result == Round([one], [], [])
    assert rounds.store.blobs.read(one.event.sha256) == one.data
    assert [(row.state, row.label) for row in rounds.rows()] == [("verified", "defect"), ("lost", None)]
    rounds.one([other])
    assert [row.state for row in rounds.rows()] == ["verified", "new"]
    assert len(rounds.rows()) == 2


def test_other_bytes_under_the_id_of_a_lost_image_are_refused(rounds: Rounds) -> None:
    [one], [fresh] = some(1), some(2)
    rounds.one([one])
    bereave(rounds.store, one)
    other = complete(b"not what was lost", id=one.event.id)
    result = rounds.one([other, fresh])
    assert result == Round([fresh], [(other, one.event.sha256)], [])
    assert [row.state for row in rounds.rows()] == ["lost", "new"]
    assert rounds.one([one]).stored == [one], "and the right ones are still taken"


def test_a_lost_image_is_not_called_stored_before(rounds: Rounds) -> None:
    one, other = some(1, 2)
    rounds.one([one, other])
    bereave(rounds.store, one)
    keys = [(CAMERA, one.event.id), (CAMERA, other.event.id), (CAMERA, "nothing")]
    with rounds.store.reading() as connection:
        assert stored_hashes(connection, keys) == (
            {(CAMERA, other.event.id): other.event.sha256},
            {(CAMERA, one.event.id): one.event.sha256},
        )
    rounds.one([one])


def test_the_same_bytes_under_another_id_heal_what_was_lost(rounds: Rounds) -> None:
    """The blob is there again, so the index names its new place; the row of the first one is fsck's to heal."""
    [one] = some(1)
    rounds.one([one])
    bereave(rounds.store, one)
    again = complete(one.data)
    assert rounds.one([again]).stored == [again]
    assert rounds.store.blobs.read(one.event.sha256) == one.data
    assert rounds.one([one]).stored == [one]
    assert {row.state for row in rounds.rows()} == {"new"}


# -- a store that fails


def triggered(store: Store, table: str) -> Callable[[], None]:
    """The database refuses rows of a table; returns how to mend it."""
    with store.engine.begin() as connection:
        connection.execute(
            text(f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        )

    def mend() -> None:
        with store.engine.begin() as connection:
            connection.execute(text("DROP TRIGGER full"))

    return mend


@pytest.mark.parametrize("where", ["image", "blob", "segment"])
def test_a_round_that_fails_has_stored_nothing(rounds: Rounds, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    first, second = some(1), some(2, 3)
    rounds.one(first)
    with monkeypatch.context() as broken:
        mend: Callable[[], None] = lambda: None  # noqa: E731
        if where == "segment":

            def fails(_blobs: object) -> None:
                raise OSError(28, "No space left on device")

            broken.setattr(rounds.store.blobs.segments, "append", fails)
        else:
            mend = triggered(rounds.store, where)
        result = rounds.one([*second, first[0]])
        mend()
    assert (result.stored, result.known, result.failed) == ([], [], [*second, first[0]])
    assert isinstance(result.error, StoreError)
    assert len(rounds.rows()) == 1
    assert rounds.one([*second, first[0]]) == Round(second, [(first[0], first[0].event.sha256)], [])


def test_a_database_that_another_process_holds_fails_the_round_and_not_the_next(store: Store, tmp_path: Path) -> None:
    store.engine.dispose()
    happening.listen(store.engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=1"))
    rounds, other = Rounds(store), open_store(settings_in(tmp_path))
    [one] = some(1)
    with other.writing():
        result = rounds.one([one])
    assert isinstance(result.error, StoreError)
    assert result.failed == [one]
    assert rounds.one([one]) == Round([one], [], [])
    other.close()


def test_the_thread_goes_on_after_a_round_that_failed(rounds: Rounds) -> None:
    rounds.committer.start()
    mend = triggered(rounds.store, "image")
    [one] = some(1)
    rounds.committer.put(one)
    assert rounds.told.get(timeout=20).failed == [one]
    mend()
    rounds.committer.put(one)
    assert rounds.told.get(timeout=20).stored == [one]
    rounds.committer.stop()


# -- the thread


def test_what_waits_is_committed_before_the_end_and_nothing_after_it(rounds: Rounds) -> None:
    images = some(*range(10))
    for one in images:
        rounds.committer.put(one)
    rounds.committer.start()
    rounds.committer.stop()
    stored = []
    while not rounds.told.empty():
        stored += rounds.told.get().stored
    assert [one.event.id for one in stored] == [one.event.id for one in images], "in the order in which they came"


def test_a_burst_of_large_images_makes_rounds_of_bounded_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "BATCH_BYTES", 10_000)
    rounds = Rounds(store, batch=5)
    for one in [*some(1, size=30_000), *some(2, 3, 4, size=4000), *some(*range(10, 22), size=10)]:
        rounds.committer.put(one)
    rounds.committer.start()
    rounds.committer.stop()
    sizes = []
    while not rounds.told.empty():
        sizes.append([len(one.data) for one in rounds.told.get().stored])
    assert sizes == [[30_000], [4000, 4000], [4000, 10, 10, 10, 10], [10] * 5, [10] * 3]
    rounds.whole()


def test_busy_says_how_long_the_round_has_taken(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    free, inside = threading.Event(), threading.Event()
    really = rounds.store.blobs.append

    def slow(blobs: list[tuple[str, bytes]]) -> object:
        inside.set()
        assert free.wait(20)
        return really(blobs)

    monkeypatch.setattr(rounds.store.blobs, "append", slow)
    rounds.committer.start()
    assert rounds.committer.busy() == 0.0
    rounds.committer.put(some(1)[0])
    assert inside.wait(20)
    wait_until(lambda: rounds.committer.busy() > 0.05, "time to pass")
    free.set()
    rounds.told.get(timeout=20)
    assert rounds.committer.busy() == 0.0
    rounds.committer.stop()


# -- kill -9

STORING = """
import random, sys
from pathlib import Path
from hub.commit import Committer
from hub.store import open_store
from shared.clock import SystemClock
from tests.hub.making import settings_in
from tests.hub.test_commit import complete

store, chance = open_store(settings_in(Path(sys.argv[1]))), random.Random(int(sys.argv[2]))


def tell(result):
    assert result.error is None, result.error
    for one in result.stored:
        print(one.event.id, one.event.sha256, flush=True)


committer = Committer(store, SystemClock(), tell, batch=16)
committer.start()
while True:
    committer.put(complete(chance.randbytes(chance.randrange(1, 20_000))))
    while len(committer._waiting) > 40:
        pass
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_hub_never_has_a_row_without_its_bytes_nor_forgets_what_it_told(tmp_path: Path, seed: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STORING, str(tmp_path), str(seed)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(random.Random(seed).randrange(5, 150))]
    process.send_signal(signal.SIGKILL)
    told += process.stdout.readlines()
    process.wait(10)
    process.stdout.close()
    store = open_store(settings_in(tmp_path))
    rounds = Rounds(store)
    rounds.whole()
    rows = {row.event_id: row.sha256 for row in rounds.rows()}
    said = dict(line.decode().split() for line in told if line.endswith(b"\n"))
    assert said
    assert said.items() <= rows.items()
    store.close()


# -- what two models say


def test_what_two_models_say_of_an_image_is_kept_with_it_once(store):
    rounds = Rounds(store)
    rival = Rival(release=2, label="defect", score=0.6, trial="t1", number=4)
    image = complete(b"x" * 300, label="good", release=3, why="pair", rival=rival)
    for _ in range(2):
        rounds.one([image, complete(b"y" * 300)])
    with store.read() as session:
        [pair] = session.exec(select(Pair)).all()
    assert (pair.camera, pair.event_id, pair.project) == (CAMERA, image.event.id, "cells")
    assert (pair.release, pair.label, pair.other, pair.other_label) == (3, "good", 2, "defect")
    assert (pair.trial, pair.number) == ("t1", 4)


def test_two_models_that_say_the_same_are_no_pair(store):
    """Else its label would count as a frame that the new model has mended."""
    same = complete(
        b"x" * 300, label="good", why="audit", rival=Rival(release=2, label="good", score=0.6, trial="t1", number=4)
    )
    Rounds(store).one([same])
    with store.read() as session:
        assert session.exec(select(Pair)).all() == []
