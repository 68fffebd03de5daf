"""Reload: plans, exceptions and releases that this camera must not accept; the model in use stays."""

from pathlib import Path

import pytest

from shared import topics
from tests.edge.reload.camera import ONE, THREE, TWO, Camera, MakeCamera
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Registry
from tests.fakes.listener import wait_until


@pytest.mark.parametrize("data", [b"garbage", b"{}", b"x" * 70_000, b"[" * 5000], ids=["text", "{}", "long", "deep"])
def test_plans_that_are_none_are_counted(running: Camera, hub: Registry, data: bytes) -> None:
    hub.bus.publish(topics.plan("cells"), data, retain=True)
    wait_until(lambda: running.errors, "the count")
    running.rest()
    assert running.errors == {"manifest": 1}
    assert (running.release, running.reload.state.state) == (5, "running")
    assert running.reload.state.reason
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)
    assert running.reload.state.reason == ""


def test_a_plan_of_a_stranger(running: Camera, hub: Registry, tmp_path: Path) -> None:
    stranger = Registry(tmp_path / "other-keys", hub.bus, hub.clock, plans=100)
    stranger.release(6, TWO)
    stranger.plan(6)
    wait_until(lambda: running.errors, "the count")
    running.rest()
    assert running.errors == {"signature": 1}
    assert (running.release, running.reload.state.state) == (5, "running")


def test_a_manifest_of_a_stranger(running: Camera, hub: Registry, tmp_path: Path) -> None:
    Registry(tmp_path / "other-keys", hub.bus, hub.clock).release(6, TWO)
    hub.plan(6)
    running.wait_failed("is not signed by a key")
    assert (running.release, running.errors) == (5, {"signature": 1})
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)


def test_a_manifest_under_another_number(running: Camera, hub: Registry) -> None:
    hub.release(6, TWO)
    hub.bus.publish(topics.release("cells", 7), hub.manifest(6, TWO), retain=True)
    hub.plan(7)
    running.wait_failed("says 6 on the topic of 7")
    assert running.release == 5


def test_a_plan_that_was_cleared_is_no_error(running: Camera, hub: Registry) -> None:
    hub.bus.publish(topics.plan("cells"), b"", retain=True)
    hub.bus.publish(topics.desired(CAMERA), b"", retain=True)
    running.rest()
    assert running.errors == {}
    assert running.reload.state.reason == ""


def test_a_lower_release_is_refused(running: Camera, hub: Registry) -> None:
    hub.release(4, TWO)
    hub.plan(4)
    running.wait_failed("is older than 5")
    assert (running.release, running.errors) == (5, {"old_release": 1})
    assert running.reload.state.state == "running"


def test_an_old_plan_is_refused_also_after_a_restart(running: Camera, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(6, TWO)
    hub.plan(6, number=50)
    running.wait_release(6)
    camera = make_camera()
    camera.wait_release(6)
    hub.release(7, THREE)
    hub.plan(7, number=49)
    wait_until(lambda: camera.errors, "the count")
    camera.rest()
    assert (camera.release, camera.errors) == (6, {"old_release": 1})


@pytest.mark.parametrize(("trusted", "release"), [(True, 0), (False, 3)])
def test_expiry_is_judged_only_by_a_clock_that_is_trusted(
    hub: Registry, make_camera: MakeCamera, clock: FakeClock, trusted: bool, release: int
) -> None:
    hub.release(3, ONE)
    hub.plan(3)
    clock.advance(40 * 86400)
    camera = make_camera(trusted=trusted)
    if release:
        camera.wait_release(3)
    else:
        wait_until(lambda: camera.errors["expired"], "the count")
        camera.rest()
        assert camera.release == 0


def test_what_is_installed_does_not_expire(running: Camera, make_camera: MakeCamera, clock: FakeClock) -> None:
    clock.advance(400 * 86400)
    make_camera(connect=False).wait_release(5)


def test_an_old_delegation_is_refused_whatever_it_lets_sign(
    running: Camera, hub: Registry, make_camera: MakeCamera
) -> None:
    """A stolen release key stays good until its delegation expires, unless a camera knows that there is a newer one."""
    hub.delegation = 3
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)
    hub.delegation = 2
    hub.release(7, ONE)
    hub.plan(7)
    running.wait_failed("delegation 2: is older than 3")
    hub.desired(CAMERA, 7)
    running.wait_failed("delegation 2: is older than 3")
    assert (running.release, running.errors) == (6, {"old_release": 2})
    assert running.reload.plan_floor == 2, "nothing of what was refused is remembered"
    again = make_camera()
    again.wait_failed("delegation 2: is older than 3")
    assert again.release == 6, "remembered through a restart"
    hub.delegation = 3
    hub.plan(7)  # the plan is right, the manifest still travels under the old delegation
    wait_until(lambda: again.reload.state.state == "failed", "the refusal")
    again.rest()
    assert "delegation 2: is older than 3" in again.reload.state.reason
    hub.release(8, ONE)
    hub.plan(8)
    again.wait_release(8)


def test_a_refused_plan_does_not_raise_the_floor_of_delegations(running: Camera, hub: Registry) -> None:
    hub.delegation = 9
    hub.plan(4, number=1)
    hub.bus.publish(topics.plan("cells"), b"garbage", retain=True)
    running.wait_failed("is not a signed message")
    floor = running.reload._shelf.state.delegation_floor
    assert floor == 9, "the same plan number again is fine"
    hub.delegation = 10
    hub.plans = 5
    hub.plan(5)
    running.rest()
    hub.delegation = 11
    hub.plan(5, number=3)
    running.wait_failed("plan 3: is older than 6")
    assert running.reload._shelf.state.delegation_floor == 10
