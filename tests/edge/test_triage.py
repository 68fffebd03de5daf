"""Triage: the audit draw first, then the score, then near-copies; values that the spool can sort by."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.triage import Chosen, Triage
from shared.litert import Prediction
from shared.policy import TriageSettings

NEVER = 0.999999


def seen(score: float, embedding: list[float] | None = None) -> Prediction:
    rest = (1 - score) / 2
    return Prediction(np.array([rest, score, rest], np.float32), np.array(embedding or [1, 0, 0], np.float32))


def triage(**fields: object) -> Triage:
    return Triage(TriageSettings(**{"low_score": 0.8, "audit": 0.0, **fields}))


def test_a_low_score_is_an_event_worth_its_doubt() -> None:
    chosen = triage().decide(seen(0.6), NEVER)
    assert chosen is not None
    assert (chosen.why, chosen.probability) == ("low_score", 1.0)
    assert chosen.value == pytest.approx(0.4)


@pytest.mark.parametrize(("score", "low"), [(0.79, True), (0.81, False), (1.0, False), (0.4, True)])
def test_the_threshold(score: float, low: bool) -> None:
    assert triage().is_low(seen(score)) == low
    assert (triage().decide(seen(score), NEVER) is not None) == low


def test_a_score_on_the_threshold_is_no_event() -> None:
    one = Prediction(np.array([0.5, 0.5], np.float32), np.ones(3, np.float32))
    assert triage(low_score=0.5).decide(one, NEVER) is None


@pytest.mark.parametrize("score", [0.4, 0.99])
def test_audit_is_drawn_before_the_score(score: float) -> None:
    rule = triage(audit=0.25)
    assert rule.decide(seen(score), 0.2499) == Chosen("audit", 0.25, 1.0)
    chosen = rule.decide(seen(score), 0.25)
    assert chosen is None or chosen.why == "low_score"


def test_audit_is_drawn_before_duplicates_and_does_not_fill_the_memory() -> None:
    """An audit sample is a random sample of all frames: nothing about the frame may change its chance."""
    rule = triage(audit=0.5)
    for _ in range(3):
        assert rule.decide(seen(0.4), 0.1) == Chosen("audit", 0.5, 1.0)
    assert rule.decide(seen(0.4), 0.9) is not None, "a frame that only audit saw is no copy"
    assert rule.decide(seen(0.4), 0.9) is None
    assert rule.decide(seen(0.4), 0.1) == Chosen("audit", 0.5, 1.0)


def test_audit_comes_with_its_probability() -> None:
    rule, chance = triage(audit=0.1), random.Random(3)
    taken = sum(rule.decide(seen(0.99), chance.random()) is not None for _ in range(20_000))
    assert 1800 < taken < 2200


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_no_audit_and_all_audit(draw: float, score: float) -> None:
    assert triage(audit=1.0).decide(seen(score), draw) == Chosen("audit", 1.0, 1.0)
    chosen = triage(audit=0.0).decide(seen(score), draw)
    assert chosen is None or chosen.why == "low_score"


def test_a_near_copy_of_a_recent_event_is_none() -> None:
    rule = triage(duplicate=0.99)
    assert rule.decide(seen(0.5, [1, 0, 0]), NEVER)
    assert rule.decide(seen(0.5, [3, 0.1, 0]), NEVER) is None, "whatever its length"
    assert rule.decide(seen(0.5, [1, 1, 0]), NEVER)
    assert rule.decide(seen(0.5, [1.01, 1, 0]), NEVER) is None
    assert rule.decide(seen(0.5, [-1, 0, 0]), NEVER)


def test_a_sure_frame_is_not_remembered() -> None:
    rule = triage()
    rule.decide(seen(0.99), NEVER)
    assert rule.decide(seen(0.5), NEVER)


def test_only_the_last_ones_are_remembered() -> None:
    rule = triage(remember=2)
    for axis in range(3):
        assert rule.decide(seen(0.5, list(np.eye(3)[axis])), NEVER)
    assert rule.decide(seen(0.5, [0, 0, 1]), NEVER) is None
    assert rule.decide(seen(0.5, [1, 0, 0]), NEVER), "forgotten by now"


def test_no_memory_no_copies() -> None:
    rule = triage(remember=0)
    assert all(rule.decide(seen(0.5), NEVER) for _ in range(3))


def test_a_backbone_with_other_embeddings() -> None:
    """A swap may change their length: those before it do not count, and nothing breaks."""
    rule = triage()
    assert rule.decide(seen(0.5, [1, 0, 0]), NEVER)
    assert rule.decide(seen(0.5, [1, 0, 0, 0, 0]), NEVER)
    assert rule.decide(seen(0.5, [1, 0, 0, 0, 0]), NEVER) is None
    assert rule.decide(seen(0.5, [1, 0, 0]), NEVER) is None


def test_an_embedding_of_nothing() -> None:
    rule = triage()
    for _ in range(2):
        assert rule.decide(seen(0.5, [0, 0, 0]), NEVER)


def test_other_settings_hold_from_the_next_frame_on_and_what_is_remembered_stays() -> None:
    rule = triage(remember=3, duplicate=0.9)
    for embedding in ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]):
        assert rule.decide(seen(0.6, embedding), NEVER)
    rule.use(TriageSettings(low_score=0.5, audit=0.0, remember=2, duplicate=0.9))
    assert rule.settings.low_score == 0.5
    assert rule.decide(seen(0.6, [1.0, 1, 0]), NEVER) is None, "sure enough now"
    assert rule.decide(seen(0.4, [0, 0, 1.0]), NEVER) is None, "a copy of what was seen before"
    assert rule.decide(seen(0.4, [1.0, 0, 0]), NEVER), "the oldest of three is not among two"
