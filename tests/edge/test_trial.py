"""Trial: frames are drawn by chance alone, judged beside the loop, counted, and all of them come back."""

import random
import threading
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import pytest

from edge.frame import Frame
from edge.infer import Engine, Facts
from edge.trial import WAITING, Seen, TrialRun
from shared.clock import SystemClock
from shared.litert import Prediction
from shared.messages import Rival, TrialState
from tests.fakes.listener import wait_until

MAIN, OTHER = Facts(5, ("good", "bad")), Facts(6, ("bad", "good", "odd"))
_numbers = count()


def said(*probabilities: float) -> Prediction:
    return Prediction(np.array(probabilities, np.float32), np.zeros(3, np.float32))


def seen(prediction: Prediction, facts: Facts = MAIN) -> Seen:
    return Seen(Frame(next(_numbers), SystemClock().utc(), np.zeros((2, 2, 3), np.uint8)), prediction, facts)


GOOD, BAD = said(0.9, 0.1), said(0.3, 0.7)


class Other:
    """A model that says what it is told to, and can be held in the middle of a frame."""

    def __init__(self) -> None:
        self.says = said(0.1, 0.6, 0.3)
        self.free = threading.Event()
        self.free.set()
        self.began = 0

    def __call__(self, *_: object) -> Prediction:
        self.began += 1
        assert self.free.wait(10)
        return self.says


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def run(engine: Engine) -> Iterator[TrialRun]:
    one = TrialRun(engine, lambda prediction: prediction.score < 0.8)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def other(run: TrialRun) -> Iterator[Other]:
    one = Other()
    yield one
    one.free.set()


Begin = Callable[..., None]


@pytest.fixture
def begin(run: TrialRun, other: Other) -> Begin:
    def begin(*, share: float = 1.0, ask: bool = True, main: Facts = MAIN, facts: Facts = OTHER) -> None:
        run.name(main.release, facts.release, share=share, ask=ask)
        run.begin(main, facts, other)

    return begin


def back(run: TrialRun, number: int = 1) -> list[Seen]:
    came: list[Seen] = []
    wait_until(lambda: came.extend(run.done()) or len(came) >= number, f"{number} frames, came {came}")
    return came


def state(run: TrialRun) -> TrialState:
    found = run.state()
    assert found is not None
    return found


def test_without_a_trial_no_frame_is_taken(run: TrialRun) -> None:
    assert not run.take(seen(GOOD), 0.0)
    assert (run.state(), run.done(), run.runs, run.proven) == (None, [], False, False)
    run.name(5, 6, share=1.0, ask=True)
    assert not run.take(seen(GOOD), 0.0), "it is on its way"
    assert state(run) == TrialState(release=5, other=6, id=state(run).id)


def test_labels_are_compared_by_name_and_counted(run: TrialRun, other: Other, begin: Begin) -> None:
    begin()
    for prediction, answer in [
        (GOOD, said(0.1, 0.6, 0.3)),  # good, good under another index
        (GOOD, said(0.9, 0.1, 0.0)),  # good, bad: the same index
        (BAD, said(0.1, 0.1, 0.8)),  # bad, odd
    ]:
        other.says = answer
        assert run.take(seen(prediction), 0.0)
        [came] = back(run)
        assert came.share == 1.0
        assert (came.rival is None) == (answer.probabilities[1] == np.float32(0.6))
    assert came.rival == Rival(release=6, label="odd", score=0.8, trial=state(run).id, number=2)
    told = state(run)
    assert (told.frames, told.differed, told.low, told.other_low, told.missed, told.lost) == (3, 2, 1, 1, 0, 0)
    assert told.labels == {"good": 2, "bad": 1}
    assert told.other_labels == {"good": 1, "bad": 1, "odd": 1}
    assert told.other_ms > 0


def test_who_does_not_ask_gets_counts_alone(run: TrialRun, other: Other, begin: Begin) -> None:
    begin(ask=False)
    other.says = said(0.9, 0.1, 0.0)
    assert run.take(seen(GOOD), 0.0)
    [came] = back(run)
    assert came.rival is None
    assert state(run).differed == 1


def test_the_draw_decides_and_nothing_that_is_seen(run: TrialRun, begin: Begin) -> None:
    """Of frames that the model is sure of, and unsure of, the same ones are drawn."""
    begin(share=0.3)

    def drawn(prediction: Prediction) -> list[bool]:
        draws = random.Random(1)
        taken = []
        for _ in range(60):
            taken.append(run.take(seen(prediction), draws.random()))
            if taken[-1]:
                [came] = back(run)
                assert came.share == 0.3
        return taken

    sure, unsure = drawn(GOOD), drawn(said(0.5, 0.5))
    assert sure == unsure
    draws = random.Random(1)
    assert sure == [draws.random() < 0.3 for _ in range(60)]
    assert state(run).missed == 0


