"""References: their bytes, and what is refused."""

import numpy as np
import pytest

from shared.errors import PartError
from shared.references import MAX_REFERENCES, decode, encode, nearest


def rows(count: int, dims: int) -> np.ndarray:
    made = np.random.default_rng(count).normal(size=(count, dims)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 7, MAX_REFERENCES])
def test_there_and_back(count: int) -> None:
    made = rows(count, 32)
    data = encode(made)
    assert len(data) == count * 32
    back = decode(data, 32)
    assert back.dtype == np.float32
    assert (back * made).sum(axis=1).min() > 0.9999
    assert np.linalg.norm(back, axis=1) == pytest.approx(np.ones(count), abs=1e-6)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not 1 to 256 rows"),
        (encode(rows(2, 8))[:-1], "is not 1 to 256 rows"),
        (encode(rows(256, 8)) + encode(rows(1, 8)), "is not 1 to 256 rows"),
        (encode(rows(2, 8)) + bytes(8), "nothing but zeros"),
    ],
)
def test_what_is_no_references_part(data: bytes, words: str) -> None:
    with pytest.raises(PartError, match=words):
        decode(data, 8)


def test_of_another_backbone() -> None:
    with pytest.raises(PartError):
        decode(encode(rows(3, 8)), 5)


def test_the_distance_to_the_nearest() -> None:
    points = np.array([[2, 0], [1, 1], [-1, 0], [0, 0]], np.float32)
    found = nearest(np.array([[1, 0], [0, 1]], np.float32), points)
    assert found == pytest.approx([0, 1 - 0.5**0.5, 1, 1], abs=1e-6)
