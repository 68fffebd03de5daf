"""Line: whatever comes, goes and changes, the most valuable is first."""

from hypothesis import given
from hypothesis import strategies as st

from edge.line import Line, place
from shared.transfer import Offer
from tests.fakes.messages import ident


def offer(number: int, value: float) -> Offer:
    return Offer(ident(number), 10, 256, value)


STEPS = st.tuples(st.sampled_from(["put", "put", "pop"]), st.integers(0, 9), st.sampled_from([0.1, 0.5, 0.9]))


@given(st.lists(STEPS, max_size=300))
def test_against_sorting_all(steps: list[tuple[str, int, float]]) -> None:
    line, known = Line(), dict[str, Offer]()
    for step, number, value in steps:
        one = offer(number, value)
        if step == "put":
            line.put(one)
            known[one.id] = one
        else:
            assert line.pop(one.id) == known.pop(one.id, None)
        assert len(line) == len(known)
        assert (one.id in line) == (one.id in known)
        assert line.first() == min(known.values(), key=place, default=None)
    assert len(line._heap) <= 2 * len(known) + 65


def test_equal_values_go_by_id() -> None:
    line = Line()
    for number in (2, 1, 3):
        line.put(offer(number, 0.5))
    assert line.first() == offer(1, 0.5)
