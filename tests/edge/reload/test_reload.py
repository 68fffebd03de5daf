"""Reload: real signatures, real tiny models, a broker in memory. Any failure keeps the model in use and is told."""

import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import edge.assemble
import edge.shelf
from edge.fetch import WINDOW
from shared import topics
from shared.files import sha256_hex
from shared.litert import Model
from tests.edge.reload.camera import CHUNKS, ONE, THREE, TWO, Camera, MakeCamera, blobs, wants
from tests.fakes.bus import FakeBroker
from tests.fakes.camera import CAMERA
from tests.fakes.hub import Registry
from tests.fakes.listener import wait_until

# ------------------------------------------------------------------------------------ the good way


def test_from_plan_to_running(broker: FakeBroker, hub: Registry, make_camera: MakeCamera) -> None:
    camera = make_camera()
    camera.rest()
    assert camera.reload.state.state == "idle"
    hub.release(3, ONE)
    hub.plan(3)
    camera.wait_release(3)
    state = camera.reload.state
    assert (state.release, state.percent, state.reason) == (3, 100.0, "")
    assert state.cosine == pytest.approx(1.0)
    assert state.difference == pytest.approx(0.0, abs=1e-6)
    assert camera.reload.floor == 3
    assert max(camera.windows) <= WINDOW
    assert sum(CHUNKS.values()) > 2 * WINDOW, "more than two windows, else this test shows nothing"
    assert camera.errors == {}
    assert {one for one in camera.bus.filters if "blob" in one or "release" in one} == set(), "nothing is left over"
    assert wants(broker) == []


def test_another_head_fetches_the_head_alone(hub: Registry, make_camera: MakeCamera) -> None:
    camera = make_camera()
    hub.release(1, ONE)
    hub.release(2, TWO)
    hub.plan(1)
    camera.wait_release(1)
    camera.asked.clear()
    hub.plan(2)
    camera.wait_release(2)
    assert blobs(camera.asked) == {sha256_hex(TWO.head)}


