"""A copy has the texture of the original; another part of the same line has not, however alike they look."""

import cv2
import numpy as np
import pytest

from hub import nearcopies
from hub.nearcopies import candidates, differing, likeness, match, phases, phash
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
def test_a_copy_matches_and_another_part_does_not(change):
    copy, original, other = grey_of(change(part(1))), grey_of(part(1)), grey_of(part(2))
    found = match(phases(copy), phases(original))
    assert found.peak > nearcopies.PEAK_ABOVE
    assert likeness(copy, original, found) > nearcopies.ALIKE_ABOVE
    found = match(phases(copy), phases(other))
    assert found.peak < nearcopies.PEAK_ABOVE
    assert likeness(copy, other, found) < nearcopies.ALIKE_ABOVE - 0.2


def test_a_picture_matches_itself_where_it_is():
    mine = phases(grey_of(part(1)))
    assert match(mine, mine) == nearcopies.Match(pytest.approx(1.0, abs=1e-4), 0, 0)


def test_where_a_copy_was_moved_to():
    grey = grey_of(part(1))
    assert match(phases(np.roll(grey, (5, -9), axis=(0, 1))), phases(grey)).down == 5
    assert match(phases(np.roll(grey, (5, -9), axis=(0, 1))), phases(grey)).right == -9


def test_a_part_with_the_same_grain_and_another_crack_is_no_copy():
    neighbour = part(1).copy()
    cv2.line(neighbour, (40, 60), (230, 200), (60, 60, 60), 3)
    found = match(phases(grey_of(neighbour)), phases(grey_of(part(1))))
    assert found.peak > nearcopies.PEAK_ABOVE, "grain alone does not tell them apart"
    assert likeness(grey_of(neighbour), grey_of(part(1)), found) < nearcopies.ALIKE_ABOVE


def test_what_is_washed_out_does_not_count():
    bright = np.clip(part(1, mean=200) * 1.2, 0, 255).astype(np.uint8)
    original = grey_of(part(1, mean=200))
    assert (bright == 255).mean() > 0.1
    found = match(phases(grey_of(bright)), phases(original))
    assert likeness(grey_of(bright), original, found) > nearcopies.ALIKE_ABOVE


@pytest.mark.parametrize("level", [90.0, 255.0], ids=["flat", "washed out"])
def test_pictures_without_texture_are_no_copies(level):
    flat, other = np.full((256, 256), level, np.float32), grey_of(part(1))
    found = match(phases(flat), phases(other))
    assert found.peak < nearcopies.PEAK_ABOVE
    assert likeness(flat, other, found) == 0.0
    assert likeness(flat, flat, match(phases(flat), phases(flat))) == 0.0


def test_candidates_are_the_nearest_by_embedding_and_by_hash():
    units = unit(np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], np.float32))
    hashes = np.array([0xFFFF, 0xFF00, 0x0F, 0xF0F0F0F0], np.uint64)
    assert candidates(0x0F, unit(np.array([1.0, 0.0], np.float32)), hashes, units) == [0, 1, 2]
    assert candidates(0x0F, unit(np.array([1.0, 0.0], np.float32)), hashes[:0], units[:0]) == []
