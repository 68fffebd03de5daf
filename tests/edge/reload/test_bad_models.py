"""Reload: models that are no good, parts that are damaged on disk, and releases with which the agent keeps dying."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

import edge.swap
from edge.infer import Engine
from edge.settings import EdgeSettings
from edge.shelf import MAX_STARTS
from shared.errors import PartError
from shared.files import sha256_hex
from shared.golden import decode as decode_golden
from shared.golden import encode as encode_golden
from shared.litert import Part
from tests.edge.reload.camera import ONE, THREE, TWO, Camera, MakeCamera, blobs
from tests.fakes.hub import Parts, Registry, parts
from tests.fakes.listener import wait_until

# ------------------------------------------------------------------------------------ models that are no good


def bad_head() -> Parts:
    return replace(TWO, head=b"no model at all" * 30)


def other_numbers() -> Parts:
    return replace(TWO, probabilities=THREE.probabilities[::-1])


def wrong_shape() -> Parts:
    return replace(TWO, backbone=THREE.backbone)


def few_rows() -> Parts:
    return replace(TWO, probabilities=TWO.probabilities[:1])


def bad_golden() -> Parts:
    return replace(TWO, golden=b"no golden part")


def golden_without_pictures() -> Parts:
    golden = decode_golden(TWO.golden)
    return replace(TWO, golden=encode_golden(msgspec.structs.replace(golden, inputs=[b"no picture"] * 2)))


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (bad_head, "part", "does not load"),
        (other_numbers, "golden", "computes something else"),
        (wrong_shape, "part", "preprocessing gives"),
        (few_rows, "golden", "must name 2 x 3"),
        (bad_golden, "part", "is damaged"),
        (golden_without_pictures, "part", "cannot be decoded"),
    ],
)
def test_a_bad_model_fails_and_is_not_tried_again(
    running: Camera, hub: Registry, make: Callable[[], Parts], code: str, says: str
) -> None:
    hub.release(6, make())
    hub.plan(6)
    running.wait_failed(says)
    state = running.reload.state
    assert (state.state, state.release) == ("failed", 6)
    assert (running.release, running.errors, running.reload.floor) == (5, {code: 1}, 5)
    running.asked.clear()
    hub.plan(6)
    running.wait_failed("failed on this camera before")
    assert running.errors == {code: 1, "old_release": 1}
    assert running.asked == []
    hub.release(7, TWO)
    hub.plan(7)
    running.wait_release(7)


def test_a_failed_release_is_remembered_over_a_restart(running: Camera, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(6, other_numbers())
    hub.plan(6)
    running.wait_failed("computes something else")
    camera = make_camera()
    camera.wait_failed("failed on this camera before")
    assert camera.release == 5


def test_a_model_that_breaks_when_it_runs(running: Camera, hub: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT raises RuntimeError from `invoke`."""

    class Broken:
        def set_tensor(self, *_: object) -> None:
            pass

        def invoke(self) -> None:
            raise RuntimeError("node 3 failed to invoke")

    init = Part.__init__

    def made(part: Part, data: bytes, **how: object) -> None:
        init(part, data, **how)  # type: ignore[arg-type]
        if data == TWO.head:
            part._interpreter = Broken()

    monkeypatch.setattr(Part, "__init__", made)
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_failed("node 3 failed to invoke")
    assert (running.release, running.errors) == (5, {"part": 1})


def test_no_frame_boundary(hub: Registry, make_camera: MakeCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.swap, "SWAP_TIMEOUT", 0.05)
    monkeypatch.setattr(Engine, "turn", lambda _: None)
    camera = make_camera()
    hub.release(1, ONE)
    hub.plan(1)
    camera.wait_failed("no frame boundary")
    assert camera.release == 0
    kept = camera.reload._shelf.state
    assert (kept.trying, kept.tries, kept.failed) == (0, 0, []), "it was loaded, and has not killed the agent"


