"""Bench: what verify finds of faults that were planted in real images, and how well wrong labels are suspected.

    python -m tests.bench.verify --seeds 10

Images are elpv-dataset's; `tests/bench/planted` says what is planted, in which severities. Half of all images, by a
hash of their names, served to choose the limits in `hub`; what is reported is measured on the other half (`--half`).
Each kind of fault is in 5 % of the images of a stream. A finding counts as right only if this very fault was planted:
a cell that looks like another one, or that was blurred before it came into the data set, is a false alarm here.

The stream of blur, darkness and copies comes from three cameras (sharp, dim and noisy, soft), after as many images of
theirs without faults as a model was trained on; what is usual is learnt from both, faults included. The stream of
unseen images is a line of monocrystalline cells. Wrong labels: 5 % of those that the experts were sure of are turned
around; k is their number. Beside what the hub suspects stand, from the same out-of-fold probabilities, cleanlab's ranks
where it is installed (the extra "oracles"); and as a ceiling what the hub suspects when the model learnt from right
labels, which is how far a linear head on these features can tell. Once for each of `train.features`.

Counts are pooled over seeds. The last line is one JSON object: precision and recall of each, recall by severity,
precision_at_k.
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


def cleanlab_ranks(labels, chances):
    """How cleanlab orders labels, the worst first: {name: rows}; nothing where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ModuleNotFoundError:
        return {}
    found = {
        f"cleanlab_{method}": np.argsort(get_label_quality_scores(labels, chances, method=method), kind="stable")
        for method in ("self_confidence", "normalized_margin")
    }
    issues = find_label_issues(labels, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
    return {**found, "cleanlab_issues": issues}


def wrong_labels(x, truth, seed):
    """Shares of labels that are wrong, from out-of-fold probabilities; k labels were turned around.

    precision_at_k, precision_at_half_k: of the k, or half as many, that the hub suspects most; suspects: their number;
    recall_of_suspects; cleanlab_*: precision_at_k of its ranks; ceiling_at_k: precision_at_k of a model that learnt
    from right labels.
    """
    rng = np.random.default_rng([seed, 2])
    k = round(WRONG * len(truth))
    turned = np.zeros(len(truth), bool)
    turned[rng.permutation(len(truth))[:k]] = True
    labels = np.where(turned, 1 - truth, truth)
    trained = train_head(x, labels, 2, TrainSettings(seed=seed), lambda _: None)
    clean = train_head(x, truth, 2, TrainSettings(seed=seed), lambda _: None)
    ranked = [one.row for one in suspects(trained.oof, labels)]
    return {
        "precision_at_k": turned[ranked[:k]].sum() / k,
        "precision_at_half_k": turned[ranked[: k // 2]].sum() / (k // 2),
        "suspects": len(ranked),
        "recall_of_suspects": turned[ranked].sum() / k,
        **{name: turned[rows[:k]].sum() / k for name, rows in cleanlab_ranks(labels, trained.oof).items()},
        "ceiling_at_k": turned[[one.row for one in suspects(clean.oof, labels)][:k]].sum() / k,
    }


def label_figures(cache, half, seeds):
    """Means of `wrong_labels` over seeds, for each of the backbone's features."""
    sure = [one for one in streams.cells() if one.label is not None and streams.half_of(one.name) == half]
    truth = np.array([one.label for one in sure])
    pictures = [streams.Seen("", np.repeat(one.scene.astype(np.uint8)[:, :, None], 3, axis=2)) for one in sure]
    figures = {}
    for features in ("pooled", "stages"):
        x = embed(Part(export_backbone(cache, HOW, features=features), name="backbone"), pictures)
        found = [wrong_labels(x, truth, seed) for seed in range(seeds)]
        figures[features] = {name: round(float(np.mean([one[name] for one in found])), 3) for name in found[0]}
    return {"k": round(WRONG * len(truth)), **figures}


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
    result = {kind: one.figures() for kind, one in tallies.items()}
    result["wrong_labels"] = label_figures(arguments.cache, arguments.half, arguments.seeds)
    print(json.dumps({"half": arguments.half, "seeds": arguments.seeds, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
