"""Suspects: labels that the model, where it did not learn from them, does not believe. Pure.

Confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR
2021). An image counts as another class when its probability of that class reaches what images of that class have on
average; those that count as another class than their label are suspects, the least probable label first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Suspect:
    """One label in doubt. row: of the arrays given; guess: the class it seems to be; confidence: in the label."""

    row: int
    label: int
    guess: int
    confidence: float


def suspects(probabilities: NDArray[np.float64], labels: NDArray[np.integer[Any]]) -> list[Suspect]:
    """Labels in doubt, the most doubtful first.

    probabilities: out-of-fold, float64 [n, classes]; labels: int [n] in 0..classes-1.
    """
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    own = probabilities[rows, labels]
    # Of a class without images nobody knows what is usual: nothing counts as one.
    average = np.array([own[labels == one].mean() if (labels == one).any() else np.inf for one in range(classes)])
    counted = np.where(probabilities >= average, probabilities, -1.0)
    guess = counted.argmax(axis=1)
    doubted = (counted.max(axis=1) >= 0) & (guess != labels)
    order = sorted(np.flatnonzero(doubted).tolist(), key=lambda row: float(own[row]))
    return [Suspect(row, int(labels[row]), int(guess[row]), float(own[row])) for row in order]
