"""Thresholds give the label that costs least, or that finds the wanted share, on predictions the fit did not see."""

import numpy as np
import pytest

from hub.settings import TrainSettings
from hub.thresholds import by_cost, by_recall, called, cost_matrix, decide
from shared.errors import TrainError

TWO = ["good", "defect"]
THREE = ["good", "crack", "stain"]


def binary(count=400, seed=0):
    """Calibrated chances of the second class, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(0.8, 0.8, count)
    return np.stack([1 - chance, chance], axis=1), (rng.random(count) < chance).astype(np.int64)


def several(count=900, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.6, 0.6, 0.6], count)
    return p, np.array([rng.choice(3, p=row) for row in p])


def test_nothing_asked_is_no_threshold():
    assert decide(*binary(), TWO, TrainSettings()) is None


def test_two_classes_are_called_where_both_labels_cost_the_same():
    p, y = binary()
    decision = decide(p, y, TWO, TrainSettings(costs={"defect": 4.0}))
    assert decision.thresholds == pytest.approx([0.8, 0.2])  # Elkan: 1 / (1 + 4)
    assert (called(p, np.array(decision.thresholds)) == (p[:, 1] > 0.2)).all()
    same = decide(p, y, TWO, TrainSettings(costs={"defect": {"good": 4.0}}))
    assert same.thresholds == decision.thresholds


def test_the_cheapest_threshold_is_cheaper_than_the_most_probable_class():
    p, y = binary(4000)
    costs = cost_matrix({"defect": 10.0}, TWO)
    decision = decide(p, y, TWO, TrainSettings(costs={"defect": 10.0}, class_balanced=False))
    assert decision.cost == pytest.approx(costs[y, called(p, np.array(decision.thresholds))].mean())
    assert decision.cost < costs[y, p.argmax(axis=1)].mean() * 0.8


def test_equal_costs_are_the_most_probable_class():
    p, y = several()
    found = by_cost(p, y, np.full(len(y), 1 / len(y)), cost_matrix({}, THREE))
    assert (called(p, found) == p.argmax(axis=1)).all()
    assert found == pytest.approx([1 / 3] * 3)


def test_costs_that_depend_on_what_it_is_called_are_searched_for():
    p, y = several(3000)
    weight = np.full(len(y), 1 / len(y))
    costs = cost_matrix({"crack": {"good": 20.0, "stain": 1.0}}, THREE)
    found = by_cost(p, y, weight, costs)
    start = 1 / (costs.sum(axis=1) / 2)
    best = weight @ costs[y, called(p, found)]
    assert best <= weight @ costs[y, called(p, start / start.sum())]
    assert best < weight @ costs[y, p.argmax(axis=1)]
    assert found.sum() == pytest.approx(1)


def test_a_miss_that_costs_nothing_leaves_thresholds_above_zero():
    p, y = binary()
    found = decide(p, y, TWO, TrainSettings(costs={"good": 0.0}))
    assert min(found.thresholds) > 0
    assert found.recall[1] == 1.0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 1.0])
def test_the_wanted_recall_is_reached_and_no_more_than_needed(share):
    p, y = binary()
    decision = decide(p, y, TWO, TrainSettings(recall={"defect": share}))
    assert share <= decision.recall[1] <= share + 1 / np.count_nonzero(y) + 1e-9
    higher = decision.thresholds[1] * 1.02
    assert ((p[:, 1] > higher / (higher + decision.thresholds[0]))[y == 1]).mean() < share


def test_the_recall_of_one_of_three_classes():
    p, y = several()
    found = by_recall(p, y, {1: 0.95})
    assert (called(p, found)[y == 1] == 1).mean() >= 0.95
    assert found[0] == pytest.approx(found[2])


def test_two_recalls_that_can_be_had_together_are():
    rng = np.random.default_rng(1)
    chance = np.concatenate([rng.beta(2, 8, 300), rng.beta(8, 2, 100)])
    y = np.repeat([0, 1], [300, 100])
    p = np.stack([1 - chance, chance], axis=1)
    decision = decide(p, y, TWO, TrainSettings(recall={"good": 0.9, "defect": 0.9}))
    assert min(decision.recall) >= 0.9


def test_recalls_that_exclude_each_other_are_told():
    with pytest.raises(TrainError, match=r"cannot be had together: out-of-fold good 0\.\d\d, defect"):
        decide(*binary(), TWO, TrainSettings(recall={"good": 0.99, "defect": 0.99}))
