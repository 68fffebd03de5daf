"""Whether a camera looks where it usually looks: the coarse structure of its picture against those before. Pure."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hub.quality import ENOUGH, Floats, usual

SIDE = 16
"""Parts and their flaws are smaller than a sixteenth of the picture; the scene is not."""
LIMIT = 6.0
"""Robust standard deviations: parts may differ much, another scene does more."""
UNLIKE_BELOW = 0.5
"""A correlation above it is the same view, however steady the camera was before."""
View = NDArray[np.uint8]


def view_of(grey: Floats) -> View:
    """The coarse structure, uint8 [SIDE, SIDE], free of light and contrast."""
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    spread = max(float(small.std()), 1.0)
    view: View = np.clip(128 + 40 * (small - small.mean()) / spread, 0, 255).astype(np.uint8)
    return view


def likeness(view: View, history: Sequence[View]) -> tuple[float, float] | None:
    """Correlation with the camera's median view, and by how many robust standard deviations it is below the usual one.

    None while there is too little to say.
    """
    if len(history) < ENOUGH:
        return None
    rows = np.stack([one.ravel() for one in history]).astype(np.float32)
    middle = np.median(rows, axis=0)
    before = usual([_correlation(one, middle) for one in rows])
    if before is None:
        return None
    now = _correlation(view.ravel().astype(np.float32), middle)
    return now, (before[0] - now) / before[1]


def _correlation(one: Floats, other: Floats) -> float:
    a, b = one - one.mean(), other - other.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))
