"""Bench: what it costs on the wire to bring a camera from one release to the next.

    python -m tests.bench.update

    hub (releases, plans, parts) -> mosquitto -> thin link (tests.fakes.proxy) -> the agent's own program

The hub is trained on clear elpv cells: release 1, then 2 and 3 with 50 more labels each and the default linear head, 4
with an MLP, 5 and 6 with an int8 variant. Counted is all TCP payload, both ways, from the release until the camera
reports that it runs it: plan, manifest, every part that the camera lacks, signatures, acknowledgements, reports. The
first release, which the camera has nothing of, is the full one. Each is set against what peers send: backbone and head
of that release as one file, in float.

Release 3 goes over a link of 12 kbit/s (`link.thin`): `head_seconds_at_12kbit`. A release keeps the references of the
one before as long as they cover the training images; whether they were new is told (`..._references`: bytes of the part
that had to travel, packed). Release 5 brings int8 to a camera that ran float: backbone, golden part, references and
head; 6 another head for it. The last line is one JSON object.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from hub import keys
from hub.daemon import Daemon
from hub.demo.cells import lay_out, load, split
from hub.importer import import_folder
from hub.policies import Policies
from hub.run import execute
from hub.settings import read
from hub.store import open_store
from hub.tables import Release, Run
from shared.clock import SystemClock
from shared.manifest import ModelSpec
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.proxy import Proxy

CAMERA = "site/cam-1"
MORE = 50
SLOW = 12_000
FAST = 1e9
PATIENCE_S = 600


class Plant:
    """A hub with cells, a broker, and one camera that comes through a link."""

    def __init__(self, folder, cache):
        self.folder = folder
        self.clock = SystemClock()
        self.references = ""  # of the last release
        self.broker = Mosquitto(folder / "broker")
        self.broker.start()
        config = folder / "hub.toml"
        config.write_text(
            f'state = "hub"\ncache = "{cache}"\n[project]\nname = "cells"\nclasses = ["good", "defective"]\n'
            f'[mqtt]\nport = {self.broker.port}\nusername = "hub"\npassword_file = "{self.broker.folder}/clear/hub"\n'
            "[rollout]\nshadow = 0\ncanary = 0\nquality = false\ngroups = []\nsoak_s = 0\n"
            "[retrain]\nevery_labels = 0\nauto_release = false\n[web]\nport = 0\n"
        )
        self.settings = read(config)
        keys.make(self.settings.state_folder / "keys", self.clock)
        self.root = keys.load(self.settings.state_folder / "keys").root_public
        self.store = open_store(self.settings)
        self.policies = Policies(self.settings, self.store, self.clock)
        self.daemon = Daemon(self.settings, config, self.store, self.clock)
        self.daemon.start()
        (folder / "no-frames").mkdir()

    def stop(self):
        self.daemon.stop()
        self.store.close()
        self.broker.stop()

    def learn(self, cells, name):
        """Import labelled cells."""
        lay_out(cells, self.folder / name)
        kind = "holdout" if name == "holdout" else "train"
        import_folder(self.settings, self.store, self.folder / name, kind, self.clock, progress=lambda *_: None)

    def train(self):
        """The id of a run with the settings in force."""
        with self.store.write() as session:
            run = Run(project="cells", created_at=self.clock.utc(), why="bench")
            session.add(run)
            session.flush()
            number = run.id
        execute(self.policies.now(), self.store, number, self.clock)
        return number

    def camera(self, port, *, thin=False, variant="auto"):
        """The agent as a process; it keeps its state between two lives."""
        settings = self.broker.settings_for(CAMERA)
        path = self.folder / "edge.toml"
        path.write_text(
            f'camera = "{CAMERA}"\nproject = "cells"\nvariant = "{variant}"\nroot_key = "{self.root}"\n'
            f'clock = "trusted"\nstate = "camera"\n'
            f'[capture]\nsource = "no-frames"\nwatch = true\n[mqtt]\nport = {port}\n'
            f'password_file = "{settings.password_file}"\n[link]\nthin = {"true" if thin else "false"}\n'
        )
        with open(self.folder / "agent.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-m", "edge", "run", "--config", str(path)], stderr=log)

    def wait(self, true, what):
        until = time.monotonic() + PATIENCE_S
        while not true():
            if time.monotonic() > until:
                raise SystemExit(f"waited in vain for {what}; {(self.folder / 'agent.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def running(self):
        """The release that the camera says it runs."""
        return next((one.release for one in self.daemon._registry.cameras("cells") if one.online), None)

    def release(self, run, proxy):
        """Release; bytes on the wire and seconds until the camera runs it, of its full file, and of new references."""
        before, begin = proxy.up + proxy.down, time.monotonic()
        number = self.daemon.release_run(run, "")
        self.wait(lambda: self.running() == number, f"release {number} on the camera")
        seconds, wire = time.monotonic() - begin, proxy.up + proxy.down - before
        with self.store.read() as session:
            row = session.exec(Release.__table__.select().where(Release.number == number)).one()
        spec = msgspec.convert(row.model, ModelSpec)
        references = spec.references.travelling().size if spec.references is not None else 0
        fresh = spec.references is not None and spec.references.sha256 != self.references
        self.references = spec.references.sha256 if spec.references is not None else ""
        return wire, seconds, spec.backbone.size + spec.head.size, references if fresh else 0


def measure(folder, cache):
    """All releases, one after the other; name -> as `Plant.release`."""
    plant = Plant(folder, cache)
    cells = split(load(), 0, cameras=1)
    found = {}
    agent, proxies = None, []

    def link(bits_per_s):
        proxies.append(Proxy(plant.broker.port, bits_per_s=bits_per_s, delay=0.3 if bits_per_s == SLOW else 0.0))
        proxies[-1].start()
        return proxies[-1]

    def end(one):
        one.send_signal(signal.SIGTERM)
        one.wait(30)

    try:
        plant.learn(cells.holdout[:200], "holdout")
        plant.learn(cells.start, "start")
        proxy = link(FAST)
        agent = plant.camera(proxy.port)
        plant.wait(lambda: plant.running() is not None, "the camera")

        def note(name, proxy):
            found[name] = plant.release(plant.train(), proxy)
            print(f"{name}: {found[name][0]} bytes on the wire, {found[name][1]:.1f} s", flush=True)

        note("full", proxy)
        plant.learn(cells.streams[0][:MORE], "more")
        note("head", proxy)
        end(agent)
        plant.learn(cells.streams[0][MORE : 2 * MORE], "still more")
        run = plant.train()
        slow = link(SLOW)
        agent = plant.camera(slow.port, thin=True)
        plant.wait(lambda: plant.running() == 2, "the camera on the slow link")
        time.sleep(10)  # what it says when it comes is through
        found["head_slow"] = plant.release(run, slow)
        print(f"head over 12 kbit/s: {found['head_slow'][0]} bytes, {found['head_slow'][1]:.0f} s", flush=True)
        end(agent)
        agent = plant.camera(proxy.port)
        plant.wait(lambda: plant.running() == 3, "the camera on the fast link")
        plant.policies.set({"train.kind": "mlp"}, operator="bench")
        note("mlp", proxy)
        end(agent)
        agent = plant.camera(proxy.port, variant="int8")
        plant.wait(lambda: plant.running() == 4, "the camera on the fast link")
        plant.policies.set({"train.kind": "linear", "train.int8": True}, operator="bench")
        note("int8", proxy)
        plant.learn(cells.streams[0][2 * MORE : 3 * MORE], "more yet")
        note("int8_head", proxy)
    finally:
        if agent is not None:
            end(agent)
        plant.stop()
        for one in proxies:
            one.stop()
    return found


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end what was started
    with TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.cache.resolve())

    def percent(name):
        wire, _, whole, _ = found[name]
        return round(100 * wire / whole, 3)

    print(
        json.dumps(
            {
                "head_percent": percent("head"),
                "mlp_percent": percent("mlp"),
                "int8_percent": percent("int8"),
                "int8_head_percent": percent("int8_head"),
                "full_percent": percent("full"),
                "head_seconds_at_12kbit": round(found["head_slow"][1], 1),
                "head_percent_at_12kbit": percent("head_slow"),
                "head_references": found["head"][3],
                "head_references_at_12kbit": found["head_slow"][3],
                "head_bytes": found["head"][0],
                "int8_bytes": found["int8"][0],
                "int8_head_bytes": found["int8_head"][0],
                "mlp_bytes": found["mlp"][0],
                "full_bytes": found["full"][0],
                "full_file_bytes": found["full"][2],
            }
        )
    )


if __name__ == "__main__":
    main()
