"""Size and light: what nobody can use is flagged at once, what is unusual once we know what is usual."""

import cv2
import numpy as np
import pytest

from hub import quality
from hub.quality import flags_of, grey_of, light_of, noise_of, usual
from tests.hub.pictures import part


def flagged(pixels, history=()):
    return flags_of(pixels, grey_of(pixels), history)


@pytest.mark.parametrize(
    ("pixels", "flags"),
    [
        (part(0), {}),
        (part(0, mean=5) // 2, {"dark"}),
        (np.full((200, 200, 3), 250, np.uint8), {"bright"}),
        (part(0, side=60)[:31], {"small"}),
        (np.zeros((1, 4000, 3), np.uint8), {"small", "dark"}),
    ],
)
def test_each_fault_has_its_flag(pixels, flags):
    assert set(flagged(pixels)) == set(flags)


def test_flags_say_what_was_measured():
    assert flagged(part(0, side=80)[:20])["small"] == 20
    assert flagged(np.zeros((200, 200, 3), np.uint8)) == {"dark": 0.0}
    assert flagged(np.full((200, 200, 3), 255, np.uint8)) == {"bright": 1.0}


def test_too_much_light_washes_out_what_was_black():
    lit = [light_of(grey_of(part(one))) for one in range(quality.ENOUGH)]
    washed = np.clip(part(99).astype(float) * 0.3 + 175, 0, 255).astype(np.uint8)
    assert set(flagged(washed, lit)) == {"bright"}


def test_a_tenth_of_faulty_pictures_does_not_change_what_is_usual():
    values = np.random.default_rng(0).normal(5, 0.2, 90).tolist()
    middle, spread = usual(values)
    dirty = usual(values + [0.0] * 10)
    assert dirty[0] == pytest.approx(middle, abs=0.1)
    assert dirty[1] == pytest.approx(spread, rel=0.3)
    assert usual([1.0] * 29) is None
    assert usual([1.0] * 30) == (1.0, 0.05)


def test_noise_is_told_from_structure():
    rng = np.random.default_rng(1)
    smooth = np.outer(np.linspace(40, 200, 256), np.ones(256)).astype(np.float32)
    for sigma in (2.0, 6.0):
        assert noise_of(smooth + rng.normal(0, sigma, (256, 256)).astype(np.float32)) == pytest.approx(sigma, rel=0.1)


def test_gradients_do_not_depend_on_the_cameras_pixels():
    big = cv2.resize(part(3), (900, 900), interpolation=cv2.INTER_LINEAR)
    assert np.abs(quality.gradients(grey_of(big)) - quality.gradients(grey_of(part(3)))).mean() < 0.3
    assert quality.sharpness(grey_of(part(3))).shape == (quality.SHARPNESS,)


def test_noise_below_one_grey_level_is_measured():
    rng = np.random.default_rng(2)
    for sigma in (0.5, 1.0):
        taken = np.rint(128 + rng.normal(0, sigma, (256, 256, 1))).astype(np.uint8)
        assert noise_of(grey_of(cv2.resize(np.repeat(taken, 3, axis=2), (320, 320)))) > 0.1


@pytest.mark.parametrize(("axis", "least"), [((15, 1), "some"), ((15, 15), "all")], ids=["motion", "defocus"])
def test_the_spectrum_loses_high_frequencies_in_the_direction_of_the_blur(axis, least):
    before = quality.spectrum(grey_of(part(4))).reshape(3, 6)
    after = quality.spectrum(cv2.blur(grey_of(part(4)), axis)).reshape(3, 6)
    assert (before - after)[:, 0].max() < 1.5, "coarse structure stays"
    low, high, middle = (before - after)[:, 2]
    assert min(low, middle) > 0.3
    assert (high > 1.0) == (least == "all")
