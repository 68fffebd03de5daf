"""Trial: a second model judges a random share of the frames beside the one in use, in spare time, for comparison alone.

The frame loop draws a frame by chance, whatever the models say of it, and hands it over in place of giving it to
triage; it comes back with the other model's answer, and then goes to triage: a frame is one event at most. The loop
waits for nothing: where the other model is busy, or frames leave no time at all, a drawn frame counts as missed and
takes the usual way. So do those under way when a trial ends.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from edge.frame import Frame
from edge.infer import Engine, Facts, Running
from edge.priority import lower_priority
from edge.shelf import WELL_FRAMES, WELL_SECONDS
from shared.errors import ModelError
from shared.ids import boot_id
from shared.litert import Prediction
from shared.messages import Rival, TrialState
from shared.preprocess import Pixels

log = logging.getLogger(__name__)
WAITING = 2
"""Frames that may wait for the other model before a drawn one is missed."""
DIGITS = 4
"""Of the other model's score."""

Judge = Callable[[Pixels, Prediction], Prediction]
"""How the other model judges a frame of which the one in use has said its word."""


class Seen(NamedTuple):
    """A frame and what was said of it. share: with what chance it was drawn for a trial, 0: it was not; rival: what the
    other model said, where that is another label and shall be asked about.
    """

    frame: Frame
    prediction: Prediction
    facts: Facts
    share: float = 0.0
    rival: Rival | None = None


