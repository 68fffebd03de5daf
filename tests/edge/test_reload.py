"""Reload: real signatures, real tiny models, a broker in memory. Any failure keeps the model in use and is told."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edge.reload
from edge.infer import Engine
from edge.reload import MAX_TRIES, PATIENCE, WINDOW, Reload
from edge.settings import EdgeSettings
from edge.shelf import MAX_STARTS
from shared import topics
from shared.errors import PartError
from shared.files import chunk_count, sha256_hex
from shared.golden import decode as decode_golden
from shared.golden import encode as encode_golden
from shared.litert import Part
from shared.messages import Want, decode
from shared.references import encode as encode_references
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA, Wires
from tests.fakes.clock import FakeClock
from tests.fakes.hub import PART_CHUNK, Parts, Registry, parts
from tests.fakes.listener import Recorder, wait_until

ONE, TWO, THREE = parts(beta=1), parts(beta=4), parts(size=8, beta=2)
CHUNKS = {name: -(-len(data) // PART_CHUNK) for name, data in zip("gbh", ONE.blobs(), strict=True)}


@dataclass
class Camera:
    bus: FakeBus
    engine: Engine
    reload: Reload
    wires: Wires
    errors: Counter[str]
    asked: list[str]
    windows: list[int]
    _frames: threading.Event
    _loop: threading.Thread

    @property
    def release(self) -> int:
        return self.engine.running.release if self.engine.running else 0

    def wait_release(self, release: int) -> None:
        wait_until(
            lambda: self.release == release and self.reload.state.state == "running",
            f"release {release}, is {self.release}, {self.reload.state}",
        )
        self.rest()

    def wait_failed(self, reason: str) -> None:
        wait_until(lambda: reason in self.reload.state.reason, f"{reason}, is {self.reload.state}")
        self.rest()

    def rest(self) -> None:
        """Return when everything that was told so far is done."""
        done = threading.Event()
        self.reload._tell(done.set)
        assert done.wait(10)

    def stop(self) -> None:
        self.reload.stop()
        if not self._frames.is_set():
            self._frames.set()
            self._loop.join()
            self.bus.stop()


MakeCamera = Callable[..., Camera]


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def hub(broker: FakeBroker, key_folder: Path, clock: FakeClock) -> Registry:
    """A hub that publishes, and does not answer `want` unless a test has it do so."""
    bus = FakeBus(broker, "hub")
    bus.start(Recorder())
    return Registry(key_folder, bus, clock)


@pytest.fixture
def make_camera(
    broker: FakeBroker, make_settings: Callable[..., EdgeSettings], clock: FakeClock
) -> Iterator[MakeCamera]:
    made: list[Camera] = []

    def make(*, connect: bool = True, trusted: bool = True) -> Camera:
        for one in made:
            one.stop()
        bus, engine, errors = FakeBus(broker, f"camera-{len(made)}"), Engine(), Counter[str]()
        asked: list[str] = []
        windows: list[int] = []
        subscribe = bus.subscribe

        def noted(filters: list[str]) -> None:
            asked.extend(filters)
            windows.append(sum(one.startswith("hone/blob/") for one in {**bus.filters, **dict.fromkeys(filters)}))
            subscribe(filters)

        bus.subscribe = noted  # type: ignore[method-assign, assignment]
        reload = Reload(
            make_settings(), bus=bus, engine=engine, clock=clock, errors=errors, clock_trusted=lambda: trusted
        )
        wires = Wires(bus, reload=reload)
        stop = threading.Event()

        def frames() -> None:
            while not stop.wait(0.001):
                engine.turn()

        loop = threading.Thread(target=frames)
        loop.start()
        made.append(Camera(bus, engine, reload, wires, errors, asked, windows, stop, loop))
        reload.start()
        if connect:
            bus.start(wires)
        else:
            bus._listener = wires
            broker.attach(bus)
        return made[-1]

    yield make
    for one in made:
        one.stop()


def wants(broker: FakeBroker) -> list[Want]:
    return [decode(one.payload, Want) for one in broker.seen if one.topic == topics.want(CAMERA)]


def blobs(asked: list[str]) -> set[str]:
    return {one.split("/")[2] for one in asked if one.startswith("hone/blob/")}


def pass_time(camera: Camera, clock: FakeClock, until: Callable[[], object], what: str) -> None:
    """Let the camera's patience end again and again."""

    def step() -> object:
        clock.advance(PATIENCE)
        return until()

    wait_until(step, what)
    camera.rest()


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


def test_references_come_with_the_release_and_stay_for_the_next_head(
    broker: FakeBroker, hub: Registry, make_camera: MakeCamera
) -> None:
    rows = np.eye(3, dtype=np.float32)
    one, two = replace(ONE, references=encode_references(rows)), replace(TWO, references=encode_references(rows))
    hub.release(1, one)
    hub.plan(1)
    camera = make_camera()
    camera.wait_release(1)
    running = camera.engine.running
    assert running is not None
    assert running.references is not None
    assert running.references.tolist() == rows.tolist()
    assert (running.backbone, running.head) == (sha256_hex(ONE.backbone), ONE.head)
    hub.release(2, two)
    camera.asked.clear()
    hub.plan(2)
    camera.wait_release(2)
    assert blobs(camera.asked) == {sha256_hex(TWO.head)}
    hub.release(3, THREE)
    hub.plan(3)
    camera.wait_release(3)
    assert camera.engine.running is not None
    assert camera.engine.running.references is None, "a release without them"


@pytest.mark.parametrize("data", [b"odd", np.zeros((2, 3), "<f2").tobytes()])
def test_references_that_mean_nothing_fail_the_release(hub: Registry, make_camera: MakeCamera, data: bytes) -> None:
    hub.release(1, ONE)
    hub.plan(1)
    camera = make_camera()
    camera.wait_release(1)
    hub.release(2, replace(TWO, references=data))
    hub.plan(2)
    camera.wait_failed("references part")
    assert camera.release == 1


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


# ------------------------------------------------------------------------------------ the broker misses something


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


def damage(broker: FakeBroker, data: bytes) -> str:
    topic = topics.blob(sha256_hex(data), 0)
    broker.retained[topic] = bytes(len(broker.retained[topic]))
    return topic


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


# ------------------------------------------------------------------------------------ what must not be accepted


@pytest.fixture
def running(hub: Registry, make_camera: MakeCamera) -> Camera:
    """A camera that runs release 5."""
    camera = make_camera()
    hub.release(5, ONE)
    hub.plan(5)
    camera.wait_release(5)
    return camera


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
    monkeypatch.setattr(edge.reload, "SWAP_TIMEOUT", 0.05)
    monkeypatch.setattr(Engine, "turn", lambda _: None)
    camera = make_camera()
    hub.release(1, ONE)
    hub.plan(1)
    camera.wait_failed("no frame boundary")
    assert camera.release == 0


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
    camera = make_camera()
    camera.wait_failed("failed on this camera before")
    assert camera.release == 5
    assert camera.errors == {"old_release": 1}


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


def test_load_is_a_part_error() -> None:
    with pytest.raises(PartError):
        Part(bad_head().head, name="h")
