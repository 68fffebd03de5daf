"""Near-copies: pictures that show again what an earlier one showed. Pure.

1. Candidates are the nearest by cosine of their embeddings, and those with nearly the same perceptual hash (DCT pHash:
   Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
2. On a line all parts look alike, to both: two flawless cells are closer than a cell and its own copy in JPEG. So a
   candidate must also match in its fine texture: the peak of the band-limited phase-only correlation (Ito et al.,
   IEICE 2004), which does not depend on shift, gain or soft light.
3. What parts of one kind have in common, such as fingers and grain of cells from one block, peaks as well, with many.
   A copy stands out: half of the second best is taken off.
"""

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from hub.quality import SIDE, Floats

Bits = NDArray[np.uint64]
CANDIDATES = 5
COSINE_ABOVE = 0.8
"""Below it, embeddings of Lite0 show different things; candidates need no more than that."""
BITS_BELOW = 5
"""Differing bits of 63 at which a hash alone makes a candidate: Zauner's re-encoded copies differ in fewer."""
ALIKE_ABOVE = 0.31
"""Of at most 1; chosen on the first half of tests/bench/verify.py."""
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
    alike = np.argsort(distances, kind="stable")[:CANDIDATES]
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


def peak(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> float:
    """The highest correlation of two pictures' phases at any shift, at most 1."""
    product = np.fft.irfft2(one * other.conj(), s=(SIDE, SIDE))
    full = np.fft.irfft2(one * one.conj(), s=(SIDE, SIDE))[0, 0]
    return float(product.max() / max(float(full), 1e-12))


def standing_out(peaks: Sequence[float]) -> tuple[int, float] | None:
    """Which candidate is copied, and how alike it is; None when none stands out. peaks: of all candidates."""
    if not peaks:
        return None
    order = np.argsort(peaks)[::-1]
    alike = peaks[int(order[0])] - (peaks[int(order[1])] / 2 if len(order) > 1 else 0.0)
    return (int(order[0]), alike) if alike > ALIKE_ABOVE else None
