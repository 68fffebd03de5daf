"""Reload: a second release beside the one in use, before it is used and after; whatever goes wrong with it."""

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edge.beside
import edge.swap
import edge.trial
from edge.assemble import Assembled, assemble
from edge.frame import Frame
from edge.reload import RETRY
from edge.settings import EdgeSettings
from edge.shelf import MAX_STARTS
from edge.trial import Seen
from shared import topics
from shared.clock import SystemClock
from shared.errors import PartError
from shared.files import sha256_hex
from shared.litert import Floats, Head, Part, Prediction
from shared.manifest import Trial
from shared.messages import TrialState
from tests.edge.reload.camera import ONE, THREE, TWO, Camera, MakeCamera, blobs
from tests.fakes.bus import FakeBroker
from tests.fakes.camera import CAMERA
from tests.fakes.clock import FakeClock
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


def wait_skipped(camera: Camera, reason: str) -> None:
    wait_until(
        lambda: (state := camera.trial.state()) is not None and state.skipped == reason,
        f"{reason}, is {camera.trial.state()}",
    )
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
    changed = tried.reload._standing.changed

    def noted() -> None:
        state = (tried.reload.state.state, tried.reload.state.release)
        if not states or states[-1] != state:
            states.append(state)
        changed()

    tried.reload._standing.changed = noted
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    hub.plan(6)
    tried.wait_release(6)
    once = [("fetching", 6), ("verifying", 6)]
    assert states == [("running", 5), *once, ("shadowing", 6), *once, ("running", 6)]


# ------------------------------------------------------------------------------------ heads and backbones


@pytest.mark.parametrize(("model", "passes"), [(TWO, 1), (THREE, 2)], ids=["head alone", "another backbone"])
def test_one_pass_of_a_backbone_that_both_have(
    tried: Camera, hub: Registry, monkeypatch: pytest.MonkeyPatch, model: Parts, passes: int
) -> None:
    models: list[weakref.ref[object]] = []

    def noted(*arguments: object, **more: object) -> Assembled:
        made = assemble(*arguments, **more)  # type: ignore[arg-type]
        models.append(weakref.ref(made.running.model))
        return made

    monkeypatch.setattr(edge.beside, "assemble", noted)
    hub.release(6, model)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    assert (models[0]() is None) == (passes == 1), "where its head is enough, its backbone takes no memory"

    ran: Counter[str] = Counter()
    run = Part.run_all

    def counted(part: Part, x: Floats) -> list[Floats]:
        ran[part.name] += 1
        return run(part, x)

    monkeypatch.setattr(Part, "run_all", counted)
    show(tried, 5)
    assert ran == {"backbone": 5 * passes, "head": 10}


def test_the_other_one_judges_as_it_would_alone(tried: Camera, hub: Registry) -> None:
    hub.release(6, AGAINST)
    hub.plan(5, trial=trial(6, ask=True))
    wait_state(tried, "shadowing", 6)
    for seen in show(tried, 6):
        assert seen.rival is not None
        least = int(seen.frame.pixels.mean((0, 1)).argmin())
        assert (seen.rival.release, seen.rival.label) == (6, ONE.classes[least])
        assert 0.34 < seen.rival.score <= 1


# ------------------------------------------------------------------------------------ when it does not run


def test_skipped_for_want_of_memory_and_tried_again_later(tried: Camera, hub: Registry, clock: FakeClock) -> None:
    free = [48]
    tried.reload._beside._free = lambda: free[0]
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    said = "48 MB of memory free, 128 needed for a second backbone"
    wait_skipped(tried, said)
    assert (tried.reload.state.state, tried.reload.state.release) == ("running", 5)
    assert tried.errors == {}
    free[0] = 128
    hub.plan(5, trial=trial(6, share=0.5))
    wait_state(tried, "shadowing", 6)
    assert told(tried).skipped == ""

    hub.plan(5)
    wait_state(tried, "running", 5)
    free[0] = 0
    hub.plan(5, trial=trial(6))
    wait_skipped(tried, "0 MB of memory free, 128 needed for a second backbone")
    free[0] = 1000
    wait_until(lambda: clock.advance(RETRY) or tried.trial.runs, "another try, though no plan came")


@pytest.mark.parametrize("free", [None, 0])
def test_another_head_alone_needs_no_memory_to_speak_of(tried: Camera, hub: Registry, free: int | None) -> None:
    tried.reload._beside._free = lambda: free
    hub.release(6, THREE if free is None else TWO)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)


def test_switched_off_nothing_is_fetched(hub: Registry, make_camera: MakeCamera) -> None:
    camera = make_camera(trial="off")
    hub.release(5, ONE)
    hub.plan(5)
    camera.wait_release(5)
    camera.reload.ran_well()
    hub.release(6, THREE)
    camera.asked.clear()
    hub.plan(5, trial=trial(6))
    wait_skipped(camera, "switched off in edge.toml")
    assert camera.asked == []
    hub.plan(6, trial=trial(5))
    camera.wait_release(6)
    assert told(camera).skipped == "switched off in edge.toml"


