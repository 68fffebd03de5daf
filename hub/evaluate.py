"""Probabilities and labels of held-out images -> how good a model is, and whether another one is better.

Every interval is a 95 % percentile interval of a bootstrap stratified by class (Efron and Tibshirani 1993, ch. 13):
each resample draws as many images of every class as there are, so that AUC always exists. Two models are compared on
the same resamples. A resample is kept as counts of images, so that 1000 of them are a few matrix products.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.calling import called
from shared.errors import LabelError, ModelError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]
AnyLabels = NDArray[np.integer[Any]]
Probabilities = NDArray[np.float32] | Doubles

_ECE_BINS = 15
_CELLS = 4_000_000  # resamples x images held at once: 32 MB an array


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A measured value and its 95 % interval."""

    value: float
    low: float
    high: float


class ClassResult(msgspec.Struct, frozen=True, kw_only=True):
    """One class: how many images have it; recall, precision, F1 in [0, 1], None where nothing defines them."""

    n: int
    recall: float | None
    precision: float | None
    f1: float | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How good a model is on n held-out images; shares in [0, 1].

    balanced_accuracy: mean recall of the classes that occur. auc: of class 1, or with more classes the mean over one
    class against the rest; None where only one occurs. f1: mean over classes. confusion: [label][predicted] counts.
    ece: expected calibration error of the best class, 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599).
    """

    n: int
    accuracy: Interval
    balanced_accuracy: Interval
    auc: Interval | None
    f1: float
    ece: float
    classes: list[ClassResult]
    confusion: list[list[int]]


Verdict = Literal["better", "same", "worse", "not enough data"]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A new model against the old one on the same held-out images.

    auc_gain, accuracy_gain: new less old, interval of the paired bootstrap; auc_gain is None where only one class
    occurs. mcnemar_p: see `mcnemar`. fixed, broken: indices of images that only the new, or only the old model gets
    right. reason: the verdict in plain words.
    """

    n: int
    old_auc: float | None
    new_auc: float | None
    old_accuracy: float
    new_accuracy: float
    auc_gain: Interval | None
    accuracy_gain: Interval
    mcnemar_p: float
    fixed: list[int]
    broken: list[int]
    verdict: Verdict
    reason: str


def evaluate(
    probabilities: Probabilities,
    labels: AnyLabels,
    bootstrap: int = 1000,
    seed: int = 0,
    *,
    thresholds: Sequence[float] = (),
) -> Evaluation:
    """Judge float [n, classes] against int labels [n]; LabelError or ModelError, whichever of them is broken.

    thresholds: the model's, one a class: what it calls an image is what cameras would. ece asks about the most probable
    class all the same, and auc knows no thresholds.
    """
    p, y = _checked(probabilities, labels)
    classes = p.shape[1]
    right = (predicted := called(p, thresholds)) == y
    confusion = np.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)
    per_class = [_class_result(confusion, number) for number in range(classes)]
    present = np.flatnonzero(np.bincount(y, minlength=classes))
    accuracies, balanced, aucs = [], [], []
    for counts in _resamples(y, bootstrap, seed):
        accuracies.append(counts @ right / len(y))
        recalls = [counts[:, y == label] @ right[y == label] / np.count_nonzero(y == label) for label in present]
        balanced.append(np.mean(recalls, axis=0))
        aucs.append(_auc(p, y, counts))
    return Evaluation(
        n=len(y),
        accuracy=_interval(right.mean(), accuracies),
        balanced_accuracy=_interval(np.mean([right[y == label].mean() for label in present]), balanced),
        auc=_interval(_auc(p, y)[0], aucs) if len(present) > 1 else None,
        f1=float(np.mean([one.f1 for one in per_class if one.f1 is not None])),
        ece=_calibration_error(p.max(axis=1), p.argmax(axis=1) == y),
        classes=per_class,
        confusion=confusion.tolist(),
    )


