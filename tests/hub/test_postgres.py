"""The commit path on a real PostgreSQL: the same rules as on SQLite, where several write at once."""

import random
import threading
from collections import Counter

import msgspec
import pytest
from sqlmodel import select

from hub import epoch
from hub.collect import Collector
from hub.commit import Committer, Round
from hub.lease import Claims
from hub.registry import Registry
from hub.store import open_store
from hub.tables import Blob, Camera, Image, Lease, Preview
from shared import topics
from shared.clock import SystemClock
from shared.files import sha256_hex
from shared.messages import HubStatus, Status, decode, encode
from shared.transfer import Complete, Held
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.listener import wait_until
from tests.fakes.postgres import Postgres, programs
from tests.hub.making import HandCamera, event_of, picture, reported, settings_in

CAMERA = "site/cam-1"


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("psycopg", reason="the driver is not installed: pip install 'hone[postgres]'")
    found = programs()
    if found is None:
        pytest.skip("PostgreSQL is not installed (no initdb): apt-get install postgresql")
    one = Postgres(found)
    yield one
    one.stop()


@pytest.fixture
def settings(server, tmp_path):
    return settings_in(tmp_path, database=server.url())


@pytest.fixture
def store(settings):
    made = open_store(settings)
    yield made
    made.close()


def complete(data, *, camera=CAMERA, **fields):
    return Complete(camera, event_of(data, **fields), data)


def some(*seeds, size=500):
    return [complete(random.Random(seed).randbytes(size)) for seed in seeds]


def held(one):
    return Held(one.camera, msgspec.structs.replace(one.event, held=True, follows=False))


def committer(store, told=lambda _round: None):
    return Committer(store, SystemClock(), told, batch=256)


def together(*works):
    """Do these at the same moment, each in a thread, to their end."""
    gate = threading.Barrier(len(works))
    threads = [threading.Thread(target=lambda work=one: (gate.wait(), work())) for one in works]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
        assert not one.is_alive()


def rows(store, table):
    with store.read() as session:
        return session.exec(select(table)).all()


def check(store, images):
    """Each of these is stored, once, with its bytes, and nothing else is."""
    assert sorted((row.camera, row.event_id, row.sha256) for row in rows(store, Image)) == sorted(
        (one.camera, one.event.id, one.event.sha256) for one in images
    )
    for row in rows(store, Image):
        assert sha256_hex(store.blobs.read(row.sha256)) == row.sha256
    assert {row.sha256 for row in rows(store, Blob)} == {one.event.sha256 for one in images}


def test_a_fresh_database_is_brought_to_the_newest_schema_and_opened_again(settings, store):
    began = epoch.current(store, SystemClock())
    again = open_store(settings)
    assert epoch.current(again, SystemClock()) == began
    again.close()


def test_the_same_bytes_twice_in_one_round(store):
    """Two events, one blob: ON CONFLICT must not meet the same row twice in a statement."""
    data = b"the same" * 100
    images = [complete(data), complete(data), complete(data, camera="site/cam-2"), *some(1, 2)]
    assert committer(store)._commit(images) == Round(images, [], [])
    check(store, images)


def test_a_repeat_is_known_and_stored_once(store):
    first, second = some(1, 2), some(3)
    one = committer(store)
    one._commit(first)
    other = complete(b"other bytes", id=first[0].event.id)
    result = one._commit([first[1], *second, other])
    assert result == Round(second, [(first[1], first[1].event.sha256), (other, first[0].event.sha256)], [])
    check(store, first + second)


def test_the_same_image_twice_in_one_round_stores_nothing_wrong(store):
    [twice] = some(1)
    one = committer(store)
    result = one._commit([twice, twice])
    assert (result.stored, result.failed) in (([twice], []), ([], [twice, twice]))
    assert one._commit([twice]).failed == []
    check(store, [twice])


def test_previews_come_twice_in_one_round_are_renewed_and_end_with_their_image(store):
    images = some(1, 2)
    one = committer(store)
    result = one._commit([held(images[0]), held(images[0]), held(images[1])])
    assert (result.error, len(result.noted)) == (None, 3)
    assert sorted(row.event_id for row in rows(store, Preview)) == sorted(image.event.id for image in images)
    assert one._commit([held(images[0])]).error is None
    assert one._commit(images[:1]).stored == images[:1]
    assert [row.event_id for row in rows(store, Preview)] == [images[1].event.id]


