"""The small trainable part of a model, as numbers: train makes it, export writes it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear head that knows how far an image is from what it was trained on.

    weights: float32 [classes, dims]; bias: float32 [classes]; temperature > 0. center, gain: float32 [dims]; the
    squared distance `d = |(x - center) * gain|^2` is at most 1 for three quarters of the training set. Probabilities
    are those of the linear head; the confidence score is the best one after its logits were divided by `max(1, d)^2`,
    so that an image unlike all training images gets a low score whatever side of the plane it lies on. The idea is
    distance awareness (Liu et al. 2020, arXiv:2006.10108), the distance a diagonal Mahalanobis one (Lee et al. 2018,
    arXiv:1807.03888).
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float
    center: NDArray[np.float32]
    gain: NDArray[np.float32]

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
        return _softmax(self._logits(embeddings))

    def confidences(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """The confidence score of each image, 1 / classes to 1: float32 [n, dims] -> float32 [n]."""
        distance = (((embeddings - self.center) * self.gain) ** 2).sum(axis=1, keepdims=True)
        best: NDArray[np.float32] = _softmax(self._logits(embeddings) / np.maximum(1.0, distance) ** 2).max(axis=1)
        return best

    def _logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = (embeddings @ self.weights.T + self.bias) / np.float32(self.temperature)
        return logits


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