@dataclass(slots=True)
class _Counts:
    """What `TrialState` tells."""

    id: str = field(default_factory=boot_id)
    frames: int = 0
    differed: int = 0
    lost: int = 0
    missed: int = 0
    low: int = 0
    other_low: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    labels: Counter[str] = field(default_factory=Counter)
    other_labels: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two models at work: what is known of the one in use and of the other one, and how that one judges."""

    main: Facts
    other: Facts
    judge: Judge


def judge_of(other: Running, *, head_alone: bool) -> Judge:
    """How `other` judges: as a whole, or by its head alone on the embedding that is there; then its backbone goes."""
    model, head = other.model, other.model.head
    if head_alone:
        return lambda _, prediction: head.judge(prediction.embedding)
    return lambda pixels, _: model.predict(pixels)


class TrialRun:
    """The thread of the other model, and its counts.

    is_low: whether a score is under triage's threshold; called in this thread.
    """

    def __init__(self, engine: Engine, is_low: Callable[[Prediction], bool]) -> None:
        self._engine = engine
        self._is_low = is_low
        self._changed = threading.Condition()  # held for microseconds, never while a model runs
        self._named: tuple[int, int] | None = None
        self._share = 0.0
        self._ask = False
        self._skipped = ""
        self._pair: _Pair | None = None
        self._error: ModelError | None = None
        self._counts = _Counts()
        self._since = 0.0
        self._before = 0
        self._waiting: deque[Seen] = deque()
        self._done: deque[Seen] = deque()
        self._busy = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="trial", daemon=True)

    # -- the frame loop

    def take(self, seen: Seen, draw: float) -> bool:
        """Whether a frame is drawn and goes to the other model first; it comes back by `done`. draw: random, [0, 1)."""
        if self._pair is None or draw >= self._share:
            return False
        with self._changed:
            if self._pair is None or seen.facts is not self._pair.main:
                return False
            if len(self._waiting) >= WAITING or self._engine.spare.scarce:
                self._counts.missed += 1
                return False
            self._waiting.append(seen._replace(share=self._share))
            self._changed.notify_all()
        return True

    def done(self) -> list[Seen]:
        """The frames that came back since the last call: each goes to triage now."""
        back = []
        while self._done:
            back.append(self._done.popleft())
        return back

    # -- any thread

    def lost(self, rival: Rival) -> None:
        """An event with this other answer could not be kept."""
        with self._changed:
            if self._named is not None and self._named[1] == rival.release:
                self._counts.lost += 1

    def state(self) -> TrialState | None:
        """The counts since the plan named these two releases; None when it names none."""
        usual = round(self._engine.infer_ms, 2)
        with self._changed:
            if self._named is None:
                return None
            counts, (release, other) = self._counts, self._named
            return TrialState(
                release=release,
                other=other,
                id=counts.id,
                skipped=self._skipped,
                frames=counts.frames,
                differed=counts.differed,
                lost=counts.lost,
                missed=counts.missed,
                low=counts.low,
                other_low=counts.other_low,
                ms=usual,
                other_ms=round(median(counts.times), 2) if counts.times else 0.0,
                labels=dict(counts.labels),
                other_labels=dict(counts.other_labels),
            )

    # -- the reload thread

    def start(self) -> None:
        """Begin to wait for frames."""
        self._thread.start()

    def name(self, release: int, other: int, *, share: float, ask: bool) -> None:
        """The plan names these two; counts begin anew with another pair, and another other model is let go."""
        with self._changed:
            if self._named != (release, other):
                self._let_go()
                self._named, self._counts, self._skipped = (release, other), _Counts(), ""
            self._share, self._ask = share, ask

    def begin(self, main: Facts, other: Facts, judge: Judge) -> None:
        """The other one of the named two is ready: frames are drawn from now on."""
        with self._changed:
            self._pair, self._error, self._skipped = _Pair(main, other, judge), None, ""
            self._since, self._before = time.monotonic(), self._counts.frames

    def skip(self, reason: str) -> None:
        """The other one of the named two does not run here."""
        with self._changed:
            self._let_go()
            self._skipped = reason

    def end(self) -> None:
        """The plan names none: nothing is counted any more. When this returns nothing holds the other model."""
        with self._changed:
            self._let_go()
            self._named = None

    @property
    def skipped(self) -> str:
        """Why the other one of the named two does not run here; empty: it does, or is on its way."""
        return self._skipped

    @property
    def runs(self) -> bool:
        """Whether the other model is at work."""
        return self._pair is not None

    @property
    def proven(self) -> bool:
        """Whether it has judged so many frames, or for so long, that it counts as one that does not kill the agent."""
        judged = self._counts.frames - self._before
        return self._pair is not None and (
            judged >= WELL_FRAMES or (judged > 0 and time.monotonic() - self._since > WELL_SECONDS)
        )

    @property
    def error(self) -> ModelError | None:
        """What the other model ended with."""
        return self._error

    def stop(self) -> None:
        """Let go of the other model and end the thread; frames that were under way are among `done`."""
        with self._changed:
            self._let_go()
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(5)

    # -- below the surface

    def _let_go(self) -> None:
        """Nothing holds the other model when this returns, and every frame is on its way back. The lock is held."""
        self._pair, self._error = None, None
        self._done.extend(self._waiting)
        self._waiting.clear()
        while self._busy:
            self._changed.wait()

    def _run(self) -> None:
        lower_priority()
        while self._next():
            pass

    def _next(self) -> bool:
        """Judge the next frame; False at the end. In a method of its own: between two frames this holds no model."""
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if not self._waiting or self._pair is None:
                return not self._stopping
            seen, pair, self._busy = self._waiting.popleft(), self._pair, True
        back = seen
        try:
            self._engine.spare.wait()
            back = self._compare(seen, pair)
        except ModelError as error:
            log.error("trial of release %d: %s", pair.other.release, error)
            with self._changed:
                if self._pair is pair:
                    self._pair, self._error = None, error
        finally:
            del pair  # before anyone may learn that nothing holds the model
            with self._changed:
                self._busy = False
                self._done.append(back)
                if self._pair is None:
                    self._done.extend(self._waiting)
                    self._waiting.clear()
                self._changed.notify_all()
        return True

    def _compare(self, seen: Seen, pair: _Pair) -> Seen:
        """Have the other one judge, and count; the frame with its answer."""
        begin = time.perf_counter()
        said = pair.judge(seen.frame.pixels, seen.prediction)
        took = (time.perf_counter() - begin) * 1000
        label, other = pair.main.classes[seen.prediction.best], pair.other.classes[said.best]
        low, other_low = self._is_low(seen.prediction), self._is_low(said)
        with self._changed:
            counts, ask = self._counts, self._ask
            counts.differed += label != other
            number = counts.differed
            counts.times.append(took)
            counts.frames += 1
            counts.low += low
            counts.other_low += other_low
            counts.labels[label] += 1
            counts.other_labels[other] += 1
        if label == other or not ask:
            return seen
        return seen._replace(
            rival=Rival(
                release=pair.other.release,
                label=other,
                score=min(1.0, round(said.score, DIGITS)),
                trial=counts.id,
                number=number,
            )
        )
