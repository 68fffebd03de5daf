"""Labels in doubt, by values, and beside cleanlab where it is installed."""

import numpy as np
import pytest

from hub.suspects import suspects


def noisy(seed, n=400, classes=3, strength=2.0):
    """Probabilities of a fair model, labels of which a tenth were turned around, and which."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(0, 1, (n, classes))
    logits[np.arange(n), truth] += strength
    chances = np.exp(logits)
    turned = rng.random(n) < 0.1
    labels = np.where(turned, (truth + rng.integers(1, classes, n)) % classes, truth)
    return chances / chances.sum(axis=1, keepdims=True), labels, turned


def test_the_least_probable_label_comes_first_with_what_it_seems_to_be():
    chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.05, 0.95], [0.1, 0.9], [0.2, 0.8], [0.98, 0.02]])
    found = suspects(chances, np.array([0, 0, 0, 1, 1, 1]))
    assert [(one.row, one.label, one.guess) for one in found] == [(5, 1, 0), (2, 0, 1)]
    assert found[0].confidence == pytest.approx(0.02)


def test_nothing_is_doubted_where_labels_and_model_agree():
    assert suspects(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1])) == []


def test_a_class_without_labels_is_no_guess():
    assert suspects(np.array([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]), np.array([0, 1])) == []


def test_turned_labels_are_ranked_first():
    chances, labels, turned = noisy(1, strength=4.0)
    ranked = [one.row for one in suspects(chances, labels)]
    assert turned[ranked[: turned.sum()]].mean() > 0.85


@pytest.mark.parametrize("seed", range(5))
def test_as_cleanlab(seed):
    """The same suspects as its confident learning (off the diagonal of the joint), in the same order."""
    cleanlab = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    chances, labels, _ = noisy(seed)
    theirs = cleanlab.find_label_issues(
        labels, chances, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert [one.row for one in suspects(chances, labels)] == theirs.tolist()
