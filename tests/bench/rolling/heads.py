"""Two real heads by the demo's story: the new one is better on a holdout of mono cells, and worse where poly cells run.

The release in use was trained on mono and poly cells; the candidate on many more mono cells and few poly ones. A
holdout that nobody has extended since the line was switched has mono cells alone.
"""

from pathlib import Path

import numpy as np

from hub.demo.cells import load, split
from hub.settings import TrainSettings
from hub.train import train_head
from tests.bench.learn import POOLED, embeddings
from tests.bench.rolling.decisions import Setting

MONO, POLY, FEW = 100, 250, 25
"""Cells of the stream that the old head has learnt beside the start set, and poly ones that the new one has; poly cells
that neither has seen are the field."""


def worse_in_the_field(cache: Path, seed: int):
    """The setting that the two heads make on poly cells, the accuracy of the old and of the new one on the mono
    holdout, and how many poly cells that is from.
    """
    cells = load()
    x = embeddings(cells, cache)[:, :POOLED]
    y = np.array([cell.label == "defective" for cell in cells], int)
    row = {cell: number for number, cell in enumerate(cells)}
    dealt = split(cells, seed, cameras=1)

    def rows(some, kind):
        return [row[one] for one in some if one.kind == kind]

    start, mono, poly = rows(dealt.start, "mono"), rows(dealt.streams[0], "mono"), rows(dealt.streams[0], "poly")
    old = _head(x, y, [*start, *mono[:MONO], *poly[:POLY]])
    new = _head(x, y, [*start, *mono, *poly[:FEW]])
    held, field = rows(dealt.holdout, "mono"), [*poly[POLY:], *rows(dealt.holdout, "poly")]
    before, after = _right(old, x, y, field), _right(new, x, y, field)
    setting = Setting(
        f"elpv, seed {seed}, trained on mono mostly",
        broken=float((before & ~after).mean()),
        mended=float((~before & after).mean()),
        kind="bad",
    )
    return setting, _right(old, x, y, held).mean(), _right(new, x, y, held).mean(), len(field)


def _head(x, y, rows):
    return train_head(x[rows], y[rows], 2, TrainSettings(), lambda _: None).head


def _right(head, x, y, rows):
    """On which of these cells a head is right, bool [n]."""
    return head.probabilities(x[rows]).argmax(axis=1) == y[rows]
