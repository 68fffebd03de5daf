"""Thumbnail: what a preview shows of an image, small enough for a link of some kbit/s. Pure."""

import cv2
import numpy as np

from shared.preprocess import Pixels, encode_jpeg

SIDES = (128, 96, 64)
QUALITIES = (70, 50, 35, 20)
LIMIT = 3000
"""Bytes of a thumbnail. Even grain of 64 pixels a side stays below it at the lowest quality."""


def thumbnail(pixels: Pixels) -> bytes:
    """A JPEG of uint8 [h, w, 3] RGB, its longest side 128 pixels at most, of LIMIT bytes at most: the first of these
    qualities, then of smaller sides, that is small enough.
    """
    data = b""
    for side in SIDES:
        small = _within(pixels, side)
        for quality in QUALITIES:
            data = encode_jpeg(small, quality)
            if len(data) <= LIMIT:
                return data
    return data


def _within(pixels: Pixels, side: int) -> Pixels:
    high, wide = pixels.shape[:2]
    shrink = side / max(high, wide)
    if shrink >= 1:
        return pixels
    size = max(1, round(wide * shrink)), max(1, round(high * shrink))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
