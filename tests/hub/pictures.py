"""Drawn parts on a line: the same frame around each, edges and a texture of its own."""

import cv2
import numpy as np


def part(seed, side=300, mean=128.0):
    """A drawn part, uint8 RGB: two bars as on all of them, spots and grain that no other one has."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 60, (side, side)), (0, 0), 1.5) + rng.normal(0, 2, (side, side))
    picture = mean + grain
    for at in (side // 3, 2 * side // 3):
        picture[at - 3 : at + 3] -= 60
    for _ in range(8):
        y, x = rng.integers(10, side - 30, 2)
        picture[y : y + 20, x : x + 14] -= rng.uniform(10, 40)
    return np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
