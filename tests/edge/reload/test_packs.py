"""Reload: releases that are carried to the camera by hand pass the rules of those that come from the broker."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from edge.pack import Packs
from edge.settings import EdgeSettings
from hub import keys
from shared import topics
from shared.files import sha256_hex
from shared.manifest import Manifest
from shared.pack import UNSIGNED
from tests.edge.reload.camera import ONE, THREE, TWO, Camera, MakeCamera, blobs
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Registry
from tests.fakes.listener import wait_until
from tests.fakes.pack import archive, members, pack

Drop = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "packs"
    made.mkdir()
    return made


@pytest.fixture
def drop(folder: Path) -> Iterator[Drop]:
    """Put a pack into a camera's folder; returns what became of it, as in the file beside it."""
    watching: list[Packs] = []
    count = iter(range(100))

    def put(camera: Camera, data: bytes, *, good: bool = True) -> str:
        if not watching or watching[-1]._bring != camera.reload.bring:
            for one in watching:
                one.stop()
            watching.append(Packs(folder, camera.reload.bring, Counter(), grace=0))
            watching[-1].start()
        name = f"{next(count)}.pack"
        (folder / name).write_bytes(data)
        reason = folder / ("done" if good else "failed") / f"{name}.txt"
        other = folder / ("failed" if good else "done") / f"{name}.txt"
        wait_until(lambda: reason.exists() or other.exists(), "the pack to be dealt with")
        assert reason.exists(), other.read_text()
        camera.rest()
        return reason.read_text().strip()

    yield put
    for one in watching:
        one.stop()


def test_offline_a_pack_brings_the_first_release(hub: Registry, make_camera: MakeCamera, drop: Drop) -> None:
    camera = make_camera(connect=False)
    assert drop(camera, pack(hub.manifest(3, ONE), ONE)) == "release 3 runs"
    camera.wait_release(3)
    state = camera.reload.state
    assert (state.state, state.release, state.reason, camera.reload.floor) == ("running", 3, "", 3)
    assert state.cosine == pytest.approx(1.0), "it passed the golden check"
    make_camera(connect=False).wait_release(3)


def test_a_pack_with_any_name_is_refused_and_the_next_one_taken(
    hub: Registry, make_camera: MakeCamera, folder: Path, drop: Drop
) -> None:
    camera = make_camera(connect=False)
    odd = os.fsdecode(b"\xff.pack")
    (folder / odd).write_bytes(b"nonsense")
    assert drop(camera, pack(hub.manifest(3, ONE), ONE)) == "release 3 runs"
    assert "pack \\xff.pack" in (folder / "failed" / f"{odd}.txt").read_text("utf-8")
    camera.wait_release(3)


def test_offline_a_pack_brings_the_next_release(
    running: Camera, hub: Registry, make_camera: MakeCamera, drop: Drop
) -> None:
    camera = make_camera(connect=False)
    camera.wait_release(5)
    assert drop(camera, pack(hub.manifest(6, THREE), THREE)) == "release 6 runs"
    camera.wait_release(6)
    hub.release(7, TWO)
    hub.plan(7)
    camera.bus.restore()
    camera.wait_release(7)


def test_a_pack_waits_for_a_plan_that_names_another_release(
    running: Camera, hub: Registry, make_camera: MakeCamera, drop: Drop
) -> None:
    waits = "release 6 was brought by a pack and waits for its plan, which names 5"
    assert drop(running, pack(hub.manifest(6, THREE), THREE)) == waits
    assert (running.release, running.reload.state.state, running.reload.state.reason) == (5, "running", waits)
    hub.plan(5)
    running.rest()
    assert running.reload.state.reason == waits, "said as long as it waits"
    camera = make_camera()
    camera.wait_release(5)
    camera.asked.clear()
    hub.release(6, THREE)
    hub.plan(6)
    camera.wait_release(6)
    assert blobs(camera.asked) == set(), "nothing is fetched again"
    assert camera.reload.state.reason == ""
    hub.plan(6)
    camera.rest()
    assert camera.reload.state.reason == "", "nothing waits any more"


