"""References of a release: they cover the training images, and stay while they do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.strategies import Judge
from hub.references import COUNT, SHARE, k_center, references_part
from shared.litert import Prediction
from shared.policy import TriageSettings
from shared.references import decode, nearest


def cloud(seed, count, *, around=None, spread=0.3, dims=16):
    chance = np.random.default_rng(seed)
    middle = np.eye(dims)[around] if around is not None else np.zeros(dims)
    return (middle + spread * chance.normal(size=(count, dims))).astype(np.float32)


@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(2, 20))
def test_every_image_is_nearer_to_one_than_the_nearest_two_are_to_each_other(seed, count, references):
    points = cloud(seed, count)
    chosen = k_center(points, references)
    assert len(chosen) == min(count, references)
    assert np.linalg.norm(chosen, axis=1) == pytest.approx(np.ones(len(chosen)), abs=1e-5)
    between = chosen @ chosen.T
    np.fill_diagonal(between, -1)
    assert nearest(chosen, points).max() <= 1 - between.max() + 1e-6


def test_copies_are_chosen_once_and_nothing_never():
    points = np.repeat(cloud(1, 3), 10, axis=0)
    assert len(k_center(points, 8)) == 3
    assert len(k_center(np.zeros((5, 4), np.float32), 8)) == 0
    assert references_part(np.ones((20, 4), np.float32)) is None


@pytest.mark.parametrize(("images", "rows"), [(4, 2), (40, 40 // SHARE), (1000, COUNT)])
def test_how_many_there_are(images, rows):
    assert len(decode(references_part(cloud(2, images)), 16)) == rows


def test_they_stay_while_they_cover_the_images_and_are_replaced_when_others_come():
    before = references_part(cloud(3, 200, around=0))
    more = np.concatenate([cloud(3, 200, around=0), cloud(4, 60, around=0)])
    assert references_part(more, before) == before
    others = np.concatenate([more, cloud(5, 60, around=1, spread=0.05)])
    after = references_part(others, before)
    assert after != before
    assert references_part(others, after) == after


def test_a_camera_calls_new_what_lies_elsewhere_and_not_what_it_was_trained_on():
    part = references_part(cloud(6, 400, around=0))
    judge = Judge(TriageSettings(strategy="novelty"), ("a", "b"), decode(part, 16))

    def value(embedding):
        return judge.value("novelty", Prediction(np.array([0.5, 0.5], np.float32), embedding))

    assert max(value(one) for one in cloud(6, 400, around=0)) < 0.51  # float16 moves the farthest a little
    assert np.mean([value(one) > 0.5 for one in cloud(7, 200, around=0)]) < 0.2
    assert min(value(one) for one in -cloud(8, 200, around=0, spread=0.05)) > 0.5
