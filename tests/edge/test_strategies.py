"""Strategies: each rule's values, its threshold at 0.5, and what a model must have for it."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.strategies import Judge, band, entropy, low_score, margin, novelty, rare
from shared.litert import Floats, Prediction
from shared.policy import TriageSettings

SHARES = st.floats(0, 1)


def p(*values: float) -> Floats:
    return np.array(values, np.float32)


def test_least_confidence() -> None:
    assert low_score(0.8, 0.8) == pytest.approx(0.5)
    assert low_score(0.4, 0.8) == pytest.approx(0.75)
    assert low_score(0.0, 0.8) == 1.0
    assert low_score(0.9, 0.8) == pytest.approx(0.25)
    assert low_score(1.0, 0.8) == 0.0


def test_margin_looks_at_the_best_two_alone() -> None:
    assert margin(p(0.5, 0.5, 0.0), 0.5) == 1.0
    assert margin(p(0.4, 0.2, 0.4), 0.5) == 1.0
    assert margin(p(0.75, 0.25, 0.0), 0.5) == pytest.approx(0.5)
    assert margin(p(1.0, 0.0, 0.0), 0.5) == 0.0


def test_entropy_is_relative_to_the_largest() -> None:
    assert entropy(p(*[0.25] * 4), 0.5) == pytest.approx(1.0)
    assert entropy(p(0.5, 0.5, 0, 0), 0.5) == pytest.approx(0.5)
    assert entropy(p(1, 0, 0, 0), 0.5) == 0.0
    half = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert entropy(p(0.9, 0.1), 0.5) == pytest.approx(0.5 * half / 0.5, abs=1e-6)


def test_band_is_highest_in_its_middle_and_half_at_its_ends() -> None:
    assert band(0.2, 0.1, 0.3) == pytest.approx(1.0)
    assert [band(one, 0.1, 0.3) for one in (0.1, 0.3)] == pytest.approx([0.5, 0.5])
    assert band(0.25, 0.1, 0.3) == pytest.approx(0.75)
    assert band(1.0, 0.1, 0.3) == pytest.approx(0.0)
    assert 0 < band(0.5, 0.1, 0.3) < 0.5


def test_rare_is_ranked_by_its_probability() -> None:
    assert [rare(one, 0.0) for one in (0.0, 0.5, 1.0)] == [0.0, 0.75, 1.0]
    assert [rare(one, 0.2) for one in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_novelty_is_half_as_far_as_the_farthest_training_image() -> None:
    assert novelty(0.1, 0.1, 1.0) == pytest.approx(0.5)
    assert novelty(0.2, 0.1, 1.0) == pytest.approx(0.75)
    assert novelty(0.2, 0.1, 2.0) == pytest.approx(0.5)
    assert novelty(0.0, 0.1, 1.0) == 0.0


@given(st.lists(SHARES, min_size=2, max_size=6), SHARES, SHARES)
@example([1.0, 1.0, 1.0], 0.0, 1.0)  # three equal shares round to an entropy above the largest
def test_every_value_is_on_the_scale(numbers: list[float], score: float, threshold: float) -> None:
    probabilities = p(*numbers)
    probabilities = probabilities / probabilities.sum() if probabilities.sum() > 0 else p(*[0.5, 0.5])
    for value in (
        low_score(score, threshold), margin(probabilities, threshold), entropy(probabilities, threshold),
        rare(score, threshold), band(score, threshold / 2, 0.5 + threshold / 2),
    ):  # fmt: skip
        assert -1e-6 <= value <= 1 + 1e-6


@given(SHARES, SHARES, SHARES)
def test_what_is_surer_is_worth_less(a: float, b: float, threshold: float) -> None:
    low, high = sorted((a, b))
    assert low_score(low, threshold) >= low_score(high, threshold)
    assert rare(low, threshold) <= rare(high, threshold)


def judge(classes: str = "good bad", references: object = None, **fields: object) -> Judge:
    rows = None if references is None else np.array(references, np.float32)
    return Judge(TriageSettings(**fields), classes.split(), rows)  # type: ignore[arg-type]


def test_the_class_of_interest_is_the_second_of_two_or_the_one_that_is_named() -> None:
    one = Prediction(p(0.9, 0.1), p(1, 0))
    assert judge(strategy="rare").value("rare", one) == pytest.approx(0.55)
    assert judge(strategy="rare", rare="good").value("rare", one) == pytest.approx(0.95)
    three = Prediction(p(0.9, 0.1, 0.0), p(1, 0))
    assert judge("a b c", strategy="rare", rare="b").value("rare", three) == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("classes", "fields", "reason"),
    [
        ("a b c", {"strategy": "band"}, "a band needs 2 classes, there are 3"),
        ("a b c", {"strategy": "rare"}, "triage.rare must name"),
        ("a b", {"strategy": "rare", "rare": "c"}, "'c' is none of a, b"),
        ("a b", {"strategy": "novelty"}, "no references"),
    ],
)
def test_what_cannot_work_says_why(classes: str, fields: dict[str, object], reason: str) -> None:
    one = judge(classes, **fields)
    [(name, told)] = one.skipped.items()
    assert name == fields["strategy"]
    assert reason in told
    assert one.shares == {}
    assert one.value(name, Prediction(p(0.5, 0.5), p(1, 0))) is None


def test_novelty_is_measured_by_the_references_own_spacing() -> None:
    turn = math.radians(30)
    references = [[1, 0, 0], [math.cos(turn), math.sin(turn), 0], [0, 0, 1]]
    one = judge(references=references, strategy="novelty")

    def value(*embedding: float) -> float | None:
        return one.value("novelty", Prediction(p(0.5, 0.5), p(*embedding)))

    assert value(2, 0, 0) == pytest.approx(0.0, abs=1e-6)
    assert value(math.cos(turn), -math.sin(turn), 0) == pytest.approx(0.5)
    assert value(0, -1, 0) == pytest.approx(1 - 2 ** -(1 / (1 - math.cos(turn))))
    assert value(1, 0) is None, "of another backbone"


def test_references_that_are_copies_say_nothing() -> None:
    assert judge(references=[[1, 0], [1, 0]], strategy="novelty").skipped
