"""Too little light: whether everything that a picture shows is fainter than its camera usually shows it. Pure.

A part that is dark by itself keeps its edges and contrast in other proportions than a picture that got less light:
there, light, contrast and edges all lose the same factor, which is the same step down in logarithms. The step is
estimated by generalised least squares (Aitken, 1936): what varies much from part to part weighs little, and what varies
together counts once. Exposure that varies among earlier pictures does not change the weights, since it adds to all
covariances alike.
"""

from collections.abc import Sequence

import numpy as np

from hub.quality import ENOUGH, Floats, Light, usual

LIMIT = 4.4
"""Robust standard deviations below what is usual; chosen on the first half of tests/bench/verify.py."""
_SHOWN = [47, 46, 33, 34]  # of `quality.sharpness`: mean light, contrast, strongest edges at the two coarsest scales
_RIDGE = 0.03  # of the mean variance: thirty pictures do not say all of a covariance


def levels(light: Light, sharpness: Floats) -> Floats:
    """How light a picture is and what it shows, float32 [5], in logarithms."""
    return np.concatenate([[light.up], sharpness[_SHOWN]]).astype(np.float32)


def dimness(now: Floats, history: Sequence[Floats]) -> float | None:
    """By how many robust standard deviations all `levels` are below the camera's usual; None before we know these."""
    if len(history) < ENOUGH:
        return None
    before = np.array(history, np.float64)
    covariance = np.cov((before - np.median(before, axis=0)).T)
    ridged = covariance + max(_RIDGE * float(np.trace(covariance)) / len(now), 1e-9) * np.eye(len(now))
    weights = np.linalg.solve(ridged, np.ones(len(now)))
    weights /= weights.sum()
    known = usual((before @ weights).tolist())
    return None if known is None else (known[0] - float(now @ weights)) / known[1]
