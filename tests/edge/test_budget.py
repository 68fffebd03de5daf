"""Budget: bytes a second, bytes a day, quiet hours, and clocks that jump."""

import logging
import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.budget import LONGEST_DAY_S, SAVE_S, Budget, DayUse, Meter
from edge.settings import LinkSettings
from tests.fakes.clock import FakeClock

MIB = 1 << 20
NOON = datetime(2026, 3, 2, 12, 0)


class World:
    """A budget, and both clocks; `local` may be set apart from `now`."""

    def __init__(self, use: DayUse | None = None, *, local: datetime = NOON, **settings: Any) -> None:
        self.settings = LinkSettings(**settings)
        self.budget = Budget(self.settings, use)
        self.now, self.local = 1000.0, local

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.local += timedelta(seconds=seconds)

    def restart(self) -> None:
        """The agent starts again: only what was kept is left, and the monotonic clock is another one."""
        self.budget, self.now = Budget(self.settings, self.budget.use), 5.0

    @property
    def wait(self) -> float:
        return self.budget.wait(self.now, self.local)

    def spend(self, nbytes: int) -> None:
        self.budget.spend(nbytes, self.now, self.local)

    def drain(self, size: int = MIB) -> int:
        """Send as long as it may go at once; bytes that went."""
        sent = 0
        while self.wait == 0.0 and sent < 1000 * MIB:
            self.spend(size)
            sent += size
        return sent


def test_without_limits_nothing_waits() -> None:
    world = World()
    assert world.drain() >= 1000 * MIB


# ----------------------------------------------------------------------------------------- bytes a second


def test_the_burst_is_a_second_and_debt_is_waited_for() -> None:
    world = World(bytes_per_s=1000)
    assert world.wait == 0.0
    world.spend(1000)
    assert world.wait == 0.0, "the bucket is empty, not in debt"
    world.spend(500)
    assert world.wait == pytest.approx(0.5)
    world.advance(0.4)
    assert world.wait == pytest.approx(0.1)
    world.advance(world.wait)
    assert world.wait == pytest.approx(0.0, abs=1e-6)


def test_an_idle_link_saves_up_no_more_than_the_burst() -> None:
    world = World(bytes_per_s=1000)
    world.drain(100)
    world.advance(3600)
    assert world.drain(100) <= 1100


def test_a_chunk_far_larger_than_the_burst_passes_and_is_paid_for() -> None:
    world = World(bytes_per_s=100)
    assert world.wait == 0.0
    world.spend(MIB)
    assert world.wait == pytest.approx((MIB - 100) / 100)
    world.advance(MIB / 100)
    assert world.wait == 0.0


@given(
    rate=st.integers(1, 100_000),
    sizes=st.lists(st.integers(1, MIB), min_size=2, max_size=40),
    lag=st.floats(0, 0.5),
)
def test_the_mean_is_kept_whatever_the_sizes(rate: int, sizes: list[int], lag: float) -> None:
    """lag: how late the sender asks again. Never above the rate but by the burst and one message; and hardly below."""
    world = World(bytes_per_s=rate)
    began, sent = world.now, 0
    for size in sizes:
        for _ in range(3):
            world.advance(world.wait)  # a rest of rounding may be left
        assert world.wait < 1e-3
        world.advance(lag)
        world.spend(size)
        sent += size
        seconds = world.now - began
        assert sent <= rate * (seconds + 1) + max(sizes) + 1
    asked_late = lag * len(sizes)
    assert world.now - began <= (sent - sizes[-1]) / rate + asked_late + 0.1


# ------------------------------------------------------------------------------------------- bytes a day


def test_the_day_ends_at_local_midnight_and_what_was_too_much_is_paid() -> None:
    world = World(mb_per_day=10)
    world.spend(9 * MIB)
    assert world.wait == 0.0
    world.spend(3 * MIB)
    assert world.wait == 12 * 3600
    world.advance(12 * 3600 - 1)
    assert world.wait == 1
    world.advance(1)
    assert world.drain() == 8 * MIB, "2 MiB of today went yesterday"
    world.advance(24 * 3600)
    assert world.drain() == 10 * MIB


