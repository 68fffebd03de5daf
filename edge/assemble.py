"""Assemble: a release on the shelf becomes a model that was loaded, run once and checked, ready to be used."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge.infer import Facts, Running
from edge.shelf import Kept, Shelf
from shared import references
from shared.errors import ImageError, PartError
from shared.golden import check as check_golden
from shared.golden import decode as decode_golden
from shared.litert import Model, Part


@dataclass(frozen=True, slots=True)
class Assembled:
    """A checked model. cosine, difference: the worst of its golden check."""

    running: Running
    cosine: float
    difference: float


def assemble(kept: Kept, shelf: Shelf, *, threads: int, pause: Callable[[], None]) -> Assembled:
    """Load, warm up and check against the golden outputs; ModelError where that cannot be done or is not as it should.

    In pieces, each of some milliseconds, with a `pause` before each: no frame waits for more than one.
    """
    spec, parts = kept.model, kept.model.variant(kept.variant)
    golden = decode_golden(shelf.read(parts.golden))
    backbone_bytes = shelf.read(parts.backbone)
    pause()
    backbone = Part(backbone_bytes, name="backbone", threads=threads)
    head_bytes = shelf.read(parts.head)
    head = Part(head_bytes, name="head", threads=threads)
    model = Model(backbone, head, spec.classes, spec.preprocess, parts.thresholds)
    rows = None
    if parts.references is not None:
        rows = references.decode(shelf.read(parts.references), head.input_shape[-1])
    pause()
    model.predict(np.zeros((spec.preprocess.size, spec.preprocess.size, 3), np.uint8))  # warm-up
    try:
        result = check_golden(model, golden, parts.golden_probabilities, parts.tolerances, pause)
    except ImageError as error:
        raise PartError(f"holds an image that {error.what}", subject="golden part") from error
    facts = Facts(kept.release, model.classes, parts.backbone.sha256, head_bytes, rows, kept.variant)
    return Assembled(Running(facts, model), result.worst_cosine, result.worst_difference)
