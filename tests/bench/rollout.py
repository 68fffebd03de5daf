"""Bench: releases on their way through a fleet: what the hub sends, which bad ones are stopped, which good ones pass.

    python -m tests.bench.rollout

(a) Bytes. 1,000 cameras and one hub in one process, on a broker in memory that counts every MQTT packet by formula
(which a release to three cameras by mosquitto, counted on the line, is held against), and a clock moved by hand. Four
releases, each with shadow, 50 canaries (5 %), groups of 10 % and 50 %, everyone: the first of all, which goes to
everyone at once; a new head (22 kB); a new backbone and head (13.5 MB); and a bad one with a new head, against which
the field speaks. Real: database, signatures, `hub.rollouts`, publisher, registry, credit and commit of images, the
operator's decisions; of each camera `edge.reload` with `edge.fetch`, signatures, hashes, loading and golden check of a
.tflite, also beside the one in use. Not real: networks take no time; models are tiny ones in files as large as Lite0's,
which do not shrink when packed and have no int8 variant (a thousand of those would need 45 GB); parts lie in memory
once for the fleet, the state file of each camera's shelf too; what two models say of a frame is drawn; images are
random bytes that come in one piece; reports come every 30 s and on a change.

hub_bytes_ratio: all that the hub sent over all that cameras received: the plan signed anew for each stage, manifests,
parts, replies, beats, acknowledgements. The worse one of the new head and the full release, each with beats and
without. What the hub sends to acknowledge reports, which come with or without a rollout, is told apart. harmed_percent
counts here the cameras in which the bad release was in use.

(b) Decisions. --runs rollouts each of several pairs of models through the real rules on a virtual clock, see
`tests.bench.rolling.decisions`: new models that are equal, where the two differ on 5 and 10 % of all frames; bad ones
that get 5 % more of all frames wrong; some better, some worse by just the margin; two heads by the demo's story, which
are better on a holdout of mono cells and worse on poly cells (`tests.bench.rolling.heads`); an operator who is asked
about half of the differences, and one who never labels. A frame a second and camera, one of 50 is judged by both.

The last line is one JSON object. harmed_percent: of all cameras, those that ran the bad release as theirs before it was
taken back: the mean of the worst bad pair, or (a) where that is more. false_alarm_low: Wilson's lower bound of 95 % for
the share of equal releases that were sent back, of the worst pair. bad_detected_rate: bad ones that were, of the worst.
equal_promoted_rate: equal ones that came to everyone, of the worst. labels_to_decide: median until a release leaves the
canary stage, equal models that differ on 5 %. `margin_let_through`: releases that are worse by the margin and came to
everyone; the rules allow the stated error. `unlabelled_promoted`: of those for which nobody labelled.
"""

import argparse
import json
import logging
import statistics
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hub.evaluate import wilson
from hub.settings import RolloutSettings
from tests.bench.rolling import heads
from tests.bench.rolling.check import formula_off
from tests.bench.rolling.decisions import Fleet, Setting, one_run
from tests.bench.rolling.plant import BACKBONE, Plant, model

SETTINGS = (
    Setting("equal, differs on 5 %", 0.025, 0.025, kind="equal"),
    Setting("equal, differs on 10 %", 0.05, 0.05, kind="equal"),
    Setting("bad: 5 % more wrong, differs on 6 %", 0.055, 0.005, kind="bad"),
    Setting("bad: 5 % more wrong, differs on 10 %", 0.075, 0.025, kind="bad"),
    Setting("worse by the margin of 2 %, differs on 5 %", 0.035, 0.015, kind="margin"),
    Setting("better by 2 %, differs on 5 %", 0.015, 0.035),
    Setting("equal, 5 %, half of them settled", 0.025, 0.025, settle=0.5),
    Setting("bad, 10 %, half of them settled", 0.075, 0.025, settle=0.5),
    Setting("equal, nobody labels", 0.025, 0.025, labels=False, runs=0.1),
    Setting("bad, nobody labels", 0.075, 0.025, labels=False, runs=0.1),
)
STORIES = (0, 1)
"""Seeds of the demo's split; of the first three those whose new head is better on the mono holdout."""
CHECKED = 1_000_000
"""Bytes of the backbone that is sent by a real broker."""
OWN = "acks of "


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


