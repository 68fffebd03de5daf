"""Float while it is fast enough, int8 where it is not and helps; and no flapping between the two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.variant import BACK, SHARE, Pace, choose
from shared.manifest import VariantName

PACE = Pace(10, 100)
MS = st.floats(0.1, 1000)


def chosen(setting="auto", *, offered=True, running="float", speeds=None, pace=PACE):
    return choose(setting, offered=offered, running=running, speeds=speeds or {}, pace=pace)


@pytest.mark.parametrize("setting", ["auto", "float", "int8"])
def test_a_release_without_int8_runs_as_float(setting: str) -> None:
    assert chosen(setting, offered=False, running="int8", speeds={"float": 900}) == "float"


@pytest.mark.parametrize("setting", ["float", "int8"])
def test_the_setting_decides_whatever_was_measured(setting: str) -> None:
    for speeds in ({}, {"float": 1.0}, {"float": 900.0, "int8": 950.0}):
        assert chosen(setting, speeds=speeds) == setting


@pytest.mark.parametrize("running", ["float", "int8"])
@pytest.mark.parametrize(("speeds", "pace"), [({}, PACE), ({"int8": 5.0}, PACE), ({"float": 900.0}, None)])
def test_auto_keeps_what_runs_until_float_was_measured(running: str, speeds: dict[str, float], pace: Pace) -> None:
    assert chosen(running=running, speeds=speeds, pace=pace) == running


@pytest.mark.parametrize(
    ("running", "float_ms", "wanted"),
    [
        ("float", 100 * SHARE, "float"),
        ("float", 100 * SHARE + 1, "int8"),
        ("int8", 100 * SHARE, "int8"),  # not enough to go back
        ("int8", 100 * BACK + 1, "int8"),
        ("int8", 100 * BACK, "float"),
    ],
)
def test_auto_takes_int8_where_float_takes_too_much_of_the_time_between_frames(
    running: VariantName, float_ms: float, wanted: str
) -> None:
    assert chosen(running=running, speeds={"float": float_ms}) == wanted


@given(MS, MS, MS)
def test_auto_never_takes_int8_where_that_was_no_faster(float_ms: float, more: float, period: float) -> None:
    speeds = {"float": float_ms, "int8": float_ms + more}
    for running in ("float", "int8"):
        assert chosen(running=running, speeds=speeds, pace=Pace(float_ms, period)) == "float"


@given(MS, MS)
def test_what_was_chosen_is_chosen_again(float_ms: float, period: float) -> None:
    """The same measurements do not make a camera go to and fro."""
    for begin in ("float", "int8"):
        first = chosen(running=begin, speeds={"float": float_ms}, pace=Pace(1, period))
        assert chosen(running=first, speeds={"float": float_ms}, pace=Pace(1, period)) == first
