"""Retrain: whether a run shall start by itself, and why. Pure: counts, times and settings in, words or None out.

    rule                | starts a run
    --------------------|-----------------------------------------------------------------------
    every_labels        | after so many new labels
    every_positives     | after so many new labels of the class of interest
    new_share           | new labels / images that the last run learned from, from this share on
    on_drift            | a camera's frames drift from what the release has learned
    every_hours         | so long after the last run was asked for
    daily_at            | at a time of day

"New" means: since the last run was asked for, whatever became of it. Any rule that is on starts a run. None starts
while one is under way, and the last four need `at_least` new labels: the same data teach nothing new. After a run that
failed every rule needs `at_least`, after each further one twice as many, so that what cannot work is not tried for
ever. The first run has nothing to count from: only labels start it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hub.settings import RetrainSettings

MOST_DOUBLINGS = 10


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to decide on. labels, positives: new ones. last: when the last run was asked for; None: there is
    none. learned: images that the last run which came so far learned from. busy: a run is under way. failed: how many
    runs in a row have failed, up to the last. drift: what is found to drift, in words.
    """

    labels: int
    positives: int = 0
    last: datetime | None = None
    learned: int = 0
    busy: bool = False
    failed: int = 0
    drift: Sequence[str] = ()


def due(facts: Facts, settings: RetrainSettings, now: datetime) -> str | None:
    """Why a run shall start now, all reasons in words; None: it shall not. now: in the hub's own time zone."""
    if facts.busy or not facts.labels:
        return None
    if facts.failed and facts.labels < settings.at_least << min(facts.failed - 1, MOST_DOUBLINGS):
        return None
    why: list[str] = []
    if settings.every_labels and facts.labels >= settings.every_labels:
        why.append(_counted(facts.labels, "new label"))
    if settings.every_positives and facts.positives >= settings.every_positives:
        why.append(_counted(facts.positives, "new positive"))
    if facts.last is not None and facts.labels >= settings.at_least:
        why += _since(facts, facts.last, settings, now)
    return "; ".join(why) or None


def _since(facts: Facts, last: datetime, settings: RetrainSettings, now: datetime) -> list[str]:
    """The rules that look back at the last run."""
    why: list[str] = []
    if settings.new_share and facts.learned and facts.labels / facts.learned >= settings.new_share:
        share = 100 * facts.labels / facts.learned
        why.append(f"{_counted(facts.labels, 'new label')}, {share:.0f} % of what the last run learned from")
    if settings.on_drift and facts.drift:
        why.append(f"drift: {', '.join(facts.drift)}")
    if settings.every_hours and now - last >= timedelta(hours=settings.every_hours):
        why.append(f"{settings.every_hours:g} h after the last run")
    if settings.daily_at and last < latest(settings.daily_at, now):
        why.append(f"daily at {settings.daily_at}")
    return why


def latest(time_of_day: str, now: datetime) -> datetime:
    """The last moment, up to now, at which the clock showed "HH:MM"."""
    hour, minute = map(int, time_of_day.split(":"))
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


def rules(settings: RetrainSettings) -> list[str]:
    """The rules that are on, each in words that follow on "a run starts"; empty: on demand only."""
    positive = f"of {settings.positive}" if settings.positive else "of the second class"
    told = {
        f"after {_counted(settings.every_labels, 'new label')}": settings.every_labels,
        f"after {_counted(settings.every_positives, 'new label')} {positive}": settings.every_positives,
        f"once new labels are {100 * settings.new_share:g} % of what the last run learned from": settings.new_share,
        "when frames drift": settings.on_drift,
        f"every {settings.every_hours:g} h": settings.every_hours,
        f"daily at {settings.daily_at}": settings.daily_at,
    }
    return [words for words, on in told.items() if on]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
