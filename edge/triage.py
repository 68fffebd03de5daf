"""Triage: which frames become events, and how much each is worth. Values in, decisions out.

1. The audit draw comes first, before duplicates and scores are looked at, so that audit events are a random sample of
   all frames, each taken with the probability that is stored with it. They are events at once.
2. So are, next, random frames on which the two models of a trial differ (`edge.trial`).
3. A frame that a strategy takes (`edge.strategies`), and that is no near-copy of a recent event or of one that waits
   here, waits for the end of its window, if it is among the best so far.
4. At the window's end the best are events: each strategy has as many places as its share of `top` says, what is left
   over is made up for in later windows. A place for which there is no frame stays empty.

Which strategy takes a frame that several want: the first of the mix, unless it has better ones; then the next. This is
deferred acceptance (Gale and Shapley, "College admissions and the stability of marriage", 1962): the same frames are
chosen in whatever order they come, and no more than `top` are ever held.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Generic, TypeVar

from edge.recent import Recent
from edge.strategies import JUST, Judge, unit
from shared.litert import Floats, Prediction
from shared.policy import AUDIT, PAIR, TriageSettings

log = logging.getLogger(__name__)
F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Why a frame became an event, with what probability, and its value (higher is sent first, evicted last)."""

    why: str
    probability: float
    value: float


@dataclass(frozen=True, slots=True)
class _Held(Generic[F]):
    """A frame that waits for the end of its window. number: since the start; the earlier of two equals is better."""

    value: float
    number: int
    frame: F
    unit: Floats
    prediction: Prediction

    def __lt__(self, other: "_Held[F]") -> bool:
        return (self.value, -self.number) < (other.value, -other.number)


class Triage(Generic[F]):
    """Chooses among frames of any kind; those that it returns are events. Not thread-safe, but for `use`.

    At the most `top` frames are held, and the embeddings of the last `remember` events.
    """

    def __init__(self, settings: TriageSettings) -> None:
        self._settings = self._wanted = settings
        self._classes: tuple[str, ...] = ()
        self._references: Floats | None = None
        self._judge = Judge(settings, ())
        self._recent = Recent(settings.remember)
        self._turns: dict[str, float] = {}  # what each strategy is owed, in places
        self._places: Counter[str] = Counter()
        self._held: dict[str, list[_Held[F]]] = {}
        self._seen = 0  # frames in this window
        self._began = 0.0
        self._number = 0

    @property
    def settings(self) -> TriageSettings:
        """Those in force, or about to be with the next frame."""
        return self._wanted

    @property
    def skipped(self) -> dict[str, str]:
        """Strategies that cannot work with this model, and why."""
        return self._judge.skipped

    def use(self, settings: TriageSettings) -> None:
        """Go by other settings from the next frame on; what is remembered and held stays. From any thread."""
        self._wanted = settings

    def model(self, classes: Sequence[str], references: Floats | None = None) -> list[tuple[F, Chosen]]:
        """Another model speaks from now on, so the window of the one before ends. references: see `edge.strategies`."""
        events = self.close()
        self._classes, self._references = tuple(classes), references
        self._rule()
        return events

    def see(
        self, frame: F, prediction: Prediction, draw: float, now: float, pair: float = 0.0
    ) -> list[tuple[F, Chosen]]:
        """One more frame: the events that are settled now. draw: a fresh random number in [0, 1). now: seconds.

        pair: with what chance a trial drew it, where its two models differ on it and that is asked about; else 0.
        """
        events = self.due(now)
        if not self._seen:
            self._open(now)
        self._seen += 1
        self._number += 1
        if draw < self._settings.audit:
            events.append((frame, Chosen(AUDIT, self._settings.audit, 1.0)))
        elif pair:
            events.append((frame, Chosen(PAIR, pair, 1.0)))
        else:
            self._enter(frame, prediction)
        return [*events, *self.close()] if self._seen >= self._settings.window else events

    def due(self, now: float) -> list[tuple[F, Chosen]]:
        """The events of a window whose time is over, or whose settings were changed."""
        events: list[tuple[F, Chosen]] = []
        if self._settings is not self._wanted:
            events = self.close()
            self._settings = self._wanted
            self._recent = Recent(self._settings.remember, self._recent)
            self._rule()
        if self._seen and now - self._began >= self._settings.window_s:
            events += self.close()
        return events

    def close(self) -> list[tuple[F, Chosen]]:
        """End the window now: its events, in the order in which they were seen."""
        chosen = sorted(
            ((one, why) for why, held in self._held.items() for one in held), key=lambda pair: pair[0].number
        )
        for one, _ in chosen:
            self._recent.add(one.unit)
        self._held, self._seen = {}, 0
        return [(one.frame, Chosen(why, 1.0, one.value)) for one, why in chosen]

    def is_low(self, prediction: Prediction) -> bool:
        """Whether the score is below the threshold, event or not."""
        return prediction.score < self._settings.low_score

    # -- below the surface

    def _rule(self) -> None:
        """Settings or model are others: which strategies can work?"""
        self._judge = Judge(self._settings, self._classes, self._references)
        for name, reason in self._judge.skipped.items():
            log.warning("triage: strategy %s is skipped: %s", name, reason)
        self._turns = {name: self._turns.get(name, 0.0) for name in self._judge.shares}

    def _open(self, now: float) -> None:
        """A window begins: its places go round by the shares, so that over many windows they come out even."""
        self._began = now
        self._places = Counter()
        for _ in range(self._settings.top if self._turns else 0):
            for name, share in self._judge.shares.items():
                self._turns[name] += share
            first = max(self._turns, key=lambda name: self._turns[name])
            self._turns[first] -= 1.0
            self._places[first] += 1

    def _enter(self, frame: F, prediction: Prediction) -> None:
        """Hold a frame if a strategy has room for it, or for it lets go of a worse one, which tries the next."""
        candidate: _Held[F] | None = None
        for name in self._judge.shares:
            room = self._places[name]
            if not room:
                continue
            value = self._judge.value(name, candidate.prediction if candidate else prediction)
            if value is None or value <= JUST:
                continue
            held = self._held.setdefault(name, [])
            if candidate is None:
                if len(held) == room and value <= held[0].value:
                    continue  # the usual case: those who are held are better, or came first
                one = unit(prediction.embedding)
                if self._is_copy(one):
                    return
                candidate = _Held(value, self._number, frame, one, prediction)
            candidate = replace(candidate, value=value)
            if len(held) < room:
                heapq.heappush(held, candidate)
                return
            candidate = heapq.heappushpop(held, candidate)

    def _is_copy(self, one: Floats) -> bool:
        """Whether the cosine to an event or a held frame is above `duplicate`; another backbone's do not count."""
        held = (waiting.unit for frames in self._held.values() for waiting in frames)
        others = [other for other in islice(held, self._settings.remember) if other.shape == one.shape]
        return max([self._recent.nearest(one), *(float(other.dot(one)) for other in others)]) > self._settings.duplicate
