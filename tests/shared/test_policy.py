"""Settings of triage: what fits together, and what travels."""

import msgspec
import pytest

from shared.errors import ConfigError, SettingError
from shared.policy import TriageSettings, check, from_wire, to_wire


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


@pytest.mark.parametrize("strategy", ["low_score", "margin", "entropy", "band", "rare", "mix"])
def test_the_defaults_fit_two_classes(strategy: str) -> None:
    check(TriageSettings(strategy=strategy), ["good", "bad"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "classes", "words"),
    [
        ({"top": 5, "window": 4}, (), "triage.top: has 5 of a window of 4 frames"),
        ({"band": [0.5, 0.5]}, (), "triage.band: has from 0.5 to 0.5"),
        ({"mix": {"low_score": 0.5}}, (), "triage.mix: has shares that add up to 0.5"),
        ({"mix": {}}, (), "triage.mix: has shares that add up to 0"),
        ({"strategy": "band"}, "abc", "triage.band: has no meaning here: a band needs 2 classes, there are 3"),
        ({"strategy": "rare"}, "abc", "triage.rare must name the one of interest"),
        ({"mix": {"rare": 1.0}, "rare": "d"}, "abc", "triage.rare: has no meaning here: 'd' is none of a, b, c"),
    ],
)
def test_wrong_values_get_one_clear_line(fields: dict[str, object], classes: str, words: str) -> None:
    settings = msgspec.convert(fields, TriageSettings)
    with pytest.raises(ConfigError) as error:
        check(settings, classes)
    assert words in str(error.value)


def test_what_is_not_in_use_may_not_fit() -> None:
    check(TriageSettings(strategy="margin", rare="elsewhere", mix={}), "abc")


@pytest.mark.parametrize("fields", [{"top": 17}, {"strategy": "best"}, {"mix": {"best": 1.0}}, {"window": 0}, {"x": 1}])
def test_what_is_no_setting(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(fields, TriageSettings)
