"""Link: what it learns on lines of every speed, from nothing but acknowledgements."""

import random
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.link import CHUNK_S, FIRST_CHUNK, MAX_WINDOW, Link

KBIT = 125.0
"""Bytes a second of one kbit/s."""


@dataclass
class Line:
    """A line that carries `rate` bytes a second and acknowledges each message `delay` seconds after its last byte.

    The camera hands over messages of `chunk_limit` bytes at most while the window has room, as `edge.send` does.
    """

    rate: float
    delay: float = 0.0
    link: Link = field(default_factory=Link)
    now: float = 0.0
    free: float = 0.0
    flying: deque[tuple[float, int]] = field(default_factory=deque)
    chunks: list[int] = field(default_factory=list)
    idle: float = 0.0  # seconds that the line ran dry

    @property
    def unacked(self) -> int:
        return sum(size for _, size in self.flying)

    def run(self, seconds: float, *, most: int = 1 << 16) -> None:
        """Send as much as it takes, in messages of at most `most` bytes."""
        until = self.now + seconds
        while True:
            while self.unacked < self.link.window:
                size = min(self.link.chunk_limit, most)
                self.chunks.append(size)
                self.link.sent(size, self.now)
                self.idle += max(0.0, self.now - self.free)
                self.free = max(self.free, self.now) + size / self.rate
                self.flying.append((self.free + self.delay, size))
            at, size = self.flying[0]
            if at > until:
                self.now = until
                return
            self.flying.popleft()
            self.now = at
            self.link.acked(size, at)


def test_of_a_line_of_which_nothing_is_known_little_is_asked() -> None:
    link = Link()
    assert link.rate is None
    assert (link.chunk_limit, link.window) == (FIRST_CHUNK, FIRST_CHUNK)


@pytest.mark.parametrize("kbit", [2, 12, 64, 250, 2000, 20_000, 1_000_000])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.6])
def test_the_rate_is_learnt_and_a_chunk_takes_no_longer_than_it_may(kbit: int, delay: float) -> None:
    line = Line(kbit * KBIT, delay)
    line.run(120)
    rate = line.link.rate
    assert rate is not None
    assert rate <= 1.05 * line.rate, "never believed to be much better than it is"
    flat = min(line.rate, line.link.window / (delay + 0.001))  # what the window lets through
    assert rate >= 0.5 * min(flat, line.rate)
    assert line.link.chunk_limit / line.rate <= 1.05 * max(CHUNK_S, 1024 / line.rate)


@pytest.mark.parametrize("kbit", [12, 64, 250, 2000])
def test_the_line_never_runs_dry_for_long(kbit: int) -> None:
    line = Line(kbit * KBIT, 0.3)
    line.run(30)
    line.idle = 0.0
    line.run(120)
    assert line.idle < 0.1 * 120


def test_a_line_that_gets_worse_is_believed_after_a_while_and_one_that_gets_better_at_once() -> None:
    line = Line(2000 * KBIT, 0.05)
    line.run(30)
    good = line.link.rate
    assert good == pytest.approx(2000 * KBIT, rel=0.1)
    line.rate = 12 * KBIT
    line.run(1500)  # first it has to carry what a good line was given
    assert line.link.rate == pytest.approx(12 * KBIT, rel=0.3)
    assert line.link.chunk_limit <= 1.3 * CHUNK_S * 12 * KBIT
    line.rate = 2000 * KBIT
    line.run(30)
    assert line.link.rate == pytest.approx(2000 * KBIT, rel=0.2)


def test_the_window_is_bounded_on_the_best_of_lines() -> None:
    line = Line(1e9)
    line.run(1.0, most=1 << 20)
    assert line.link.window == MAX_WINDOW
    assert line.unacked < MAX_WINDOW + (1 << 20)


def test_acknowledgements_that_come_in_a_bunch_are_no_better_line() -> None:
    """The process was held up, or the way back: what took 24 s is acknowledged within a breath."""
    link = Link()
    for _ in range(3):
        link.sent(12_000, 0.0)
    for late in range(3):
        link.acked(12_000, 24.0 + late * 50e-6)
    assert link.rate is not None
    assert link.rate <= 1500


def test_a_good_line_is_known_from_one_small_message() -> None:
    link = Link()
    link.sent(1000, 0.0)
    link.acked(1000, 0.001)
    assert link.rate == pytest.approx(1_000_000)


def test_what_was_under_way_when_the_line_broke_counts_no_more() -> None:
    """Acknowledgements of before are taken in after the break, one right after the other."""
    link = Link()
    for at in range(10):
        link.sent(8000, float(at))
        link.acked(8000, at + 1.0)
    for _ in range(4):
        link.sent(8000, 20.0)
    link.broke()
    for late in range(4):
        link.acked(8000, 21.0 + late / 1e6)
    assert link.rate == pytest.approx(8000)
    link.sent(8000, 700.0)
    link.acked(8000, 701.0)
    assert link.rate == pytest.approx(8000)


def test_a_pause_between_messages_is_not_held_against_the_line() -> None:
    """One small image a minute: what counts is the time while something was under way."""
    link = Link()
    for minute in range(20):
        at = 60.0 * minute
        link.sent(6000, at)
        link.acked(6000, at + 1.0)
    assert link.rate == pytest.approx(6000)


@given(
    story=st.lists(
        st.tuples(st.sampled_from(["sent", "acked", "broke"]), st.integers(0, 1 << 20), st.integers(0, 10**8)),
        max_size=80,
    )
)
def test_whatever_is_told_it_stays_in_bounds(story: list[tuple[str, int, int]]) -> None:
    link, now = Link(), 0.0
    for what, size, later in story:
        now += later / 1e6
        if what == "sent":
            link.sent(size, now)
        elif what == "acked":
            link.acked(size, now)
        else:
            link.broke()
        assert link.rate is None or link.rate >= 0
        assert link.chunk_limit >= 1024
        assert FIRST_CHUNK <= link.window <= MAX_WINDOW


@pytest.mark.parametrize("seed", range(5))
def test_a_line_whose_speed_wanders_is_followed(seed: int) -> None:
    chance, line = random.Random(seed), Line(250 * KBIT, 0.2)
    for _ in range(20):
        line.rate = chance.choice([64, 128, 250, 500]) * KBIT
        line.run(60)
        assert line.link.rate is not None
        assert 0.5 * line.rate <= line.link.rate <= 2.5 * line.rate
