"""A copy has the texture of the original; another part of the same line has not, however alike they look."""

import numpy as np
import pytest

from hub import nearcopies
from hub.nearcopies import candidates, differing, peak, phases, phash
from hub.novelty import unit
from hub.quality import grey_of
from shared.preprocess import decode, encode_jpeg
from tests.hub.pictures import part


def test_the_hash_is_one_of_low_frequencies():
    grey = grey_of(part(1))
    [same, louder, moved] = [
        grey_of(one)
        for one in (
            decode(encode_jpeg(part(1), 60)),
            np.clip(part(1) * 0.8, 0, 255).astype(np.uint8),
            np.roll(part(1), (2, 1), axis=(0, 1)),
        )
    ]
    others = np.array([phash(one) for one in (same, louder, moved, grey_of(part(2)))], np.uint64)
    near = differing(phash(grey), others)
    assert max(near[:3]) < 12 < near[3]
    assert phash(grey) < 2**63


def test_bits_are_counted():
    assert differing(0b1011, np.array([0b1011, 0b1000, 2**63], np.uint64)).tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda one: decode(encode_jpeg(one, 70)),
        lambda one: np.roll(one, (4, -3), axis=(0, 1)),
        lambda one: np.clip(one * 1.15, 0, 255).astype(np.uint8),
        lambda one: np.clip(one + np.random.default_rng(0).normal(0, 1.5, one.shape), 0, 255).astype(np.uint8),
    ],
    ids=["jpeg", "shift", "gain", "noise"],
)
def test_a_copy_peaks_and_another_part_does_not(change):
    mine = phases(grey_of(part(1)))
    assert peak(mine, phases(grey_of(change(part(1))))) > nearcopies.ALIKE_ABOVE
    assert peak(mine, phases(grey_of(part(2)))) < nearcopies.ALIKE_ABOVE / 2
    assert peak(mine, mine) == pytest.approx(1.0, abs=1e-4)


def test_candidates_are_the_nearest_by_embedding_and_by_hash():
    units = unit(np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], np.float32))
    hashes = np.array([0xFFFF, 0xFF00, 0x0F, 0xF0F0F0F0], np.uint64)
    assert candidates(0x0F, unit(np.array([1.0, 0.0], np.float32)), hashes, units) == [0, 1, 2]
    assert candidates(0x0F, unit(np.array([1.0, 0.0], np.float32)), hashes[:0], units[:0]) == []


def test_a_picture_without_texture_is_no_copy_of_anything():
    flat = phases(np.full((256, 256), 90, np.float32))
    assert peak(flat, phases(grey_of(part(1)))) < nearcopies.ALIKE_ABOVE


def test_a_copy_stands_out_from_what_all_parts_share():
    assert nearcopies.standing_out([]) is None
    assert nearcopies.standing_out([0.4]) == (0, 0.4)
    assert nearcopies.standing_out([0.1, 0.7, 0.2]) == (1, pytest.approx(0.6))
    assert nearcopies.standing_out([0.45, 0.44, 0.43]) is None, "all alike: the pattern of the line"
    assert nearcopies.standing_out([0.9, 0.95]) == (1, pytest.approx(0.5)), "a still scene: the third copy of it"
