"""Accuracy in the field from audit labels: weighted by the chance of each, honest about how little is known."""

import numpy as np

from hub.field import FEW, accuracy, in_the_field
from tests.hub.making import add_image


def stream(rng, n):
    """Frames of two kinds: easy ones (95 % right) audited with .02, hard ones (60 %) with .2."""
    hard = rng.random(n) < 0.2
    right = rng.random(n) < np.where(hard, 0.6, 0.95)
    chance = np.where(hard, 0.2, 0.02)
    taken = rng.random(n) < chance
    return right, right[taken], chance[taken]


def test_weights_take_out_what_the_sampling_put_in():
    rng = np.random.default_rng(3)
    truths, plain, weighted = [], [], []
    for _ in range(100):
        right, sampled, chances = stream(rng, 2000)
        truths.append(right.mean())
        plain.append(sampled.mean())
        weighted.append(accuracy(sampled, chances).value)
    assert abs(np.mean(weighted) - np.mean(truths)) < 0.01
    assert np.mean(truths) - np.mean(plain) > 0.15, "without them the estimate lies"


def test_the_interval_covers():
    rng = np.random.default_rng(4)
    for share, n in ((0.95, 30), (0.99, 30), (0.8, 100)):
        hits = 0
        for _ in range(200):
            found = accuracy(rng.random(n) < share, np.full(n, 0.01))
            hits += found.low <= share <= found.high
        assert hits >= 184, (share, n)  # 95 % less three standard errors


def test_all_right_is_not_certainty():
    found = accuracy(np.ones(30, bool), np.full(30, 0.01))
    assert (found.value, found.high) == (1.0, 1.0)
    assert 0.85 < found.low < 0.92


def test_releases_and_cameras_apart_and_only_the_audit(store):
    def add(count, right, **fields):
        for number in range(count):
            label = "good" if number < right else "defect"
            add_image(store, guess="good", label=label, **{"why": "audit", "probability": 0.1, "release": 2, **fields})

    add(40, 30, camera="site/a")
    add(FEW - 1, 0, camera="site/b")
    add(25, 25, camera="site/b", why="low_score")
    add(25, 20, camera="site/a", release=1)
    for _ in range(5):
        add_image(store, guess="good", camera="site/a", why="audit", probability=0.1, release=2)
    add_image(
        store, guess="good", label="good", camera="site/a", why="audit", probability=0.1, project="welds", release=2
    )
    with store.read() as session:
        found = in_the_field(session, "cells", [1, 2])
        assert in_the_field(session, "cells", [7]) == []
    said = [(one.release, one.camera, one.audits, one.labelled, one.accuracy and one.accuracy.value) for one in found]
    assert said == [
        (2, "", 64, 59, 30 / 59),
        (2, "site/a", 45, 40, 0.75),
        (2, "site/b", 19, 19, None),
        (1, "", 25, 25, 0.8),
        (1, "site/a", 25, 25, 0.8),
    ]


def test_few_images_of_high_weight_count_for_few():
    right = np.array([True] * 90 + [False] * 10)
    even = accuracy(right, np.full(100, 0.1))
    skewed = accuracy(right, np.where(np.arange(100) % 20 == 0, 0.001, 0.1))
    assert skewed.high - skewed.low > 2 * (even.high - even.low)
