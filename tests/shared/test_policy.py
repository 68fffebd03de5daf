"""Triage settings on their way: only what differs from the defaults, and all of it or none."""

import msgspec
import pytest

from shared.errors import SettingError
from shared.policy import TriageSettings, from_wire, to_wire


def test_only_what_differs_travels_and_comes_back_the_same() -> None:
    assert to_wire(TriageSettings()) == {}
    one = TriageSettings(low_score=0.7, remember=3)
    assert to_wire(one) == {"low_score": 0.7, "remember": 3}
    assert from_wire(msgspec.json.decode(msgspec.json.encode(to_wire(one)))) == one


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"low_score": 0.7, "strategy_of_2031": "x"}, "unknown field `strategy_of_2031`"),
        ({"low_score": 7}, r"<= 1.0 - at `\$.low_score`"),
        ({"audit": "much"}, r"Expected `float`, got `str` - at `\$.audit`"),
    ],
)
def test_what_cannot_be_followed_as_it_is_is_refused_as_a_whole(told: dict[str, object], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        from_wire(told)
