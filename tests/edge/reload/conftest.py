"""A hub that publishes on a broker in memory, and cameras on it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.infer import Engine
from edge.reload import Reload
from edge.settings import EdgeSettings
from edge.trial import TrialRun
from tests.edge.reload.camera import ONE, Camera, MakeCamera
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import Wires
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Registry
from tests.fakes.listener import Recorder


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

    def make(*, connect: bool = True, trusted: bool = True, **settings: object) -> Camera:
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
        trial = TrialRun(engine, lambda prediction: prediction.score < 0.8)
        reload = Reload(
            make_settings(**settings),
            bus=bus,
            engine=engine,
            trial=trial,
            clock=clock,
            errors=errors,
            clock_trusted=lambda: trusted,
        )
        wires = Wires(bus, reload=reload)
        stop = threading.Event()

        def frames() -> None:
            while not stop.wait(0.001):
                engine.turn()

        loop = threading.Thread(target=frames)
        loop.start()
        made.append(Camera(bus, engine, reload, trial, wires, errors, asked, windows, stop, loop))
        trial.start()
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


@pytest.fixture
def running(hub: Registry, make_camera: MakeCamera) -> Camera:
    """A camera that runs release 5."""
    camera = make_camera()
    hub.release(5, ONE)
    hub.plan(5)
    camera.wait_release(5)
    return camera
