"""Triage by the plan: it comes and goes with it, is kept on disk, and what cannot be followed is refused as a whole."""

from pathlib import Path

import msgspec
import pytest

from edge.policy import Policy
from shared.manifest import Plan
from shared.policy import TriageSettings
from tests.edge.reload.camera import ONE, TWO, MakeCamera
from tests.fakes.hub import Registry
from tests.fakes.listener import wait_until


def test_triage_comes_with_the_plan_and_goes_with_it(hub: Registry, make_camera: MakeCamera) -> None:
    camera = make_camera()
    hub.release(3, ONE)
    hub.plan(3)
    camera.wait_release(3)
    assert camera.reload.policy == Policy()
    hub.plan(3, triage={"low_score": 0.6})
    wait_until(lambda: camera.reload.policy == Policy(TriageSettings(low_score=0.6)), "the settings")
    hub.plan(3, triage={})
    wait_until(lambda: camera.reload.policy == Policy(TriageSettings()), "the defaults, by the project")
    hub.plan(3)
    wait_until(lambda: camera.reload.policy == Policy(), "silence")
    assert camera.errors == {}


def test_triage_is_kept_over_a_restart_without_a_broker(hub: Registry, make_camera: MakeCamera) -> None:
    camera = make_camera()
    hub.release(3, ONE)
    hub.plan(3, triage={"audit": 0.25})
    camera.wait_release(3)
    again = make_camera(connect=False)
    again.wait_release(3)
    assert again.reload.policy == Policy(TriageSettings(audit=0.25))


@pytest.mark.parametrize("told", [{"low_score": 0.2, "from_the_future": 1}, {"low_score": 2}], ids=["unknown", "wrong"])
def test_triage_that_cannot_be_followed_is_refused_as_a_whole_and_the_release_is_taken(
    hub: Registry, make_camera: MakeCamera, told: dict[str, object]
) -> None:
    camera = make_camera()
    hub.release(3, ONE)
    hub.release(4, TWO)
    hub.plan(3, triage={"audit": 0.25})
    camera.wait_release(3)
    hub.plan(4, triage=told)
    camera.wait_release(4)
    assert camera.reload.policy.triage == TriageSettings(audit=0.25), "what it followed stays"
    assert "cannot be followed by this version" in camera.reload.policy.refused
    assert camera.errors == {"setting": 1}
    again = make_camera(connect=False)
    again.wait_release(4)
    assert again.reload.policy == Policy(TriageSettings(audit=0.25)), "also after a restart"
    hub.plan(4, triage={"low_score": 0.1})
    updated = make_camera()
    wait_until(lambda: updated.reload.policy == Policy(TriageSettings(low_score=0.1)), "settings that it knows")


def test_triage_of_a_stranger_or_of_an_old_plan_is_not_followed(
    hub: Registry, make_camera: MakeCamera, tmp_path: Path
) -> None:
    camera = make_camera()
    hub.release(3, ONE)
    hub.plan(3, number=9, triage={"audit": 0.25})
    camera.wait_release(3)
    Registry(tmp_path / "strange", hub.bus, hub.clock).plan(3, number=10, triage={"audit": 1.0})
    hub.plan(3, number=8, triage={"audit": 0.5})
    wait_until(lambda: camera.errors == {"signature": 1, "old_release": 1}, "both refused")
    assert camera.reload.policy == Policy(TriageSettings(audit=0.25))


def test_a_plan_of_an_older_hub_says_nothing_of_triage() -> None:
    old = (
        b'{"v":1,"number":7,"created":"2026-03-01T12:00:00Z","expires":"2026-05-30T12:00:00Z","project":"cells",'
        b'"stage":"done","groups":[{"name":"all","release":4,"cameras":[]}],"settings":{}}'
    )
    plan = msgspec.json.decode(old, type=Plan)
    assert (plan.groups[0].release, plan.triage) == (4, None)
