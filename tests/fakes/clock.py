"""Clocks: one that moves only when told, and one in a hurry."""

import time
from datetime import UTC, datetime, timedelta


class FakeClock:
    """`shared.clock.Clock` for tests: both times advance together, and only by `advance`."""

    def __init__(self, utc: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC), monotonic: float = 1000.0) -> None:
        self._utc = utc
        self._monotonic = monotonic

    def utc(self) -> datetime:
        return self._utc

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        assert seconds >= 0, "the monotonic clock never goes back"
        self._utc += timedelta(seconds=seconds)
        self._monotonic += seconds

    def set_utc(self, utc: datetime) -> None:
        """Somebody set the wall clock; the monotonic one does not care."""
        self._utc = utc


class QuickClock:
    """A clock that runs `speed` times as fast as the real one, for tests of those who wait long."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began = time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return 1000.0 + self._speed * (time.monotonic() - self._began)
