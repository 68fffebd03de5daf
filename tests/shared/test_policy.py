"""Policy: what settings may say, and one clear line for what they may not."""

import msgspec
import pytest

from shared.errors import ConfigError
from shared.policy import TriageSettings, check


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
