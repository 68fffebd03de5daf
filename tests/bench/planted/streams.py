"""Streams of real cells with faults planted in them. Half of all images serve to choose thresholds, the other half to
report: which half an image is in follows from a hash of its name alone.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from hub.demo.cells import CLASSES
from tests.bench.planted import pictures

KNOWN = 0.4
"""Share of a half that the model was trained on before the stream begins."""
HALVES = ("tune", "report")


@dataclass(frozen=True, slots=True)
class Cell:
    """One image. scene: float32 [300, 300]; label: index into CLASSES, or None where the experts were not sure."""

    name: str
    scene: np.ndarray
    kind: str
    label: int | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An image of a stream: uint8 RGB [300, 300, 3]. planted: the kind of fault and its severity, empty for none."""

    camera: str
    pixels: np.ndarray
    planted: str = ""
    severity: str = ""


def half_of(name):
    """The half that an image belongs to."""
    return HALVES[hashlib.sha256(name.encode()).digest()[0] % 2]


@cache
def cells():
    """All images of elpv-dataset, also those that its experts were not sure of."""
    folder = Path(importlib.util.find_spec("elpv_dataset").origin).parent / "data"
    found = []
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        name, probability, kind = line.split()
        scene = cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE).astype(np.float32)
        label = {0.0: 0, 1.0: len(CLASSES) - 1}.get(float(probability))
        found.append(Cell(name, scene, kind, label))
    return found


def faulty_line(half, seed):
    """Three cameras on one line of mixed cells, with blur, darkness and copies planted.

    Returns what the model was trained on, a list of `Seen`, and the stream, another one.
    """
    rng = np.random.default_rng([seed, HALVES.index(half)])
    mine = [one for one in cells() if half_of(one.name) == half]
    order = rng.permutation(len(mine))
    cut = round(KNOWN * len(mine))
    known, rest = [mine[one] for one in order[:cut]], [mine[one] for one in order[cut:]]
    cameras = sorted(pictures.LENSES)
    taught = [Seen(name, pictures.take(one.scene, pictures.LENSES[name], rng)) for name, one in _dealt(cameras, known)]
    stream, before = [], {name: [] for name in cameras}
    count = round(pictures.SHARE * len(rest))
    kinds = np.array([""] * len(rest), object)
    # A copy needs something to be a copy of.
    places = rng.permutation(np.arange(30, len(rest)))[: 3 * count]
    for number, kind in enumerate(("blur", "dark", "copies")):
        kinds[places[number * count : (number + 1) * count]] = kind
    turns = {"blur": 0, "dark": 0, "copies": 0}
    grades = {"blur": pictures.BLUR, "dark": pictures.DARK, "copies": pictures.COPIES}
    for (camera, cell), kind in zip(_dealt(cameras, rest), kinds, strict=True):
        lens, scene, severity = pictures.LENSES[camera], cell.scene, ""
        if kind:
            severity = grades[kind][turns[kind] % len(grades[kind])]
            turns[kind] += 1
        if kind == "blur":
            scene = pictures.blurred(scene, severity, rng)
        elif kind == "dark":
            scene = pictures.dark(scene, severity)
        elif kind == "copies":
            scene = pictures.copied(before[camera][int(rng.integers(len(before[camera])))], severity, rng)
        else:
            before[camera].append(scene)
        pixels = pictures.take(scene, lens, rng)
        if kind == "copies":
            pixels = pictures.coded(pixels, severity)
        stream.append(Seen(camera, pixels, kind, severity))
    return taught, stream


def new_product(half, seed):
    """One camera on a line of monocrystalline cells, with images planted that are none of these. As `faulty_line`."""
    from sklearn.datasets import load_digits, load_sample_images

    rng = np.random.default_rng([seed, HALVES.index(half), 1])
    mine = [one for one in cells() if half_of(one.name) == half]
    mono = [one for one in mine if one.kind == "mono"]
    poly = [one for one in mine if one.kind == "poly"]
    digits = [one for number, one in enumerate(load_digits().images) if half_of(f"digit {number}") == half]
    photos = [load_sample_images().images[HALVES.index(half)]]
    order = rng.permutation(len(mono))
    cut = round(KNOWN * len(mono))
    lens = pictures.LENSES["plant/sharp"]
    taught = [Seen("plant/sharp", pictures.take(mono[one].scene, lens, rng)) for one in order[:cut]]
    rest = [(mono[one].scene, "") for one in order[cut:]]
    for number in range(round(pictures.SHARE * len(rest))):
        kind = pictures.UNSEEN[number % len(pictures.UNSEEN)]
        if kind == "poly":
            scene = poly[int(rng.integers(len(poly)))].scene
        elif kind == "photo":
            scene = pictures.photo(photos, rng)
        else:
            scene = pictures.digit(digits[int(rng.integers(len(digits)))])
        rest.append((scene, kind))
    stream = []
    for one in rng.permutation(len(rest)):
        scene, kind = rest[one]
        stream.append(Seen("plant/sharp", pictures.take(scene, lens, rng), "unseen" if kind else "", kind))
    return taught, stream


def _dealt(cameras, given):
    return [(cameras[number % len(cameras)], one) for number, one in enumerate(given)]
