"""Results: one for each frame, in order; at once when there is a pause, else together."""

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import pytest

from edge import results
from edge.frame import Frame
from edge.infer import Facts
from edge.results import Results
from shared import topics
from shared.litert import Prediction
from shared.messages import Result, decode
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA
from tests.fakes.listener import wait_until

AT = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
FACTS = Facts(7, ("good", "odd"))


class Line:
    """A broker that notes what it gets, and the results of a camera there."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.bus = FakeBus(self.broker, "camera")
        self.bus.start(self)
        self.asked = 0
        self.results = Results(CAMERA, self.bus, self.quality)

    def quality(self) -> str:
        self.asked += 1
        return "synchronised"

    def connected(self) -> None: ...
    def disconnected(self, reason: str) -> None: ...
    def message(self, message: object) -> None: ...

    def add(self, sequence: int, *, pause: bool, odd: float = 0.75) -> None:
        prediction = Prediction(np.array([1 - odd, odd], np.float32), np.ones(3, np.float32))
        frame = Frame(sequence, AT, np.zeros((2, 2, 3), np.uint8), part=f"part-{sequence}")
        self.results.add(frame, prediction, FACTS, pause=pause)

    @property
    def told(self) -> list[Result]:
        assert all(one.topic == topics.result(CAMERA) and not one.retained for one in self.broker.seen)
        return [decode(one.payload, Result) for one in self.broker.seen]

    def numbers(self) -> list[int]:
        return [one.sequence for one in self.told]


@pytest.fixture
def line() -> Iterator[Line]:
    one = Line()
    yield one
    one.results.stop()


def test_what_a_result_says(line: Line) -> None:
    line.results.start()
    line.add(3, pause=True)
    wait_until(lambda: line.told, "the result")
    assert line.told == [
        Result(sequence=3, time=AT, clock="synchronised", label="odd", score=0.75, release=7, part="part-3")
    ]


def test_a_score_that_rounding_took_above_one_is_one(line: Line) -> None:
    line.results.start()
    line.add(0, pause=True, odd=1.0000001)
    wait_until(lambda: line.told, "the result")
    assert line.told[0].score == 1.0


def test_results_of_frames_without_a_pause_go_together_and_in_order(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PACE_S", 3600.0)
    line.results.start()
    wait_until(lambda: line.results._asleep, "the thread to wait")
    line.add(0, pause=False)
    wait_until(lambda: line.told, "the first one, for which nothing waited")
    for number in range(1, 9):
        line.add(number, pause=False)
    assert line.numbers() == [0]
    line.add(9, pause=True)
    wait_until(lambda: len(line.told) == 10, "all after the pause")
    assert line.numbers() == list(range(10))
    assert line.asked == 2


def test_a_result_waits_no_longer_than_the_pace(line: Line) -> None:
    line.results.start()
    for number in range(5):
        line.add(number, pause=False)
        wait_until(lambda: len(line.told) == number + 1, "the result, without a pause")  # noqa: B023
    assert line.numbers() == list(range(5))


def test_what_waits_at_the_end_is_told(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "PACE_S", 3600.0)
    line.results.start()
    line.add(0, pause=True)
    wait_until(lambda: line.told, "the first one")
    line.add(1, pause=False)
    line.results.stop()
    assert line.numbers() == [0, 1]


def test_results_of_frames_that_were_seen_offline_are_gone(line: Line) -> None:
    line.results.start()
    line.bus.cut()
    line.add(0, pause=True)
    wait_until(lambda: line.asked == 1, "the try")
    line.bus.mend()
    line.add(1, pause=True)
    wait_until(lambda: line.told, "the result")
    assert line.numbers() == [1]
