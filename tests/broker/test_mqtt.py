"""PahoBus against a real mosquitto: what the port promises, through crashes of the broker."""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from shared.errors import BrokerError
from shared.mqtt import MqttSettings, PahoBus, read_password
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.mosquitto import Mosquitto

ROOT = Path(__file__).parents[2]
CAMERA = "hone/camera/site/cam-1"

Connect = Callable[..., tuple[PahoBus, Recorder]]
_numbers = itertools.count()


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make started buses; all are stopped at the end."""
    made: list[PahoBus] = []

    def one(
        broker: Mosquitto,
        user: str,
        *filters: str,
        will: tuple[str, bytes] | None = None,
        wait: bool = True,
        settings: MqttSettings | None = None,
    ) -> tuple[PahoBus, Recorder]:
        bus = PahoBus(settings or broker.settings_for(user), client_id=f"test-{next(_numbers)}", will=will, max_delay=1)
        made.append(bus)
        recorder = Recorder()
        bus.subscribe(filters)
        bus.start(recorder)
        if wait:
            recorder.wait_connected()
        return bus, recorder

    yield one
    for bus in made:
        bus.stop()


@pytest.fixture
def own(make_broker: Callable[[], Mosquitto]) -> Mosquitto:
    """A running broker of the test's own."""
    one = make_broker()
    one.start()
    return one


def barrier(bus: PahoBus, listener: Recorder, topic: str) -> None:
    """Everything that was published on this bus before has been delivered to `listener` by now, or never will."""
    say(bus, listener, topic, f"mark-{next(_numbers)}".encode())


def say(bus: PahoBus, listener: Recorder, topic: str, payload: bytes) -> None:
    """Publish until it arrives: who has just reconnected has asked for its topics, and may not have them yet."""

    def arrived() -> bool:
        assert bus.publish(topic, payload)
        return payload in [one.payload for one in listener.messages if one.topic == topic]

    wait_until(arrived, f"{payload!r} on {topic}")


def test_publish_and_receive(broker: Mosquitto, connect: Connect) -> None:
    hub, heard = connect(broker, "hub", "hone/camera/+/+/event")
    camera, _ = connect(broker, "site/cam-1")
    done: list[str] = []
    payload = bytes(range(256)) * 256
    assert camera.publish(f"{CAMERA}/event", payload, delivered=lambda: done.append("x"))
    message = heard.wait_message(f"{CAMERA}/event")
    assert (message.payload, message.retained) == (payload, False)
    wait_until(lambda: done == ["x"], "the acknowledgement")
    wait_until(lambda: camera.unacked == 0, "no bytes on their way")
    assert camera.sent == len(payload)
    assert hub.received == len(payload)
    assert hub.sent == camera.received == 0


def test_retained_is_marked_and_live_is_not(broker: Mosquitto, connect: Connect) -> None:
    hub, live = connect(broker, "hub", "hone/plan/retained")
    hub.publish("hone/plan/retained", b"1", retain=True)
    assert not live.wait_message("hone/plan/retained").retained
    _, late = connect(broker, "site/cam-1", "hone/plan/+")
    assert late.wait_message("hone/plan/retained").retained
    hub.publish("hone/plan/retained", b"", retain=True)
    late.wait_message("hone/plan/retained", b"")


def test_subscribe_and_unsubscribe_while_connected(broker: Mosquitto, connect: Connect) -> None:
    hub, _ = connect(broker, "hub")
    camera, heard = connect(broker, "site/cam-2", "hone/camera/site/cam-2/reply")
    camera.subscribe(["hone/plan/a", "hone/plan/b"])
    camera.subscribe([])
    hub.publish("hone/plan/a", b"1", retain=True)
    heard.wait_message("hone/plan/a")
    camera.unsubscribe(["hone/plan/a", "hone/plan/never"])
    camera.unsubscribe([])
    camera.subscribe(["hone/hub/x/status"])  # in order: once this one holds, the other is undone
    hub.publish("hone/hub/x/status", b"1", retain=True)
    heard.wait_message("hone/hub/x/status")
    hub.publish("hone/plan/a", b"2")
    barrier(hub, heard, "hone/plan/b")
    assert [one.payload for one in heard.messages if one.topic == "hone/plan/a"] == [b"1"]
    for topic in ("hone/plan/a", "hone/hub/x/status"):
        hub.publish(topic, b"", retain=True)


