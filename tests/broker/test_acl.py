"""mosquitto/acl, as the broker enforces it: who may publish and read what."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub import broker as hub_broker
from hub.broker import check_port_free, find_program, free_port, wait_ready, write_configuration
from shared import topics
from shared.errors import BrokerError, PortInUseError
from shared.mqtt import PahoBus
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.mosquitto import Mosquitto

EVENT = "01890a5d-ac96-774b-bcce-b302099a8057"
SHA = "ab" * 32
ONE, TWO = "site/cam-1", "site/cam-2"
_numbers = itertools.count()


def of_camera(camera: str) -> list[str]:
    """Every topic that a camera publishes."""
    leaves = [getattr(topics, leaf)(camera) for leaf in ("status", "reported", "event", "want", "result")]
    return [*leaves, topics.chunk(camera, EVENT, 0)]


def to_camera(camera: str) -> list[str]:
    """Every topic by which the hub speaks to one camera."""
    return [topics.reply(camera), topics.desired(camera)]


TO_ALL = [topics.hub_status("h"), topics.release("p", 1), topics.plan("p"), topics.blob(SHA, 0)]
EVERY = [*of_camera(ONE), *of_camera(TWO), *to_camera(ONE), *to_camera(TWO), *TO_ALL]


class Person:
    """A user of the broker, connected."""

    def __init__(self, broker: Mosquitto, user: str, *filters: str) -> None:
        self.heard = Recorder()
        self.bus = PahoBus(broker.settings_for(user), client_id=f"acl-{next(_numbers)}")
        self.bus.subscribe(filters)
        self.bus.start(self.heard)
        self.heard.wait_connected()


@pytest.fixture
def people(broker: Mosquitto) -> Iterator[dict[str, Person]]:
    """hub, scada and two cameras, each trying to read everything."""
    made = {user: Person(broker, user, "hone/#", *EVERY) for user in ("hub", "scada", ONE, TWO)}
    yield made
    for one in made.values():
        one.bus.stop()


def arrivals(people: dict[str, Person], publisher: str, every: list[str], reader: str, mark: str) -> set[str]:
    """Which of the topics, published by one, reach another. mark: a topic on which publisher reaches reader."""
    payload = f"{next(_numbers)}".encode()
    for topic in every:
        assert people[publisher].bus.publish(topic, payload)
    assert people[publisher].bus.publish(mark, payload + b"!")
    people[reader].heard.wait_message(mark, payload + b"!")
    return {one.topic for one in people[reader].heard.messages if one.payload == payload}


def test_a_camera_publishes_its_own_topics_and_nothing_else(people: dict[str, Person]) -> None:
    assert arrivals(people, ONE, EVERY, "hub", topics.event(ONE)) == set(of_camera(ONE))


def test_a_camera_cannot_hide_among_other_levels(people: dict[str, Person]) -> None:
    hostile = ["hone", "hone/camera", "hone/camera/site/cam-1", "hone/camera/site/cam-1/event/x", "hone/camera/site"]
    hostile += ["hone/camera/site/cam-1x/event", "hone/camera//cam-1/event", "hone/hub/x/status/y", "other", "/hone"]
    assert arrivals(people, ONE, hostile, "hub", topics.event(ONE)) == set()


def test_a_camera_reads_what_is_for_it_and_for_all(people: dict[str, Person]) -> None:
    got = arrivals(people, "hub", EVERY, ONE, topics.reply(ONE))
    assert got == {*to_camera(ONE), *TO_ALL}


def test_a_camera_does_not_hear_another(people: dict[str, Person]) -> None:
    for topic in of_camera(TWO):
        people[TWO].bus.publish(topic, b"private")
    people["hub"].heard.wait_message(topics.chunk(TWO, EVENT, 0), b"private")
    people["hub"].bus.publish(topics.reply(ONE), b"after")
    people[ONE].heard.wait_message(topics.reply(ONE), b"after")
    assert b"private" not in {one.payload for one in people[ONE].heard.messages}


def test_the_hub_reads_and_writes_everything(people: dict[str, Person]) -> None:
    assert arrivals(people, "hub", EVERY, "hub", topics.plan("last")) == set(EVERY)


def test_scada_reads_results_and_states(people: dict[str, Person]) -> None:
    got = arrivals(people, "hub", EVERY, "scada", topics.result(TWO))
    cameras = {getattr(topics, leaf)(camera) for leaf in ("status", "reported", "result") for camera in (ONE, TWO)}
    assert cameras <= got
    assert not {one for one in got if any(word in one for word in ("/event", "/chunk/", "/reply", "/desired", "/want"))}


def test_scada_reads_nothing_else(people: dict[str, Person]) -> None:
    """`pattern read` lines hold for every user, also for those who are no camera."""
    got = arrivals(people, "hub", EVERY, "scada", topics.result(TWO))
    assert {one for one in got if not one.startswith("hone/camera/")} == {topics.hub_status("h")}


def test_scada_writes_nothing_that_the_hub_would_read(people: dict[str, Person]) -> None:
    for topic in EVERY:
        people["scada"].bus.publish(topic, b"forged")
    own = "hone/camera/scada/event"  # a pattern lets it: no topic of a camera, and the hub does not subscribe to it
    people["scada"].bus.publish(own, b"mark")
    people["hub"].bus.publish(topics.plan("last"), b"mark")
    people["hub"].heard.wait_message(topics.plan("last"), b"mark")
    assert b"forged" not in {one.payload for one in people["hub"].heard.messages}


def test_nobody_without_a_name(broker: Mosquitto) -> None:
    heard = Recorder()
    bus = PahoBus(broker.settings_for("hub", username="", password_file=""), client_id="anonymous", max_delay=1)
    bus.start(heard)
    try:
        wait_until(lambda: "not authorised" in broker.log, "a refusal")
        assert heard.connects == 0
    finally:
        bus.stop()


# ------------------------------------------------------------------------------------ hub/broker.py itself


def test_configuration_keeps_passwords_private(tmp_path: Path) -> None:
    path = write_configuration(tmp_path / "b", port=1999, passwords={"hub": "secret-1", ONE: "secret-2"})
    folder = path.parent
    assert (folder / "clear" / "site__cam-1").read_text() == "secret-2\n"
    hashed = (folder / "passwords").read_text()
    assert "secret" not in hashed
    assert {line.split(":")[0] for line in hashed.splitlines()} == {"hub", ONE}
    for one in (folder / "passwords", folder / "clear" / "hub", folder / "acl"):
        assert one.stat().st_mode & 0o077 == 0
    assert (folder / "clear").stat().st_mode & 0o077 == 0
    assert "$" not in path.read_text()
    assert "listener 1999 127.0.0.1\n" in path.read_text()


def test_configuration_may_be_written_again(tmp_path: Path) -> None:
    for port in (1999, 2000):
        path = write_configuration(tmp_path, port=port, passwords={"hub": "x"})
    assert "listener 2000" in path.read_text()


def test_passwords_are_fresh() -> None:
    one, two = (hub_broker.new_passwords(["hub", ONE]) for _ in range(2))
    assert len({*one.values(), *two.values()}) == 4
    assert min(map(len, one.values())) >= 20


def test_a_port_in_use_is_named(broker: Mosquitto) -> None:
    with pytest.raises(PortInUseError, match=rf"127\.0\.0\.1:{broker.port}: cannot be used"):
        check_port_free("127.0.0.1", broker.port)
    check_port_free("127.0.0.1", free_port())


def test_a_broker_that_does_not_start_is_named() -> None:
    with pytest.raises(BrokerError, match="did not start"):
        wait_ready(free_port(), seconds=0.1)


def test_a_program_that_is_not_installed() -> None:
    with pytest.raises(BrokerError, match=r"no-such-program: is not installed.*apt-get"):
        find_program("no-such-program")
