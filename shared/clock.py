"""Time as a parameter: rules take a Clock, tests pass their own."""

import time
from datetime import UTC, datetime
from typing import Protocol

BUILT = datetime(2026, 3, 1, tzinfo=UTC)
"""A time that has passed wherever this code runs: to be raised with each version."""


class Clock(Protocol):
    """UTC for people and records, monotonic seconds for timers."""

    def utc(self) -> datetime:
        """Now, timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def utc(self) -> datetime:
        """Now, timezone-aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some start, never going back."""
        return time.monotonic()