WILL = """
import sys, time
import msgspec
from shared.mqtt import MqttSettings, PahoBus
from tests.fakes.listener import Recorder
bus = PahoBus(msgspec.json.decode(sys.argv[1], type=MqttSettings), client_id="will",
              will=("hone/camera/site/cam-1/status", b"gone"))
recorder = Recorder()
bus.start(recorder)
recorder.wait_connected()
bus.publish("hone/camera/site/cam-1/status", b"here", retain=True)
time.sleep(60)
"""


def test_the_last_will_of_one_who_is_killed(broker: Mosquitto, connect: Connect) -> None:
    hub, heard = connect(broker, "hub", f"{CAMERA}/status")
    settings = msgspec.json.encode(broker.settings_for("site/cam-1")).decode()
    with subprocess.Popen([sys.executable, "-c", WILL, settings], cwd=ROOT) as process:
        try:
            heard.wait_message(f"{CAMERA}/status", b"here", seconds=20)
        finally:
            process.kill()
    heard.wait_message(f"{CAMERA}/status", b"gone")
    _, late = connect(broker, "hub", f"{CAMERA}/status")
    assert late.wait_message(f"{CAMERA}/status").payload == b"gone", "the will is retained"
    hub.publish(f"{CAMERA}/status", b"", retain=True)


def test_last_words_instead_of_the_will(broker: Mosquitto, connect: Connect) -> None:
    topic = "hone/camera/site/cam-3/status"
    hub, heard = connect(broker, "hub", topic)
    camera, _ = connect(broker, "site/cam-3", will=(topic, b"will"))
    camera.stop([(topic, b"goodbye")])
    assert not camera.online
    assert not camera.publish(topic, b"after")
    heard.wait_message(topic, b"goodbye")
    barrier(hub, heard, topic)
    assert b"will" not in [one.payload for one in heard.messages]
    assert b"after" not in [one.payload for one in heard.messages]
    hub.publish(topic, b"", retain=True)


def test_subscriptions_and_wills_survive_a_restart_of_the_broker(own: Mosquitto, connect: Connect) -> None:
    hub, heard = connect(own, "hub", f"{CAMERA}/event")
    camera, _ = connect(own, "site/cam-1")
    hub.subscribe([f"{CAMERA}/want"])
    for round_ in (2, 3):
        own.kill()
        wait_until(lambda: not hub.online and not camera.online, "both to notice")
        own.start()
        heard.wait_connected(round_)
        wait_until(lambda: camera.online, "the camera to come back")
        for leaf in ("event", "want"):
            say(camera, heard, f"{CAMERA}/{leaf}", f"{round_}".encode())
    assert heard.events[0::2] == ["connected"] * 3
    assert all(one.startswith("disconnected") for one in heard.events[1::2])


def test_what_was_refused_while_offline_never_arrives(own: Mosquitto, connect: Connect) -> None:
    _, heard = connect(own, "hub", f"{CAMERA}/event")
    camera, noticed = connect(own, "site/cam-1")
    own.kill()
    wait_until(lambda: len(noticed.events) > 1, "the camera to notice")
    done: list[int] = []
    for number in range(20):
        assert not camera.publish(f"{CAMERA}/event", b"refused", delivered=lambda n=number: done.append(n))
    assert (camera.unacked, camera.sent) == (0, 0)
    own.start()
    noticed.wait_connected(2)
    heard.wait_connected(2)
    barrier(camera, heard, f"{CAMERA}/event")
    assert b"refused" not in [one.payload for one in heard.messages]
    assert done == []


