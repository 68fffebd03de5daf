"""Novelty: how far an image is from all that the model was trained on. Pure.

The distance to the nearest training embeddings (Sun et al., "Out-of-Distribution Detection with Deep Nearest
Neighbors", ICML 2022), cosine, against how far training images are from one another: what is far is the project's own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ENOUGH = 20
"""Training images before anything is called novel."""
MOST = 2000
"""Training images that are compared with; of more, evenly chosen ones."""
LIMIT = 2.6
"""Robust standard deviations, of log distances; chosen on the first half of tests/bench/verify.py."""


def unit(rows: Floats) -> Floats:
    """Rows, or one row, scaled to length 1."""
    scaled: Floats = (rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)).astype(np.float32)
    return scaled


class Reference:
    """The training images. vectors: embeddings of one backbone, float32 [n, dims], n at least ENOUGH."""

    def __init__(self, vectors: Floats) -> None:
        self._units = unit(vectors[:: -(-len(vectors) // MOST)])
        cosines = self._units @ self._units.T
        np.fill_diagonal(cosines, -1.0)
        usual = _log(1.0 - cosines.max(axis=1))
        self._middle = float(np.median(usual))
        self._spread = max(1.4826 * float(np.median(np.abs(usual - self._middle))), 0.05)

    def distance(self, vector: Floats) -> float:
        """Cosine distance to the nearest training image, 0..2."""
        return max(0.0, 1.0 - float((self._units @ unit(vector)).max()))

    def score(self, distance: float) -> float:
        """A distance in robust standard deviations above that of training images from one another."""
        return float((_log(np.array(distance)) - self._middle) / self._spread)


def _log(distances: NDArray[Any]) -> Floats:
    logs: Floats = np.log(np.maximum(distances, 1e-6)).astype(np.float32)
    return logs
