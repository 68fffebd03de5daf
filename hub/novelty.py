"""Novelty: how far an image is from all that the model was trained on. Pure.

The distance to the nearest training embeddings (Sun et al., "Out-of-Distribution Detection with Deep Nearest
Neighbors", ICML 2022), cosine, against how far training images are from one another: what is far is the project's own.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ENOUGH = 20
"""Training images before anything is called novel."""
MOST = 2000
"""Training images that are compared with; of more, evenly chosen ones."""
WITHIN = 0.95
"""Share of training images that are no farther from one another than what is usual; the paper's own choice."""
LIMIT = 1.8
"""So many times farther is novel; chosen on the first half of tests/bench/verify.py."""


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
        self._usual = max(float(np.quantile(1.0 - cosines.max(axis=1), WITHIN)), 1e-6)

    def distance(self, vector: Floats) -> float:
        """Cosine distance to the nearest training image, 0..2."""
        return max(0.0, 1.0 - float((self._units @ unit(vector)).max()))

    def score(self, distance: float) -> float:
        """A distance, as a multiple of what is usual among training images."""
        return distance / self._usual
