"""Faults in graded severities, planted in real images, and the cameras that take them.

All of it was fixed before any threshold of `hub` was chosen. Pictures are float32 [h, w] grey levels 0..255 until a
camera takes them: defocus and exposure happen before its noise.
"""

from dataclasses import dataclass

import cv2
import numpy as np

SHARE = 0.05
"""Of the images of a stream, for each kind of fault."""
BLUR = ("defocus 2", "defocus 3", "defocus 4", "defocus 6", "motion 11", "motion 21")
"""Sigma of a Gaussian, length of a straight motion; pixels of a picture of 300 x 300."""
DARK = ("0.4", "0.25", "0.15", "0.08")
"""Exposure, as a share of the usual one."""
COPIES = ("jpeg 60", "shift 2", "shift 4", "gain 0.85", "gain 1.2", "shift 2, gain 0.9, jpeg 70")
"""Re-encoded, moved by so many pixels in both directions, brighter or darker than the image that came before."""
UNSEEN = ("poly", "photo", "digit")
"""On a line of monocrystalline cells, from near to far: polycrystalline ones, crops of photos, handwritten digits."""


@dataclass(frozen=True, slots=True)
class Lens:
    """How a camera sees. soft: sigma of its optics in pixels; gain; noise: standard deviation in grey levels."""

    soft: float
    gain: float
    noise: float


LENSES = {"plant/sharp": Lens(0.0, 1.0, 1.0), "plant/dim": Lens(0.0, 0.75, 1.5), "plant/soft": Lens(0.8, 1.1, 1.0)}


def take(scene, lens, rng):
    """What a camera makes of a scene: uint8 RGB [h, w, 3]."""
    seen = cv2.GaussianBlur(scene, (0, 0), lens.soft) if lens.soft else scene
    seen = seen * lens.gain + rng.normal(0, lens.noise, scene.shape)
    grey = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))


def blurred(scene, severity, rng):
    """A scene out of focus, or in motion at a random right angle or diagonal."""
    kind, size = severity.split()
    if kind == "defocus":
        return cv2.GaussianBlur(scene, (0, 0), float(size))
    length = int(size)
    line = np.zeros((length, length), np.float32)
    turn = int(rng.integers(4))
    if turn == 0:
        line[length // 2] = 1
    elif turn == 1:
        line[:, length // 2] = 1
    else:
        line = np.eye(length, dtype=np.float32)[:: 1 if turn == 2 else -1]
    return cv2.filter2D(scene, -1, np.ascontiguousarray(line) / line.sum(), borderType=cv2.BORDER_REFLECT)


def dark(scene, severity):
    """A scene with too little light."""
    return scene * float(severity)


def copied(scene, severity, rng):
    """A scene nearly as before; what moves in at the edge repeats the edge."""
    for step in severity.split(", "):
        kind, value = step.split()
        if kind == "gain":
            scene = scene * float(value)
        elif kind == "shift":
            move = float(value) * rng.choice([-1, 1], 2)
            scene = cv2.warpAffine(
                scene,
                np.float32([[1, 0, move[0]], [0, 1, move[1]]]),
                scene.shape[::-1],
                borderMode=cv2.BORDER_REPLICATE,
            )
    return scene


def coded(pixels, severity):
    """What is left of pixels after the JPEG step of a severity, if it has one."""
    for step in severity.split(", "):
        kind, value = step.split()
        if kind == "jpeg":
            done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(value)])
            assert done
            return cv2.imdecode(data, cv2.IMREAD_COLOR)
    return pixels


def photo(pictures, rng):
    """A grey square of one of some photos (RGB), as a scene of 300 x 300."""
    whole = cv2.cvtColor(pictures[int(rng.integers(len(pictures)))], cv2.COLOR_RGB2GRAY).astype(np.float32)
    side = int(rng.integers(150, 300))
    y, x = int(rng.integers(whole.shape[0] - side)), int(rng.integers(whole.shape[1] - side))
    return cv2.resize(whole[y : y + side, x : x + side], (300, 300), interpolation=cv2.INTER_LINEAR)


def digit(small):
    """A handwritten digit, [8, 8] of 0..16, as a scene of 300 x 300."""
    return cv2.resize(small.astype(np.float32) * (220 / 16) + 15, (300, 300), interpolation=cv2.INTER_CUBIC)
