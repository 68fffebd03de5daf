"""What is far is measured by how far training images are from one another."""

import numpy as np
import pytest

from hub import novelty
from hub.novelty import Reference, unit


def around(direction, count, spread, seed):
    return (np.array(direction) + np.random.default_rng(seed).normal(0, spread, (count, 32))).astype(np.float32)


AXES = np.eye(32)


@pytest.mark.parametrize("spread", [0.01, 0.1])
def test_another_direction_is_novel_and_a_further_one_of_the_same_is_not(spread):
    known = np.concatenate([around(AXES[0], 60, spread, 1), around(AXES[1], 60, spread, 2)])
    reference = Reference(known)
    fresh = [reference.score(reference.distance(one)) for one in around(AXES[0], 40, spread, 3)]
    assert sum(one > novelty.LIMIT for one in fresh) <= 2
    strange = [reference.score(reference.distance(one)) for one in around(AXES[2], 40, spread, 4)]
    assert min(strange) > novelty.LIMIT


def test_the_distance_is_that_to_the_nearest():
    reference = Reference(np.array([AXES[0], AXES[1]] * 10, np.float32))
    assert reference.distance(np.float32(AXES[0] + AXES[1])) == pytest.approx(1 - np.sqrt(0.5), abs=1e-6)
    assert reference.distance(np.float32(7 * AXES[0])) == 0
    assert reference.distance(np.float32(-AXES[0])) == pytest.approx(1)


def test_no_more_are_compared_with_than_is_said():
    assert len(Reference(around(AXES[0], 3 * novelty.MOST, 0.1, 0))._units) == novelty.MOST
    assert unit(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]