# -- bytes


def megabytes(account):
    """One line of an account."""
    return ", ".join(f"{kind} {count / 1e6:.3f}" for kind, count in sorted(account.items(), key=lambda one: -one[1]))


def ratio(sent, received, *, beats):
    """Of what the hub sent over what cameras received."""
    mine = sum(count for kind, count in sent.items() if not kind.startswith(OWN) and (beats or kind != "beats"))
    theirs = sum(count for kind, count in received.items() if beats or kind != "beats")
    return mine / theirs


def models(chance):
    """By name: the first, and three that follow it."""
    old, new = chance.bytes(BACKBONE), chance.bytes(BACKBONE)
    return {
        "first": model(chance, backbone=old, beta=1.0),
        "head": model(chance, backbone=old, beta=2.0, broken=0.025, mended=0.025),
        "full": model(chance, backbone=new, beta=3.0, broken=0.025, mended=0.025),
        "bad": model(chance, backbone=new, beta=4.0, broken=0.075, mended=0.025),
    }


def travel(plant, name, one):
    """The way of one release to its end; what it cost."""
    plant.forget()
    began, wall = plant.clock.utc(), time.monotonic()
    number, before = plant.release(one), None
    while True:
        plant.turn()
        progress, _ = plant.hub.progress()
        stage = (progress.release, progress.stage, progress.group, progress.state)
        seconds = (plant.clock.utc() - began).total_seconds()
        if stage != before:
            before = stage
            say(f"  {name}, {seconds:.0f} s: release {progress.release}, {progress.stage}: {progress.reason[:110]}")
        if progress.stage == "done" or progress.state == "held":
            break
    sent, received = plant.account()
    found = {
        "state": progress.state if progress.release == number else "reverted",
        "ran": sum(number in camera.ran for camera in plant.cameras),
        "virtual_s": round(seconds),
        "wall_s": round(time.monotonic() - wall, 1),
        "sent": sent,
        "received": received,
    }
    if progress.release == number:
        times = [(camera.ran[number] - began).total_seconds() for camera in plant.cameras if number in camera.ran]
        found["all_s"] = round(max(times))
    say(f"  {name}: hub sent MB: {megabytes(sent)}; cameras received MB: {megabytes(received)}")
    return found


