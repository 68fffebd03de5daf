"""Out-of-fold predictions: which images a fit does not see, and what its predictions of those are worth."""

import math

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

_TEMPERATURES = (0.1, 10.0)  # beyond these a small out-of-fold sample says nothing
_TEMPERATURE_PRECISION = 1e-4  # of its logarithm


def fold_count(y: Labels, classes: int, most: int, near: Labels | None = None) -> int:
    """How many folds there can be, `most` at most: each holds an image, or a group of near-copies, of every class.

    near: int [n], the same number for images of one group. A class that is all one group counts by its images.
    """
    fewest = np.bincount(y, minlength=classes)
    if near is not None:
        groups = np.array([len(np.unique(near[y == label])) for label in range(classes)])
        fewest = np.where(groups > 1, groups, fewest)
    return min(most, int(fewest.min()))


def folds_of(y: Labels, folds: int, rng: np.random.Generator, near: Labels | None = None) -> Labels:
    """Stratified: the fold of each image, int [n]; each class is spread evenly.

    near: int [n], the same number for near-copies, which all fall into one fold: what a fit has nearly seen says
    nothing of what it has not. Where that would leave a fold without a class, or the others with a single image of it,
    that class is spread by image.
    """
    if near is None:
        near = np.arange(len(y))
    while True:
        side = _spread(y, folds, rng, near)
        held = np.array([np.bincount(side[y == label], minlength=folds) for label in np.unique(y)])
        count = held.sum(axis=1)
        short = (held.min(axis=1) == 0) | (count - held.max(axis=1) < np.minimum(2, count - 1))
        together = np.isin(y, np.unique(y)[short]) & (np.bincount(near)[near] > 1)
        if not together.any():
            return side
        near = np.where(together, near.max() + 1 + np.arange(len(y)), near)


def _spread(y: Labels, folds: int, rng: np.random.Generator, near: Labels) -> Labels:
    """Groups first, the largest before the others, each where there is least of its classes; then fill up evenly."""
    side = np.zeros(len(y), dtype=np.int64)
    labels, label_of = np.unique(y, return_inverse=True)
    total = np.bincount(label_of)
    held = np.zeros((folds, len(labels)))
    size = np.bincount(near)
    groups = np.flatnonzero(size > 1)
    if len(groups):
        groups = rng.permutation(groups)
    for group in sorted(groups.tolist(), key=lambda one: -int(size[one])):
        members = np.flatnonzero(near == group)
        added = np.bincount(label_of[members], minlength=len(labels))
        fold = min(range(folds), key=lambda one: (float(held[one] @ (added / total**2)), held[one].sum(), one))
        side[members] = fold
        held[fold] += added
    for number, label in enumerate(labels):
        members = rng.permutation(np.flatnonzero((y == label) & (size[near] == 1)))
        # In turns, as if each fold had what groups gave it by turns before.
        turn = held[:, number].astype(np.int64)[:, np.newaxis] + np.arange(len(members))
        side[members] = np.argsort(turn.T.ravel(), kind="stable")[: len(members)] % folds
    return side


def weights_of(y: Labels, classes: int, balanced: bool) -> Doubles:
    """Weight of each image, float64 [n], sum 1; balanced: the classes present share it equally."""
    if not balanced:
        return np.full(len(y), 1.0 / len(y))
    counts = np.bincount(y, minlength=classes)
    return 1.0 / (counts[y] * np.count_nonzero(counts))


def log_loss(logits: Doubles, y: Labels, balanced: bool) -> float:
    """Cross-entropy in nats of float64 [n, classes]."""
    return float(-weights_of(y, logits.shape[1], balanced) @ log_softmax(logits)[np.arange(len(y)), y])


def log_softmax(logits: Doubles) -> Doubles:
    """Logarithms of the probabilities: float64 [n, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def softmax(logits: Doubles) -> Doubles:
    """Probabilities: float64 [n, classes]."""
    found: Doubles = np.exp(log_softmax(logits))
    return found


def auc_of(logits: Doubles, y: Labels) -> float:
    """Area under the ROC curve, in [0, 1]: of class 1, or the mean over one class against the rest."""
    if logits.shape[1] == 2:
        return _binary_auc(logits[:, 1] - logits[:, 0], y == 1)
    scores = log_softmax(logits)
    return float(np.mean([_binary_auc(scores[:, label], y == label) for label in range(logits.shape[1])]))


def _binary_auc(scores: Doubles, positive: NDArray[np.bool_]) -> float:
    """Of all pairs the share in which the positive has the higher score, ties half (Mann and Whitney 1947)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal scores share the mean of their ranks
    many = np.count_nonzero(positive)
    return float((rank[positive].sum() - many * (many + 1) / 2) / (many * (len(scores) - many)))


def temperature_of(logits: Doubles, y: Labels, balanced: bool) -> float:
    """The temperature > 0 that gives the least log-loss, within bounds that a tiny sample cannot leave.

    The loss is convex in the inverse of the temperature, so it has one minimum: golden section search (Kiefer 1953).
    """
    low, high = (math.log(one) for one in _TEMPERATURES)
    golden = (math.sqrt(5) - 1) / 2

    def loss(at: float) -> float:
        return log_loss(logits / math.exp(at), y, balanced)

    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > _TEMPERATURE_PRECISION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)
