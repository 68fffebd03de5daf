"""Groups of images that look alike, so that one decision can serve for many. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hub.novelty import Floats, unit

ROUNDS = 25


def kmeans(vectors: Floats, count: int, seed: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Group float32 [n, dims] by direction into at most `count` clusters: (cluster of each, int [n]; likeness, [n]).

    likeness: cosine to the center of its own cluster. Lloyd's algorithm on the sphere (Dhillon and Modha, Machine
    Learning 2001), begun as by greedy k-means++ (Arthur and Vassilvitskii, 2007), repeatable by the seed.
    """
    points, rng = unit(vectors), np.random.default_rng(seed)
    chosen = [int(rng.integers(len(points)))]
    trials = 2 + int(np.log(max(1, count)))
    far = _distances(points, chosen)[0]
    while len(chosen) < min(count, len(points)) and far.max() > 1e-6:  # else all others are copies of these
        drawn = rng.choice(len(points), trials, p=far / far.sum())
        left = np.minimum(far, _distances(points, drawn))
        best = int(left.sum(axis=1).argmin())
        far = left[best]
        chosen.append(int(drawn[best]))
    centers = points[chosen]
    for _ in range(ROUNDS):
        nearest = (points @ centers.T).argmax(axis=1)
        # A cluster that lost all its members keeps its center.
        fresh = np.stack(
            [points[mine].mean(axis=0) if (mine := nearest == one).any() else old for one, old in enumerate(centers)]
        )
        if np.allclose(unit(fresh), centers, atol=1e-5):
            break
        centers = unit(fresh)
    cosines = points @ centers.T
    nearest = cosines.argmax(axis=1)
    return nearest.astype(np.int64), cosines[np.arange(len(points)), nearest]


def _distances(points: Floats, chosen: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine distances of all points to some of them, [chosen, n]; never below 0."""
    found: NDArray[np.float64] = np.maximum(1.0 - (points[np.asarray(chosen)] @ points.T).astype(np.float64), 0.0)
    return found
