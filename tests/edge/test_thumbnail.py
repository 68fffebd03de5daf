"""Thumbnails: small in pixels, small in bytes, and still the same picture."""

import cv2
import numpy as np
import pytest

from edge.thumbnail import LIMIT, SIDES, thumbnail
from shared.preprocess import Pixels, decode


def grain(high: int, wide: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8)


def soft(high: int, wide: int) -> Pixels:
    """A gradient with a dark square in the middle."""
    pixels = np.tile(np.linspace(80, 200, wide)[None, :, None], (high, 1, 3)).astype(np.uint8)
    pixels[2 * high // 5 : 3 * high // 5, 2 * wide // 5 : 3 * wide // 5] = 10
    return pixels


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((300, 300), (128, 128)),
        ((480, 640), (96, 128)),
        ((640, 480), (128, 96)),
        ((3000, 10), (128, 1)),
        ((10, 3000), (1, 128)),
        ((2, 2000), (1, 128)),
        ((128, 128), (128, 128)),
        ((24, 32), (24, 32)),
        ((1, 1), (1, 1)),
    ],
)
def test_the_longest_side_is_128_pixels_and_what_is_smaller_stays(
    shape: tuple[int, int], expected: tuple[int, int]
) -> None:
    data = thumbnail(soft(*shape))
    assert decode(data).shape[:2] == expected
    assert len(data) <= LIMIT


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (1000, 1000), (720, 1280)])
def test_no_picture_is_too_large(shape: tuple[int, int], seed: int) -> None:
    assert len(thumbnail(grain(*shape, seed))) <= LIMIT


def test_the_hardest_picture_fits_at_the_smallest_side() -> None:
    """Grain of exactly the sides that are tried: what shrinking would have smoothed stays."""
    for side in SIDES:
        data = thumbnail(grain(side, side))
        assert len(data) <= LIMIT
    assert max(decode(thumbnail(grain(128, 128))).shape) < 128, "so it needs the smaller ones"


def test_it_shows_the_picture_in_its_colours() -> None:
    pixels = soft(600, 800)
    pixels[..., 0] //= 2
    found = decode(thumbnail(pixels)).astype(int)
    wanted = cv2.resize(pixels, found.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(found - wanted).mean() < 6
    assert found[..., 2].mean() > 1.5 * found[..., 0].mean(), "red first, as everywhere"


def test_what_is_easy_keeps_its_quality() -> None:
    easy, hard = soft(600, 600), grain(128, 128)
    assert decode(thumbnail(easy)).shape[0] == 128
    small = cv2.resize(easy, (128, 128), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(decode(thumbnail(easy)).astype(int) - small).mean() < 3
    assert len(thumbnail(easy)) < len(thumbnail(hard))