def test_a_release_in_between_does_not_sweep_what_waits(running: Camera, hub: Registry, drop: Drop) -> None:
    drop(running, pack(hub.manifest(8, THREE), THREE))
    hub.release(7, TWO)
    hub.plan(7)
    running.wait_release(7)
    running.asked.clear()
    hub.release(8, THREE)
    hub.plan(8)
    running.wait_release(8)
    assert blobs(running.asked) == set()


def test_the_pack_of_the_release_that_the_plan_names(running: Camera, hub: Registry, drop: Drop) -> None:
    """A thin link: the plan came, the parts come by hand."""
    hub.release(6, THREE, chunks=False)
    hub.plan(6)
    wait_until(lambda: running.reload.state.state == "fetching", "the wait")
    assert drop(running, pack(hub.manifest(6, THREE), THREE)) == "release 6 runs"
    running.wait_release(6)
    assert {one for one in running.bus.filters if "blob" in one or "release" in one} == set(), "nothing is left over"


def test_a_pack_of_what_runs_already(running: Camera, hub: Registry, drop: Drop) -> None:
    assert drop(running, pack(hub.manifest(5, ONE), ONE)) == "release 5 runs already"
    assert running.reload.state.reason == ""


def test_an_exception_goes_before_a_pack(running: Camera, hub: Registry, make_camera: MakeCamera, drop: Drop) -> None:
    hub.release(6, TWO)
    hub.desired(CAMERA, 6)
    running.wait_release(6)
    camera = make_camera(connect=False)
    camera.wait_release(6)
    assert "which names 6" in drop(camera, pack(hub.manifest(7, THREE), THREE))
    assert camera.release == 6


# ------------------------------------------------------------------------------ what is refused


@pytest.fixture
def offline(running: Camera, make_camera: MakeCamera) -> Camera:
    """A camera that runs 5 and knows no plan."""
    camera = make_camera(connect=False)
    camera.wait_release(5)
    return camera


def refuses(camera: Camera, drop: Drop, data: bytes, says: str) -> None:
    assert says in drop(camera, data, good=False)
    assert camera.release == 5
    assert says in camera.reload.state.reason
    assert sum(camera.errors.values()) == 1


def test_a_pack_of_a_stranger(offline: Camera, hub: Registry, tmp_path: Path, drop: Drop) -> None:
    stranger = Registry(tmp_path / "stranger", hub.bus, hub.clock)
    refuses(offline, drop, pack(stranger.manifest(6, TWO), TWO), "is not signed by a key")


def test_a_pack_for_another_project(offline: Camera, hub: Registry, drop: Drop) -> None:
    other = Registry(hub.folder, hub.bus, hub.clock, project="bottles")
    refuses(offline, drop, pack(other.manifest(6, TWO), TWO), "is for project bottles")


def test_a_pack_that_expired(offline: Camera, hub: Registry, clock: FakeClock, drop: Drop) -> None:
    data = pack(hub.manifest(6, TWO), TWO)
    clock.advance(31 * 86400)
    refuses(offline, drop, data, "expired at")


def test_a_pack_of_an_older_release(offline: Camera, hub: Registry, drop: Drop) -> None:
    refuses(offline, drop, pack(hub.manifest(4, TWO), TWO), "is older than 5")