def test_what_was_refused_in_the_moment_of_the_cut_never_arrives(own: Mosquitto, connect: Connect) -> None:
    """paho has closed its socket and not yet said so: `publish()` returns rc 4 and queues all the same."""
    _, heard = connect(own, "hub", f"{CAMERA}/event")
    camera, noticed = connect(own, "site/cam-1")
    own.kill()
    wait_until(lambda: len(noticed.events) > 1, "the camera to notice")
    camera._online = True  # that moment, held still
    taken = camera.publish(f"{CAMERA}/event", b"between", retain=True)  # retained: the hub may come later
    camera._online = False
    own.start()
    noticed.wait_connected(2)
    heard.wait_connected(2)
    barrier(camera, heard, f"{CAMERA}/event")
    time.sleep(0.5)  # what paho kept it sends after the first words of the new connection
    arrived = b"between" in [one.payload for one in heard.messages]
    assert taken or not arrived, "refused, and delivered all the same: the caller sends it twice"


def test_a_broker_that_is_not_there_yet(
    make_broker: Callable[[], Mosquitto], connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    later = make_broker()
    camera, heard = connect(later, "site/cam-1", f"{CAMERA}/reply", wait=False)
    assert not camera.publish(f"{CAMERA}/event", b"x")
    wait_until(lambda: caplog.records, "a complaint")
    time.sleep(1.5)
    later.start()
    heard.wait_connected()
    hub, _ = connect(later, "hub")
    hub.publish(f"{CAMERA}/reply", b"welcome")
    heard.wait_message(f"{CAMERA}/reply")
    complaints = [one for one in caplog.records if one.name == "shared.mqtt"]
    assert len(complaints) == 1, "once, not at each retry"
    assert f"broker 127.0.0.1:{later.port}: is not there yet" in complaints[0].getMessage()


def test_a_wrong_password_is_said_once_and_tried_on(
    own: Mosquitto, connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    settings = own.settings_for("site/cam-1", password_file=str(password))
    camera, heard = connect(own, "site/cam-1", settings=settings, wait=False)
    wait_until(lambda: own.log.count("not authorised") >= 2, "two tries")
    assert heard.connects == 0
    assert not camera.online
    assert not camera.publish(f"{CAMERA}/event", b"x")
    complaints = [one.getMessage() for one in caplog.records if one.name == "shared.mqtt"]
    assert len(complaints) == 1
    assert "refused us" in complaints[0]
    assert "Check user and password" in complaints[0]


def test_stop_is_quick_when_the_broker_is_not_there(make_broker: Callable[[], Mosquitto], connect: Connect) -> None:
    camera, _ = connect(make_broker(), "site/cam-1", wait=False)
    time.sleep(0.3)
    began = time.monotonic()
    camera.stop([(f"{CAMERA}/status", b"goodbye")])
    assert time.monotonic() - began < 3


def test_stop_is_quick_when_the_broker_hangs(own: Mosquitto, connect: Connect) -> None:
    camera, _ = connect(own, "site/cam-1")
    own.freeze()
    began = time.monotonic()
    camera.stop([(f"{CAMERA}/status", b"goodbye")])
    assert time.monotonic() - began < 5
    own.thaw()


def test_unacked_counts_what_is_on_its_way(own: Mosquitto, connect: Connect) -> None:
    camera, _ = connect(own, "site/cam-1")
    done: list[int] = []
    own.freeze()
    for number in range(3):
        assert camera.publish(f"{CAMERA}/event", b"12345", delivered=lambda n=number: done.append(n))
    camera.publish(f"{CAMERA}/result", b"123", qos=0)
    time.sleep(0.1)
    assert (camera.unacked, camera.sent, done) == (15, 18, [])
    own.thaw()
    wait_until(lambda: camera.unacked == 0, "all to be acknowledged")
    assert sorted(done) == [0, 1, 2]


def test_unacked_starts_anew_after_a_cut(own: Mosquitto, connect: Connect) -> None:
    camera, noticed = connect(own, "site/cam-1")
    own.freeze()
    camera.publish(f"{CAMERA}/event", b"12345")
    assert camera.unacked == 5
    own.kill()
    wait_until(lambda: not camera.online, "the camera to notice")
    assert camera.unacked == 0
    own.start()
    noticed.wait_connected(2)
    time.sleep(0.3)
    assert camera.unacked == 0


@pytest.mark.parametrize("before", ["a result at QoS 0", "a cut"])
def test_delivered_means_acknowledged_also_when_message_ids_come_round(
    own: Mosquitto, connect: Connect, before: str
) -> None:
    """Message ids repeat after 65,535 messages: 36 minutes of results at 30 frames a second."""
    camera, noticed = connect(own, "site/cam-1")
    if before == "a cut":
        own.freeze()
        camera.publish(f"{CAMERA}/event", b"x")
        own.kill()
        wait_until(lambda: not camera.online, "the camera to notice")
        own.start()
        noticed.wait_connected(2)
        time.sleep(0.3)  # paho has sent it again, the broker has acknowledged
    else:
        camera.publish(f"{CAMERA}/result", b"x", qos=0)
        time.sleep(0.1)
    own.freeze()
    camera._client._last_mid -= 1  # as after one round of all ids
    done: list[str] = []
    assert camera.publish(f"{CAMERA}/event", b"12345", delivered=lambda: done.append("x"))
    assert done == [], "the frozen broker has acknowledged nothing"
    assert camera.unacked == 5
    own.thaw()
    wait_until(lambda: done == ["x"] and camera.unacked == 0, "the acknowledgement")


def test_subscribing_while_it_reconnects_breaks_nothing(own: Mosquitto, connect: Connect) -> None:
    """A reload asks for windows of chunks in its own thread, whatever the connection does."""
    bus, recorder = connect(own, "site/cam-1", *(f"hone/blob/{'0' * 64}/{i}" for i in range(3)))
    others: list[threading.Thread] = []

    class Watched(dict[str, None]):
        """While somebody goes through it, another thread subscribes, if it is let."""

        def __iter__(self) -> Iterator[str]:
            for one in super().__iter__():
                if not others:
                    others.append(threading.Thread(target=bus.subscribe, args=([f"hone/blob/{'1' * 64}/0"],)))
                    others[0].start()
                    others[0].join(0.1)
                yield one

    own.kill()
    wait_until(lambda: not bus.online, "the camera to notice")
    bus._filters = Watched(bus._filters)
    own.start()
    recorder.wait_connected(2)
    assert others, "nobody went through the filters"
    others[0].join(10)
    assert bus.publish(f"{CAMERA}/status", b"alive")
    wait_until(lambda: bus.unacked == 0, "life after that")
    hub, _ = connect(own, "hub")
    hub.publish(f"hone/blob/{'1' * 64}/0", b"late")
    recorder.wait_message(f"hone/blob/{'1' * 64}/0", b"late")


def test_listener_is_called_in_one_other_thread(broker: Mosquitto, connect: Connect) -> None:
    _, heard = connect(broker, "site/cam-1")
    assert len(heard.threads) == 1
    assert threading.get_ident() not in heard.threads


def test_a_message_above_the_limit_ends_the_connection_and_it_comes_back(own: Mosquitto, connect: Connect) -> None:
    camera, heard = connect(own, "site/cam-1")
    camera.publish(f"{CAMERA}/event", b"x" * 1_400_000, qos=0)
    heard.wait_connected(2)
    assert camera.online


def test_password_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("secret \nsecond line\n")
    assert read_password(MqttSettings(password_file=str(path))) == "secret"
    assert read_password(MqttSettings()) == ""
    with pytest.raises(BrokerError, match="none: password file cannot be read"):
        read_password(MqttSettings(password_file=str(tmp_path / "none")))


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="TLS files cannot be used"):
        PahoBus(MqttSettings(ca=str(tmp_path / "none.pem")), client_id="x")
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(BrokerError, match="TLS files cannot be used"):
        PahoBus(MqttSettings(ca=str(tmp_path / "bad.pem")), client_id="x")
