"""Bench: what a reload costs the frames: the camera's real agent at 25 frames a second, a new release every second.

    python -m tests.bench.swap --rounds 6

    this process: hub's signed plans and releases, mosquitto, a hub that stores events
    a process of its own: the agent as `hone-edge run` starts it, on elpv cells in a folder, Lite0, settings by default

Blocks with reloads and blocks without alternate. In a block with reloads the plan names another release every second,
at no fixed place between two frames: another file of the backbone, another head, the same golden part. The agent takes
plan and manifest from the broker, checks the signatures, reads and hashes the parts, loads, warms up, checks the golden
outputs and swaps. Two releases take turns, so both files of the backbone are on the camera's disk, and none is fetched;
with --fetch each release has a backbone of its own, 13.5 MB, which travel over the broker first.

A frame's latency runs from when it was due to the end of its prediction: with decoding, waiting and all that other
threads take. First everything shares two cores; then an agent is pinned to one core, and what runs on other machines in
a plant, broker and hub, to the other one. Frames of the moments after a block are counted for none.

The last line is one JSON object. dropped: frames that the agent dropped. p99_ratio: 99th percentile with reloads over
that without, two cores, all blocks; lowest and highest: of a round. one_core_max_ms: longest with reloads on one core.
reloads: how many of those asked for ran within their block. reload_ms: median from plan to swap, as the agent reports.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hub.demo import cells
from shared.clock import SystemClock
from shared.mqtt import PahoBus
from tests.fakes.camera import CAMERA
from tests.fakes.hub import FakeHub, Registry
from tests.fakes.listener import wait_until
from tests.fakes.lite0 import releases
from tests.fakes.mosquitto import Mosquitto

FPS = 25
CHUNK = 65_536
START_S = 30.0
"""Most that an agent takes from its first frame to the first block."""
GAP_S = 1.5
"""Between two blocks: the last reload of a block ends in it."""
EVERY_S = 1.0
CONFIG = """\
camera = "{camera}"
project = "cells"
root_key = "{root}"
clock = "trusted"
[capture]
source = "frames"
fps = {fps}
[mqtt]
port = {port}
password_file = "{password}"
"""


class Outbox:
    """What a registry would publish; kept, so that nothing is signed while frames are timed."""

    def __init__(self):
        self.messages = []

    def publish(self, topic, payload, *, retain):
        self.messages.append((topic, payload, retain))


class Plant:
    """A broker, a hub, and a camera that runs a release; `close` ends all and returns what the agent noted."""

    def __init__(self, folder, models, cores, *, seconds, fetch):
        self.models = models
        self.fetch = fetch
        self.number = 0
        self.broker = Mosquitto(folder)
        self.broker.start()
        self.bus = PahoBus(self.broker.settings_for("hub"), client_id="hub", max_delay=1)
        self.hub = FakeHub(self.bus, SystemClock()).start()
        wait_until(lambda: self.bus.online, "the hub to be connected")
        self.registry = Registry(folder / "keys", Outbox(), SystemClock(), chunk_size=CHUNK)
        self.folder = folder / "camera"
        (self.folder / "frames").mkdir(parents=True)
        found = cells.split(cells.load(), 1, 1).streams[0]
        for number in range(round(seconds * FPS)):
            one = found[number % len(found)].path
            (self.folder / "frames" / f"{number:06}_{one.name}").symlink_to(one)
        settings = self.broker.settings_for(CAMERA)
        text = CONFIG.format(
            camera=CAMERA, root=self.registry.root, fps=FPS, port=settings.port, password=settings.password_file
        )
        (self.folder / "edge.toml").write_text(text)
        command = [sys.executable, "-m", "tests.fakes.timed", str(self.folder), *map(str, sorted(cores))]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in models:  # all are on its disk before it begins
            self.publish(self.prepare(chunks=True))
            wait_until(self.runs, "the release", seconds=60)

    def prepare(self, *, chunks):
        """The messages of the next release and of the plan that names it."""
        self.number += 1
        model = self.models[self.number % len(self.models)]
        if self.fetch:
            model = replace(model, backbone=model.backbone[:-8] + self.number.to_bytes(8, "little"))
        self.registry.release(self.number, model, chunks=chunks or self.fetch)
        self.registry.plan(self.number)
        self.registry.blobs.clear()
        messages, self.registry.bus = self.registry.bus.messages, Outbox()
        return messages

    def publish(self, messages):
        for topic, payload, retain in messages:
            self.bus.publish(topic, payload, retain=retain)

    def runs(self):
        """Milliseconds from plan to swap when the camera says that it runs the last release, else None."""
        said = self.hub.reported.get(CAMERA)
        done = said is not None and (said.reload.state, said.reload.release) == ("running", self.number)
        return said.reload.last_ms if done else None

    def block(self, seconds, chance, *, reloads):
        """When a block began and ended, and how long its reloads took."""
        count = int(seconds / EVERY_S) if reloads else 0
        took = []
        began = time.monotonic()
        for number in range(count):
            messages = self.prepare(chunks=False)
            sleep_until(began + (number + chance.uniform(0.0, 0.1)) * EVERY_S)
            self.publish(messages)
            sleep_until(began + (number + 0.95) * EVERY_S)
            took.append(self.runs())
            if self.fetch:
                self.forget(messages)
        sleep_until(began + seconds)
        return {"began": began, "ended": time.monotonic(), "reloads": count, "took": [one for one in took if one]}

    def forget(self, messages):
        """Clear chunks, so that the broker's memory does not grow."""
        for topic, _, retain in messages:
            if topic.startswith("hone/blob/"):
                self.bus.publish(topic, b"", retain=retain)

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.hub.stop()
        self.broker.stop()
        if self.process.returncode:
            raise SystemExit((self.folder / "log").read_text())
        return json.loads((self.folder / "noted.json").read_text())


