"""The fake bus keeps what the port promises: other tests lean on it."""

import doctest
from collections import Counter

from tests.fakes import bus as fake
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.listener import Recorder


def connect(
    broker: FakeBroker, name: str, *filters: str, will: tuple[str, bytes] | None = None
) -> tuple[FakeBus, Recorder]:
    bus, recorder = FakeBus(broker, name, will=will), Recorder()
    bus.subscribe(filters)
    bus.start(recorder)
    return bus, recorder


def test_wildcards() -> None:
    assert doctest.testmod(fake).failed == 0
    assert fake.matches("hone/#", "hone")
    assert not fake.matches("hone/+", "hone")


def test_publish_receive_acknowledge() -> None:
    broker = FakeBroker(auto=False)
    hub, heard = connect(broker, "hub", "a/+", "a/b")
    camera, _ = connect(broker, "camera")
    done: list[int] = []
    assert camera.publish("a/b", b"123", delivered=lambda: done.append(1))
    assert (camera.unacked, camera.sent, done, heard.messages) == (3, 3, [], [])
    broker.pump()
    assert (camera.unacked, done, hub.received) == (0, [1], 3)
    assert [(one.topic, one.retained) for one in heard.messages] == [("a/b", False)]


def test_retained_is_for_those_who_come_later() -> None:
    broker = FakeBroker()
    camera, _ = connect(broker, "camera")
    camera.publish("s", b"1", retain=True)
    hub, heard = connect(broker, "hub", "s")
    assert [one.retained for one in heard.messages] == [True]
    hub.subscribe(["s"])
    assert len(heard.messages) == 2, "each subscription is answered"
    camera.publish("s", b"", retain=True)
    assert broker.retained == {}


def test_offline_is_refused_and_never_delivered() -> None:
    broker = FakeBroker()
    _, heard = connect(broker, "hub", "#")
    camera, _ = connect(broker, "camera", will=("status", b"gone"))
    camera.cut()
    assert broker.retained == {"status": b"gone"}
    assert not camera.publish("x", b"1")
    camera.mend()
    assert camera.publish("y", b"2")
    assert heard.topics == ["status", "y"]


def test_a_dead_broker_takes_what_was_on_its_way_and_says_no_wills() -> None:
    broker = FakeBroker(auto=False)
    hub, heard = connect(broker, "hub", "x", will=("status", b"gone"))
    done: list[int] = []
    hub.publish("x", b"1", delivered=lambda: done.append(1))
    broker.stop(forget=True)
    assert not hub.online
    assert hub.unacked == 0
    broker.start()
    broker.pump()
    assert (heard.connects, heard.messages, done, broker.retained) == (2, [], [], {})
    hub.publish("x", b"2")
    broker.pump()
    assert heard.topics == ["x"], "subscriptions are asked for again"


def test_stop_speaks_last_words_and_no_will() -> None:
    broker = FakeBroker()
    camera, _ = connect(broker, "camera", will=("status", b"will"))
    camera.stop([("status", b"goodbye")])
    assert broker.retained == {"status": b"goodbye"}
    assert not camera.publish("x", b"")


def test_faults_are_seeded_and_end_when_told() -> None:
    def run(seed: int) -> list[bytes]:
        broker = FakeBroker(seed=seed, drop=0.2, duplicate=0.2, reorder=0.5, auto=False)
        _, heard = connect(broker, "hub", "x")
        camera, _ = connect(broker, "camera")
        for number in range(100):
            camera.publish("x", b"%d" % number)
        broker.pump()
        assert camera.unacked == 0, "the broker acknowledges, and loses all the same"
        broker.fair()
        before = len(heard.messages)
        for number in range(50):
            camera.publish("x", b"fair %d" % number)
        broker.pump()
        assert [one.payload for one in heard.messages[before:]] == [b"fair %d" % n for n in range(50)]
        return [one.payload for one in heard.messages[:before]]

    first = run(1)
    assert first == run(1)
    assert first != run(2)
    counts = Counter(first)
    assert len(counts) < 100
    assert max(counts.values()) == 2
    assert first != sorted(first, key=int)
