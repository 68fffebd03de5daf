"""A camera fetches and runs one variant of a release, and packed parts as such."""

from dataclasses import replace

import pytest

from edge.infer import ENOUGH
from shared.files import sha256_hex
from shared.manifest import Trial
from tests.edge.reload.camera import ONE, TWO, Camera, MakeCamera, blobs, damage, pass_time, wants
from tests.fakes.bus import FakeBroker
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Parts, Registry, parts
from tests.fakes.listener import wait_until

INT8 = parts(size=16, beta=3)
BOTH, NEXT = replace(ONE, int8=INT8), replace(TWO, int8=INT8)


def hashes(*models: Parts) -> set[str]:
    return {sha256_hex(data) for one in models for data in replace(one, int8=None).blobs()}


def facts(camera: Camera) -> tuple[int, str]:
    assert camera.engine.running is not None
    return camera.engine.running.facts.release, camera.engine.running.facts.variant


@pytest.mark.parametrize(("setting", "runs", "other"), [("float", ONE, INT8), ("int8", INT8, ONE), ("auto", ONE, INT8)])
def test_the_parts_of_one_variant_are_fetched_and_no_others(
    hub: Registry, make_camera: MakeCamera, setting: str, runs: Parts, other: Parts
) -> None:
    hub.release(1, BOTH)
    hub.plan(1)
    camera = make_camera(variant=setting)
    camera.wait_release(1)
    assert facts(camera) == (1, "int8" if runs is INT8 else "float")
    assert camera.engine.running is not None
    assert camera.engine.running.facts.head == runs.head
    assert hashes(runs) <= blobs(camera.asked)
    assert not (hashes(other) - hashes(runs)) & blobs(camera.asked)


def test_it_boots_with_the_variant_that_ran(broker: FakeBroker, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(1, BOTH)
    hub.plan(1)
    make_camera(variant="int8").wait_release(1)
    broker.retained.clear()
    camera = make_camera(variant="int8")
    camera.wait_release(1)
    assert facts(camera) == (1, "int8")


def test_a_variant_that_computes_something_else_fails_the_release(hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(1, ONE)
    hub.plan(1)
    camera = make_camera(variant="int8")
    camera.wait_release(1)
    assert facts(camera) == (1, "float"), "there is no other one"
    hub.release(2, replace(TWO, int8=replace(INT8, head=ONE.head)))
    hub.plan(2)
    camera.wait_failed("computes something else")
    assert camera.release == 1


def test_auto_goes_by_what_was_measured_here(hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(1, BOTH)
    hub.plan(1)
    camera = make_camera()
    camera.wait_release(1)
    assert facts(camera) == (1, "float")
    camera.engine._times.extend((number * 0.1, 80.0) for number in range(ENOUGH))  # a tenth of a second between two
    hub.release(2, NEXT)
    hub.plan(2)
    camera.wait_release(2)
    assert facts(camera) == (2, "int8")
    assert camera.reload._shelf.state.speeds == {"float": 80.0}
    assert camera.engine.pace is None, "of this model nothing was measured"
    camera.engine._times.extend((number * 0.1, 90.0) for number in range(ENOUGH))
    hub.release(3, BOTH)
    hub.plan(3)
    camera.wait_release(3)
    assert facts(camera) == (3, "float"), "int8 was slower"
    assert camera.reload._shelf.state.speeds == {"float": 80.0, "int8": 90.0}


def test_what_is_packed_is_fetched_so_and_kept_as_it_is(hub: Registry, make_camera: MakeCamera) -> None:
    packed = replace(ONE, packed=True)
    hub.release(1, packed)
    hub.plan(1)
    camera = make_camera()
    camera.wait_release(1)
    assert blobs(camera.asked) == hashes(packed)
    camera.asked.clear()
    hub.release(2, replace(TWO, packed=True))
    hub.plan(2)
    camera.wait_release(2)
    assert len(blobs(camera.asked)) == 1, "the head; the others are here, under the hash of what they are"
    hub.release(3, ONE)
    camera.asked.clear()
    hub.plan(3)
    camera.wait_release(3)
    assert blobs(camera.asked) == set(), "however it travelled"


def test_a_packed_part_that_is_damaged_on_its_way_is_fetched_again(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera, clock: FakeClock
) -> None:
    packed = replace(ONE, packed=True)
    hub.release(1, packed)
    damage(broker, packed.blobs()[-1])
    hub.plan(1)
    camera = make_camera()
    wait_until(lambda: camera.errors["part"], "the damage")
    assert wants(broker)[-1].sha256 == sha256_hex(packed.blobs()[-1]), "what travels is asked for"
    hub.answer(wants(broker)[-1])
    pass_time(camera, clock, lambda: camera.release == 1, "the release")


@pytest.mark.parametrize("setting", ["int8", "float"])
def test_a_release_is_tried_in_the_variant_of_the_one_in_use(
    hub: Registry, make_camera: MakeCamera, setting: str
) -> None:
    """Like is compared with like, and with the same backbone the other head is all that comes."""
    other = replace(INT8, head=ONE.head, probabilities=parts(size=16, beta=1).probabilities)
    hub.release(1, BOTH)
    hub.plan(1)
    camera = make_camera(variant=setting)
    camera.wait_release(1)
    camera.reload.ran_well(trial=False)
    camera.asked.clear()
    hub.release(2, replace(TWO, int8=other))
    hub.plan(1, trial=Trial(release=2, share=1.0))
    wait_until(lambda: camera.trial.runs, "the other one beside")
    camera.rest()
    assert camera.reload._shelf.state.trial is not None
    assert camera.reload._shelf.state.trial.variant == setting
    assert blobs(camera.asked) == {sha256_hex(other.head if setting == "int8" else TWO.head)}