def sleep_until(moment):
    time.sleep(max(0.0, moment - time.monotonic()))


def figures(latencies):
    """Percentiles in ms."""
    p50, p99 = np.percentile(latencies, [50, 99])
    return {
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(float(max(latencies)), 2),
        "frames": len(latencies),
    }


def measure(arguments, models, cores, others):
    """Blocks with and without reloads in turns. cores: of the agent; others: of broker and hub."""
    os.sched_setaffinity(0, others)
    chance = random.Random(arguments.seed)
    total = 2 * arguments.rounds * (arguments.seconds + GAP_S) + START_S
    blocks = {True: [], False: []}
    with TemporaryDirectory() as place:
        plant = Plant(Path(place), models, cores, seconds=total, fetch=arguments.fetch)
        time.sleep(GAP_S)
        for number in range(arguments.rounds):
            for reloads in (True, False) if number % 2 else (False, True):
                blocks[reloads].append(plant.block(arguments.seconds, chance, reloads=reloads))
                time.sleep(GAP_S)
        noted = plant.close()
    found = {}
    for reloads, some in blocks.items():
        rounds = []
        for one in some:
            within = [(due, done) for due, done in noted["frames"] if one["began"] <= due < one["ended"]]
            rounds.append([1000 * (done - due) for due, done in within])
        found[reloads] = rounds
    ratios = [
        float(np.percentile(a, 99) / np.percentile(b, 99)) for a, b in zip(found[True], found[False], strict=True)
    ]
    swapped = [at for at, _ in noted["swaps"]]
    told = {
        name: figures([ms for one in found[key] for ms in one]) for name, key in (("reload", True), ("none", False))
    }
    result = {
        **told,
        "p99_ratio": round(told["reload"]["p99_ms"] / told["none"]["p99_ms"], 3),
        "p99_ratio_lowest": round(min(ratios), 3),
        "p99_ratio_median": round(statistics.median(ratios), 3),
        "p99_ratio_highest": round(max(ratios), 3),
        "dropped": noted["dropped"],
        "reloads": [
            sum(one["began"] <= at < one["ended"] for one in blocks[True] for at in swapped),
            sum(one["reloads"] for one in blocks[True]),
        ],
        "reload_ms": statistics.median([ms for one in blocks[True] for ms in one["took"]] or [0.0]),
        "errors": noted["errors"],
    }
    print(f"agent on {len(cores)} core(s): {json.dumps(result)}", flush=True)
    return result


def main():
    """Both arrangements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="blocks of each kind on each side (default: 6)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a block (default: 20)")
    parser.add_argument("--fetch", action="store_true", help="each backbone is a new one and is fetched")
    parser.add_argument("--only", type=int, choices=(1, 2), help="cores of the one arrangement to measure")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of releases (default: 0)")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    first, second, *_ = sorted(os.sched_getaffinity(0))
    models = releases(arguments.cache, 2)
    load = os.getloadavg()[0]
    both = {first, second}
    two = measure(arguments, models, both, both) if arguments.only != 1 else None
    one = measure(arguments, models, {first}, {second}) if arguments.only != 2 else None
    result = {
        "dropped": sum(side["dropped"] for side in (two, one) if side),
        "p99_ratio": two["p99_ratio"] if two else None,
        "one_core_max_ms": one["reload"]["max_ms"] if one else None,
        "frame_ms": 1000 / FPS,
        "two_cores": two,
        "one_core": one,
        "fetched": arguments.fetch,
        "load_before": round(load, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
