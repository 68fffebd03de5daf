"""What blur is, is learnt from sharp pictures of the project alone; no blurred one is shown to it."""

import cv2
import numpy as np
import pytest

from hub import blur
from hub.quality import gradients, grey_of
from tests.hub.pictures import part


@pytest.fixture(scope="module")
def rule():
    greys = [grey_of(part(one)) for one in range(64)]
    return blur.Rule(
        [gradients(one) for one in greys], [gradients(blur.soften(one, seed)) for seed, one in enumerate(greys)]
    )


def test_sharp_pictures_are_left_alone(rule):
    scores = [rule.score(gradients(grey_of(part(one)))) for one in range(500, 540)]
    assert sum(one > blur.LIMIT for one in scores) <= 1


@pytest.mark.parametrize("sigma", [2.5, 4, 7])
def test_defocus_is_found(rule, sigma):
    scores = [rule.score(gradients(grey_of(cv2.GaussianBlur(part(one), (0, 0), sigma)))) for one in range(500, 520)]
    assert min(scores) > blur.LIMIT


def test_motion_is_found_though_edges_along_it_stay_sharp(rule):
    along = np.zeros((15, 15), np.float32)
    along[7] = 1 / 15  # along the bars
    scores = [rule.score(gradients(grey_of(cv2.filter2D(part(one), -1, along)))) for one in range(500, 520)]
    assert min(scores) > blur.LIMIT


def test_pictures_are_softened_repeatably_and_keep_their_noise():
    grey = grey_of(part(1))
    assert np.array_equal(blur.soften(grey, 5), blur.soften(grey, 5))
    assert not np.array_equal(blur.soften(grey, 5), blur.soften(grey, 6))
    assert all(blur.flatness(blur.soften(grey, seed)) < blur.flatness(grey) for seed in range(20))
