"""Bench: the demo over consecutive seeds, as `make demo ONCE=1 SEED=n` runs it.

    python -m tests.bench.demo --seeds 5

Prints a line a seed, and as the last line one JSON object: for each seed AUC of the first and the last release on the
mixed holdout, the paired gain with its 95 % interval, what as many random labels gave, labels, images, frames, time;
and the lowest AUC and gain over all seeds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def run_seed(seed, state):
    """One demo in its own state folder; returns its demo.json, with the exit status."""
    command = [sys.executable, "-m", "hub", "demo", "--once", "--seed", str(seed), "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result = json.loads((state / "demo.json").read_text()) if (state / "demo.json").exists() else {}
    if done.returncode:
        print(done.stderr.strip()[-500:], file=sys.stderr)
    return {**result, "status": done.returncode}


def row(seed, result):
    """What is said of one seed."""
    if "releases" not in result:
        return {"seed": seed, "status": result["status"]}
    releases = result["releases"]
    return {
        "seed": seed,
        "status": result["status"],
        "first_auc": round(releases[0]["auc"], 3),
        "last_auc": round(releases[-1]["auc"], 3),
        "gain": round(result["gain"]["auc"], 3),
        "gain_low": round(result["gain"]["low"], 3),
        "random_labels_auc": round(result["random_labels_auc"], 3),
        "labels": result["labels"],
        "releases": len(releases),
        "spooled": result["images"]["spooled"],
        "stored": result["images"]["stored"],
        "left": result["images"]["left"],
        "dropped": result["images"]["dropped"],
        "frames": result["frames"]["captured"],
        "frames_dropped": result["frames"]["dropped"],
        "on_last_release": result["cameras"]["on_last_release"],
        "reload_ms": result["reload_ms"],
        "seconds": result["seconds"],
    }


def main():
    """Run the seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--first", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with TemporaryDirectory() as folder:
            if arguments.cache.is_dir():
                (Path(folder) / "cache").symlink_to(arguments.cache.resolve())
            rows.append(row(seed, run_seed(seed, Path(folder))))
        print(rows[-1], flush=True)
    good = [one for one in rows if one["status"] == 0]
    print(
        json.dumps(
            {
                "seeds": rows,
                "passed": len(good),
                "lowest_last_auc": min((one["last_auc"] for one in good), default=None),
                "lowest_gain_low": min((one["gain_low"] for one in good), default=None),
                "slowest_seconds": max((one["seconds"] for one in good), default=None),
            }
        )
    )
    return 0 if len(good) == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
