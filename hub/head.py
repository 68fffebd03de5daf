"""The small trainable part of a model, as numbers: train makes it, export writes it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Hidden units: relu(x @ weights.T + bias). weights: float32 [units, dims]; bias: float32 [units]."""

    weights: Floats
    bias: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear head, or one with a hidden layer, that knows how far an image is from what it was trained on.

    weights: float32 [classes, dims], or [classes, units] after a hidden layer; bias: float32 [classes];
    temperature > 0. center, gain: float32 [dims]; the squared distance `d = |(x - center) * gain|^2` is at most 1 for
    three quarters of the training set. Probabilities are those of the plain head; the confidence score is the best one
    after its logits were divided by `max(1, d)^2`, so that an image unlike all training images gets a low score
    whatever side of the plane it lies on. The idea is distance awareness (Liu et al. 2020, arXiv:2006.10108), the
    distance a diagonal Mahalanobis one (Lee et al. 2018, arXiv:1807.03888).
    """

    weights: Floats
    bias: Floats
    temperature: float
    center: Floats
    gain: Floats
    hidden: Layer | None = None

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        return int(self.weights.shape[0])

    @property
    def dims(self) -> int:
        """Length of the embedding that it takes."""
        return int((self.weights if self.hidden is None else self.hidden.weights).shape[1])

    def probabilities(self, embeddings: Floats) -> Floats:
        """softmax(logits / temperature): float32 [n, dims] -> float32 [n, classes]."""
        return _softmax(self._logits(embeddings))

    def confidences(self, embeddings: Floats) -> Floats:
        """The confidence score of each image, 1 / classes to 1: float32 [n, dims] -> float32 [n]."""
        distance = (((embeddings - self.center) * self.gain) ** 2).sum(axis=1, keepdims=True)
        best: Floats = _softmax(self._logits(embeddings) / np.maximum(1.0, distance) ** 2).max(axis=1)
        return best

    def _logits(self, embeddings: Floats) -> Floats:
        x = embeddings
        if self.hidden is not None:
            x = np.maximum(x @ self.hidden.weights.T + self.hidden.bias, np.float32(0))
        logits: Floats = (x @ self.weights.T + self.bias) / np.float32(self.temperature)
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a training set lies: `(x - mean) / scale` has a mean squared length of 1. float64 [dims] each.

    reach: squared length within which three quarters of the set lie then.
    """

    mean: Doubles
    scale: Doubles
    reach: float

    @property
    def center(self) -> Floats:
        """Of the distance that a head knows."""
        return self.mean.astype(np.float32)

    @property
    def gain(self) -> Floats:
        """Of the distance that a head knows."""
        return np.asarray(1.0 / self.scale / math.sqrt(self.reach), np.float32)


def place_of(x: Doubles, shrinkage: float) -> Place | None:
    """The place of float64 [n, dims]; None when all rows are the same.

    Every dimension is scaled by `std + shrinkage * mean(std)`, so that rarely active ones do not blow up.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0)
    scale = spread + shrinkage * spread.mean()
    scale[scale == 0] = 1.0
    squares = (((x - mean) / scale) ** 2).sum(axis=1)
    length = math.sqrt(float(squares.mean()))
    if not length > 0:
        return None
    return Place(mean, scale * length, float(np.quantile(squares, 0.75)) / length**2)


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
