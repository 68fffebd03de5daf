"""Near-copies: pictures that show again what an earlier one showed. Pure.

1. Candidates are the nearest by cosine of their embeddings, and those with nearly the same perceptual hash (DCT pHash:
   Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
2. On a line all parts look alike, to both: two flawless cells are closer than a cell and its own copy in JPEG. So a
   candidate must also match in its fine texture: the peak of the band-limited phase-only correlation (Ito et al.,
   IEICE 2004), which does not depend on shift, gain or soft light. It finds the shift as well.
3. Parts may share even that: wafers cut side by side from one block have the same grain, but not the same cracks. So
   the best match is laid over the picture to a fraction of a pixel (enhanced correlation coefficient: Evangelidis and
   Psarakis, PAMI 2008). A copy then differs by little more than noise, whatever its gain; another part by more.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hub.quality import SIDE, Floats

Bits = NDArray[np.uint64]
CANDIDATES = 5
"""By embedding."""
ALIKE_CANDIDATES = 3
"""By hash."""
COSINE_ABOVE = 0.8
"""Below it, embeddings of Lite0 show different things; candidates need no more than that."""
BITS_BELOW = 13
"""Differing bits of 63 at which a hash alone makes a candidate: few other pictures are as near to moved copies."""
PEAK_ABOVE = 0.12
"""Of at most 1: pictures that share no texture stay below a tenth."""
ALIKE_ABOVE = 0.9955
"""Correlation of the two pictures, one laid over the other; chosen on the first half of tests/bench/verify.py."""
_STEPS = 3  # the phases give the shift to half a pixel
_SMOOTH = 5  # pixels: noise and JPEG's blocks are not what two pictures shall be alike in
_EDGE = 5  # pixels that are left out, since smoothing and moving repeat what is there
_WHITE = 250.0  # what is washed out in one picture may differ in the other
_BAND = (0.05, 0.3)  # cycles per pixel: below it all parts of a line are alike, above it there is noise
_HASH = 8


def phash(grey: Floats) -> int:
    """64 bits: which of the lowest 8 x 8 frequencies of the picture are above their median; the mean counts as 0."""
    small = cv2.resize(grey, (4 * _HASH, 4 * _HASH), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small)[:_HASH, :_HASH].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return int(np.packbits(bits).view(">u8")[0])


def differing(one: int, others: Bits) -> NDArray[np.int64]:
    """In how many bits `one` differs from each of the others, int [n]."""
    different = (others ^ np.uint64(one)).view(np.uint8).reshape(len(others), 8)
    counts: NDArray[np.int64] = np.unpackbits(different, axis=1).sum(axis=1).astype(np.int64)
    return counts


def candidates(bits: int, unit: Floats, hashes: Bits, units: Floats) -> list[int]:
    """Which earlier pictures to compare with, the nearest first. unit, units: embeddings of length 1."""
    if not len(hashes):
        return []
    cosines, distances = units @ unit, differing(bits, hashes)
    near = np.argsort(-cosines, kind="stable")[:CANDIDATES]
    alike = np.argsort(distances, kind="stable")[:ALIKE_CANDIDATES]
    found = [int(one) for one in near if cosines[one] > COSINE_ABOVE]
    return found + [int(one) for one in alike if distances[one] < BITS_BELOW and int(one) not in found]


@cache
def _window() -> tuple[Floats, NDArray[np.bool_]]:
    fade = np.hanning(SIDE)
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    return np.outer(fade, fade).astype(np.float32), (radius >= _BAND[0]) & (radius < _BAND[1])


def phases(grey: Floats) -> NDArray[np.complex64]:
    """The phases of a picture in the band that is compared, complex64 [SIDE, SIDE // 2 + 1]."""
    fade, band = _window()
    spectrum = np.fft.rfft2((grey - grey.mean()) * fade)
    return (np.where(band, spectrum / np.maximum(np.abs(spectrum), 1e-6), 0)).astype(np.complex64)


@dataclass(frozen=True, slots=True)
class Match:
    """The highest correlation of two pictures' phases, at most 1, and where: what is at (y, x) in the other picture is
    at (y + down, x + right) in the one.
    """

    peak: float
    down: int
    right: int


def match(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> Match:
    """Of two pictures' `phases`, at any shift."""
    product = np.fft.irfft2(one * other.conj(), s=(SIDE, SIDE))
    # With itself, at no shift: rfft2 leaves out the mirror image of all but its first column.
    full = float(2 * np.vdot(one, one).real - np.vdot(one[:, 0], one[:, 0]).real) / SIDE**2
    place = int(product.argmax())
    down, right = ((at + SIDE // 2) % SIDE - SIDE // 2 for at in divmod(place, SIDE))
    return Match(float(product.flat[place]) / max(full, 1e-12), down, right)


def likeness(one: Floats, other: Floats, at: Match) -> float:
    """Correlation of two pictures, the other laid over the one, at most 1; 0 where they cannot be laid so."""
    moved = np.array([[1, 0, -at.right], [0, 1, -at.down]], np.float32)
    light = cv2.warpAffine((one < _WHITE).astype(np.uint8), moved, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    both = ((light > 0) & (other < _WHITE)).astype(np.uint8)
    inside = cv2.erode(
        both, np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    stop = cv2.TERM_CRITERIA_COUNT, _STEPS, 0
    try:
        found, _ = cv2.findTransformECC(one, other, moved, cv2.MOTION_TRANSLATION, stop, inside, _SMOOTH)
    except cv2.error:  # nothing in common, or nothing to see
        return 0.0
    return float(found) if math.isfinite(found) else 0.0
