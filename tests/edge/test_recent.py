"""Recent: the last embeddings of each number of dims, and the nearest of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.recent import Recent


def unit(*numbers: float) -> np.ndarray:
    one = np.array(numbers, np.float32)
    return one / np.linalg.norm(one)


def test_the_nearest_counts() -> None:
    recent = Recent(3, [unit(1, 0), unit(0, 1)])
    assert recent.nearest(unit(1, 1)) == pytest.approx(0.7071, abs=1e-4)
    recent.add(unit(1, 0.9))
    assert recent.nearest(unit(1, 1)) == pytest.approx(0.9986, abs=1e-4)


def test_the_opposite_of_all_is_as_far_as_nothing() -> None:
    assert Recent(3).nearest(unit(1, 0)) == -1.0
    assert Recent(3, [unit(-1, 0)]).nearest(unit(1, 0)) == -1.0


def test_none_is_remembered_where_none_shall_be() -> None:
    recent = Recent(0, [unit(1, 0)])
    recent.add(unit(0, 1))
    assert list(recent) == []
    assert recent.nearest(unit(0, 1)) == -1.0


def test_another_number_of_dims_pushes_out_none_of_the_first() -> None:
    recent = Recent(1, [unit(1, 0)])
    recent.add(unit(1, 0, 0))
    assert recent.nearest(unit(1, 0)) == recent.nearest(unit(1, 0, 0)) == 1.0
    assert recent.nearest(unit(1, 0, 0, 0)) == -1.0


@given(st.integers(1, 5), st.integers(0, 12), st.integers(1, 5))
def test_the_last_ones_go_over_to_another_memory_in_their_order(most: int, count: int, then: int) -> None:
    units = [unit(np.cos(n / 10), np.sin(n / 10)) for n in range(count)]
    recent = Recent(most, units)
    assert [one.tolist() for one in recent] == [one.tolist() for one in units[-most:]]
    assert [one.tolist() for one in Recent(then, recent)] == [one.tolist() for one in units[-min(most, then) :]]


def test_what_is_added_is_a_copy() -> None:
    one = unit(1, 0)
    recent = Recent(2, [one])
    one[:] = 0
    assert recent.nearest(unit(1, 0)) == 1.0
