"""Bench: what verify finds of faults that were planted in real images, and how well wrong labels are suspected.

    python -m tests.bench.verify --seeds 10

Images are elpv-dataset's; `tests/bench/planted` says what is planted, in which severities. Half of all images, by a
hash of their names, served to choose the limits in `hub`; what is reported is measured on the other half (`--half`).
Each kind of fault is in 5 % of the images of a stream. A finding counts as right only if this very fault was planted:
a cell that looks like another one, or that was blurred before it came into the data set, is a false alarm here.

The stream of blur, darkness and copies comes from three cameras (sharp, dim and noisy, soft), after as many images of
theirs without faults as a model was trained on; what is usual is learnt from both, faults included. The stream of
unseen images is a line of monocrystalline cells. Wrong labels: 5 % of those that the experts were sure of are turned
around; k is their number. Counts are pooled over seeds.

The last line is one JSON object: precision and recall of each, recall by severity, precision_at_k.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from hub import quality
from hub.export import export_backbone
from hub.looks import Checker
from hub.settings import TrainSettings
from hub.suspects import suspects
from hub.train import train_head
from shared.litert import Part
from shared.preprocess import Preprocess, to_input
from tests.bench.planted import streams

FLAGS = {"blur": "blurred", "dark": "dark", "copies": "copy", "unseen": "novel"}
WRONG = 0.05
HOW = Preprocess()


def embed(part, seen):
    """Embeddings of `Seen`, float32 [n, dims]."""
    return np.stack([part.run(to_input(one.pixels, HOW))[0] for one in seen])


def run_stream(part, taught, stream, *, history):
    """The flags of every image of the stream. history: whether the cameras saw what the model was trained on."""
    greys = {}
    checker = Checker(greys.get)
    known = embed(part, taught)
    checker.taught(known)
    number = 0
    found = []
    for seen, vector in zip([*taught, *stream], [*known, *embed(part, stream)], strict=True):
        number += 1
        if number <= len(taught) and not history:
            continue
        flags, look = checker.look(seen.camera, seen.pixels, vector)
        greys[number] = quality.grey_of(seen.pixels)
        checker.add(number, seen.camera, look, vector)
        if number > len(taught):
            found.append(flags)
    return found


class Tally:
    """Right, false and missed findings of one kind, and which severities were found."""

    def __init__(self, kind):
        self.kind = kind
        self.counts = Counter()
        self.severities = defaultdict(Counter)

    def add(self, seen, flags):
        planted, flagged = seen.planted == self.kind, FLAGS[self.kind] in flags
        self.counts[planted, flagged] += 1
        if planted:
            self.severities[seen.severity][flagged] += 1

    def figures(self):
        right, wrong, missed = self.counts[True, True], self.counts[False, True], self.counts[True, False]
        return {
            "precision": round(right / max(1, right + wrong), 3),
            "recall": round(right / max(1, right + missed), 3),
            "planted": right + missed,
            "false": wrong,
            "of": sum(self.counts.values()),
            "recall_by_severity": {
                name: round(one[True] / max(1, one.total()), 2) for name, one in self.severities.items()
            },
        }


def wrong_labels(x, truth, seed):
    """Share of turned labels among the k most suspicious, k their number; and among the first half of those."""
    rng = np.random.default_rng([seed, 2])
    k = round(WRONG * len(truth))
    turned = np.zeros(len(truth), bool)
    turned[rng.permutation(len(truth))[:k]] = True
    labels = np.where(turned, 1 - truth, truth)
    trained = train_head(x, labels, 2, TrainSettings(seed=seed), lambda _: None)
    ranked = [one.row for one in suspects(trained.oof, labels[trained.oof_rows])]
    hits = turned[trained.oof_rows][ranked]
    return hits[:k].sum() / k, hits[: k // 2].sum() / (k // 2), len(ranked), hits.sum() / k


def main():
    """Plant, look, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--half", choices=streams.HALVES, default="report", help="of the images (default: report)")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    part = Part(export_backbone(arguments.cache, HOW), name="backbone")
    tallies = {kind: Tally(kind) for kind in FLAGS}
    flags_seen = Counter()
    for seed in range(arguments.seeds):
        for make, kinds in ((streams.faulty_line, ("blur", "dark", "copies")), (streams.new_product, ("unseen",))):
            taught, stream = make(arguments.half, seed)
            for seen, flags in zip(stream, run_stream(part, taught, stream, history=True), strict=True):
                flags_seen.update(flags.keys())
                for kind in kinds:
                    tallies[kind].add(seen, flags)
        print({kind: one.figures() for kind, one in tallies.items()}, dict(flags_seen), flush=True)
    sure = [one for one in streams.cells() if one.label is not None and streams.half_of(one.name) == arguments.half]
    x = embed(part, [streams.Seen("", np.repeat(one.scene.astype(np.uint8)[:, :, None], 3, axis=2)) for one in sure])
    truth = np.array([one.label for one in sure])
    found = np.array([wrong_labels(x, truth, seed) for seed in range(arguments.seeds)])
    result = {kind: one.figures() for kind, one in tallies.items()}
    result["wrong_labels"] = {
        "precision_at_k": round(float(found[:, 0].mean()), 3),
        "precision_at_half_k": round(float(found[:, 1].mean()), 3),
        "k": round(WRONG * len(truth)),
        "suspects": round(float(found[:, 2].mean()), 1),
        "recall_of_suspects": round(float(found[:, 3].mean()), 3),
    }
    print(json.dumps({"half": arguments.half, "seeds": arguments.seeds, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