def test_a_restart_loads_from_disk_without_a_broker(hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(1, ONE)
    hub.plan(1)
    make_camera().wait_release(1)
    camera = make_camera(connect=False)
    camera.wait_release(1)
    assert camera.asked == [
        topics.hub_status("+"),
        topics.reply(CAMERA),
        topics.plan("cells"),
        topics.desired(CAMERA),
    ]
    camera.bus.restore()
    hub.plan(1)
    camera.rest()
    assert blobs(camera.asked) == set()
    assert camera.errors == {}


def test_a_fetch_that_was_cut_goes_on(broker: FakeBroker, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(1, ONE)
    golden = sha256_hex(ONE.golden)
    held = {one: broker.retained.pop(one) for one in list(broker.retained) if one.startswith(f"hone/blob/{golden}/")}
    first = list(held)[:2]
    for one in first:
        broker.retained[one] = held[one]
    hub.plan(1)
    camera = make_camera()
    wait_until(lambda: camera.reload.state.percent > 0, "the first chunks")
    camera.rest()
    camera.bus.cut()
    broker.retained.update(held)
    camera.bus.mend()
    camera.wait_release(1)
    assert all(camera.asked.count(one) == 1 for one in first), "what was there is not fetched again"


def test_a_restart_in_the_middle_keeps_the_parts_that_were_whole(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera
) -> None:
    hub.release(1, ONE)
    head = sha256_hex(ONE.head)
    held = {one: broker.retained.pop(one) for one in list(broker.retained) if one.startswith(f"hone/blob/{head}/")}
    hub.plan(1)
    camera = make_camera()
    wait_until(lambda: any(head in one for one in camera.asked), "the head to be asked for")
    camera.rest()
    camera = make_camera()
    wait_until(lambda: any(head in one for one in camera.asked), "the head to be asked for")
    broker.retained.update(held)
    camera.bus.cut()
    camera.bus.mend()
    camera.wait_release(1)
    assert blobs(camera.asked) == {head}


def test_a_plan_that_changes_its_mind(hub: Registry, make_camera: MakeCamera) -> None:
    """While 2 is on its way the plan says 3, then 1 again."""
    camera = make_camera()
    hub.release(1, ONE)
    hub.plan(1)
    camera.wait_release(1)
    hub.release(2, TWO, chunks=False)
    hub.release(3, THREE)
    hub.plan(2)
    wait_until(lambda: camera.reload.state.state == "fetching", "release 2 to be fetched")
    hub.plan(1)
    wait_until(lambda: camera.reload.state.state == "running", "the pursuit to end")
    assert {one for one in camera.bus.filters if "blob" in one or "release" in one} == set()
    hub.plan(2)
    wait_until(lambda: camera.reload.state.release == 2, "release 2 to be fetched")
    hub.plan(3)
    camera.wait_release(3)
    assert {one for one in camera.bus.filters if "blob" in one or "release" in one} == set()
    assert camera.errors == {}


# ------------------------------------------------------------------------------------ an exception for one camera


def test_an_exception_wins_over_the_plan_until_it_ends(running: Camera, hub: Registry) -> None:
    hub.release(6, TWO)
    hub.release(7, THREE)
    hub.desired(CAMERA, 7)
    running.wait_release(7)
    hub.plan(6)
    running.rest()
    assert running.release == 7
    hub.release(8, TWO)
    hub.plan(8)
    running.rest()
    assert running.release == 7
    hub.desired(CAMERA, 0)
    running.wait_release(8)


def test_an_exception_is_remembered(
    running: Camera, hub: Registry, broker: FakeBroker, make_camera: MakeCamera
) -> None:
    hub.release(6, TWO)
    hub.desired(CAMERA, 6)
    running.wait_release(6)
    del broker.retained[topics.desired(CAMERA)]
    hub.release(7, THREE)
    hub.plan(7)
    camera = make_camera()
    camera.wait_release(6)
    camera.rest()
    assert camera.release == 6


def test_an_exception_for_another_camera(running: Camera, hub: Registry, broker: FakeBroker) -> None:
    hub.release(6, TWO)
    hub.desired("site/cam-2", 6)
    running.reload.desired(broker.retained[topics.desired("site/cam-2")])
    wait_until(lambda: running.errors, "the count")
    running.rest()
    assert (running.release, running.errors) == (5, {"scope": 1})


def test_an_old_exception_is_refused(running: Camera, hub: Registry, broker: FakeBroker) -> None:
    hub.release(6, TWO)
    hub.desired(CAMERA, 6)
    running.wait_release(6)
    first = broker.retained[topics.desired(CAMERA)]
    hub.desired(CAMERA, 0)
    running.rest()
    running.reload.desired(first)
    wait_until(lambda: running.errors, "the count")
    running.rest()
    assert "old_release" in running.errors


def test_all_that_takes_long_waits_for_spare_time(
    running: Camera, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing a part, loading the backbone, and each run of the new model."""
    done: list[str] = []
    wait, spare = running.engine.spare.wait, running.engine.spare
    hashed, load, predict = edge.shelf.sha256_hex, edge.assemble.Part, Model.predict

    def noted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any, **more: Any) -> Any:
            done.append(f"{name} {more.get('name', '')}".strip())
            return work(*arguments, **more)

        return noting

    monkeypatch.setattr(spare, "wait", noted("wait", wait))
    running.reload._shelf._pause = spare.wait
    monkeypatch.setattr(edge.shelf, "sha256_hex", noted("hash", hashed))
    monkeypatch.setattr(edge.assemble, "Part", noted("load", load))
    monkeypatch.setattr(Model, "predict", noted("predict", predict))
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)
    long = {"hash", "load backbone", "predict"}
    pairs = list(pairwise(one for one in done if one != "load head"))
    assert {two for _, two in pairs} == {"wait", *long}
    assert not [pair for pair in pairs if set(pair) <= long]


def test_the_old_model_is_freed(running: Camera, hub: Registry) -> None:
    """Though an event that waits to be written still knows what that model was."""
    assert running.engine.running is not None
    old, facts = weakref.ref(running.engine.running.model), running.engine.running.facts
    hub.release(6, TWO)
    hub.plan(6)
    running.wait_release(6)
    assert old() is None
    assert facts.release == 5
