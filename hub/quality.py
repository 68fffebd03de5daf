"""What can be measured on one picture alone: size, light, and how sharp it is at which scale. Pure.

A limit on these is a matter of what a camera usually sees (`usual`): a foggy line is not too bright, a soft lens not
blurred. Too little light has rules of its own: `hub.dim`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.preprocess import Pixels

Floats = NDArray[np.float32]
SIDE = 256
"""All is measured on pictures of this size, so that limits do not depend on the camera's."""
MIN_SIDE = 32
DARK_BELOW = 0.06
BRIGHT_ABOVE = 0.94
"""Mean light, 0 to 1: beyond these nobody can tell anything, whatever is usual."""
ENOUGH = 30
"""Pictures of a camera before we say what is usual: the MAD of 30 values is off by about a seventh."""
FAR_LIGHT = 5.0
"""Light is unusual so many robust standard deviations away; chosen on the first half of tests/bench/verify.py."""
SHARPNESS = 66
"""Values of `sharpness`."""
_MAD = 1.4826  # of a normal distribution, times its MAD, is its standard deviation
_LEAST_SPREAD = 0.05  # in logarithms: a still scene flickers by some percent
_SCALES = (0.0, 0.7, 1.4, 2.8, 5.6)
_STRONGEST = 1000  # pixels: the edges of the picture
_H = 0.7071
_DIRECTIONS = [
    np.array(one, np.float32)
    for one in (
        [[0, 0, 0], [-1, 0, 1], [0, 0, 0]],
        [[0, -1, 0], [0, 0, 0], [0, 1, 0]],
        [[-_H, 0, 0], [0, 0, 0], [0, 0, _H]],
        [[0, 0, -_H], [0, 0, 0], [_H, 0, 0]],
    )
]
_BANDS = (0.012, 0.05, 0.1, 0.18, 0.27, 0.38, 0.5)  # cycles per pixel
_SECTORS = 8
_NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


@dataclass(frozen=True, slots=True)
class Light:
    """Logarithms of how far the picture reaches: from black to its 95th percentile, from white to its 5th."""

    up: float
    down: float


def grey_of(pixels: Pixels) -> Floats:
    """Grey levels 0..255, float32 [SIDE, SIDE], of a picture of any size and shape."""
    # Resized as floats: in whole grey levels, the noise of most cameras would round to nothing.
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small: Floats = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)
    return small


def light_of(grey: Floats) -> Light:
    """How light and dark the picture gets."""
    low, high = np.percentile(grey, (5, 95))
    return Light(up=math.log1p(float(high)), down=math.log1p(255.0 - float(low)))


def usual(values: Sequence[float]) -> tuple[float, float] | None:
    """Median and robust standard deviation of what a camera sees; None while there is too little to say.

    A tenth of faulty pictures among them moves neither by much (Huber, "Robust Statistics", 1981: median and MAD).
    """
    if len(values) < ENOUGH:
        return None
    middle = float(np.median(values))
    return middle, max(_MAD * float(np.median(np.abs(np.asarray(values) - middle))), _LEAST_SPREAD)


def flags_of(pixels: Pixels, grey: Floats, history: Sequence[Light] = ()) -> dict[str, float]:
    """Size and light. "small": shorter side in pixels; "dark", "bright": mean light, 0..1. history: of its camera."""
    flags: dict[str, float] = {}
    side = min(pixels.shape[:2])
    if side < MIN_SIDE:
        flags["small"] = float(side)
    mean = float(grey.mean()) / 255
    if mean < DARK_BELOW:
        flags["dark"] = round(mean, 3)
    if mean > BRIGHT_ABOVE or _below(light_of(grey).down, [one.down for one in history]):
        flags["bright"] = round(mean, 3)
    return flags


def _below(value: float, history: Sequence[float]) -> bool:
    known = usual(history)
    return known is not None and value < known[0] - FAR_LIGHT * known[1]


def noise_of(grey: Floats) -> float:
    """Standard deviation of the sensor's noise in grey levels (Immerkaer, CVIU 1996, with the median)."""
    return float(np.median(np.abs(cv2.filter2D(grey, -1, _NOISE)))) / (6 * 0.6745)


def sharpness(grey: Floats) -> Floats:
    """What blur changes, float32 [SHARPNESS]: `gradients`, then `spectrum`."""
    return np.concatenate([gradients(grey), spectrum(grey)])


def gradients(grey: Floats) -> Floats:
    """How strong gradients are at five scales, float32 [48], in logarithms: what blur changes.

    For each of four directions and each scale: at the strongest edges, on average, and squared; of the directions the
    least, the most and the mean, since motion blurs one alone. Then noise, contrast and light, which explain the rest.
    After the operators that Pertuz et al. compare (Pattern Recognition 2013); a sharp edge loses more when blurred once
    more than a blurred one does (Zhuo and Sim, Pattern Recognition 2011).
    """
    levels = [grey if one == 0 else cv2.GaussianBlur(grey, (0, 0), one) for one in _SCALES]
    rows = []
    for kernel in _DIRECTIONS:
        slopes = [np.abs(cv2.filter2D(one, -1, kernel)) for one in levels]
        edges = slopes[2] >= np.partition(slopes[2].ravel(), -_STRONGEST)[-_STRONGEST]
        rows.append(
            [one[edges].mean() for one in slopes]
            + [one.mean() for one in slopes]
            + [math.sqrt(float((one * one).mean())) for one in slopes]
        )
    found = np.log(np.array(rows) + 0.1)
    whole = np.log([noise_of(grey) + 0.1, float(grey.std()) + 1, float(grey.mean()) + 1])
    return np.concatenate([found.min(axis=0), found.max(axis=0), found.mean(axis=0), whole]).astype(np.float32)


@cache
def _sectors() -> tuple[Floats, NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp]]:
    """A window; which frequencies of rfft2 are in a band; the band and sector of each of those; how many there are."""
    fade = np.hanning(SIDE)
    y, x = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    band = np.digitize(np.hypot(y, x), _BANDS) - 1
    turn = np.mod(np.arctan2(y, x) / math.pi + 0.5 / _SECTORS, 1.0)
    inside = (band >= 0) & (band < len(_BANDS) - 1)
    place = (band * _SECTORS + (turn * _SECTORS).astype(int) % _SECTORS)[inside]
    return np.outer(fade, fade).astype(np.float32), inside, place, np.bincount(place)


def spectrum(grey: Floats) -> Floats:
    """Logarithm of the power in six bands of frequency, float32 [18]: the least, the most and the mean of 8 directions.

    Blur out of focus takes all high frequencies down to the noise, motion those of one direction (the blur that Liu, Li
    and Jia find by its spectrum's slope, CVPR 2008); edges alone, as of `gradients`, do not tell it from soft objects.
    """
    fade, inside, place, count = _sectors()
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * fade)[inside]) ** 2
    found = (np.bincount(place, np.log(power + 1.0)) / count).reshape(-1, _SECTORS) / 2
    return np.concatenate([found.min(axis=1), found.max(axis=1), found.mean(axis=1)]).astype(np.float32)