def test_what_was_far_too_much_is_paid_by_days() -> None:
    world = World(mb_per_day=1)
    world.spend(3 * MIB)
    world.advance(24 * 3600)
    assert world.wait == 12 * 3600
    world.advance(2 * 24 * 3600)
    assert world.drain() == MIB


def test_part_of_a_megabyte() -> None:
    world = World(mb_per_day=0.5)
    assert world.drain(1024) == MIB / 2


def test_a_restart_gives_nothing() -> None:
    world = World(mb_per_day=10)
    world.spend(4 * MIB)
    world.restart()
    assert world.drain() == 6 * MIB
    world.restart()
    assert world.wait == 12 * 3600


def test_to_and_fro_gives_nothing_twice() -> None:
    world = World(mb_per_day=10)
    assert world.drain() == 10 * MIB
    for jump in (-1, -400, 0, -20_000, 0):
        world.local = NOON + timedelta(days=jump)
        assert world.drain() == 0, jump
        world.restart()
        assert world.drain() == 0, f"{jump}, restarted"
    for local in (NOON + timedelta(days=1), NOON, NOON + timedelta(days=1), NOON, NOON + timedelta(days=1, hours=1)):
        world.local = local
        world.drain()
    world.local = NOON + timedelta(days=1)
    assert world.drain() == 0, "tomorrow's bytes went early, they do not go again"
    world.local = NOON + timedelta(days=2)
    assert world.drain() == 10 * MIB


def test_a_second_to_and_fro_over_midnight_locks_nothing() -> None:
    world = World(mb_per_day=10, local=datetime(2026, 3, 2, 23, 59, 59))
    world.drain()
    world.advance(1)
    world.spend(MIB)
    world.local -= timedelta(seconds=1)
    assert world.wait == 0.0
    world.advance(1)
    assert world.drain() == 9 * MIB


@pytest.mark.parametrize("restarted", [False, True])
def test_a_date_far_in_the_future_does_not_lock_the_camera(restarted: bool) -> None:
    world = World(mb_per_day=10)
    world.local = datetime(2099, 1, 1)
    world.drain()
    world.local = NOON
    if restarted:
        world.restart()
    left = world.wait
    assert 0 < left <= LONGEST_DAY_S
    assert left > 25 * 3600, "a whole day all the same, even the longest one"
    hours = 0
    while world.wait > 0:
        world.advance(3600)
        hours += 1
        if world.wait and restarted and hours % 5 == 0:
            world.restart()
    assert hours == 26
    assert world.drain() == 10 * MIB
    # From now on the clock's date is believed.
    world.advance(24 * 3600)
    assert world.drain() == 10 * MIB


def test_a_clock_that_starts_in_1970_at_each_boot_does_not_lock_the_camera() -> None:
    world = World(mb_per_day=10)
    total = 0
    for _ in range(20):
        world.restart()
        world.local = datetime(1970, 1, 1)
        for _ in range(8):
            total += world.drain()
            world.advance(3600)
    assert total in (60 * MIB, 70 * MIB), "160 hours of running, in days of 26 hours"


# ------------------------------------------------------------------------------------------- quiet hours


