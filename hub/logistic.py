"""L2-regularised softmax regression by L-BFGS in numpy: a few thousand embeddings are done before torch is imported.

L-BFGS: Nocedal and Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5, with backtracking (3.1). The problem
is strictly convex, so every pair of steps has positive curvature and no Wolfe condition has to see to that.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.errors import TrainError

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]

_MEMORY = 20
_FLAT = 1e-5  # the largest slope of a minimum
_STILL = 1e-8  # the largest step, or change of the objective, that is none
_ENOUGH = 1e-4  # share of the promised descent that a step must bring


@dataclass(frozen=True, slots=True)
class Fit:
    """weights: float64 [classes, dims]; bias: float64 [classes]; losses: the objective at each step."""

    weights: Doubles
    bias: Doubles
    losses: tuple[float, ...]


def fit(
    z: Doubles, y: Labels, weight: Doubles, classes: int, *, strengths: Sequence[float], max_iterations: int
) -> Iterator[Fit]:
    """Minimise weight @ cross-entropy + l2 / 2 * |weights|^2 for each L2 strength > 0, from the one before.

    z: float64 [n, dims]; y: int [n]; weight: float64 [n], sum 1. The bias is not penalised. TrainError when the
    objective is not finite.
    """
    problem = _two_classes if classes == 2 else _many_classes
    x = np.zeros((z.shape[1] + 1) * (1 if classes == 2 else classes))
    for l2 in strengths:
        x, losses = minimise(problem(z, y, weight, classes, l2), x, max_iterations)
        if not math.isfinite(losses[-1]):
            raise TrainError(f"the loss became {losses[-1]} at L2 strength {l2}", subject="training")
        table = x.reshape(z.shape[1] + 1, -1).T
        if classes == 2:  # the optimum of two rows is symmetric: half of the difference each
            table = np.concatenate([-table, table]) / 2
        yield Fit(table[:, :-1].copy(), table[:, -1].copy(), tuple(losses))


Objective = Callable[[Doubles], tuple[float, Doubles]]
"""float64 [k] -> value and gradient float64 [k]"""


def _two_classes(z: Doubles, y: Labels, weight: Doubles, _: int, l2: float) -> Objective:
    """In the difference of both rows: one column instead of two."""
    sign = 2.0 * y - 1.0

    def objective(x: Doubles) -> tuple[float, Doubles]:
        v, b = x[:-1], x[-1]
        margin = sign * (z @ v + b)
        small = np.exp(-np.abs(margin))
        loss = weight @ (np.log1p(small) + np.maximum(-margin, 0.0)) + l2 / 4 * (v @ v)
        wrong = np.where(margin > 0, small, 1.0) / (1.0 + small)  # probability of the other class
        pull = -sign * weight * wrong
        return float(loss), np.append(z.T @ pull + l2 / 2 * v, pull.sum())

    return objective


def _many_classes(z: Doubles, y: Labels, weight: Doubles, classes: int, l2: float) -> Objective:
    rows = np.arange(len(y))

    def objective(x: Doubles) -> tuple[float, Doubles]:
        table = x.reshape(-1, classes)  # [dims + 1, classes]
        logits = z @ table[:-1] + table[-1]
        logits -= logits.max(axis=1, keepdims=True)
        total = np.exp(logits).sum(axis=1)
        loss = weight @ (np.log(total) - logits[rows, y]) + l2 / 2 * (table[:-1] ** 2).sum()
        pull = np.exp(logits) / total[:, np.newaxis]
        pull[rows, y] -= 1.0
        pull *= weight[:, np.newaxis]
        slope = np.concatenate([z.T @ pull + l2 * table[:-1], pull.sum(axis=0, keepdims=True)])
        return float(loss), slope.reshape(-1)

    return objective


def minimise(objective: Objective, start: Doubles, max_iterations: int) -> tuple[Doubles, list[float]]:
    """The minimum of a convex function, near enough, and its value at each step."""
    x = start
    value, slope = objective(x)
    values = [value]
    pairs: deque[tuple[Doubles, Doubles, float]] = deque(maxlen=_MEMORY)
    for _ in range(max_iterations):
        if not math.isfinite(value) or np.abs(slope).max() <= _FLAT:
            break
        way = -_newton(slope, pairs)
        descent = float(slope @ way)
        size = 1.0 if pairs else min(1.0, 1.0 / float(np.abs(slope).sum()))
        while True:
            step = size * way
            if np.abs(step).max() <= _STILL:
                return x, values
            new_value, new_slope = objective(x + step)
            if new_value <= value + _ENOUGH * size * descent:
                break
            size /= 2
        turn = new_slope - slope
        curvature = float(step @ turn)
        if curvature > 0:
            pairs.append((step, turn, curvature))
        change = value - new_value
        x, value, slope = x + step, new_value, new_slope
        values.append(value)
        if change <= _STILL:
            break
    return x, values


def _newton(slope: Doubles, pairs: deque[tuple[Doubles, Doubles, float]]) -> Doubles:
    """The inverse Hessian, as the last steps show it, times `slope`: the two-loop recursion."""
    q = slope.copy()
    shares: list[float] = []
    for step, turn, curvature in reversed(pairs):
        shares.append(float(step @ q) / curvature)
        q -= shares[-1] * turn
    if pairs:
        _, turn, curvature = pairs[-1]
        q *= curvature / float(turn @ turn)
    for (step, turn, curvature), share in zip(pairs, reversed(shares), strict=True):
        q += (share - float(turn @ q) / curvature) * step
    return q
