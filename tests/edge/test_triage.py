"""Triage: the audit draw first, then strategies, near-copies and the best of each window."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.strategies import Judge
from edge.triage import Chosen, Triage
from shared.litert import Prediction
from shared.policy import TriageSettings

NEVER = 0.999999
CLASSES = ("good", "odd", "broken")


def seen(score: float, embedding: list[float] | None = None) -> Prediction:
    rest = (1 - score) / 2
    return Prediction(np.array([rest, score, rest], np.float32), np.array(embedding or [1, 0, 0], np.float32))


def triage(references: object = None, **fields: object) -> Triage[object]:
    """One strategy, each frame decided at once, unless told otherwise."""
    whole = {"strategy": "low_score", "window": 1, "top": 1, "audit": 0.0, **fields}
    rule: Triage[object] = Triage(TriageSettings(**whole))  # type: ignore[arg-type]
    rule.model(CLASSES, None if references is None else np.array(references, np.float32))
    return rule


def decide(rule: Triage[object], prediction: Prediction, draw: float = NEVER) -> Chosen | None:
    """What becomes of a frame that is decided at once."""
    events = rule.see("frame", prediction, draw, 0.0)
    assert len(events) <= 1
    return events[0][1] if events else None


def test_a_low_score_is_an_event_worth_its_doubt() -> None:
    rule = triage(low_score=0.8, duplicate=1.01)
    values = [decide(rule, seen(score)) for score in (0.79, 0.6, 0.4)]
    assert [(one.why, one.probability) for one in values if one] == [("low_score", 1.0)] * 3
    assert [one.value for one in values if one] == pytest.approx([0.50625, 0.625, 0.75])


@pytest.mark.parametrize(("score", "low"), [(0.79, True), (0.81, False), (1.0, False), (0.4, True)])
def test_the_threshold(score: float, low: bool) -> None:
    assert triage(low_score=0.8).is_low(seen(score)) == low
    assert (decide(triage(low_score=0.8), seen(score)) is not None) == low


def test_a_score_on_the_threshold_is_no_event() -> None:
    one = Prediction(np.array([0.25, 0.5, 0.25], np.float32), np.ones(3, np.float32))
    assert decide(triage(low_score=0.5), one) is None


@pytest.mark.parametrize("score", [0.4, 0.99])
def test_audit_is_drawn_before_the_score(score: float) -> None:
    rule = triage(audit=0.25)
    assert decide(rule, seen(score), 0.2499) == Chosen("audit", 0.25, 1.0)
    chosen = decide(rule, seen(score), 0.25)
    assert chosen is None or chosen.why == "low_score"


def test_audit_is_drawn_before_duplicates_and_does_not_fill_the_memory() -> None:
    """An audit sample is a random sample of all frames: nothing about the frame may change its chance."""
    rule = triage(audit=0.5)
    for _ in range(3):
        assert decide(rule, seen(0.4), 0.1) == Chosen("audit", 0.5, 1.0)
    assert decide(rule, seen(0.4), 0.9) is not None, "a frame that only audit saw is no copy"
    assert decide(rule, seen(0.4), 0.9) is None
    assert decide(rule, seen(0.4), 0.1) == Chosen("audit", 0.5, 1.0)


def test_audit_does_not_wait_and_takes_no_place() -> None:
    rule = triage(audit=0.5, window=3, top=1, duplicate=1.01)
    assert rule.see("a", seen(0.5), 0.1, 0.0) == [("a", Chosen("audit", 0.5, 1.0))]
    assert rule.see("b", seen(0.5), 0.9, 0.0) == []
    assert [name for name, _ in rule.see("c", seen(0.6), 0.9, 0.0)] == ["b"]


def test_audit_comes_with_its_probability() -> None:
    rule, chance = triage(audit=0.1), random.Random(3)
    taken = sum(decide(rule, seen(0.99), chance.random()) is not None for _ in range(20_000))
    assert 1800 < taken < 2200


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_no_audit_and_all_audit(draw: float, score: float) -> None:
    assert decide(triage(audit=1.0), seen(score), draw) == Chosen("audit", 1.0, 1.0)
    chosen = decide(triage(audit=0.0), seen(score), draw)
    assert chosen is None or chosen.why == "low_score"


def test_without_a_model_there_is_audit_alone() -> None:
    rule: Triage[str] = Triage(TriageSettings(audit=0.5, window=1, top=1))
    assert rule.see("a", seen(0.4), 0.9, 0.0) == []
    assert [one.why for _, one in rule.see("a", seen(0.4), 0.1, 0.0)] == ["audit"]


# ---------------------------------------------------------------------------------------- near-copies


def test_a_near_copy_of_a_recent_event_is_none() -> None:
    rule = triage(duplicate=0.99)
    assert decide(rule, seen(0.5, [1, 0, 0]))
    assert decide(rule, seen(0.5, [3, 0.1, 0])) is None, "whatever its length"
    assert decide(rule, seen(0.5, [1, 1, 0]))
    assert decide(rule, seen(0.5, [1.01, 1, 0])) is None
    assert decide(rule, seen(0.5, [-1, 0, 0]))


@pytest.mark.parametrize("strategy", ["low_score", "margin", "entropy", "rare", "novelty", "mix"])
def test_a_static_scene_costs_nothing(strategy: str) -> None:
    rule = triage([[0, 1, 0], [0, 0, 1]], strategy=strategy, rare="odd", window=5, top=4, novelty=0.5)
    events = [one for n in range(100) for one in rule.see(n, seen(0.4, [1, 0.001 * (n % 3), 0]), NEVER, 0.0)]
    assert [name for name, _ in events] == [0]


def test_a_sure_frame_is_not_remembered() -> None:
    rule = triage()
    decide(rule, seen(0.99))
    assert decide(rule, seen(0.5))


def test_only_the_last_ones_are_remembered() -> None:
    rule = triage(remember=2)
    for axis in range(3):
        assert decide(rule, seen(0.5, list(np.eye(3)[axis])))
    assert decide(rule, seen(0.5, [0, 0, 1])) is None
    assert decide(rule, seen(0.5, [1, 0, 0])), "forgotten by now"


@pytest.mark.parametrize("window", [1, 3])
def test_no_memory_no_copies(window: int) -> None:
    rule = triage(remember=0, window=window, top=window)
    assert sum(len(rule.see(n, seen(0.5), NEVER, 0.0)) for n in range(3)) == 3


def test_a_backbone_with_other_embeddings() -> None:
    """A swap may change their length: those before it do not count, and nothing breaks."""
    rule = triage()
    assert decide(rule, seen(0.5, [1, 0, 0]))
    assert decide(rule, seen(0.5, [1, 0, 0, 0, 0]))
    assert decide(rule, seen(0.5, [1, 0, 0, 0, 0])) is None
    assert decide(rule, seen(0.5, [1, 0, 0])) is None


def test_an_embedding_of_nothing() -> None:
    rule = triage()
    for _ in range(2):
        assert decide(rule, seen(0.5, [0, 0, 0]))


# -------------------------------------------------------------------------------------------- windows


def test_the_best_of_each_window_in_the_order_they_were_seen() -> None:
    rule = triage(window=4, top=2, low_score=1.0, duplicate=1.01)
    scores = [0.9, 0.5, 0.7, 0.6, 0.2, 0.9, 0.9, 0.3]
    events = [rule.see(n, seen(score), NEVER, 0.0) for n, score in enumerate(scores)]
    assert [[name for name, _ in some] for some in events] == [[], [], [], [1, 3], [], [], [], [4, 7]]


def test_a_window_ends_with_its_time() -> None:
    rule = triage(window=100, top=1, window_s=5.0)
    assert rule.see("a", seen(0.5), NEVER, 10.0) == rule.due(14.9) == []
    assert [name for name, _ in rule.due(15.0)] == ["a"]
    assert rule.due(100.0) == []
    assert rule.see("b", seen(0.5, [0, 1, 0]), NEVER, 100.0) == [], "the next one begins with its first frame"
    assert [name for name, _ in rule.see("c", seen(0.9), NEVER, 105.0)] == ["b"]


def test_no_more_than_top_are_held() -> None:
    rule = triage([[0, 1, 0], [0, 0, 1]], strategy="mix", window=200, top=5, duplicate=1.01, novelty=0.1)
    chance = np.random.default_rng(1)
    for n in range(199):
        rule.see(n, seen(float(chance.uniform(0.34, 1)), chance.normal(size=3).tolist()), NEVER, 0.0)
        assert sum(map(len, rule._held.values())) <= 5
    assert len(rule.see(199, seen(1.0), NEVER, 0.0)) == 5


@given(st.lists(st.tuples(st.integers(34, 99), st.integers(0, 90)), max_size=12, unique=True), st.randoms())
def test_a_mix_chooses_the_same_in_whatever_order_frames_come(
    frames: list[tuple[int, int]], order: random.Random
) -> None:
    """Each strategy in turn has its best of those that are left."""
    settings = {"strategy": "mix", "mix": {"low_score": 0.5, "novelty": 0.5}, "window": 99, "top": 4, "low_score": 0.9}

    def view(score: int, angle: int) -> Prediction:
        turn = np.radians(angle)
        return Prediction(
            np.array([(100 - score) / 100, 0, 0], np.float32),
            np.array([np.cos(turn), np.sin(turn), 0], np.float32),
            confidence=score / 100,
        )

    references = [[1, 0, 0], [np.cos(0.5), np.sin(0.5), 0]]

    def chosen(some: list[tuple[int, int]]) -> set[tuple[object, str]]:
        rule = triage(references, **settings, duplicate=1.01)
        for one in some:
            rule.see(one, view(*one), NEVER, 0.0)
        return {(frame, why.why) for frame, why in rule.close()}

    judge = Judge(TriageSettings(**settings), CLASSES, np.array(references, np.float32))  # type: ignore[arg-type]
    expected: set[tuple[object, str]] = set()
    left = list(frames)
    for name in ("low_score", "novelty"):
        values = {one: judge.value(name, view(*one)) or 0.0 for one in left}
        best = sorted((one for one in left if values[one] > 0.5), key=lambda one: -values[one])[:2]
        cut = [one for one in left if one not in best and best and values[one] == values[best[-1]]]
        if cut:  # equal values: the earlier one is chosen, so the order may count
            return
        expected |= {(one, name) for one in best}
        left = [one for one in left if one not in best]
    shuffled = list(frames)
    order.shuffle(shuffled)
    assert chosen(frames) == chosen(shuffled) == expected


def test_the_shares_come_out_even_over_windows() -> None:
    rule = triage(
        strategy="mix", mix={"low_score": 0.7, "margin": 0.2, "entropy": 0.1}, window=3, top=3, duplicate=1.01
    )
    chosen = Counter(one.why for n in range(300) for _, one in rule.see(n, seen(0.35), NEVER, 0.0))
    assert chosen == {"low_score": 210, "margin": 60, "entropy": 30}


def test_a_place_without_a_frame_stays_empty() -> None:
    rule = triage(strategy="mix", mix={"low_score": 0.5, "entropy": 0.5}, entropy=1.0, window=4, top=4, duplicate=1.01)
    assert sum(len(rule.see(n, seen(0.5), NEVER, 0.0)) for n in range(40)) == 20


def test_a_strategy_that_cannot_work_is_skipped_and_its_share_goes_to_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rule = triage(strategy="mix", mix={"low_score": 0.5, "novelty": 0.5}, window=4, top=4, duplicate=1.01)
    assert rule.skipped == {"novelty": "the release has no references"}
    assert "novelty is skipped" in caplog.text
    chosen = [one.why for n in range(8) for _, one in rule.see(n, seen(0.5), NEVER, 0.0)]
    assert chosen == ["low_score"] * 8


# ---------------------------------------------------------------------------- other models, other settings


def test_another_model_ends_the_window_of_the_one_before() -> None:
    rule = triage(window=50, top=2)
    rule.see("a", seen(0.5), NEVER, 0.0)
    assert [name for name, _ in rule.model(CLASSES)] == ["a"]
    assert rule.close() == []
    rule.see("b", seen(0.5), NEVER, 0.0)
    assert rule.close() == [], "what the model before chose is still remembered"


def test_other_settings_hold_from_the_next_frame_on_and_nothing_is_forgotten() -> None:
    rule = triage(window=50, top=2)
    rule.see("a", seen(0.5), NEVER, 0.0)
    rule.use(TriageSettings(strategy="low_score", low_score=0.9, window=1, top=1, audit=0.0, remember=8))
    assert rule.settings.low_score == 0.9
    assert [name for name, _ in rule.see("b", seen(0.85), NEVER, 0.0)] == ["a"], "b is a copy of a"
    assert [name for name, _ in rule.see("c", seen(0.85, [0, 1, 0]), NEVER, 0.0)] == ["c"]
    rule.use(TriageSettings(strategy="rare", rare="broken", window=1, top=1, audit=0.0))
    assert [one.why for _, one in rule.see("d", seen(0.5, [0, 0, 1]), NEVER, 0.0)] == ["rare"]


# ------------------------------------------------------------------------------------ frames that two models differ on


def test_a_pair_is_an_event_at_once_with_the_chance_of_its_draw() -> None:
    """Whatever the window holds, and though it is a copy of an event."""
    rule = triage(window=10, top=1, audit=0.1)
    assert rule.see("a", seen(0.5), NEVER, 0.0) == []
    assert rule.see("b", seen(0.99), NEVER, 0.0, 0.2) == [("b", Chosen("pair", 0.2, 1.0))]
    assert rule.see("c", seen(0.5), NEVER, 0.0, 0.2) == [("c", Chosen("pair", 0.2, 1.0))]
    assert [name for name, _ in rule.close()] == ["a"]


def test_the_audit_draw_goes_before_the_pair() -> None:
    """So the sample of all frames stays one."""
    rule = triage(window=10, top=1, audit=0.1)
    assert rule.see("a", seen(0.5), 0.05, 0.0, 0.2) == [("a", Chosen("audit", 0.1, 1.0))]


def test_a_pair_counts_as_a_frame_of_its_window() -> None:
    rule = triage(window=2, top=1, audit=0.0)
    assert rule.see("a", seen(0.5), NEVER, 0.0) == []
    assert [name for name, _ in rule.see("b", seen(0.5), NEVER, 0.0, 0.2)] == ["b", "a"]