@pytest.mark.parametrize(
    ("quiet", "at", "wait_minutes"),
    [
        (["08:00-09:00"], "07:59", 0),
        (["08:00-09:00"], "08:00", 60),
        (["08:00-09:00"], "08:59", 1),
        (["08:00-09:00"], "09:00", 0),
        (["22:00-06:00"], "21:59", 0),
        (["22:00-06:00"], "23:00", 7 * 60),
        (["22:00-06:00"], "00:00", 6 * 60),
        (["22:00-06:00"], "05:59", 1),
        (["22:00-06:00"], "06:00", 0),
        (["20:00-00:00"], "23:30", 30),
        (["20:00-00:00"], "00:00", 0),
        (["08:00-09:00", "09:00-10:00"], "08:30", 90),
        (["09:00-10:00", "08:00-09:30"], "08:30", 90),
        (["00:00-01:00", "23:00-00:00"], "23:30", 90),
        (["08:00-12:00", "09:00-10:00"], "09:30", 150),
        (["00:00-12:00", "12:00-00:00"], "08:00", math.inf),
        (["22:00-06:00", "05:00-23:00"], "05:30", math.inf),
    ],
)
def test_quiet_hours(quiet: list[str], at: str, wait_minutes: float) -> None:
    hour, minute = map(int, at.split(":"))
    world = World(quiet=quiet, local=datetime(2026, 3, 2, hour, minute))
    assert world.wait == wait_minutes * 60


def test_the_longest_wait_counts() -> None:
    world = World(quiet=["11:00-12:01"], bytes_per_s=10, mb_per_day=1)
    assert world.wait == 60
    world.spend(10 + 10 * 90)
    assert world.wait == 90
    world.spend(MIB)
    assert world.wait == max(12 * 3600, (MIB + 900) / 10)


# ------------------------------------------------------------------------------------------------- Meter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budget.json"


def meter(path: Path, clock: FakeClock, **settings: Any) -> Meter:
    return Meter(LinkSettings(**settings), path, clock)


def test_what_was_used_survives_the_agent(path: Path, clock: FakeClock) -> None:
    one = meter(path, clock, mb_per_day=10)
    assert one.wait() == 0.0
    one.spend(10 * MIB)
    one.close()
    again = meter(path, clock, mb_per_day=10)
    assert 0 < again.wait() <= 24 * 3600
    clock.advance(24 * 3600)
    assert again.wait() == 0.0


def test_a_killed_agent_forgets_a_hundredth_at_most(path: Path, clock: FakeClock) -> None:
    killed = meter(path, clock, mb_per_day=10)
    for _ in range(1000):
        killed.spend(10 * 1024)
        clock.advance(0.001)
    kept = meter(path, clock, mb_per_day=10)
    sent = 0
    while kept.wait() == 0.0:
        kept.spend(1024)
        sent += 1024
    assert sent <= 10 * MIB - 1000 * 10 * 1024 + MIB / 10 + 10 * 1024


def test_the_file_is_written_rarely(path: Path, clock: FakeClock) -> None:
    one = meter(path, clock, mb_per_day=1000)
    written = set()
    for _ in range(3600):
        one.wait()
        one.spend(100)
        clock.advance(1)
        if path.exists():
            written.add(path.stat().st_mtime_ns)
    assert 1 <= len(written) <= 3600 / SAVE_S


def test_without_a_limit_of_the_day_there_is_no_file(path: Path, clock: FakeClock) -> None:
    one = meter(path, clock, bytes_per_s=10**9)
    one.spend(MIB)
    clock.advance(SAVE_S)
    one.wait()
    one.close()
    assert not path.exists()


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b'{"day":"yesterday"}', b"[1]"])
def test_a_damaged_file_counts_as_nothing_used(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    path.parent.mkdir()
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        one = meter(path, clock, mb_per_day=1)
    assert "cannot be read" in caplog.text
    assert one.wait() == 0.0
    one.spend(MIB)
    one.close()
    assert meter(path, clock, mb_per_day=1).wait() > 0


def test_a_file_that_cannot_be_written_does_not_stop_the_sender(
    path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        one = meter(path, clock, mb_per_day=1)
        one.spend(MIB)
        one.close()
    assert "cannot be written" in caplog.text
    assert one.wait() > 0


def test_the_day_is_the_local_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        clock = FakeClock(datetime(2026, 3, 1, 10, 30, tzinfo=UTC))  # 23:30 in Auckland
        one = meter(path, clock, mb_per_day=1)
        one.spend(MIB)
        assert one.wait() == 1800
    finally:
        monkeypatch.undo()
        time.tzset()