def test_a_fleet_that_comes_and_reports_again_is_written_together(store):
    registry = Registry(store, SystemClock())
    registry.start()
    names = [f"site/cam-{number}" for number in range(20)]
    for release in (1, 2):
        for name in names:
            registry.status(name, Status(online=True, boot="b"))
            registry.reported(name, reported(release))
        registry.flush()
    assert {(row.name, row.online, row.release) for row in rows(store, Camera)} == {(one, True, 2) for one in names}


def test_two_that_write_at_once_store_each_event_once(settings, store):
    """As when a site changes hands: nobody holds a lock over both, so one of two rounds may fail and is asked for."""
    images = some(*range(40))
    other = open_store(settings)

    def work(mine, left):
        one = committer(mine)
        while left:
            result = one._commit(left[:5])
            done = {image.event.id for image in result.stored} | {image.event.id for image, _ in result.known}
            left = [image for image in left if image.event.id not in done]

    together(lambda: work(store, images), lambda: work(other, images[::-1]))
    other.close()
    check(store, images)


def test_the_same_bytes_at_two_collectors_at_once_are_no_deadlock(settings, store):
    for turn in range(12):
        data = [random.Random(1000 * turn + one).randbytes(100) for one in range(100)]
        here = [complete(one, camera="a/cam-1") for one in data]
        there = [complete(one, camera="b/cam-1") for one in reversed(data)]
        results = []
        other = open_store(settings)
        together(
            lambda images=here, told=results: told.append(committer(store)._commit(images)),
            lambda images=there, mine=other, told=results: told.append(committer(mine)._commit(images)),
        )
        other.close()
        assert [result.error for result in results] == [None, None]


def test_two_collectors_take_over_from_one_another(settings, store, monkeypatch):
    monkeypatch.setattr("hub.lease.RENEW_S", 0.1)
    broker, made = FakeBroker(), {}

    def start(name, site):
        mine = msgspec.structs.replace(settings, name=name, beat_s=0.05)
        other = open_store(mine)
        bus = FakeBus(broker, name, will=(topics.hub_status(name), encode(HubStatus(online=False))))
        errors = Counter()
        collector = Collector(
            mine, store=other, bus=bus, clock=SystemClock(), errors=errors, claims=Claims(name, f"boot-{name}", (site,))
        )
        bus.start(collector)
        collector.start()
        made[name] = (collector, other, errors)

    def until(true, what):
        def look():
            broker.pump()
            return true()

        wait_until(look, what, seconds=60)

    def sites(name):
        data = broker.retained.get(topics.hub_status(name))
        return decode(data, HubStatus).sites if data else []

    def stop(name):
        collector, other, errors = made.pop(name)
        collector.stop()
        other.close()
        assert not errors["store"], "no deadlock and no conflict"

    try:
        start("x", "a")
        start("y", "b")
        until(lambda: (sites("x"), sites("y")) == (["a"], ["b"]), "each its own site")
        cameras = {site: HandCamera(broker, f"{site}/cam-1") for site in "ab"}
        images = []
        for number in range(6):
            for one in cameras.values():
                images.append(complete(picture(number), camera=one.name))  # the same bytes at both sites
                one.upload(images[-1].event, images[-1].data)
        until(lambda: all(len(one.stored) == 6 for one in cameras.values()), "all stored")
        stop("x")
        until(lambda: sites("y") == ["a", "b"], "the site of the other")
        images.append(complete(picture(99), camera="a/cam-1"))
        cameras["a"].upload(images[-1].event, images[-1].data)
        cameras["a"].upload(images[0].event, images[0].data)  # a repeat, at another collector
        until(lambda: len(cameras["a"].stored) == 8, "stored by the other")
        check(store, images)
        assert {(row.site, row.owner) for row in rows(store, Lease)} == {("a", "y"), ("b", "y")}
    finally:
        for name in list(made):
            stop(name)
