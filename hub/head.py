"""The small trainable part of a model, as numbers: train makes it, export writes it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear head. weights: float32 [classes, dims]; bias: float32 [classes]; temperature > 0."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return int(self.weights.shape[0])

    @property
    def dims(self) -> int:
        """Length of the embedding that it takes."""
        return int(self.weights.shape[1])

    def probabilities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """softmax((x @ weights.T + bias) / temperature): float32 [n, dims] -> float32 [n, classes]."""
        logits = (embeddings @ self.weights.T + self.bias) / np.float32(self.temperature)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
