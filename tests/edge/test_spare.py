"""Spare time: who waits begins early between two frames, right after one, or at once where none come."""

import threading

import pytest

from edge.spare import SHARE, STILL, Spare
from tests.fakes.clock import FakeClock
from tests.fakes.listener import wait_until

WORK, GAP = 0.010, 0.030


class Waiter:
    """A thread that waits for spare time."""

    def __init__(self, spare: Spare) -> None:
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(spare,))
        self.thread.start()

    def _run(self, spare: Spare) -> None:
        spare.wait()
        self.done.set()


@pytest.fixture
def spare(clock: FakeClock) -> Spare:
    return Spare(clock.monotonic)


def frames(spare: Spare, clock: FakeClock, count: int, *, gap: float = GAP) -> None:
    """So many frames; the last one is just done."""
    for _ in range(count):
        clock.advance(gap)
        spare.begin()
        clock.advance(WORK)
        spare.end()


def test_before_the_first_frames_nobody_waits(spare: Spare, clock: FakeClock) -> None:
    spare.wait()
    frames(spare, clock, 1)
    spare.wait()


def test_early_between_two_frames_work_begins_at_once(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3)
    spare.wait()
    clock.advance(0.9 * SHARE * GAP)
    spare.wait()


def test_later_it_waits_for_the_end_of_the_next_frame(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3)
    clock.advance(1.1 * SHARE * GAP)
    one = Waiter(spare)
    assert not one.done.wait(0.005)
    clock.advance(0.5 * GAP)
    spare.begin()
    spare.end()
    assert one.done.wait(10)
    one.thread.join(10)


def test_during_a_frame_it_waits_for_its_end(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3)
    spare.begin()
    one = Waiter(spare)
    assert not one.done.wait(0.05)
    spare.end()
    assert one.done.wait(10)
    one.thread.join(10)


def test_the_loop_that_goes_round_without_a_frame_ends_none(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3)
    clock.advance(1.1 * SHARE * GAP)
    spare.end()
    one = Waiter(spare)
    spare.end()
    assert not one.done.wait(0.005)
    spare.begin()
    spare.end()
    assert one.done.wait(10)
    one.thread.join(10)


def test_when_the_line_stands_still_nobody_waits(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3)
    clock.advance(2 * (WORK + GAP))
    spare.wait()


def test_frames_of_a_slow_line_are_waited_for_a_second_at_most(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3, gap=10.0)
    clock.advance(0.9)
    spare.wait()
    clock.advance(4.0)
    spare.wait()


def test_a_frame_that_does_not_end_is_waited_for_a_second(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3)
    spare.begin()
    clock.advance(STILL)
    spare.wait()


def test_without_any_time_between_frames_work_begins_after_each(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 3, gap=0.0)
    one = Waiter(spare)

    def another() -> bool:
        frames(spare, clock, 1, gap=0.0)
        return one.done.is_set()

    wait_until(another, "its turn")
    one.thread.join(10)


def test_time_is_scarce_where_frames_come_as_fast_as_they_are_worked_off(spare: Spare, clock: FakeClock) -> None:
    frames(spare, clock, 10, gap=0.0)
    assert not spare.scarce, "not known yet"
    frames(spare, clock, 10, gap=0.0)
    assert spare.scarce
    frames(spare, clock, 20, gap=0.1 * WORK)
    assert not spare.scarce
