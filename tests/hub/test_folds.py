"""Near-copies fall into one fold, every class is spread as evenly as that allows, and without them nothing changes."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hub.folds import fold_count, folds_of
from hub.settings import TrainSettings
from hub.train import train_head


def by_turns(y, folds, rng):
    """The rule for images that have no near-copies."""
    side = np.zeros(len(y), dtype=np.int64)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        side[members] = np.arange(len(members)) % folds
    return side


@pytest.mark.parametrize("seed", range(20))
def test_without_near_copies_nothing_changes(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, rng.integers(2, 6), rng.integers(4, 300))
    folds = int(rng.integers(2, 8))
    expected = by_turns(y, folds, np.random.default_rng(seed))
    for near in (None, rng.permutation(len(y))):
        assert (folds_of(y, folds, np.random.default_rng(seed), near) == expected).all()
        assert fold_count(y, 6, 5, near) == min(5, np.bincount(y, minlength=6).min())


@given(st.data())
def test_groups_stay_together_and_every_fold_has_every_class(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    classes = data.draw(st.integers(2, 4))
    # Each class has groups of its own, at least three of them and at most six images in one.
    sizes = [rng.integers(1, 7, rng.integers(3, 40)) for _ in range(classes)]
    y = np.concatenate([np.full(one.sum(), label) for label, one in enumerate(sizes)])
    near = np.repeat(np.arange(sum(map(len, sizes))), np.concatenate(sizes))
    order = rng.permutation(len(y))
    y, near = y[order], near[order]
    folds = fold_count(y, classes, 5, near)
    assert folds == min(5, *map(len, sizes))
    side = folds_of(y, folds, np.random.default_rng(3), near)
    assert (side == folds_of(y, folds, np.random.default_rng(3), near)).all(), "the same again"
    for label in range(classes):
        held = np.bincount(side[y == label], minlength=folds)
        assert held.min() > 0
        assert held.sum() - held.max() >= 2
        if held.max() - held.min() > 6:
            pytest.fail(f"{held} is further apart than the largest group")
        spread = [len(np.unique(side[near == one])) for one in np.unique(near[y == label])]
        assert spread == [1] * len(spread) or len(sizes[label]) <= folds, "never apart where there is a choice"


def test_a_class_that_is_one_group_is_spread_by_image_and_the_others_stay_together():
    y = np.repeat([0, 1], [20, 6])
    near = np.concatenate([np.repeat(np.arange(5), 4), np.full(6, 9)])
    assert fold_count(y, 2, 5, near) == 5
    side = folds_of(y, 5, np.random.default_rng(0), near)
    assert sorted(np.bincount(side[y == 1])) == [1, 1, 1, 1, 2]
    assert [len(np.unique(side[near == one])) for one in range(5)] == [1] * 5


def test_a_group_of_two_classes_is_no_obstacle():
    y = np.array([0, 1] * 10)
    near = np.concatenate([np.zeros(8, int), np.arange(1, 13)])
    side = folds_of(y, 3, np.random.default_rng(0), near)
    assert len(np.unique(side[:8])) == 1
    for label in (0, 1):
        assert np.bincount(side[y == label], minlength=3).min() >= 2


def test_copies_no_longer_make_a_head_too_sure_of_itself():
    """Nothing can be learned here but each copy's label from its other copies."""
    rng = np.random.default_rng(0)
    near = np.repeat(np.arange(40), 5)
    y = rng.integers(0, 2, 40)[near]
    x = (rng.normal(size=(40, 64))[near] + rng.normal(0, 0.01, (200, 64))).astype(np.float32)
    alone = train_head(x, y, 2, TrainSettings(), lambda _: None)
    together = train_head(x, y, 2, TrainSettings(), lambda _: None, near=near)
    assert alone.oof_auc > 0.95
    assert together.oof_auc < 0.75
    assert together.temperature > 2 * alone.temperature
