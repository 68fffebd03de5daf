"""Choose: which of the images that wait teach the most per label. Pure rules: numbers in, an order out.

Every strategy is a setting, `label.order`; all take the same things and give indices, the first one to ask first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
COPY = 1e-6
"""Relative distance below which an image teaches nothing new; one is asked for only when there is nothing else."""
NOISE = 1.0
"""Variance of a label, where embeddings have a mean squared length of 1."""
MOST = 1500
"""More images are not compared with each other: the time grows with the square, half a second at this number."""
PAGE = 12
"""About so many images make one page of "cluster"."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """Images without a decision. scores: the model's confidence, float32 [n]; embeddings: float32 [n, d]; cameras: n
    names. known: float32 [m, d], embeddings of the images that are decided already.
    """

    scores: Floats
    embeddings: Floats
    cameras: Sequence[str]
    known: Floats


def mix(waiting: Waiting, count: int, *, shortlist: int = 4, seed: int = 0) -> list[int]:
    """One after the other the image whose label takes the most doubt out of all that wait, and is itself in doubt.

    As if labels were linear in the embedding, with a unit Gaussian prior and unit noise, one of image j takes
    `C_ij^2 / (C_jj + NOISE)` off the variance of image i, C being the covariance given all that is known (Cohn,
    Ghahramani and Jordan 1996, arXiv:cs/9603104; Yu, Bi and Tresp 2006, transductive experimental design). It counts by
    how unsure the model is of image i (as in Fisher designs: Ash et al. 2021, arXiv:2106.09675), and the sum by how
    unsure it is of j (Lewis and Gale 1994). So what is chosen covers what waits, above all a new line, and is no copy.
    Of more than MOST images that wait or are known, so many count, spread evenly over the scores, or over time.
    """
    if not len(waiting.scores):
        return []
    rows = _spread(np.argsort(waiting.scores, kind="stable"), max(MOST, count))
    known = waiting.known[_spread(np.arange(len(waiting.known)), MOST)].reshape(-1, waiting.embeddings.shape[1])
    z = _standard(np.concatenate([waiting.embeddings[rows], known]))
    z, told = z[: len(rows)], z[len(rows) :]
    likeness = (z @ z.T).astype(np.float64)  # before a constant is added for the bias: of one prior weight as well
    fresh = np.ones(len(rows), bool)
    covariance = likeness + 1.0
    if len(told):
        from scipy.linalg import cholesky, solve_triangular

        across = (told @ z.T).astype(np.float64)
        among = (told @ told.T).astype(np.float64)
        squares = np.diag(among)[:, np.newaxis] + np.diag(likeness)
        fresh &= (squares - 2 * across > COPY * squares).all(axis=0)
        factor = cholesky(among + 1.0 + NOISE * np.eye(len(told)), lower=True)
        half = solve_triangular(factor, across + 1.0, lower=True)
        covariance -= half.T @ half
    doubt = _doubt(waiting.scores[rows])
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        spread = np.diag(covariance) + NOISE
        gain = doubt * (doubt @ covariance**2) / spread
        gain[~fresh] -= gain.max() + 1.0  # a copy is asked for only when there is nothing else
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        squares = np.diag(likeness) + likeness[best, best]
        fresh &= squares - 2 * likeness[best] > COPY * squares
        covariance -= np.outer(covariance[:, best], covariance[best] / spread[best])
    return [int(rows[one]) for one in chosen]


def halves(waiting: Waiting, count: int, *, shortlist: int = 4, seed: int = 0) -> list[int]:
    """In turn the image farthest from all known ones, and the farthest one of the unsure.

    The first half is greedy k-center (Sener and Savarese 2018, arXiv:1708.00489) over all, the second the same among
    the `shortlist * count` least confident (Lewis and Gale 1994), but at most a third of all: unsure ones alone are a
    poor first batch, since a model that meets a new line is also wrong where it is sure.
    """
    points = _unit(waiting.embeddings)
    unsure = np.zeros(len(points), bool)
    unsure[np.argsort(waiting.scores, kind="stable")[: min(shortlist * count, max(1, len(points) // 3))]] = True
    # Where nothing is known yet, the least sure one starts.
    distance = 1.0 - (points @ _unit(waiting.known).T).max(axis=1) if len(waiting.known) else 2.0 - waiting.scores
    chosen: list[int] = []
    for turn in range(min(count, len(points))):
        open_ones = distance if turn % 2 == 0 else np.where(unsure, distance, -1.0)
        best = int((open_ones if open_ones.max() > COPY else distance).argmax())
        chosen.append(best)
        distance = np.minimum(distance, 1.0 - points @ points[best])
        distance[chosen] = -1.0
    return chosen


def uncertainty(waiting: Waiting, count: int, *, shortlist: int = 4, seed: int = 0) -> list[int]:
    """The least confident first (Lewis and Gale 1994, arXiv:cmp-lg/9407020)."""
    return [int(one) for one in np.argsort(waiting.scores, kind="stable")[:count]]


def cluster(waiting: Waiting, count: int, *, shortlist: int = 4, seed: int = 0) -> list[int]:
    """Like images together, the greatest group first, within it the most typical first: fast to decide in bulk.

    Groups by k-means (Lloyd 1982; seeded by Arthur and Vassilvitskii 2007) on directions, about PAGE images each.
    """
    from sklearn.cluster import KMeans

    points = _unit(waiting.embeddings)
    groups = min(len(points), -(-len(points) // PAGE))
    if groups < 2:
        return list(range(len(points)))[:count]
    found = KMeans(groups, n_init=1, max_iter=50, random_state=seed).fit(points)
    size = np.bincount(found.labels_, minlength=groups)[found.labels_]
    far = np.linalg.norm(points - found.cluster_centers_[found.labels_], axis=1)
    return [int(one) for one in np.lexsort((far, found.labels_, -size))[:count]]


def camera(waiting: Waiting, count: int, *, shortlist: int = 4, seed: int = 0) -> list[int]:
    """Every camera in turn, in the order of their names, each with its least confident image first."""
    order = np.argsort(waiting.scores, kind="stable")
    turns: dict[str, int] = {}
    keys = []
    for one in order:
        name = waiting.cameras[one]
        turns[name] = turns.get(name, -1) + 1
        keys.append((turns[name], name, int(one)))
    return [one for _, _, one in sorted(keys, key=lambda key: key[:2])[:count]]


def random(waiting: Waiting, count: int, *, shortlist: int = 4, seed: int = 0) -> list[int]:
    """Any, all with the same probability: what every strategy must be better than."""
    drawn = np.random.default_rng(seed).permutation(len(waiting.scores))
    return [int(one) for one in drawn[:count]]


ORDERS: Mapping[str, Callable[..., list[int]]] = {
    "mix": mix,
    "halves": halves,
    "uncertainty": uncertainty,
    "cluster": cluster,
    "camera": camera,
    "random": random,
}
"""The setting `label.order` -> the rule."""


def _doubt(scores: Floats) -> NDArray[np.float64]:
    """Variance of "the model is right", 1 at an even chance or less, float64 [n]; never 0: it may be surely wrong."""
    sure = np.clip(scores.astype(np.float64), 0.5, 1.0)
    return np.maximum(4.0 * sure * (1.0 - sure), 0.01)


def _spread(order: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many of them, evenly spread."""
    return order if len(order) <= most else order[np.linspace(0, len(order) - 1, most).round().astype(np.intp)]


def _standard(rows: Floats) -> Floats:
    """Rows standardised as `hub.train` does by default, with a mean squared length of 1."""
    spread = rows.std(axis=0)
    scale = spread + 0.3 * spread.mean()
    scale[scale == 0] = 1.0
    z = (rows - rows.mean(axis=0)) / scale
    length = np.sqrt((z**2).sum(axis=1).mean())
    return np.asarray(z / (length or 1.0), np.float32)


def _unit(rows: Floats) -> Floats:
    """Rows scaled to length 1, for cosine distances."""
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
