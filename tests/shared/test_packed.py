"""Packed parts: the same bytes again, or an error; and nothing is packed for a few bytes."""

import os
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import PartError
from shared.packed import MAX_PACKED, SAVED, WORTH, pack, unpack

RNG = np.random.default_rng(0)
ROWS = np.rint(RNG.normal(size=(64, 1280)) ** 3 * 3).clip(-127, 127).astype(np.int8).tobytes()


def test_what_is_packed_is_the_same_again_and_shorter() -> None:
    packed = pack(ROWS)
    assert packed is not None
    assert len(packed) <= WORTH * len(ROWS)
    assert unpack(packed, len(ROWS)) == ROWS
    assert zlib.decompress(packed) == ROWS, "any zlib reads it"
    assert len(packed) < len(zlib.compress(ROWS, 9)), "numbers without repeats want their codes alone"


@pytest.mark.parametrize("data", [os.urandom(50_000), bytes(SAVED), b"x", bytes(MAX_PACKED + 1)])
def test_what_would_save_little_or_take_long_is_not_packed(data: bytes) -> None:
    assert pack(data) is None


@given(st.binary(min_size=1, max_size=2000), st.sampled_from([1, 9]))
def test_every_stream_is_read(data: bytes, level: int) -> None:
    assert unpack(zlib.compress(data, level), len(data)) == data


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (zlib.compress(ROWS), len(ROWS) - 1),
        (zlib.compress(ROWS), len(ROWS) + 1),
        (zlib.compress(ROWS)[:-1], len(ROWS)),
        (zlib.compress(ROWS) + b"x", len(ROWS)),
        (zlib.compress(bytes(1 << 24)), 100),  # a bomb
        (zlib.compress(ROWS)[::-1], len(ROWS)),
        (ROWS, len(ROWS)),
        (b"", 1),
    ],
)
def test_what_is_no_such_stream_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(PartError, match="unpack"):
        unpack(data, size)
