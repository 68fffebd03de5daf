"""A collector beside others, on a FakeBroker and a real store: it serves what its leases allow, and says so."""

from collections import Counter
from types import SimpleNamespace

import msgspec
import pytest
from sqlmodel import select

from hub import epoch
from hub.collect import Collector
from hub.lease import Claims
from hub.outpost import settings_for
from hub.settings import CollectSettings
from hub.tables import Image, Lease
from shared import topics
from shared.clock import SystemClock
from shared.errors import ConfigError
from shared.messages import HubStatus, decode, encode
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.listener import wait_until
from tests.hub.making import HandCamera, event_of, picture

A, B = "a/cam-1", "b/cam-1"


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Looks ten times a second: a lease counts as over after half a second, and holds for ten."""
    monkeypatch.setattr("hub.lease.RENEW_S", 0.1)


@pytest.fixture
def world(settings, store):
    broker, made = FakeBroker(), []

    def make(name="x", *sites, **more):
        fields = {"name": name, "beat_s": 0.05}
        mine = msgspec.structs.replace(settings, **{**fields, **more})
        bus = FakeBus(broker, name, will=(topics.hub_status(name), encode(HubStatus(online=False))))
        boot = f"{name}-{len(made)}"
        claims = Claims(name, boot, sites or ("a",))
        errors = Counter()
        collector = Collector(
            mine, store=store, bus=bus, clock=SystemClock(), errors=errors, claims=claims
        )  # fmt: skip
        one = SimpleNamespace(name=name, bus=bus, collector=collector, errors=errors)
        made.append(one)
        bus.start(collector)
        collector.start()
        return one

    yield SimpleNamespace(broker=broker, make=make, store=store)
    for one in made:
        one.collector.stop()


def status(world, name="x", leaf=topics.hub_status):
    world.broker.pump()
    data = world.broker.retained.get(leaf(name))
    return decode(data, HubStatus) if data else HubStatus(online=False)


def until(world, true, what):
    def look():
        world.broker.pump()
        return true()

    wait_until(look, what, seconds=30)


def give(world, owner, *, site="a", home=True):
    """The lease goes to somebody else, who is never heard of again."""
    with world.store.write() as session:
        session.merge(Lease(site=site, owner=owner, boot="other", beat=1, home=home))


def images(world):
    with world.store.read() as session:
        return session.exec(select(Image)).all()


def test_it_serves_its_sites_and_tells_which(world):
    one = world.make("x", "b", "a")
    until(world, lambda: status(world).sites == ["a", "b"], "both sites")
    assert set(one.bus.filters) == set(topics.uploads(["a", "b"]))
    until(world, lambda: status(world, leaf=topics.hub_pulse).sites == ["a", "b"], "the same for those on thin links")
    camera, data = HandCamera(world.broker, A), picture()
    camera.upload(event_of(data), data)
    until(world, lambda: camera.stored, "stored")


def test_an_image_of_another_site_is_left_to_others(world):
    one = world.make("x", "a")
    until(world, lambda: status(world).sites == ["a"], "its site")
    here, there, data = HandCamera(world.broker, A), HandCamera(world.broker, B), picture()
    there.upload(event_of(data), data)
    for message in list(world.broker.seen):  # even if it came, as what was under way does
        if message.topic.startswith(f"hone/camera/{B}/"):
            one.collector.message(message)
    here.upload(event_of(data), data)
    until(world, lambda: here.stored, "stored")
    assert [image.camera for image in images(world)] == [A]
    assert (there.replies, dict(one.errors)) == ([], {})


def test_a_site_that_is_lost_is_served_no_more_and_the_cameras_are_told(world):
    one = world.make("x", "a", "b")
    until(world, lambda: status(world).sites == ["a", "b"], "both sites")
    camera, data = HandCamera(world.broker, A), picture()
    event = event_of(data)
    camera.offer(event)
    until(world, lambda: one.collector._receiver.partial_bytes, "an unfinished image")
    give(world, "y")
    until(world, lambda: status(world).sites == ["b"], "the other site alone")
    assert set(one.bus.filters) == set(topics.uploads(["b"]))
    until(world, lambda: status(world, leaf=topics.hub_pulse).sites == ["b"], "the same for those on thin links")
    assert one.collector._receiver.partial_bytes == 0
    camera.chunks(event, data)
    assert camera.replies == []
    give(world, "y", site="b")
    until(world, lambda: not status(world).online, "no site at all")
    assert one.bus.filters == {}
    beat = status(world).beat
    until(world, lambda: status(world).sites == ["a", "b"], "both again, since their owner stood still")
    assert status(world).beat > beat
    until(world, lambda: status(world, leaf=topics.hub_pulse).sites == ["a", "b"], "and on thin links")


def test_what_was_complete_when_the_site_was_lost_is_stored_and_called_so(world, monkeypatch):
    one = world.make("x", "a")
    until(world, lambda: status(world).sites == ["a"], "its site")
    camera, data = HandCamera(world.broker, A), picture()
    append = world.store.blobs.append

    def lost_meanwhile(blobs):
        monkeypatch.setattr(one.collector._leases, "held", lambda _: frozenset())
        wait_until(lambda: one.bus.filters == {}, "the loss, while the image is being stored")
        return append(blobs)

    monkeypatch.setattr(world.store.blobs, "append", lost_meanwhile)
    camera.upload(event_of(data), data)
    until(world, lambda: camera.stored, "stored")
    assert len(images(world)) == 1


def test_one_ends_in_good_order_and_the_other_takes_its_site_at_once(world):
    one, other = world.make("x", "a"), world.make("y", "b")
    until(world, lambda: status(world, "y").sites == ["b"], "one site each")
    one.collector.stop()
    with world.store.read() as session:
        assert session.exec(select(Lease.owner).where(Lease.site == "a")).one() in ("", "y")
    one.bus.stop(one.collector.statuses(online=False))
    until(world, lambda: status(world, "y").sites == ["a", "b"], "both")
    assert not status(world).online
    world.make("x", "a")
    until(world, lambda: status(world).sites == ["a"], "its site, given back")
    until(world, lambda: status(world, "y").sites == ["b"], "the other's own")
    assert not other.errors


def test_who_is_cut_from_the_broker_renews_nothing_and_another_takes_over(world):
    one = world.make("x", "a")
    until(world, lambda: status(world).sites == ["a"], "its site")
    one.bus.cut()
    other = world.make("y", "b")
    until(world, lambda: status(world, "y").sites == ["a", "b"], "both at the other one")
    one.bus.mend()
    until(world, lambda: status(world, "y").sites == ["b"], "its own alone, since the first one is back")
    until(world, lambda: status(world).sites == ["a"], "its site again")
    assert not other.errors


def test_unfinished_images_on_disk_are_read_by_the_collector_that_put_them_there(world):
    one = world.make("x", "a")
    until(world, lambda: status(world).sites == ["a"], "its site")
    camera, data = HandCamera(world.broker, A), picture()
    event = event_of(data)
    camera.offer(event)
    camera.bus.publish(topics.chunk(A, event.id, 0), data[: event.chunk_size])
    until(world, lambda: one.collector._receiver.partial_bytes == len(data), "an unfinished image")
    one.collector.stop()
    one.bus.stop(one.collector.statuses(online=False))
    other = world.make("y", "b")
    assert other.collector._receiver.partial_bytes == 0
    other.collector.stop()
    again = world.make("x", "a")
    assert again.collector._receiver.partial_bytes == len(data)
    until(world, lambda: "a" in status(world).sites, "its site")
    camera.offer(msgspec.structs.replace(event, follows=False))
    until(world, lambda: camera.replies, "an answer")
    assert camera.replies[-1].resend[event.id][0][0] == 1, "all but the first chunk"


def test_the_quota_of_a_day_holds_also_after_a_takeover(world):
    collect = CollectSettings(quota_mb_per_day=1)
    one = world.make("x", "a", collect=collect)
    until(world, lambda: status(world).sites == ["a"], "its site")
    camera = HandCamera(world.broker, A)
    other = world.make("y", "b", collect=collect)
    until(world, lambda: status(world, "y").sites == ["b"], "its site")
    data = b"1" * 900_000
    camera.upload(event_of(data, chunk_size=1 << 20), data)
    until(world, lambda: camera.stored, "stored")
    one.collector.stop()
    until(world, lambda: status(world, "y").sites == ["a", "b"], "both")
    data = b"2" * 900_000
    camera.upload(event_of(data, chunk_size=1 << 20), data)
    until(world, lambda: camera.pauses, "a pause")
    assert other.errors["quota"] >= 1
    assert len(images(world)) == 1


@pytest.mark.parametrize(
    ("collect", "sites", "name", "says"),
    [
        (CollectSettings(), ["a"], None, "collects from every site itself"),
        (CollectSettings(enabled=False), ["a"], "hub", "is the hub's own name"),
        (CollectSettings(enabled=False), ["a b"], None, "is not a valid site"),
        (CollectSettings(enabled=False), ["a"], "a/b", "is not a valid collector name"),
    ],
)
def test_what_cannot_be_is_refused(settings, collect, sites, name, says):
    with pytest.raises(ConfigError, match=says):
        settings_for(msgspec.structs.replace(settings, collect=collect), sites, name)


@pytest.mark.parametrize("collect", [CollectSettings(enabled=False), CollectSettings(sites=["c"])])
def test_its_name_is_the_hubs_and_the_first_site_unless_given(settings, collect):
    given = msgspec.structs.replace(settings, collect=collect)
    assert settings_for(given, ["b", "a"]).name == "hub-b"
    assert settings_for(given, ["b", "a"], "north").name == "north"


def test_another_epoch_is_told_by_every_collector(world):
    world.make("x", "a")
    world.make("y", "b")
    until(world, lambda: status(world).epoch and status(world).epoch == status(world, "y").epoch, "one epoch")
    before = status(world).epoch
    with world.store.write() as session:
        begun = epoch.begin(session, "a test", SystemClock().utc())
    until(world, lambda: {status(world, name).epoch for name in "xy"} == {begun}, "the other epoch")
    assert begun != before
