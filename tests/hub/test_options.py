"""Settings described from their structs: what each takes, and what is said of what it does not take."""

import math
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from hub.options import SECTIONS, _of_struct, applied, checked, doc_of, flatten, options, value_of
from hub.settings import HubSettings, ProjectSettings, RolloutSettings
from shared.errors import SettingError
from shared.policy import TriageSettings

FILE = HubSettings(project=ProjectSettings(name="cells", classes=["good", "defect"]), rollout=RolloutSettings(canary=3))


def test_every_field_of_every_section_is_an_option_with_its_documentation() -> None:
    known = options()
    for section, kind in SECTIONS.items():
        assert doc_of(kind)
        for field in msgspec.structs.fields(kind):
            assert any(one == f"{section}.{field.name}" or one.startswith(f"{section}.{field.name}.") for one in known)
    for key, one in known.items():
        assert one.doc, f"{key} is not in the docstring of its struct"
        assert "JSON" not in one.allowed, f"{key}: what is allowed is not told"
        assert checked(key, one.default) == one.default == value_of(HubSettings(project=FILE.project), key)


class Odd(msgspec.Struct, frozen=True, kw_only=True):
    """What the sections may come to hold. low, high: ends of it; `high` is in. shares: of each kind,
    adding up to 1. Below are more. inner: a struct. band: two ends.
    """

    class Inner(msgspec.Struct, frozen=True, kw_only=True):
        """Inside. kind: which one; limit: how many at most."""

        kind: Literal["a", "b"] = "a"
        limit: Annotated[int, Meta(gt=0)] | None = None

    low: Annotated[float, Meta(lt=5)] = 0.0
    high: float = 1.0
    shares: dict[Literal["x", "y"], Annotated[float, Meta(ge=0, le=1)]] = msgspec.field(
        default_factory=lambda: {"x": 1.0}
    )
    inner: Inner = Inner()
    band: tuple[float, float] = (0.25, 0.75)


def test_fields_of_every_kind_are_described() -> None:
    found = {one.key: (one.kind, one.allowed, one.default, one.doc) for one in _of_struct(Odd, "odd", "odd")}
    assert found == {
        "odd.low": ("number", "number below 5", 0.0, "ends of it; `high` is in."),
        "odd.high": ("number", "number", 1.0, "ends of it; `high` is in."),
        "odd.shares": (
            "json",
            "table of one of x, y = number from 0 to 1",
            {"x": 1.0},
            "of each kind, adding up to 1. Below are more.",
        ),
        "odd.inner.kind": ("choice", "one of a, b", "a", "which one"),
        "odd.inner.limit": ("json", "whole number above 0 or null", None, "how many at most."),
        "odd.band": ("list", "list of 2: number, number", [0.25, 0.75], "two ends."),
    }


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("triage.low_score", 1, 1.0),
        ("train.l2", [1, 0.5], [1.0, 0.5]),
        ("retrain.daily_at", "23:59", "23:59"),
        ("retrain.daily_at", "", ""),
        ("train.class_balanced", False, False),
        ("train.folds", None, None),
    ],
)
def test_a_good_value(key: str, value: Any, found: Any) -> None:
    got = checked(key, value)
    assert (got, type(got)) == (found, type(found))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("triage.low_score", 1.5, "is 1.5; allowed: number from 0 to 1"),
        ("triage.low_score", "high", 'is "high"; allowed: number from 0 to 1'),
        ("triage.low_score", math.nan, "is nan; allowed: number from 0 to 1"),
        ("rollout.hold_s", math.inf, "is inf; allowed: number above 0, up to 31536000"),
        ("rollout.hold_s", 0, "is 0; allowed: number above 0, up to 31536000"),
        ("train.folds", 2.5, "is 2.5; allowed: whole number from 2 to 100"),
        ("train.folds", True, "is true; allowed: whole number from 2 to 100"),
        ("train.l2", [], "is []; allowed: list of 1 to 100: each number above 0"),
        ("train.l2", [0.1, -1], "is [0.1,-1]; allowed: list of 1 to 100: each number above 0"),
        ("train.class_balanced", 1, "is 1; allowed: true or false"),
        ("retrain.daily_at", "24:00", 'is "24:00"; allowed: a time of day such as "06:30", or nothing'),
        ("retrain.positive", "x" * 300, f'is "{"x" * 76}...; allowed: text of up to 200 characters'),
        ("drift.speed", 1, "is no setting; allowed: drift.block, drift.false_alarm"),
        ("web.port", 80, "is no setting; allowed: those of triage, label, train, split, drift, retrain, rollout"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(key: str, value: Any, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        checked(key, value)
    assert caught.value.fields == {key: says}
    assert str(caught.value) == f"{key} {says}"


def test_a_tree_is_made_flat_and_all_that_is_unknown_is_named() -> None:
    assert flatten({"train": {"folds": 3}, "retrain": {}, "rollout": {"canary": None}}) == {
        "train.folds": 3,
        "rollout.canary": None,
    }
    with pytest.raises(SettingError) as caught:
        flatten({"train": {"folds": 3, "fold": 3}, "triage": 0.5, "mqtt": {"port": 1}})
    assert set(caught.value.fields) == {"train.fold", "triage", "mqtt"}


def test_values_go_over_the_file_and_nothing_else_changes() -> None:
    found = applied(FILE, {"rollout.soak_s": 5.0, "train.l2": [0.5]})
    assert found.rollout == RolloutSettings(canary=3, soak_s=5.0)
    assert found.train.l2 == (0.5,)
    assert msgspec.structs.replace(found, rollout=FILE.rollout, train=FILE.train) == FILE
    assert FILE.triage is None
    assert applied(FILE, {"triage.audit": 0.5}).triage == TriageSettings(audit=0.5)
    assert applied(FILE, {}) == FILE
