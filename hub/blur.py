"""Blur, learnt from the project's own pictures: each is blurred on purpose, and a linear rule tells the two apart.

What is sharp differs more between a cast part and a solar cell than between a sharp and a blurred cell, so no fixed
limit serves. Here a picture is compared with what its own kind looks like blurred. Pure.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hub.quality import Floats, noise_of

Doubles = NDArray[np.float64]
ENOUGH = 66
"""Pictures to learn from: as many as there are features. Before, only what has hardly any edges at all is blurred."""
FLAT_BELOW = 15.0
"""Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) below which a picture is blurred while none are known."""
LIMIT = 2.0
"""Robust standard deviations above the sharp pictures; chosen on the first half of tests/bench/verify.py."""
_RIDGE = 0.01
_SIGMA = (1.2, 6.0)  # pixels of 256
_LENGTH = (7, 22)
_MOTIONS = 0.4  # of all
_SMOOTHED = 0.1


def soften(grey: Floats, seed: int) -> Floats:
    """The picture out of focus or in motion, by an amount drawn from `seed`.

    With the noise that it had before; some with less, as cameras that compress or smooth make them: without these, a
    blurred picture without noise would be none of those that were learnt from.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < _MOTIONS:
        soft = cv2.filter2D(grey, -1, _motion(int(rng.integers(*_LENGTH)), float(rng.uniform(0, math.pi))))
    else:
        soft = cv2.GaussianBlur(grey, (0, 0), math.exp(rng.uniform(*np.log(_SIGMA))))
    noise = max(noise_of(grey), 0.3) * (rng.random() if rng.random() < _SMOOTHED else 1.0)
    noisy = soft + rng.normal(0, noise, grey.shape)
    taken: Floats = np.clip(np.rint(noisy), 0, 255).astype(np.float32)
    return taken


def _motion(length: int, angle: float) -> Floats:
    line = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    x, y = math.cos(angle) * middle, math.sin(angle) * middle
    start, end = (round(middle - x), round(middle - y)), (round(middle + x), round(middle + y))
    kernel = np.asarray(cv2.line(line, start, end, 1.0), np.float32)
    evened: Floats = kernel / kernel.sum()
    return evened


def flatness(grey: Floats) -> float:
    """Variance of the Laplacian: small where there are no edges."""
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


class Rule:
    """Fisher's linear discriminant (1936) between pictures as they came and the same ones softened."""

    def __init__(self, sharp: Sequence[Floats], soft: Sequence[Floats]) -> None:
        """sharp, soft: `quality.sharpness` of at least ENOUGH pictures, and of each softened."""
        a, b = np.array(sharp, np.float64), np.array(soft, np.float64)
        inside = (np.cov(a.T) + np.cov(b.T)) / 2
        spread = np.sqrt(np.maximum(np.diag(inside), 1e-9))
        ridged = inside / np.outer(spread, spread) + _RIDGE * np.eye(len(spread))
        self._weights: Doubles = np.linalg.solve(ridged, (b.mean(axis=0) - a.mean(axis=0)) / spread) / spread
        scores = a @ self._weights
        self._middle = float(np.median(scores))
        # Some of the pictures may be blurred already: the sharp half says how far sharp ones reach.
        self._spread = max(1.4826 * float(np.median(np.abs(scores - self._middle))), 1e-9)

    def score(self, sharpness: Floats) -> float:
        """Robust standard deviations from the usual sharpness towards blur."""
        return (float(sharpness @ self._weights) - self._middle) / self._spread