def compare(
    old_probabilities: Probabilities,
    new_probabilities: Probabilities,
    labels: AnyLabels,
    *,
    old_thresholds: Sequence[float] = (),
    new_thresholds: Sequence[float] = (),
    bootstrap: int = 1000,
    seed: int = 0,
    min_per_class: int = 20,
    names: Sequence[str] = (),
    on: str = "held-out images",
) -> Comparison:
    """Judge two models, float [n, classes] each, by int labels [n]; raises like `evaluate`.

    better: all of the interval of the AUC gain lies above 0, and not all of that of the accuracy gain below 0; what
    ranks better and, by its thresholds, labels worse is the same. worse: all of the interval of the AUC gain lies below
    0. Without `min_per_class` images of every class the verdict is "not enough data", whatever the numbers.
    old_thresholds, new_thresholds: as for `evaluate`. names: of the classes, on: of the images, both for the reason.
    """
    old, y = _checked(old_probabilities, labels)
    new, _ = _checked(new_probabilities, labels)
    if old.shape != new.shape:
        raise ModelError(f"has {new.shape[1]} classes, the old one {old.shape[1]}", subject="new model")
    counts_of = np.bincount(y, minlength=old.shape[1])
    old_right, new_right = called(old, old_thresholds) == y, called(new, new_thresholds) == y
    difference = new_right.astype(np.float64) - old_right
    fixed, broken = np.flatnonzero(difference > 0), np.flatnonzero(difference < 0)
    accuracies, gains = [], []
    for counts in _resamples(y, bootstrap, seed):
        accuracies.append(counts @ difference / len(y))
        gains.append(_auc(new, y, counts) - _auc(old, y, counts))
    several = np.count_nonzero(counts_of) > 1
    old_auc, new_auc = (float(_auc(p, y)[0]) if several else None for p in (old, new))
    gain = _interval(new_auc - old_auc, gains) if old_auc is not None and new_auc is not None else None
    right_gain, p = _interval(difference.mean(), accuracies), mcnemar(len(fixed), len(broken))
    rare = int(counts_of.argmin())
    verdict: Verdict = "not enough data"
    if gain is None or counts_of[rare] < min_per_class:
        name = names[rare] if names else str(rare)
        reason = f"class {name} has {counts_of[rare]} {on}, every class needs {min_per_class}"
    else:
        verdict, because = _verdict(gain, right_gain)
        reason = (
            f"on {len(y)} {on} AUC went from {old_auc:.3f} to {new_auc:.3f}: {_words(gain)}; accuracy from "
            f"{old_right.mean():.3f} to {new_right.mean():.3f}: {_words(right_gain)}, McNemar's p {p:.2g}; {because}"
        )
    return Comparison(
        n=len(y),
        old_auc=old_auc,
        new_auc=new_auc,
        old_accuracy=float(old_right.mean()),
        new_accuracy=float(new_right.mean()),
        auc_gain=gain,
        accuracy_gain=right_gain,
        mcnemar_p=p,
        fixed=fixed.tolist(),
        broken=broken.tolist(),
        verdict=verdict,
        reason=reason,
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Exact two-sided p that chance alone splits fixed + broken so unevenly (McNemar 1947); 1 if both are 0."""
    throws, ways, tail = fixed + broken, 1, 1
    for k in range(1, min(fixed, broken) + 1):
        ways = ways * (throws - k + 1) // k
        tail += ways
    return float(min(1.0, 2 * tail / 2**throws))


def wilson(share: float, n: float) -> Interval:
    """A share of n independent images and its score interval (Wilson 1927): honest also where all, or none, are right.

    n may be an effective number (Kish 1965, Survey Sampling): (sum of weights)^2 / sum of squared weights.
    """
    z = 1.959964
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    whole = 1 + z * z / n
    return Interval(value=share, low=max(0.0, (middle - spread) / whole), high=min(1.0, (middle + spread) / whole))


def _verdict(auc: Interval, accuracy: Interval) -> tuple[Verdict, str]:
    """By the gains of AUC and of accuracy, that of the labels which cameras would give; and why, in words."""
    if auc.high < 0:
        return "worse", "all of AUC's interval lies below 0"
    if auc.low <= 0:
        return "same", "AUC's interval contains 0, so chance may explain the difference"
    if accuracy.high < 0:
        return (
            "same",
            "AUC is better, but by its thresholds it labels more images wrong: all of accuracy's interval lies below 0",
        )
    return "better", "all of AUC's interval lies above 0"


def _words(gain: Interval) -> str:
    return f"{gain.value:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f}"


def _checked(probabilities: Probabilities, labels: AnyLabels) -> tuple[Doubles, Labels]:
    """Both arrays in full precision, or LabelError or ModelError."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or p.shape[1] < 2:
        raise ModelError(f"must be [n, 2 or more], are {p.shape}", subject="probabilities")
    if y.shape != p.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise LabelError(f"must be {p.shape[0]} integers, are {y.dtype} {y.shape}", subject="held-out labels")
    if len(y) == 0:
        raise LabelError("there are none", subject="held-out labels", remedy="Label images of the holdout")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise LabelError(f"range from {y.min()} to {y.max()} for {p.shape[1]} classes", subject="held-out labels")
    if not (np.isfinite(p).all() and (p >= 0).all() and np.allclose(p.sum(axis=1), 1, atol=1e-3)):
        raise ModelError("must be finite, 0 or more, and sum to 1 for each image", subject="probabilities")
    return p, y.astype(np.int64)


def _resamples(y: Labels, resamples: int, seed: int) -> Iterator[Doubles]:
    """How often each image is drawn, in blocks of float64 [some resamples, n]; the same for the same y and seed."""
    rng = np.random.default_rng(seed)
    block = max(1, _CELLS // len(y))
    for begin in range(0, resamples, block):
        size = min(block, resamples - begin)
        counts = np.zeros((size, len(y)))
        for label in np.unique(y):
            members = np.flatnonzero(y == label)
            counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=size)
        yield counts


def _auc(p: Doubles, y: Labels, counts: Doubles | None = None) -> Doubles:
    """AUC for each row of counts, float64 [rows], or of the sample itself [1]; NaN where one class is missing."""
    if counts is None:
        counts = np.ones((1, len(y)))
    if p.shape[1] == 2:
        return _binary_auc(p[:, 1], y == 1, counts)
    present = [label for label in range(p.shape[1]) if 0 < np.count_nonzero(y == label) < len(y)]
    if not present:
        return np.full(len(counts), np.nan)
    return np.asarray(np.mean([_binary_auc(p[:, label], y == label, counts) for label in present], axis=0))


def _binary_auc(scores: Doubles, positive: NDArray[np.bool_], counts: Doubles) -> Doubles:
    """P(score of a positive > of a negative) + P(equal) / 2, weighted: the rank formula (Mann and Whitney 1947)."""
    if positive.all() or not positive.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of each run of equal scores
    up = np.add.reduceat(counts[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(counts[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    return np.asarray((up * (below + down / 2)).sum(axis=1) / (up.sum(axis=1) * down.sum(axis=1)))


def _interval(value: float, blocks: list[Doubles]) -> Interval:
    low, high = np.percentile(np.concatenate(blocks), (2.5, 97.5))
    return Interval(value=float(value), low=float(low), high=float(high))


def _class_result(confusion: Labels, number: int) -> ClassResult:
    hit, labelled, predicted = confusion[number, number], confusion[number].sum(), confusion[:, number].sum()
    return ClassResult(
        n=int(labelled),
        recall=float(hit / labelled) if labelled else None,
        precision=float(hit / predicted) if predicted else None,
        f1=float(2 * hit / (labelled + predicted)) if labelled + predicted else None,
    )


def _calibration_error(confidence: Doubles, right: NDArray[np.bool_]) -> float:
    """Mean of |accuracy - confidence| over bins of (0, 1/15], ..., (14/15, 1], weighted by their images."""
    bins = np.clip(np.ceil(confidence * _ECE_BINS).astype(int) - 1, 0, _ECE_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=_ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
