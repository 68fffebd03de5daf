"""A camera of which only the reload is real, beside a loop of frames, and what it asked the broker for."""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edge.fetch import PATIENCE
from edge.infer import Engine
from edge.reload import Reload
from edge.trial import TrialRun
from shared import topics
from shared.files import sha256_hex
from shared.messages import Want, decode
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA, Wires
from tests.fakes.clock import FakeClock
from tests.fakes.hub import PART_CHUNK, parts
from tests.fakes.listener import wait_until

ONE, TWO, THREE = parts(beta=1), parts(beta=4), parts(size=8, beta=2)
CHUNKS = {name: -(-len(data) // PART_CHUNK) for name, data in zip("gbh", ONE.blobs(), strict=True)}


@dataclass
class Camera:
    bus: FakeBus
    engine: Engine
    reload: Reload
    trial: TrialRun
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
        self.trial.stop()
        if not self._frames.is_set():
            self._frames.set()
            self._loop.join()
            self.bus.stop()


MakeCamera = Callable[..., Camera]


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


def damage(broker: FakeBroker, data: bytes) -> str:
    topic = topics.blob(sha256_hex(data), 0)
    broker.retained[topic] = bytes(len(broker.retained[topic]))
    return topic