def test_load_is_a_part_error() -> None:
    with pytest.raises(PartError):
        Part(bad_head().head, name="h")


# ------------------------------------------------------------------------------------ disk and crashes


def parts_on_disk(settings: EdgeSettings) -> Path:
    return settings.state_folder / "models" / "parts"


@pytest.fixture
def twice(running: Camera, hub: Registry) -> Camera:
    """A camera that runs 6 and has 5 to go back to."""
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)
    return running


@pytest.mark.parametrize("how", ["other bytes", "gone", "empty"])
def test_a_part_that_is_damaged_on_disk_boots_the_one_before_and_is_fetched_again(
    twice: Camera, hub: Registry, make_camera: MakeCamera, make_settings: Callable[..., EdgeSettings], how: str
) -> None:
    twice.stop()
    path = parts_on_disk(make_settings()) / sha256_hex(TWO.head)
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size) if how == "other bytes" else b"")
    camera = make_camera(connect=False)
    camera.wait_release(5)
    assert camera.errors == {"part": 1}
    camera.bus.restore()
    camera.wait_release(6)
    assert blobs(camera.asked) == {sha256_hex(TWO.head)}


def test_a_shared_part_that_is_damaged_on_disk_does_not_fail_the_next_release(
    twice: Camera, hub: Registry, make_settings: Callable[..., EdgeSettings]
) -> None:
    path = parts_on_disk(make_settings()) / sha256_hex(TWO.backbone)
    path.write_bytes(bytes(path.stat().st_size))
    hub.release(7, parts(beta=7))
    hub.plan(7)
    twice.wait_release(7)
    assert sha256_hex(TWO.backbone) in blobs(twice.asked)


def test_all_parts_damaged_waits_for_the_plan(
    twice: Camera, make_camera: MakeCamera, make_settings: Callable[..., EdgeSettings]
) -> None:
    twice.stop()
    for path in parts_on_disk(make_settings()).iterdir():
        path.write_bytes(b"")
    camera = make_camera(connect=False)
    wait_until(lambda: camera.errors["part"] == 2, "both to fail")
    camera.rest()
    assert camera.release == 0
    camera.bus.restore()
    camera.wait_release(6)


def test_a_release_with_which_the_agent_keeps_dying(twice: Camera, hub: Registry, make_camera: MakeCamera) -> None:
    for _ in range(MAX_STARTS):
        make_camera(connect=False).wait_release(6)
    for connect in (True, False, True):  # it is told after every restart, plan or not
        camera = make_camera(connect=connect)
        camera.wait_failed("release 6 never ran well in 3 starts and was left")
        assert (camera.reload.state.state, camera.reload.state.release, camera.release) == ("reverted", 6, 5)
        assert camera.errors == {}
    hub.release(7, THREE)
    hub.plan(7)
    camera.wait_release(7)
    make_camera(connect=False).wait_release(7)


def test_a_plan_that_goes_back_from_a_reverted_release_ends_the_report_of_it(
    twice: Camera, hub: Registry, make_camera: MakeCamera
) -> None:
    for _ in range(MAX_STARTS):
        make_camera(connect=False).wait_release(6)
    camera = make_camera()
    camera.wait_failed("was left")
    hub.plan(5)
    camera.wait_release(5)
    assert camera.reload.state.reason == ""


def test_a_release_that_ran_well_may_start_for_ever(twice: Camera, make_camera: MakeCamera) -> None:
    for _ in range(MAX_STARTS + 2):
        camera = make_camera(connect=False)
        camera.wait_release(6)
        camera.reload.ran_well()
        camera.rest()


def test_the_disk_is_full(running: Camera, hub: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edge.shelf.write_atomic", full)
        hub.release(6, TWO)
        hub.plan(6)
        wait_until(lambda: running.errors["disk"], "the count")
        running.rest()
    assert running.release == 5
    hub.plan(6)
    running.wait_release(6)
