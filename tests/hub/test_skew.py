"""How far two embeddings of one image are apart; float16 alone is next to nothing."""

import numpy as np
import pytest

from hub import skew


def test_float16_alone_is_no_skew():
    own = np.abs(np.random.default_rng(0).normal(0, 1, 1280)).astype(np.float32)
    assert skew.distance(own.astype("<f2").tobytes(), own) < 1e-6
    assert skew.distance((3 * own).astype("<f2").tobytes(), own) < 1e-6


def test_another_direction_is_and_another_length_says_nothing():
    assert skew.distance(np.array([1, 0], "<f2").tobytes(), np.float32([0, 1])) == pytest.approx(1)
    assert skew.distance(np.array([1, 0, 0], "<f2").tobytes(), np.float32([0, 1])) is None
    assert skew.distance(np.array([np.inf, 0], "<f2").tobytes(), np.float32([0, 1])) is None
    assert skew.distance(np.array([0, 0], "<f2").tobytes(), np.float32([0, 1])) is None


def test_a_camera_is_told_by_its_median():
    assert skew.of([]) is None
    found = skew.of([0.001, 0.002, 0.9])
    assert (found.n, found.median, found.largest, found.far) == (3, 0.002, 0.9, False)
    assert skew.of([0.001, 0.02, 0.9]).far
