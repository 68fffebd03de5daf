"""The demo's images: solar cells of the PyPI package elpv-dataset (CC-BY-NC-SA), split for the story by a seed.

Truth is what its experts were sure of: defect probability 0 ("good") or 1 ("defective"). The others are left out.
"""

import importlib.util
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigError

CLASSES = ("good", "defective")
START = 150
HOLDOUT_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Cell:
    """One image. kind: "mono" or "poly"."""

    path: Path
    label: str
    kind: str


@dataclass(frozen=True, slots=True)
class Split:
    """start: mono cells of the first model. holdout: mixed, never streamed. streams: a list a camera, mono first."""

    start: list[Cell]
    holdout: list[Cell]
    streams: list[list[Cell]]


def load() -> list[Cell]:
    """All clear cells; ConfigError when the package is not installed."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "is not installed, the demo needs its images",
            subject="elpv-dataset",
            remedy="Run: pip install 'hone[demo]'",
        )
    folder = Path(spec.origin).parent / "data"
    cells = []
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        name, probability, kind = line.split()
        if float(probability) in (0.0, 1.0):
            cells.append(Cell(folder / name, CLASSES[int(float(probability))], kind))
    return cells


def split(cells: Sequence[Cell], seed: int, cameras: int, frames: int = 0) -> Split:
    """Deal the cells out: a holdout stratified by kind and label, a start set, and the rest to the cameras.

    frames: most frames a camera, 0 for all; the share of mono and poly is kept.
    """
    rng = random.Random(seed)
    strata: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        strata[cell.kind, cell.label].append(cell)
    holdout: list[Cell] = []
    rest: list[Cell] = []
    for key in sorted(strata):
        members = strata[key]
        rng.shuffle(members)
        count = round(HOLDOUT_SHARE * len(members))
        holdout += members[:count]
        rest += members[count:]
    rng.shuffle(rest)
    mono = [one for one in rest if one.kind == "mono"]
    poly = [one for one in rest if one.kind == "poly"]
    start, mono = mono[:START], mono[START:]
    share = min(1.0, frames * cameras / (len(mono) + len(poly))) if frames else 1.0
    mono, poly = mono[: round(share * len(mono))], poly[: round(share * len(poly))]
    return Split(start, holdout, [mono[one::cameras] + poly[one::cameras] for one in range(cameras)])


def lay_out(cells: Sequence[Cell], folder: Path) -> None:
    """Link cells into folders by class."""
    for cell in cells:
        target = folder / cell.label / cell.path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(cell.path, target)