def test_it_waits_until_the_one_in_use_has_run_well(running: Camera, hub: Registry) -> None:
    """Else a crash could be either's."""
    hub.release(6, TWO)
    hub.plan(5, trial=trial(6))
    wait_until(running.trial.state, "the plan")
    running.rest()
    assert (running.reload.state.state, running.trial.runs, told(running).skipped) == ("running", False, "")
    running.reload.ran_well()
    wait_state(running, "shadowing", 6)


def test_no_trial_while_an_exception_holds(tried: Camera, hub: Registry) -> None:
    hub.release(6, TWO)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    hub.desired(CAMERA, 5)
    wait_state(tried, "running", 5)
    assert tried.trial.state() is None
    hub.desired(CAMERA, 0)
    wait_state(tried, "shadowing", 6)


def test_nothing_holds_the_other_model_when_the_trial_is_over(
    tried: Camera, hub: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[object]] = []

    def noted(*arguments: object, **more: object) -> Assembled:
        assert all(one() is None for one in models), "the other one goes before a new one is built"
        made = assemble(*arguments, **more)  # type: ignore[arg-type]
        models.append(weakref.ref(made.running.model))
        return made

    monkeypatch.setattr(edge.beside, "assemble", noted)
    monkeypatch.setattr(edge.swap, "assemble", noted)
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    show(tried)
    assert models[0]() is not None
    hub.plan(5)
    wait_state(tried, "running", 5)
    assert models[0]() is None
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    show(tried)
    hub.plan(6)
    tried.wait_release(6)
    assert len(models) == 3


# ------------------------------------------------------------------------------------ what is no good


def test_a_candidate_that_computes_something_else_leaves_the_one_in_use(
    tried: Camera, hub: Registry, make_camera: MakeCamera
) -> None:
    hub.release(6, replace(TWO, probabilities=THREE.probabilities[::-1]))
    hub.plan(5, trial=trial(6))
    tried.wait_failed("computes something else")
    assert (tried.reload.state.state, tried.reload.state.release, tried.release) == ("failed", 6, 5)
    assert tried.errors == {"golden": 1}
    assert "computes something else" in told(tried).skipped
    hub.plan(5, trial=trial(6))
    tried.rest()
    assert "computes something else" in told(tried).skipped
    assert "computes something else" in tried.reload.state.reason
    camera = make_camera()
    wait_state(camera, "failed", 6)
    assert (camera.release, camera.errors) == (5, {})
    assert "failed on this camera before" in camera.reload.state.reason
    assert "failed on this camera before" in told(camera).skipped
    hub.release(7, TWO)
    hub.plan(5, trial=trial(7))
    wait_state(camera, "shadowing", 7)


