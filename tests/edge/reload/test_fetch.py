"""Fetch: what the broker misses or has damaged is asked for, and a part that stays bad is given up in the end."""

import pytest

from edge.fetch import MAX_TRIES, PATIENCE
from shared import topics
from shared.files import chunk_count, sha256_hex
from shared.messages import Want
from tests.edge.reload.camera import CHUNKS, ONE, TWO, MakeCamera, damage, pass_time, wants
from tests.fakes.bus import FakeBroker
from tests.fakes.clock import FakeClock
from tests.fakes.hub import PART_CHUNK, Registry
from tests.fakes.listener import wait_until


def test_missing_chunks_and_manifest_are_asked_for(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock
) -> None:
    hub.release(1, ONE)
    broker.retained.clear()
    hub.plan(1)
    camera = make_camera()
    pass_time(camera, clock, lambda: wants(broker), "a question")
    assert wants(broker)[0] == Want(project="cells", release=1)
    hub.bus.publish(topics.release("cells", 1), hub.manifest(1, ONE), retain=True)
    camera.rest()
    pass_time(camera, clock, lambda: any(one.sha256 for one in wants(broker)), "a question for chunks")
    want = wants(broker)[-1]
    assert want.sha256 == sha256_hex(ONE.golden)
    assert want.ranges == [(0, chunk_count(len(ONE.golden), PART_CHUNK) - 1)]

    def answered() -> bool:
        hub.answer(wants(broker)[-1])
        return camera.release == 1

    pass_time(camera, clock, answered, "the release")
    assert camera.errors == {}


def test_nothing_is_asked_for_before_patience_ends(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock
) -> None:
    hub.release(1, ONE)
    broker.retained.clear()
    hub.plan(1)
    camera = make_camera()
    wait_until(lambda: camera.reload.state.state == "fetching", "the pursuit")
    clock.advance(PATIENCE - 0.1)
    camera.reload._tell(camera.reload._nudge)
    camera.rest()
    assert wants(broker) == []


def test_a_damaged_chunk_is_published_anew_and_fetched_again(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock
) -> None:
    """The hub takes its time: the camera does not use up its tries on the same damaged chunk."""
    hub.release(1, ONE)
    damage(broker, ONE.head)
    hub.plan(1)
    camera = make_camera()
    wait_until(lambda: wants(broker), "a question")
    camera.rest()
    assert wants(broker) == [Want(sha256=sha256_hex(ONE.head), ranges=[(0, CHUNKS["h"] - 1)])]
    assert camera.reload.state.state == "fetching"
    assert camera.errors == {"part": 1}
    hub.answer(wants(broker)[0])
    pass_time(camera, clock, lambda: camera.release == 1, "the release")
    assert camera.errors == {"part": 1}


def test_a_part_that_stays_damaged_fails_after_some_tries(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock
) -> None:
    camera = make_camera()
    hub.release(1, ONE)
    hub.plan(1)
    camera.wait_release(1)
    hub.release(2, TWO)
    damage(broker, TWO.head)
    hub.plan(2)
    pass_time(camera, clock, lambda: camera.reload.state.state == "failed", "the end of patience")
    assert camera.errors == {"part": MAX_TRIES - 1, "reload": 1}
    assert camera.release == 1
    hub.answer(Want(sha256=sha256_hex(TWO.head), ranges=[(0, 1000)]))  # the broker's copy is good again
    pass_time(camera, clock, lambda: camera.release == 2, "another try: the damage was not the release's")


def test_the_reason_of_a_failure_is_reported(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock
) -> None:
    camera = make_camera()
    hub.release(1, ONE)
    hub.plan(1)
    camera.wait_release(1)
    hub.release(2, TWO)
    damage(broker, TWO.head)
    hub.plan(2)
    pass_time(camera, clock, lambda: camera.reload.state.state == "failed", "the end of patience")
    assert camera.release == 1
    assert "other bytes" in camera.reload.state.reason
    assert camera.reload.state.release == 2


@pytest.mark.parametrize("size", [0, 1, PART_CHUNK + 1])
def test_a_chunk_of_the_wrong_length(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock, size: int
) -> None:
    hub.release(1, ONE)
    topic = topics.blob(sha256_hex(ONE.backbone), 0)
    good = broker.retained[topic]
    broker.retained[topic] = b"x" * size
    if not size:
        del broker.retained[topic]
    hub.plan(1)
    camera = make_camera()
    pass_time(camera, clock, lambda: wants(broker), "a question")
    broker.retained[topic] = good
    camera.bus.cut()
    camera.bus.mend()
    pass_time(camera, clock, lambda: camera.release == 1, "the release")


def test_chunks_that_nobody_asked_for_are_ignored(broker: FakeBroker, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(1, ONE)
    golden = sha256_hex(ONE.golden)
    held = broker.retained.pop(topics.blob(golden, 0))
    hub.plan(1)
    camera = make_camera()
    wait_until(lambda: camera.reload.state.percent > 0, "the others")
    for sha256, index, data in [
        ("0" * 64, 0, b"unknown"), (golden, 999, b"no such index"), (golden, 1, b"had before"), (golden, 0, b""),
        (sha256_hex(ONE.head), 0, b"not asked for yet"),
    ]:  # fmt: skip
        camera.reload.chunk(sha256, index, data)
    camera.rest()
    hub.bus.publish(topics.blob(golden, 0), held, retain=True)
    camera.wait_release(1)
    assert camera.errors == {}