def test_the_share_is_that_of_the_draw(run: TrialRun, other: Other, begin: Begin) -> None:
    begin(share=0.5)
    other.free.clear()
    assert run.take(seen(GOOD), 0.4)
    run.name(5, 6, share=0.1, ask=True)
    other.free.set()
    assert back(run)[0].share == 0.5
    assert not run.take(seen(GOOD), 0.4)


def test_frames_that_it_has_no_time_for_are_missed_and_wait_for_nothing(
    run: TrialRun, other: Other, begin: Begin
) -> None:
    begin()
    other.free.clear()
    assert run.take(seen(GOOD), 0.0)
    wait_until(lambda: other.began, "the first frame")
    assert [run.take(seen(GOOD), 0.0) for _ in range(WAITING + 3)] == [True] * WAITING + [False] * 3
    assert state(run).missed == 3
    assert run.done() == []
    other.free.set()
    assert len(back(run, 1 + WAITING)) == 1 + WAITING
    assert (state(run).frames, state(run).missed) == (1 + WAITING, 3)


def test_where_frames_leave_no_time_all_are_missed(run: TrialRun, engine: Engine, begin: Begin) -> None:
    begin()
    for _ in range(20):  # each begins when the last one ends
        engine.spare.begin()
        threading.Event().wait(0.002)
        engine.spare.end()
    assert not run.take(seen(GOOD), 0.0)
    assert (state(run).missed, state(run).frames) == (1, 0)


END: dict[str, Callable[[TrialRun], None]] = {
    "end": lambda run: run.end(),
    "skip": lambda run: run.skip("why"),
    "another": lambda run: run.name(5, 7, share=1.0, ask=True),
    "stop": lambda run: run.stop(),
}


@pytest.mark.parametrize("how", END)
def test_all_that_is_under_way_comes_back_when_it_ends(run: TrialRun, other: Other, begin: Begin, how: str) -> None:
    begin()
    other.free.clear()
    frames = [seen(GOOD) for _ in range(1 + WAITING)]
    assert run.take(frames[0], 0.0)
    wait_until(lambda: other.began, "the first frame")
    for one in frames[1:]:
        assert run.take(one, 0.0)
    ending = threading.Thread(target=END[how], args=(run,))
    ending.start()
    wait_until(lambda: not run.runs, "the end to begin")
    assert not run.take(seen(GOOD), 0.0), "nothing more is taken"
    assert ending.is_alive(), "it lasts as long as something holds the other model"
    other.free.set()
    ending.join(10)
    came = run.done()
    assert sorted(one.frame.sequence for one in came) == [one.frame.sequence for one in frames]
    assert other.began == 1
    assert [one.rival for one in came].count(None) >= WAITING


def test_counts_begin_anew_with_another_pair_alone(run: TrialRun, other: Other, begin: Begin) -> None:
    begin()
    other.says = said(0.9, 0.1, 0.0)
    assert run.take(seen(GOOD), 0.0)
    rival = back(run)[0].rival
    assert rival is not None
    run.lost(rival)
    begin(share=0.5)
    assert (state(run).frames, state(run).lost) == (1, 1)
    run.skip("no room")
    assert (state(run).frames, state(run).skipped) == (1, "no room")
    first = state(run).id
    begin(facts=Facts(7, OTHER.classes))
    assert state(run).id != first
    assert state(run) == TrialState(release=5, other=7, id=state(run).id)
    run.lost(rival)
    assert state(run).lost == 0, "of the pair before"


def test_a_frame_of_another_model_in_use_is_not_taken(run: TrialRun, begin: Begin) -> None:
    """Between the swap and the plan's next trial."""
    begin()
    assert not run.take(seen(GOOD, Facts(6, MAIN.classes)), 0.0)
    assert state(run).missed == 0


def test_one_frame_and_then_half_a_minute_prove_it_too(
    run: TrialRun, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a small share of slow frames a hundred would take hours."""
    monkeypatch.setattr("edge.trial.WELL_SECONDS", 0.0)
    begin()
    assert not run.proven
    assert run.take(seen(GOOD), 0.0)
    back(run)
    assert run.proven
