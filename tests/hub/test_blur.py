"""What blur is, is learnt from sharp pictures of the project alone; no blurred one is shown to it."""

import cv2
import numpy as np
import pytest

from hub import blur
from hub.quality import SHARPNESS, grey_of, sharpness
from tests.hub.pictures import part


@pytest.fixture(scope="module")
def rule():
    greys = [grey_of(part(one)) for one in range(128)]
    return blur.Rule(
        [sharpness(one) for one in greys], [sharpness(blur.soften(one, seed)) for seed, one in enumerate(greys)]
    )


def test_sharp_pictures_are_left_alone(rule):
    scores = [rule.score(sharpness(grey_of(part(one)))) for one in range(500, 540)]
    assert sum(one > blur.LIMIT for one in scores) <= 1


@pytest.mark.parametrize("sigma", [2.5, 4, 7])
def test_defocus_is_found(rule, sigma):
    scores = [rule.score(sharpness(grey_of(cv2.GaussianBlur(part(one), (0, 0), sigma)))) for one in range(500, 520)]
    assert min(scores) > blur.LIMIT


def test_motion_is_found_though_edges_along_it_stay_sharp(rule):
    along = np.zeros((15, 15), np.float32)
    along[7] = 1 / 15  # along the bars
    scores = [rule.score(sharpness(grey_of(cv2.filter2D(part(one), -1, along)))) for one in range(500, 520)]
    assert min(scores) > blur.LIMIT


def test_pictures_are_softened_repeatably_and_keep_their_noise():
    grey = grey_of(part(1))
    assert np.array_equal(blur.soften(grey, 5), blur.soften(grey, 5))
    assert not np.array_equal(blur.soften(grey, 5), blur.soften(grey, 6))
    assert all(blur.flatness(blur.soften(grey, seed)) < blur.flatness(grey) for seed in range(20))


def test_a_blurred_picture_without_noise_is_found_as_well_as_one_with_it(rule):
    noise = np.random.default_rng(0).normal(0, 2, (300, 300, 1))
    for one in range(500, 510):
        smooth = cv2.GaussianBlur(part(one), (0, 0), 3)
        assert rule.score(sharpness(grey_of(smooth))) > blur.LIMIT
        assert rule.score(sharpness(grey_of(np.clip(smooth + noise, 0, 255).astype(np.uint8)))) > blur.LIMIT


def test_there_are_as_many_lessons_as_features():
    assert blur.ENOUGH >= SHARPNESS
