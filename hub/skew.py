"""Skew: how far the camera's embedding of an image is from the hub's own of the same image. Pure.

Both run the same backbone, so what differs is the picture: thinned by a JPEG setting, changed on its way, or decoded
or resized otherwise; or the runtime. float16, in which cameras send embeddings, alone makes less than 1e-6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FAR = 0.01
"""Cosine distance from which pictures are not the same to a model: ten times what a release's golden check allows."""

LAST = 200
"""Images of a camera that its skew is told of."""


@dataclass(frozen=True, slots=True)
class Skew:
    """Of one camera: cosine distances of `n` images, the median and the largest. far: the median is beyond FAR."""

    n: int
    median: float
    largest: float

    @property
    def far(self) -> bool:
        """Whether somebody should look at this camera."""
        return self.median > FAR


def distance(sent: bytes, own: NDArray[np.float32]) -> float | None:
    """Cosine distance, 0..2, of a camera's float16 embedding to ours; None when they are not of equal length."""
    theirs = np.frombuffer(sent, "<f2").astype(np.float64)
    if theirs.shape != own.shape or not np.isfinite(theirs).all():
        return None
    ours = own.astype(np.float64)
    length = float(np.linalg.norm(theirs) * np.linalg.norm(ours))
    return max(0.0, 1.0 - float(theirs @ ours) / length) if length else None


def of(distances: Sequence[float]) -> Skew | None:
    """The skew of one camera; None without any measurement."""
    if not distances:
        return None
    return Skew(len(distances), float(np.median(distances)), float(max(distances)))
