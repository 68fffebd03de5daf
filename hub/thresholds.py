"""Decision thresholds: which label a model gives, from what mistakes cost or from the share that shall be found.

A threshold a class, above 0, sum 1; the label is the class whose probability is the largest multiple of its threshold
(`shared.litert`). With two classes that is "the second one, if its probability is above its threshold". They come
from out-of-fold predictions, never from the holdout. Images weigh as in training: with `class_balanced` every class the
same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hub.folds import weights_of
from hub.settings import TrainSettings
from shared.calling import called
from shared.errors import TrainError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

_SMALLEST = 1e-4
"""No threshold is lower, before they are scaled to sum 1: a class that costs nothing to call is not called always."""
_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Decision:
    """thresholds: one a class. recall: out-of-fold share of each class's images that get its label. cost: the mean."""

    thresholds: tuple[float, ...]
    recall: tuple[float, ...]
    cost: float | None = None


def decide(p: Doubles, y: Labels, classes: Sequence[str], settings: TrainSettings) -> Decision | None:
    """The thresholds for out-of-fold probabilities float64 [n, classes] of int labels [n]; None where none are asked.

    TrainError when the wanted recalls exclude each other.
    """
    if settings.costs:
        costs = cost_matrix(settings.costs, classes)
        weight = weights_of(y, len(classes), settings.class_balanced)
        found = by_cost(p, y, weight, costs)
        cost = float(weight @ costs[y, called(p, found)])
    elif settings.recall:
        found, cost = by_recall(p, y, {classes.index(name): share for name, share in settings.recall.items()}), None
        reached = _recall(p, y, found)
        short = [name for name, share in settings.recall.items() if reached[classes.index(name)] < share]
        if short:
            said = ", ".join(f"{name} {reached[classes.index(name)]:.2f}" for name in settings.recall)
            raise TrainError(
                f"cannot be had together: out-of-fold {said}",
                subject="train.recall",
                remedy="Ask for less, or label more",
            )
    else:
        return None
    return Decision(tuple(found.tolist()), _recall(p, y, found), cost)


def cost_matrix(costs: Mapping[str, float | Mapping[str, float]], classes: Sequence[str]) -> Doubles:
    """[label][called] from the setting; a class that it does not name costs 1 to miss."""
    matrix = 1.0 - np.eye(len(classes))
    for name, cost in costs.items():
        row = classes.index(name)
        if isinstance(cost, Mapping):
            matrix[row, [classes.index(one) for one in cost]] = list(cost.values())
        else:
            matrix[row] = cost
            matrix[row, row] = 0.0
    return matrix


def by_cost(p: Doubles, y: Labels, weight: Doubles, costs: Doubles) -> Doubles:
    """The thresholds of least cost.

    Two classes: the threshold where both labels are expected to cost the same (Elkan, "The foundations of
    cost-sensitive learning", IJCAI 2001, eq. 2); it trusts the calibration, not the few images near it. So do more
    classes where a miss costs the same whatever it is called. Else the cheapest on these predictions, found class by
    class from there.
    """
    classes = p.shape[1]
    miss = costs.sum(axis=1) / (classes - 1)
    found = _scaled(1.0 / np.maximum(miss, _SMALLEST * max(float(miss.max()), 1e-300)))
    same = [np.ptp(np.delete(row, label)) == 0 for label, row in enumerate(costs)]
    if classes == 2 or all(same):
        return found
    best = float(weight @ costs[y, called(p, found)])
    for _ in range(_ROUNDS):
        before = best
        for label in range(classes):
            for factor in (0.5, 0.8, 0.95, 1.05, 1.25, 2.0):
                tried = found.copy()
                tried[label] *= factor
                cost = float(weight @ costs[y, called(p, tried)])
                if cost < best - 1e-12 and tried[label] / tried.sum() >= _SMALLEST:
                    best, found = cost, _scaled(tried)
        if best == before:
            break
    return found


def by_recall(p: Doubles, y: Labels, wanted: Mapping[int, float]) -> Doubles:
    """The highest thresholds that reach the wanted recall of some classes; those of the others stay equal.

    Several are found in turns, each given the others, until none moves; whether all are reached is to be seen.
    """
    found = np.full(p.shape[1], 1.0 / p.shape[1])
    for _ in range(_ROUNDS):
        before = found.copy()
        for label, share in wanted.items():
            others = np.delete(np.arange(p.shape[1]), label)
            rivals = (p[:, others] / found[others]).max(axis=1)
            # An image gets this label where p > threshold * rivals.
            ratios = np.sort((p[:, label] / np.maximum(rivals, 1e-300))[y == label])[::-1]
            need = max(1, int(np.ceil(share * len(ratios) - 1e-9)))
            # A hair below the last that must be found: a camera's float32 may differ by 1e-5.
            found[label] = max(float(ratios[need - 1]) * (1 - 1e-3), _SMALLEST * found[others].sum())
        found = _scaled(found)
        if np.abs(found - before).max() < 1e-9:
            break
    return found


def _recall(p: Doubles, y: Labels, thresholds: Doubles) -> tuple[float, ...]:
    right = called(p, thresholds) == y
    return tuple(float(right[y == label].mean()) if (y == label).any() else 0.0 for label in range(p.shape[1]))


def _scaled(thresholds: Doubles) -> Doubles:
    found: Doubles = thresholds / thresholds.sum()
    return found