def test_a_candidate_that_breaks_while_it_runs(tried: Camera, hub: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.release(6, TWO)
    hub.plan(5, trial=trial(6, ask=True))
    wait_state(tried, "shadowing", 6)

    def broken(head: Head, embedding: Floats) -> Prediction:
        raise PartError("cannot be run", subject="model part head")

    with monkeypatch.context() as patch:
        patch.setattr(Head, "judge", broken)
        pixels = np.zeros((4, 4, 3), np.uint8)
        running = tried.engine.running
        assert running is not None
        said = Prediction(np.array([1, 0, 0], np.float32), np.zeros(3, np.float32))
        assert tried.trial.take(Seen(Frame(0, SystemClock().utc(), pixels), said, running.facts), 0.0)
        wait_state(tried, "failed", 6)
    [back] = tried.trial.done()
    assert (back.rival, back.prediction) == (None, said), "the frame takes the usual way"
    assert (tried.release, tried.errors, tried.trial.runs) == (5, {"part": 1}, False)
    assert "cannot be run" in told(tried).skipped


def test_a_candidate_with_which_the_agent_keeps_dying(tried: Camera, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    for _ in range(MAX_STARTS - 1):
        wait_state(make_camera(), "shadowing", 6)
    for _ in range(2):  # that it failed is remembered
        camera = make_camera()
        wait_state(camera, "failed", 6)
        assert (camera.release, camera.trial.runs) == (5, False)
    assert camera.reload._shelf.state.reverted is None, "nobody blames the one in use"


def test_a_candidate_that_has_judged_enough_frames_may_start_for_ever(
    tried: Camera, hub: Registry, make_camera: MakeCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.trial, "WELL_FRAMES", 4)
    hub.release(6, TWO)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    camera = tried
    for _ in range(MAX_STARTS + 1):
        assert camera.reload._shelf.state.trial_starts == 1
        show(camera, 3)
        camera.reload._tell(camera.reload._nudge)
        camera.rest()
        assert camera.reload._shelf.state.trial_starts == 1
        show(camera, 1)
        wait_until(lambda camera=camera: camera.reload._shelf.state.trial_starts == 0, "the word that it is well")
        camera = make_camera()
        wait_state(camera, "shadowing", 6)


def test_who_is_asked_to_stop_was_not_killed(tried: Camera, hub: Registry, make_camera: MakeCamera) -> None:
    hub.release(6, TWO)
    hub.plan(5, trial=trial(6))
    camera = tried
    for _ in range(MAX_STARTS + 1):
        wait_state(camera, "shadowing", 6)
        camera.reload.ran_well(trial=True)
        camera.rest()
        camera = make_camera()


# ------------------------------------------------------------------------------------ fetch and shelf


def names(camera: Camera) -> set[str]:
    return {one.name for one in camera.reload._shelf._parts.iterdir()}


def hashes(*models: Parts) -> set[str]:
    return {sha256_hex(one) for model in models for one in model.blobs()}


def test_an_older_release_is_tried_below_the_floor_and_in_silence(hub: Registry, make_camera: MakeCamera) -> None:
    """This camera never had 5, which the canary compares 6 with."""
    camera = make_camera()
    hub.release(5, ONE)
    hub.release(6, THREE)
    hub.plan(6)
    camera.wait_release(6)
    camera.reload.ran_well()
    states: set[tuple[str, int]] = set()
    camera.reload._standing.changed = lambda: states.add((camera.reload.state.state, camera.reload.state.release))
    hub.plan(6, trial=trial(5, ask=True))
    wait_beside(camera, 5)
    assert states == {("running", 6)}
    assert (camera.reload.floor, camera.errors) == (6, {})
    hub.plan(5)
    camera.wait_failed("is older than 6")
    assert camera.release == 6, "as the one to run it is refused all the same"


def test_the_shelf_keeps_what_is_tried_until_something_newer_comes(
    tried: Camera, hub: Registry, make_camera: MakeCamera
) -> None:
    four = parts(size=12)
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    assert names(tried) == hashes(ONE, THREE)
    hub.plan(5)
    wait_state(tried, "running", 5)
    assert names(tried) == hashes(ONE, THREE), "it may yet be rolled out"
    tried.asked.clear()
    camera = make_camera()
    hub.plan(5, trial=trial(6))
    wait_state(camera, "shadowing", 6)
    assert blobs(camera.asked) == set()
    hub.release(7, four)
    hub.plan(5, trial=trial(7))
    wait_state(camera, "shadowing", 7)
    assert names(camera) == hashes(ONE, four)
    hub.release(8, TWO)
    hub.plan(8)
    camera.wait_release(8)
    assert names(camera) == hashes(ONE, TWO)


def test_promoted_while_it_is_fetched(tried: Camera, hub: Registry, broker: FakeBroker) -> None:
    hub.release(6, THREE)
    head = sha256_hex(THREE.head)
    held = {one: broker.retained.pop(one) for one in list(broker.retained) if one.startswith(f"hone/blob/{head}/")}
    hub.plan(5, trial=trial(6))
    wait_until(lambda: any(head in one for one in tried.asked), "the head to be asked for")
    tried.rest()
    assert tried.reload.state.state == "fetching"
    broker.retained.update(held)
    tried.asked.clear()
    hub.plan(6)
    tried.wait_release(6)
    assert blobs(tried.asked) == {head}
    assert tried.trial.state() is None
    assert {one for one in tried.bus.filters if "blob" in one or "release" in one} == set()


def test_a_plan_that_names_another_on_trial_meanwhile(tried: Camera, hub: Registry) -> None:
    hub.release(6, THREE, chunks=False)
    hub.release(7, TWO)
    hub.plan(5, trial=trial(6))
    wait_until(lambda: tried.reload.state.state == "fetching", "release 6 to be fetched")
    hub.plan(5, trial=trial(7))
    wait_state(tried, "shadowing", 7)
    hub.plan(5, trial=trial(7, share=0.5, ask=True))
    show(tried, 3, draw=0.4)
    assert told(tried).frames == 3, "the same pair: with other settings, and no other model"
    assert show(tried, 1, draw=0.6) == []
    assert {one for one in tried.bus.filters if "blob" in one or "release" in one} == set()


def test_a_refused_plan_ends_the_shadow_in_the_report(tried: Camera, hub: Registry) -> None:
    hub.release(6, TWO)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    hub.plan(3)
    tried.wait_failed("is older than 5")
    assert (tried.reload.state.state, tried.reload.state.release, tried.trial.state()) == ("running", 5, None)


def test_a_manifest_that_is_missing_is_asked_for(
    tried: Camera, hub: Registry, broker: FakeBroker, clock: FakeClock
) -> None:
    hub.release(6, TWO, manifest=False)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "fetching", 6)
    asked = topics.want(CAMERA)
    wait_until(lambda: clock.advance(6) or any(one.topic == asked for one in broker.seen), "a want")
    hub.release(6, TWO)
    wait_state(tried, "shadowing", 6)


def test_a_damaged_part_of_what_is_tried_is_fetched_again(
    tried: Camera, hub: Registry, make_camera: MakeCamera, make_settings: Callable[..., EdgeSettings]
) -> None:
    hub.release(6, THREE)
    hub.plan(5, trial=trial(6))
    wait_state(tried, "shadowing", 6)
    tried.stop()
    path: Path = make_settings().state_folder / "models" / "parts" / sha256_hex(THREE.backbone)
    path.write_bytes(bytes(path.stat().st_size))
    camera = make_camera()
    wait_state(camera, "shadowing", 6)
    assert blobs(camera.asked) == {sha256_hex(THREE.backbone)}
