"""A setting from the API to a camera's next frame: a real broker, the real hub and its API, the real agent."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlmodel import select

from edge.agent import Agent
from edge.settings import read
from hub import keys, settings
from hub.daemon import Daemon
from hub.store import open_store
from hub.tables import Image, Run
from hub.web.app import create_app
from shared.clock import SystemClock
from shared.preprocess import encode_png
from tests.fakes.hub import parts
from tests.fakes.listener import wait_until
from tests.fakes.mosquitto import Mosquitto
from tests.hub.making import toml_in

CAMERA = "site/cam-1"
MODEL = parts(beta=1.0)
_numbers = itertools.count()


def wait_for(true: Callable[[], object], seconds: float) -> bool:
    """Whether something holds within so long."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(true())


class Plant:
    """A broker, a hub with a release, its API, and one camera whose own triage finds nothing worth an event."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder, self.broker, self.clock = folder, broker, SystemClock()
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        password = str(broker.folder / "clear" / "hub")
        config = toml_in(folder, mqtt=broker.port, password=password, more="[project.preprocess]\nsize = 16")
        found = settings.read(config)
        keys.make(found.state_folder / "keys", self.clock)
        self.root = keys.load(found.state_folder / "keys").root_public
        self.store = open_store(found)
        self.daemon = Daemon(found, config, self.store, self.clock)
        self.daemon.start()
        app = create_app(found, self.store, self.daemon.desk, self.daemon, self.clock)
        self.api = TestClient(app, base_url="http://127.0.0.1:8080")
        spec = MODEL.spec()
        names = self.store.blobs.put([MODEL.backbone, MODEL.head, MODEL.golden])
        run = Run(
            project="cells",
            state="done",
            created_at=self.clock.utc(),
            parts=dict(zip(("backbone", "head", "golden"), names, strict=True)),
            settings={"classes": spec.classes, "preprocess": msgspec.to_builtins(spec.preprocess)},
            golden_probabilities=spec.golden_probabilities,
        )
        with self.store.write() as session:
            session.add(run)
        self.daemon.release_run(1, "first")
        self._agent: tuple[Agent, threading.Thread] | None = None

    def start_camera(self, more: str = "") -> None:
        mqtt = self.broker.settings_for(CAMERA)
        path = self.folder / "edge.toml"
        path.write_text(
            f'camera = "{CAMERA}"\nproject = "cells"\nroot_key = "{self.root}"\nreport_s = 0.2\n{more}\n'
            f'clock = "trusted"\nstate = "camera"\n[capture]\nsource = "pictures"\nwatch = true\nqueue = 100\n'
            f'[mqtt]\nport = {mqtt.port}\npassword_file = "{mqtt.password_file}"\n'
            "[triage]\nlow_score = 0.0\naudit = 0.0\n[spool]\nkeep_hours = 0\n"
        )
        agent = Agent(read(path), self.clock)
        thread = threading.Thread(target=agent.run)
        thread.start()
        self._agent = agent, thread

    def stop_camera(self) -> None:
        if self._agent is not None:
            (agent, thread), self._agent = self._agent, None
            agent.stop()
            thread.join(20)
            assert not thread.is_alive()

    def show(self) -> None:
        """One more picture, unlike all before, in front of the camera."""
        number = next(_numbers)
        pixels = np.random.default_rng(number).integers(0, 60, (24, 32, 3), np.uint8)
        pixels[..., number % 3] += np.uint8(60 + 10 * (number % 12))
        aside = self.folder / "picture.tmp"
        aside.write_bytes(encode_png(pixels))
        aside.rename(self.pictures / f"{number:04}.png")

    def show_until(self, true: Callable[[], object], what: str) -> None:
        """Show pictures until something holds: the first may come before the camera watches."""

        def step() -> object:
            self.show()
            return wait_for(true, 1.0)

        wait_until(step, what, seconds=40)

    def camera(self) -> dict[str, object]:
        found = self.api.get(f"/api/cameras/{CAMERA}")
        return found.json() if found.status_code == 200 else {}

    def follows(self, how: str, words: str) -> None:
        wait_until(
            lambda: (self.camera().get("follows"), self.camera().get("triage_words")) == (how, words), words, seconds=20
        )

    @property
    def stored(self) -> int:
        with self.store.read() as session:
            return len(session.exec(select(Image.id)).all())

    @property
    def spooled(self) -> int:
        return len(list((self.folder / "camera" / "spool").rglob("*_MD.json")))

    @property
    def inferred(self) -> int:
        return self._agent[0]._engine.inferred if self._agent else 0

    def stop(self) -> None:
        self.stop_camera()
        self.daemon.stop()
        self.store.close()


@pytest.fixture
def plant(make_broker: Callable[[], Mosquitto], tmp_path: Path) -> Iterator[Plant]:
    broker = make_broker()
    broker.start()
    one = Plant(tmp_path, broker)
    yield one
    one.stop()


def test_cameras_follow_what_the_api_is_told(plant: Plant) -> None:
    plant.start_camera()
    plant.follows("own", "Follows its own edge.toml")
    wait_until(lambda: plant.camera()["release"] == 1, "the model")
    plant.show_until(lambda: plant.inferred, "a frame")
    assert plant.spooled == plant.stored == 0, "sure enough, for its own edge.toml"

    changed = plant.api.patch("/api/settings?operator=Mira", json={"triage": {"low_score": 1.0, "duplicate": 1.01}})
    assert changed.status_code == 200
    plant.follows("project", "Follows settings 1")
    assert plant.camera()["settings"]["low_score"] == 1.0
    plant.show_until(lambda: plant.stored, "an image, without a restart of anybody")

    # The camera starts again while the broker is away: what the project said holds.
    wait_until(lambda: plant.spooled == 0, "the spool to be empty", seconds=20)
    plant.stop_camera()
    plant.broker.kill()
    plant.start_camera()
    plant.show_until(lambda: plant.spooled, "an event in the spool")
    plant.broker.start()
    wait_until(lambda: plant.spooled == 0, "the spool to be empty again", seconds=40)

    # An engineer at the camera tries something else, and gives it back.
    plant.stop_camera()
    plant.start_camera("triage_local = true")
    plant.follows("local", "Follows its own edge.toml: triage_local")
    plant.stop_camera()
    plant.start_camera()
    plant.follows("project", "Follows settings 1")

    for key in ("low_score", "duplicate"):
        assert plant.api.delete(f"/api/settings/triage.{key}").status_code == 200
    plant.follows("own", "Follows its own edge.toml")
    inferred, stored = plant.inferred, plant.stored
    assert stored >= 2
    plant.show_until(lambda: plant.inferred > inferred, "one more frame")
    assert (plant.spooled, plant.stored) == (0, stored)
