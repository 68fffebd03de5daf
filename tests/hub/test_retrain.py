"""When a run starts by itself: a table of what is so, what is set, and what is said."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from hub.retrain import MOST_DOUBLINGS, Facts, due, latest, rules
from hub.settings import RetrainSettings

BERLIN = timezone(timedelta(hours=1))
NOW = datetime(2026, 3, 4, 7, 0, tzinfo=BERLIN)
YESTERDAY = NOW - timedelta(hours=24)


def setting(**fields: object) -> RetrainSettings:
    """Every rule off but those that are named."""
    return RetrainSettings(**{"every_labels": 0, **fields})  # type: ignore[arg-type]


def facts(labels: int, **fields: object) -> Facts:
    return Facts(**{"labels": labels, "last": YESTERDAY, "learned": 200, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "known", "why"),
    [
        (RetrainSettings(), facts(49), None),
        (RetrainSettings(), facts(50), "50 new labels"),
        (RetrainSettings(), facts(50, busy=True), None),
        (RetrainSettings(), facts(50, last=None, learned=0), "50 new labels"),
        (setting(every_labels=1), facts(1), "1 new label"),
        (setting(), facts(10_000, positives=9_000, drift=["line-1/top"]), None),
        (setting(every_positives=10), facts(300, positives=9), None),
        (setting(every_positives=10), facts(11, positives=10), "10 new positives"),
        (setting(every_labels=50, every_positives=10), facts(60, positives=12), "60 new labels; 12 new positives"),
        (setting(new_share=0.1), facts(19), None),
        (setting(new_share=0.1), facts(20), "20 new labels, 10 % of what the last run learned from"),
        (setting(new_share=0.1), facts(20, last=None), None),
        (setting(new_share=0.1), facts(20, learned=0), None),
        (setting(new_share=0.001), facts(9), None),
        (setting(new_share=0.001, at_least=9), facts(9), "9 new labels, 4 % of what the last run learned from"),
        (setting(on_drift=True), facts(10), None),
        (setting(on_drift=True), facts(10, drift=["line-1/top: class mix"]), "drift: line-1/top: class mix"),
        (setting(on_drift=True), facts(9, drift=["line-1/top"]), None),
        (setting(on_drift=True), facts(10, drift=["line-1/top"], busy=True), None),
        (setting(every_hours=24), facts(10), "24 h after the last run"),
        (setting(every_hours=24.1), facts(10), None),
        (setting(every_hours=24), facts(9), None),
        (setting(every_hours=24), facts(0), None),
        (setting(every_hours=24), facts(10, last=None), None),
        (setting(daily_at="06:30"), facts(10), "daily at 06:30"),
        (setting(daily_at="06:30"), facts(10, last=NOW - timedelta(minutes=31)), "daily at 06:30"),
        (setting(daily_at="06:30"), facts(10, last=NOW - timedelta(minutes=30)), None),
        (setting(daily_at="07:01"), facts(10), "daily at 07:01"),
        (setting(daily_at="07:01"), facts(10, last=NOW - timedelta(hours=1)), None),
        # After a run that failed, whatever the rule: at_least, then twice as many each time.
        (setting(every_labels=3), facts(3), "3 new labels"),
        (setting(every_labels=3), facts(9, failed=1), None),
        (setting(every_labels=3), facts(10, failed=1), "10 new labels"),
        (setting(every_labels=3), facts(39, failed=3), None),
        (setting(every_labels=3), facts(40, failed=3), "40 new labels"),
        (setting(on_drift=True), facts(19, drift=["a"], failed=2), None),
        (setting(every_hours=1, at_least=1), facts(1, failed=1), "1 h after the last run"),
        (setting(every_hours=1, at_least=1), facts(1, failed=2), None),
        (setting(every_labels=1, at_least=1), facts((1 << MOST_DOUBLINGS) - 1, failed=99), None),
        (setting(every_labels=1, at_least=1), facts(1 << MOST_DOUBLINGS, failed=99), "1024 new labels"),
        (
            setting(every_labels=5, every_hours=2, on_drift=True),
            facts(12, drift=["a", "b"]),
            "12 new labels; drift: a, b; 2 h after the last run",
        ),
    ],
)
def test_a_run_starts_or_not_and_says_why(settings: RetrainSettings, known: Facts, why: str | None) -> None:
    assert due(known, settings, NOW) == why


def test_the_time_of_day_is_the_hubs_own() -> None:
    assert latest("06:30", NOW) == datetime(2026, 3, 4, 5, 30, tzinfo=UTC)
    assert latest("07:00", NOW) == NOW
    assert latest("23:15", NOW) == datetime(2026, 3, 3, 22, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (setting(), []),
        (RetrainSettings(), ["after 50 new labels"]),
        (
            setting(every_positives=1, positive="crack", new_share=0.25),
            ["after 1 new label of crack", "once new labels are 25 % of what the last run learned from"],
        ),
        (
            setting(on_drift=True, every_hours=12, daily_at="05:00"),
            ["when frames drift", "every 12 h", "daily at 05:00"],
        ),
    ],
)
def test_the_rules_that_are_on_in_words(settings: RetrainSettings, told: list[str]) -> None:
    assert rules(settings) == told
