"""From probabilities to a label: the one rule that cameras decide by and runs are judged by."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def called(
    probabilities: NDArray[np.floating[Any]], thresholds: Sequence[float] | NDArray[np.floating[Any]] | None = None
) -> NDArray[np.int64]:
    """The class whose probability is the largest multiple of its threshold, int [...] of float [..., classes].

    thresholds: one a class, above 0; None or empty: the most probable class.
    """
    if thresholds is None or not len(thresholds):
        return np.asarray(probabilities.argmax(axis=-1))
    return np.asarray((probabilities / np.asarray(thresholds)).argmax(axis=-1))
