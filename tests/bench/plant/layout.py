"""The plant's folders, settings files and first release: three cameras, a hub, a broker."""

import sys
from pathlib import Path

import msgspec

from hub import broker, keys
from hub.settings import read
from hub.store import open_store
from hub.tables import Run
from shared.clock import SystemClock
from tests.bench.plant.faults import BROKER, CAMERAS, HUB, SIDES
from tests.bench.plant.processes import Program
from tests.bench.plant.proxy import Proxy
from tests.fakes.hub import CLASSES, parts

SMALL = CAMERAS[-1]
"""The camera whose spool overflows when the hub is away: of 1 MiB, some 25 pictures."""
SIDE = 16
"""Input of the tiny model, pixels."""


class Layout:
    """Paths of everything in one folder. The hub's own folder is there already: it may be a small disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hub = folder / "hub"
        self.logs = folder / "logs"
        self.ledger = folder / "ledger.jsonl"
        self.feed = folder / "feed"
        self.frames = {one: self._of(one) / "frames" for one in CAMERAS}
        self.spools = {one: self._of(one) / "state" / "spool" for one in CAMERAS}
        for one in (self.logs, self.feed, *self.frames.values(), *self.spools.values()):
            one.mkdir(parents=True)

    def _of(self, camera: str) -> Path:
        return self.folder / "cameras" / camera.replace("/", "-")

    def configure(self) -> tuple[dict[str, Program], Proxy]:
        """Write what the programs need, and start the proxy between them and the broker's port."""
        port = broker.free_port()
        passwords = broker.new_passwords([broker.HUB_USER, *CAMERAS])
        mosquitto = broker.write_configuration(self.folder / "broker", port=port, passwords=passwords)
        proxy = Proxy(port, SIDES)
        hub_toml = self.folder / "hub.toml"
        hub_toml.write_text(_hub_toml(proxy.ports["hub"]))
        keys.make(self.hub / "keys", SystemClock())
        _finish_a_run(hub_toml)
        root = keys.load(self.hub / "keys").root_public
        commands = {
            BROKER: broker.command(mosquitto),
            HUB: [sys.executable, "-m", "hub", "serve", "--config", str(hub_toml)],
        }
        for camera in CAMERAS:
            edge_toml = self._of(camera) / "edge.toml"
            edge_toml.write_text(_edge_toml(camera, root, proxy.ports["cameras"], self.folder))
            commands[camera] = [sys.executable, "-m", "edge", "run", "--config", str(edge_toml)]
        programs = {
            name: Program(name, command, self.logs / f"{name.replace('/', '-')}.log")
            for name, command in commands.items()
        }
        return programs, proxy


def _finish_a_run(config: Path) -> None:
    """A run that ended well with a tiny model: the hub releases it by itself, and signs it, when it starts."""
    model, settings = parts(size=SIDE), read(config)
    store = open_store(settings)
    names = store.blobs.put([model.backbone, model.head, model.golden])
    with store.write() as session:
        session.add(
            Run(
                project=settings.project.name,
                state="done",
                verdict="first",
                created_at=SystemClock().utc(),
                parts=dict(zip(("backbone", "head", "golden"), names, strict=True)),
                settings={"classes": CLASSES, "preprocess": msgspec.to_builtins(settings.project.preprocess)},
                golden_probabilities=model.probabilities,
            )
        )
    store.close()


def _hub_toml(port: int) -> str:
    return f"""\
state = "hub"
beat_s = 0.5
[project]
name = "chaos"
classes = {msgspec.json.encode(CLASSES).decode()}
[project.preprocess]
size = {SIDE}
[mqtt]
port = {port}
keepalive = 5
password_file = "broker/clear/hub"
[web]
port = 0
[retrain]
every_labels = 0
[collect]
free_mb = 8
[rollout]
shadow = 0
canary = 0
groups = []
soak_s = 0
"""


def _edge_toml(camera: str, root: str, port: int, folder: Path) -> str:
    return f"""\
camera = "{camera}"
project = "chaos"
root_key = "{root}"
clock = "trusted"
report_s = 1.0
[capture]
source = "frames"
watch = true
queue = 64
[triage]
strategy = "low_score"
window = 1
top = 1
low_score = 1.0
audit = 0.05
duplicate = 1.01
[spool]
limit_mb = {1 if camera == SMALL else 256}
[mqtt]
port = {port}
keepalive = 5
password_file = "{folder / "broker" / "clear" / camera.replace("/", "__")}"
"""
