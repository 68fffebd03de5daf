"""Reload: a second release beside the one in use, before it is used and after; whatever goes wrong with it."""

from dataclasses import replace

import numpy as np
import pytest

from edge.frame import Frame
from edge.trial import Seen
from shared.clock import SystemClock
from shared.manifest import Trial
from shared.messages import TrialState
from tests.edge.reload.camera import ONE, THREE, TWO, Camera, blobs
from tests.fakes.hub import Parts, Registry, parts
from tests.fakes.listener import wait_until

# ONE and TWO have one backbone and two heads; THREE has a backbone of its own.
AGAINST = replace(parts(beta=-6), classes=ONE.classes)
"""As ONE, but of the colours it names the one of which there is least."""


def trial(release: int, *, share: float = 1.0, ask: bool = False) -> Trial:
    return Trial(release=release, share=share, ask=ask)


def wait_state(camera: Camera, state: str, release: int) -> None:
    wait_until(
        lambda: (camera.reload.state.state, camera.reload.state.release) == (state, release),
        f"{state} {release}, is {camera.reload.state}",
    )
    camera.rest()


def wait_beside(camera: Camera, other: int) -> None:
    wait_until(lambda: camera.trial.runs and told(camera).other == other, f"{other} beside, {camera.trial.state()}")
    camera.rest()


def told(camera: Camera) -> TrialState:
    state = camera.trial.state()
    assert state is not None
    return state


def show(camera: Camera, count: int = 1, *, draw: float = 0.0) -> list[Seen]:
    """Give frames to the model in use and then to the trial, one after the other; what came back."""
    running, back = camera.engine.running, []
    assert running is not None
    for n in range(count):
        pixels = np.random.default_rng(n).integers(0, 60, (24, 24, 3), np.uint8)
        pixels[..., n % 3] += 100
        frame = Frame(n, SystemClock().utc(), pixels)
        seen = Seen(frame, running.model.predict(pixels), running.facts)
        if camera.trial.take(seen, draw):
            wait_until(lambda: camera.trial._done, "an answer")
            back += camera.trial.done()
    return back


@pytest.fixture
def tried(running: Camera) -> Camera:
    """A camera that runs release 5 and has shown that it runs well."""
    running.reload.ran_well()
    running.rest()
    return running


# ------------------------------------------------------------------------------------ from the shadow to the end


@pytest.mark.parametrize("model", [TWO, THREE, AGAINST], ids=["head", "backbone", "against"])
def test_shadow_then_canary_then_done(tried: Camera, hub: Registry, model: Parts) -> None:
    hub.release(6, model)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    assert (tried.release, tried.reload.floor) == (5, 5), "a trial raises no floor"
    show(tried, 6)
    state = told(tried)
    assert (state.release, state.other, state.skipped, state.frames, state.missed) == (5, 6, "", 6, 0)
    assert sum(state.labels.values()) == sum(state.other_labels.values()) == 6
    assert state.differed == (6 if model is AGAINST else 0)
    assert state.other_ms > 0

    tried.asked.clear()
    hub.plan(6, trial=trial(5, ask=True))
    tried.wait_release(6)
    tried.reload.ran_well()
    wait_beside(tried, 5)
    assert blobs(tried.asked) == set(), "its parts are there, and so are those of the one before"
    assert (tried.reload.state.state, tried.reload.state.release) == ("running", 6)
    show(tried, 3)
    assert (told(tried).release, told(tried).other, told(tried).frames) == (6, 5, 3), "counted anew"

    hub.plan(6)
    wait_until(lambda: tried.trial.state() is None, "the end of the trial")
    tried.rest()
    assert (tried.reload.state.state, tried.reload.state.release, tried.release) == ("running", 6, 6)
    assert tried.errors == {}


def test_it_is_fetched_with_its_percent_and_tells_every_state(tried: Camera, hub: Registry) -> None:
    states: list[tuple[str, int]] = []
    changed = tried.reload._changed

    def noted() -> None:
        state = (tried.reload.state.state, tried.reload.state.release)
        if not states or states[-1] != state:
            states.append(state)
        changed()

    tried.reload._changed = noted
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    hub.plan(6)
    tried.wait_release(6)
    once = [("fetching", 6), ("verifying", 6)]
    assert states == [("running", 5), *once, ("shadowing", 6), *once, ("running", 6)]