def measure_bytes(arguments):
    """All releases, one after the other; name -> as `travel`."""
    chance = np.random.default_rng(arguments.seed)
    ram = Path("/dev/shm")
    with TemporaryDirectory(dir=ram if ram.is_dir() else None) as folder:
        plant = Plant(Path(folder), cameras=arguments.cameras, canary=max(1, arguments.cameras // 20))
        try:
            plant.hub.publisher.everything()
            plant.turn()
            return {name: travel(plant, name, one) for name, one in models(chance).items()}
        finally:
            plant.close()


# -- decisions


def measure_decisions(arguments, pool, settings):
    """Setting -> its outcomes."""
    fleet = Fleet(cameras=arguments.cameras, canary=max(1, arguments.cameras // 20))
    work = [
        (one, fleet, [arguments.seed, place, run])
        for place, one in enumerate(settings)
        for run in range(max(1, round(arguments.runs * one.runs)))
    ]
    counts = Counter(one for one, _, _ in work)
    found = {one: [] for one in settings}
    for (setting, _, _), outcome in zip(work, pool.imap(one_run, work, chunksize=5), strict=True):
        found[setting].append(outcome)
        if len(found[setting]) == counts[setting]:
            show(setting, found[setting], arguments.cameras)
    return found


def share(outcomes, true):
    return sum(map(true, outcomes)) / len(outcomes)


def reverted(one):
    return one.state == "reverted"


def promoted(one):
    return one.stage == "done" and one.state == "running"


def show(setting, outcomes, cameras):
    """One line, and what is known of the labels."""
    ends = Counter(one.state if one.state != "running" else one.stage for one in outcomes)
    labels = [one.labels for one in outcomes]
    low, middle, high = np.percentile(labels, [10, 50, 90])
    hours = statistics.median(one.seconds for one in outcomes) / 3600
    ran = [100 * one.harmed / cameras for one in outcomes]
    told = ", ".join(f"{name} {count}" for name, count in sorted(ends.items()))
    say(
        f"  {setting.name} ({100 * setting.broken:.1f} % broken, {100 * setting.mended:.1f} % mended): {told}; labels"
        f" {middle:.0f} (10 to 90 %: {low:.0f} to {high:.0f}), {hours:.1f} h as canary; ran it: mean"
        f" {statistics.mean(ran):.1f} %, most {max(ran):.1f} %"
    )


def main():
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=200, help="rollouts of each pair of models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes for the decisions")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    settings = list(SETTINGS)
    for seed in STORIES:
        setting, before, after, count = heads.worse_in_the_field(arguments.cache, seed)
        settings.append(setting)
        say(f"{setting.name}: accuracy on the mono holdout {before:.3f} before, {after:.3f} after; {count} poly cells")
    say(f"decisions: {arguments.runs} rollouts of each pair of models, {arguments.cameras} cameras")
    with get_context("spawn").Pool(arguments.jobs) as pool:
        found = measure_decisions(arguments, pool, settings)
    off = formula_off(model(np.random.default_rng(arguments.seed), backbone=bytes(CHECKED), beta=1.0))
    say(f"bytes: the formula is off by {abs(off[0]):.3%} for what the hub sent, {abs(off[1]):.3%} for what came")
    say(f"bytes: {arguments.cameras} cameras")
    wire = measure_bytes(arguments)
    ratios = {
        name: {beats: ratio(wire[name]["sent"], wire[name]["received"], beats=beats) for beats in (True, False)}
        for name in ("head", "full")
    }
    of = {
        kind: [outcomes for one, outcomes in found.items() if one.kind == kind] for kind in ("equal", "bad", "margin")
    }
    harmed = [statistics.mean(100 * one.harmed / arguments.cameras for one in some) for some in of["bad"]]
    alarms = [share(some, reverted) for some in of["equal"]]
    print(
        json.dumps(
            {
                "hub_bytes_ratio": round(max(max(one.values()) for one in ratios.values()), 5),
                "harmed_percent": round(max(*harmed, 100 * wire["bad"]["ran"] / arguments.cameras), 2),
                "false_alarm_low": round(
                    max(wilson(rate, len(some)).low for rate, some in zip(alarms, of["equal"], strict=True)), 4
                ),
                "stated_error_rate": RolloutSettings().error,
                "bad_detected_rate": round(min(share(some, reverted) for some in of["bad"]), 4),
                "equal_promoted_rate": round(min(share(some, promoted) for some in of["equal"]), 4),
                "labels_to_decide": statistics.median(one.labels for one in of["equal"][0]),
                "labels_to_decide_at_10": statistics.median(one.labels for one in of["equal"][1]),
                "labels_to_find_bad": max(statistics.median(one.labels for one in some) for some in of["bad"]),
                "false_alarms": max(alarms),
                "harmed_most_percent": max(100 * one.harmed / arguments.cameras for some in of["bad"] for one in some),
                "bad_let_through": max(share(some, promoted) for some in of["bad"]),
                "margin_let_through": max(share(some, promoted) for some in of["margin"]),
                "unlabelled_promoted": max(share(some, promoted) for one, some in found.items() if not one.labels),
                "hub_bytes_ratios": {
                    name: {"with_beats": round(both[True], 5), "without": round(both[False], 5)}
                    for name, both in ratios.items()
                },
                "formula_off": [round(abs(one), 5) for one in off],
                "cameras_that_ran_it": {name: one["ran"] for name, one in wire.items()},
                "seconds_to_all": {name: wire[name]["all_s"] for name in ("first", "head", "full")},
                "wall_s": {name: one["wall_s"] for name, one in wire.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
