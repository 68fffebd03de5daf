"""Bench: what a trial costs the frames: the camera's real agent at 25 frames a second, another model beside its own.

    python -m tests.bench.beside --rounds 20

The camera, its frames and the way in which a frame's latency is counted are those of `tests.bench.swap`. The other
model is loaded all the time; short blocks in which it judges a share of the frames, and others in which it judges none,
take turns, so that other work on the machine meets both alike. It is Lite0 as a file of its own, so both backbones run
for a drawn frame; with --head it has the backbone of the one in use.

The last line is one JSON object. p50_ratio, p99_ratio: percentiles with the trial over those without, all blocks.
round_ratio: of the medians of a round. judged, missed: of the drawn frames. dropped: frames that the agent dropped, in
all blocks.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from shared.manifest import Trial
from tests.bench.swap import FPS, START_S, Outbox, Plant, figures, sleep_until
from tests.fakes.camera import CAMERA
from tests.fakes.listener import wait_until
from tests.fakes.lite0 import releases

GAP_S = 0.5
"""Between two blocks: a plan is followed in it."""
NONE = 1e-9
REPORT_S = 3.0
"""After which the camera has reported once more."""


def name(plant, share):
    """Publish a plan whose trial draws this share of the frames."""
    plant.registry.plan(plant.number, trial=Trial(release=plant.number - 1, share=share, ask=True))
    messages, plant.registry.bus = plant.registry.bus.messages, Outbox()
    plant.publish(messages)


def told(plant):
    said = plant.hub.reported.get(CAMERA)
    return said.trial if said else None


def at_work(plant):
    said = told(plant)
    return said is not None and said.frames > 0


def measure(arguments, models, cores, others):
    """Blocks with and without a trial in turns. cores: of the agent; others: of broker and hub."""
    os.sched_setaffinity(0, others)
    total = 2 * arguments.rounds * (arguments.seconds + GAP_S) + 2 * START_S
    blocks = {True: [], False: []}
    with TemporaryDirectory() as place:
        plant = Plant(Path(place), models, cores, seconds=total, fetch=False)
        name(plant, 1.0)
        wait_until(lambda: at_work(plant), "the trial", seconds=60)
        name(plant, NONE)
        time.sleep(REPORT_S)
        before = told(plant)
        for number in range(arguments.rounds):
            for beside in (True, False) if number % 2 else (False, True):
                name(plant, arguments.share if beside else NONE)
                time.sleep(GAP_S)
                began = time.monotonic()
                sleep_until(began + arguments.seconds)
                blocks[beside].append((began, time.monotonic()))
        name(plant, NONE)
        time.sleep(REPORT_S)
        after = told(plant)
        noted = plant.close()
    found = {}
    for beside, some in blocks.items():
        found[beside] = [
            [1000 * (done - due) for due, done in noted["frames"] if began <= due < ended] for began, ended in some
        ]
    ratios = [float(np.median(a) / np.median(b)) for a, b in zip(found[True], found[False], strict=True)]
    trial_all, none = (figures([ms for one in found[key] for ms in one]) for key in (True, False))
    return {
        "trial": trial_all,
        "none": none,
        "p99_ratio": round(trial_all["p99_ms"] / none["p99_ms"], 3),
        "p50_ratio": round(trial_all["p50_ms"] / none["p50_ms"], 3),
        "round_ratio_median": round(statistics.median(ratios), 3),
        "round_ratio_lowest": round(min(ratios), 3),
        "round_ratio_highest": round(max(ratios), 3),
        "judged": after.frames - before.frames,
        "missed": after.missed - before.missed,
        "dropped": noted["dropped"],
        "errors": noted["errors"],
    }


def main():
    """Both arrangements of cores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each kind on each side (default: 20)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a block (default: 4)")
    parser.add_argument("--share", type=float, default=0.2, help="of the frames that are drawn (default: 0.2)")
    parser.add_argument("--head", action="store_true", help="the other model has the same backbone")
    parser.add_argument("--only", type=int, choices=(1, 2), help="cores of the one arrangement to measure")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    first, second, *_ = sorted(os.sched_getaffinity(0))
    old, new = releases(arguments.cache, 2)
    models = [replace(old, backbone=new.backbone), new] if arguments.head else [old, new]
    load = os.getloadavg()[0]
    both = {first, second}
    two = measure(arguments, models, both, both) if arguments.only != 1 else None
    one = measure(arguments, models, {first}, {second}) if arguments.only != 2 else None
    print(json.dumps({"frame_ms": 1000 / FPS, "two_cores": two, "one_core": one, "load_before": round(load, 2)}))


if __name__ == "__main__":
    main()