def test_a_pack_under_an_old_delegation(
    hub: Registry, make_camera: MakeCamera, key_folder: Path, tmp_path: Path, drop: Drop
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(key_folder, ours)
    hub.pair = keys.load(ours)
    stolen = pack(hub.manifest(6, TWO), TWO)
    hub.pair = keys.change(ours, ours / keys.ROOT, hub.clock, rotate=True, revoke=True)
    camera = make_camera(connect=False)
    drop(camera, pack(hub.manifest(5, ONE), ONE))
    camera.wait_release(5)
    refuses(camera, drop, stolen, "delegation 1: is older than")


def test_a_pack_with_other_parts(
    offline: Camera, hub: Registry, drop: Drop, make_settings: Callable[..., EdgeSettings]
) -> None:
    held = members(hub.manifest(6, TWO), TWO)
    held[-1] = (held[-1][0], bytes(len(held[-1][1])))
    refuses(offline, drop, archive(held), "has other bytes")
    assert offline.reload._shelf.state.failed == [], "the copy is damaged, not the release"
    parts = make_settings().state_folder / "models" / "parts"
    assert sha256_hex(TWO.head) not in {one.name for one in parts.iterdir()}
    assert drop(offline, pack(hub.manifest(6, TWO), TWO)) == "release 6 runs"


def test_a_pack_that_fails_the_golden_check(offline: Camera, hub: Registry, drop: Drop) -> None:
    wrong = replace(TWO, probabilities=THREE.probabilities[::-1])
    refuses(offline, drop, pack(hub.manifest(6, wrong), wrong), "computes something else")
    assert (offline.reload.state.state, offline.reload.state.release) == ("failed", 6)
    offline.errors.clear()
    refuses(offline, drop, pack(hub.manifest(6, TWO), TWO), "failed on this camera before")


def test_a_bad_pack_does_not_end_a_fetch(running: Camera, hub: Registry, drop: Drop) -> None:
    hub.release(6, THREE, chunks=False)
    hub.plan(6)
    wait_until(lambda: running.reload.state.state == "fetching", "the wait")
    drop(running, b"no pack at all", good=False)
    assert running.reload.state.state == "fetching"
    for data in THREE.blobs():
        hub.chunks(sha256_hex(data))
    running.wait_release(6)


# ------------------------------------------------------------------------------ laboratories


def bare(hub: Registry, number: int, **fields: object) -> bytes:
    made = Manifest(
        number=number,
        created=hub.clock.utc(),
        expires=hub.clock.utc().replace(year=2030),
        project="cells",
        model=TWO.spec(),
    )
    return msgspec.json.encode(msgspec.structs.replace(made, **fields))


def test_an_unsigned_pack_is_refused(offline: Camera, hub: Registry, drop: Drop) -> None:
    refuses(offline, drop, pack(bare(hub, 6), TWO, UNSIGNED), "is not signed")


def test_an_unsigned_pack_where_that_is_allowed(
    running: Camera, hub: Registry, make_camera: MakeCamera, drop: Drop
) -> None:
    camera = make_camera(connect=False, packs_unsigned=True)
    camera.wait_release(5)
    for fields, says in (
        ({"number": 4}, "is older than 5"),
        ({"project": "bottles"}, "is for project bottles"),
        ({"expires": hub.clock.utc()}, "expired"),
    ):
        assert says in drop(camera, pack(bare(hub, **{"number": 6, **fields}), TWO, UNSIGNED), good=False)  # type: ignore[arg-type]
    assert drop(camera, pack(bare(hub, 6), TWO, UNSIGNED)) == "release 6 runs"
    camera.wait_release(6)


def test_the_broker_may_not_send_unsigned_ones(hub: Registry, make_camera: MakeCamera) -> None:
    camera = make_camera(packs_unsigned=True)
    hub.release(6, TWO)
    hub.bus.publish(topics.release("cells", 6), bare(hub, 6), retain=True)
    hub.plan(6)
    camera.wait_failed("is not a signed message")
    assert camera.release == 0


# ------------------------------------------------------------------------------ variants


@pytest.mark.parametrize("variant", ["float", "int8"])
def test_a_pack_brings_the_variant_that_the_camera_runs(
    hub: Registry, make_camera: MakeCamera, drop: Drop, make_settings: Callable[..., EdgeSettings], variant: str
) -> None:
    both = replace(ONE, int8=TWO)
    assert both.int8 is not None
    camera = make_camera(connect=False, variant=variant)
    assert drop(camera, pack(hub.manifest(3, both), both)) == "release 3 runs"
    camera.wait_release(3)
    here = {one.name for one in (make_settings().state_folder / "models" / "parts").iterdir()}
    wanted = both.int8 if variant == "int8" else ONE
    assert here == {sha256_hex(one) for one in wanted.blobs()}
