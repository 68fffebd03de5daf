"""Keys that are rotated, and releases that are carried by hand: a real broker, the real hub and its commands, the real
agent, and a thief who has the release key and the hub's account at the broker.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge.agent import Agent
from edge.pack import Packs
from edge.settings import read
from hub import keys, settings
from hub.__main__ import main
from hub.daemon import Daemon
from hub.store import open_store
from hub.tables import Run
from shared.clock import SystemClock
from shared.mqtt import PahoBus
from tests.fakes.hub import Parts, Registry, parts
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.mosquitto import Mosquitto
from tests.hub.making import toml_in

CAMERA = "site/cam-1"


class Plant:
    """A broker, a hub, one camera, a root key on a stick, and a thief."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self.folder, self.broker, self.clock = folder, broker, SystemClock()
        password = str(broker.folder / "clear" / "hub")
        more = "[project.preprocess]\nsize = 16\n[rollout]\nshadow = 0\ncanary = 0\ngroups = []\nsoak_s = 0"
        self.config = toml_in(folder, mqtt=broker.port, password=password, more=more)
        found = settings.read(self.config)
        self.keys = found.state_folder / "keys"
        self.command("keys")
        self.stick = folder / "stick.pem"
        (self.keys / keys.ROOT).rename(self.stick)
        shutil.copytree(self.keys, folder / "stolen")
        self.root = keys.load(self.keys).root_public
        self.store = open_store(found)
        self.daemon = Daemon(found, self.config, self.store, self.clock)
        self.daemon.start()
        bus = PahoBus(broker.settings_for("hub"), client_id="thief", max_delay=1)
        bus.start(Recorder())
        stolen = keys.load(folder / "stolen")
        self.thief = Registry(folder / "stolen", bus, self.clock, pair=stolen, plans=1000)
        self._agent: tuple[Agent, threading.Thread] | None = None

    def command(self, *arguments: str) -> None:
        assert main([arguments[0], "--config", str(self.config), *arguments[1:]]) == 0

    def release(self, model: Parts) -> int:
        spec = model.spec()
        names = self.store.blobs.put([model.backbone, model.head, model.golden])
        with self.store.write() as session:
            run = Run(
                project="cells",
                state="done",
                created_at=self.clock.utc(),
                parts=dict(zip(("backbone", "head", "golden"), names, strict=True)),
                settings={"classes": spec.classes, "preprocess": msgspec.to_builtins(spec.preprocess)},
                golden_probabilities=spec.golden_probabilities,
            )
            session.add(run)
            session.flush()
            number = run.id
        assert number is not None
        return self.daemon.release_run(number, "")

    def start_camera(self) -> Agent:
        mqtt = self.broker.settings_for(CAMERA)
        (self.folder / "pictures").mkdir(exist_ok=True)
        path = self.folder / "edge.toml"
        path.write_text(
            f'camera = "{CAMERA}"\nproject = "cells"\nroot_key = "{self.root}"\nreport_s = 0.2\npacks = "packs"\n'
            f'clock = "trusted"\nstate = "camera"\n[capture]\nsource = "pictures"\nwatch = true\n'
            f'[mqtt]\nport = {mqtt.port}\npassword_file = "{mqtt.password_file}"\n'
        )
        agent = Agent(read(path), self.clock)
        thread = threading.Thread(target=agent.run)
        thread.start()
        self._agent = agent, thread
        return agent

    def stop_camera(self) -> None:
        if self._agent is not None:
            (agent, thread), self._agent = self._agent, None
            agent.stop()
            thread.join(20)
            assert not thread.is_alive()

    def stop(self) -> None:
        self.stop_camera()
        self.thief.bus.stop()
        self.daemon.stop()
        self.store.close()


@pytest.fixture
def plant(tmp_path: Path, make_broker: Callable[[], Mosquitto], monkeypatch: pytest.MonkeyPatch) -> Iterator[Plant]:
    monkeypatch.setitem(Packs.__init__.__kwdefaults__, "grace", 0.0)  # type: ignore[arg-type]
    broker = make_broker()
    broker.start()
    one = Plant(tmp_path, broker)
    yield one
    one.stop()


def runs(agent: Agent, release: int) -> Callable[[], bool]:
    return lambda: agent._engine.running is not None and agent._engine.running.release == release


def until(true: Callable[[], object], what: str) -> None:
    wait_until(true, what, seconds=30)


def test_after_a_theft_the_cameras_follow_the_new_key_and_refuse_the_old_one(plant: Plant) -> None:
    assert plant.release(parts(beta=1)) == 1
    agent = plant.start_camera()
    until(runs(agent, 1), "release 1")

    plant.thief.release(2, parts(beta=9))
    plant.thief.plan(2)
    until(runs(agent, 2), "the thief's release: nothing speaks against it yet")

    plant.command("keys", "--rotate", "--revoke", "--root", str(plant.stick))
    until(runs(agent, 1), "the hub's release again, without a word of anybody's")
    assert agent._reload._shelf.state.delegation_floor == keys.load(plant.keys).number

    plant.thief.release(3, parts(beta=9))
    plant.thief.plan(3)
    until(lambda: agent._errors["old_release"], "the refusal")
    number = plant.release(parts(beta=2))  # 2 or 3: whether the thief's 2 was reported in time makes no difference
    until(runs(agent, number), "the hub's next release")
    until(lambda: (agent._reload.state.state, agent._reload.state.reason) == ("running", ""), "the word of it")

    plant.stop_camera()
    plant.thief.plan(3)
    again = plant.start_camera()
    until(lambda: again._errors["old_release"], "the refusal after a restart")
    until(runs(again, number), "the hub's release, still")


def test_a_planned_rotation_is_not_even_noticed(plant: Plant) -> None:
    plant.release(parts(beta=1))
    agent = plant.start_camera()
    until(runs(agent, 1), "release 1")
    before, loaded = agent._reload.plan_floor, agent._engine.running
    plant.command("keys", "--rotate", "--root", str(plant.stick))
    until(lambda: agent._reload.plan_floor > before, "the plan under the new key")
    assert agent._engine.running is loaded, "nothing is loaded again"
    plant.command("keys", "--revoke", "--root", str(plant.stick))
    number = keys.load(plant.keys).number
    until(lambda: agent._reload._shelf.state.delegation_floor == number, "the end of the overlap")
    assert agent._engine.running is loaded
    assert agent._errors == {}
    plant.release(parts(beta=2))
    until(runs(agent, 2), "release 2")


def test_a_camera_without_a_network_takes_a_pack(plant: Plant) -> None:
    plant.release(parts(beta=1))
    plant.broker.stop()
    packs = plant.folder / "packs"
    packs.mkdir()
    plant.command("pack", "1", "--out", str(packs / "one.pack"))  # there before the camera starts
    agent = plant.start_camera()
    until(runs(agent, 1), "the release")
    until((packs / "done" / "one.pack.txt").exists, "the word")
    assert (packs / "done" / "one.pack.txt").read_text() == "release 1 runs\n"

    plant.release(parts(beta=2))
    plant.command("pack", "2", "--out", str(packs / "two.pack"), "--unsigned")
    until((packs / "failed" / "two.pack.txt").exists, "the refusal")
    assert runs(agent, 1)()
    plant.command("pack", "2", "--out", str(packs / "two.pack"))
    until(runs(agent, 2), "the next one")
