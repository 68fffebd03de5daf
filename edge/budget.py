"""Budget: how many bytes the sender may put on the link, and when. Rules with the clocks passed in; `Meter` keeps the
file.

The sender asks before each message and tells after it:

    if (seconds := meter.wait()) > 0:
        return                        # send no event and no chunk; ask again after `seconds`, or sooner
    ...publish...
    meter.spend(len(topic) + len(payload))

and calls `meter.close()` when it stops. Only uploads count (events and chunks); reports, replies, MQTT's own headers
and TCP's are small, see `edge.report` for theirs.

    limit        | rule
    -------------|-------------------------------------------------------------------------------------------------
    bytes_per_s  | a bucket of BURST_S seconds' worth. A message may go whenever the bucket is not in debt, however
                 | large it is, and takes the bucket into debt: so a chunk of 1 MiB passes at 100 bytes/s, and the mean
                 | is kept all the same: in t seconds go at most rate * (t + BURST_S) bytes and one message.
    mb_per_day   | a message may go while less than the limit is used of the local day; what the last one took too much
                 | is used of the next day.
    quiet        | nothing goes in these hours of the local day.

The day's count belongs to the latest date that was seen. A date after it begins a new count. A clock that goes back
does not: the same count goes on, so jumping to and fro gives nothing twice. So that a date far in the future, once
seen, does not lock the camera, a count ends at the latest after LONGEST_DAY_S of running time; then the clock's date is
believed again.
"""

import logging
import math
from datetime import date, datetime
from pathlib import Path

import msgspec

from edge.settings import DAY_S, LinkSettings, quiet_hours
from shared.clock import Clock
from shared.files import write_atomic

log = logging.getLogger(__name__)
BURST_S = 1.0
"""Seconds' worth of bytes that an idle link saves up: makes good for a sender that asks only a few times a second."""
LONGEST_DAY_S = 26 * 3600.0
"""Running time after which a day's count ends whatever the date; no local day is longer than 25 hours."""
SAVE_S = 600.0
"""Seconds after which what changed is saved ..."""
SAVE_SHARE = 0.01
"""... or after this share of the day's bytes: so much a killed agent forgets at most."""


class DayUse(msgspec.Struct, frozen=True, kw_only=True):
    """What was used of a day: date, bytes, and the seconds that the agent has run since the count began."""

    day: date
    used: int = 0
    ran_s: float = 0.0


class Budget:
    """The rules. now: monotonic seconds; local: the wall clock in local time. Not thread-safe.

    use: what was used before a restart, None: nothing.
    """

    def __init__(self, settings: LinkSettings, use: DayUse | None = None) -> None:
        self._rate = settings.bytes_per_s
        self._limit = round(settings.mb_per_day * (1 << 20))
        self._quiet = [quiet_hours(one) for one in settings.quiet]
        self._use = use
        self._level = self._rate * BURST_S
        self._seen: float | None = None

    @property
    def use(self) -> DayUse | None:
        """What was used of the day, to be kept over a restart; None before the first question."""
        return self._use

    @property
    def limit(self) -> int:
        """Bytes of a day; 0: no limit."""
        return self._limit

    def wait(self, now: float, local: datetime) -> float:
        """Seconds until the next message may be sent; 0.0: now; inf: quiet hours leave no time of the day.

        To be asked again then: clocks are set, and settled debts are not the only limit.
        """
        self._advance(now, local)
        debt = -self._level / self._rate if self._rate and self._level < 0 else 0.0
        return max(debt, self._day_left(local), self._quiet_left(local))

    def spend(self, nbytes: int, now: float, local: datetime) -> None:
        """So many bytes, payload and topic, were handed to the link."""
        self._advance(now, local)
        self._level -= nbytes
        if self._use is not None:
            self._use = msgspec.structs.replace(self._use, used=self._use.used + nbytes)

    def _advance(self, now: float, local: datetime) -> None:
        """Let time pass: fill the bucket, count running time, begin a new day."""
        passed = max(0.0, now - self._seen) if self._seen is not None else 0.0
        self._seen = now
        self._level = min(self._rate * BURST_S, self._level + passed * self._rate)
        today = local.date()
        use = self._use or DayUse(day=today)
        ran = use.ran_s + passed
        if today > use.day:
            # Only what was sent too much is taken over, and each day that passed pays off its limit.
            use = DayUse(day=today, used=max(0, use.used - (today - use.day).days * self._limit))
        elif ran >= LONGEST_DAY_S:
            use = DayUse(day=today, used=max(0, use.used - self._limit))
        else:
            use = msgspec.structs.replace(use, ran_s=ran)
        self._use = use

    def _day_left(self, local: datetime) -> float:
        use = self._use
        if not self._limit or use is None or use.used < self._limit:
            return 0.0
        left = LONGEST_DAY_S - use.ran_s
        return left if local.date() < use.day else min(left, DAY_S - _second_of_day(local))

    def _quiet_left(self, local: datetime) -> float:
        began = at = _second_of_day(local)
        for _ in self._quiet:  # each step ends one window, and may lead into another one
            for first, end in self._quiet:
                inside = (at - first) % DAY_S
                if inside < (end - first) % DAY_S:
                    at += (end - first) % DAY_S - inside
        return math.inf if at - began >= DAY_S else at - began


def _second_of_day(local: datetime) -> float:
    return local.hour * 3600 + local.minute * 60 + local.second + local.microsecond / 1e6


class Meter:
    """A Budget with the machine's clocks and a small state file, which is written rarely. Not thread-safe.

    path: the file. One that is missing or cannot be read counts as nothing used; one that cannot be written is logged,
    and sending goes on.
    """

    def __init__(self, settings: LinkSettings, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._budget = Budget(settings, self._load())
        self._saved = self._budget.use
        self._saved_at = clock.monotonic()

    def wait(self) -> float:
        """Seconds until the next message may be sent, see `Budget.wait`."""
        left = self._budget.wait(self._clock.monotonic(), self._local())
        self._save_if_due()
        return left

    def spend(self, nbytes: int) -> None:
        """So many bytes, payload and topic, were handed to the link."""
        self._budget.spend(nbytes, self._clock.monotonic(), self._local())
        self._save_if_due()

    def close(self) -> None:
        """The agent stops: keep what was used."""
        self._save()

    def _local(self) -> datetime:
        return self._clock.utc().astimezone()

    def _load(self) -> DayUse | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=DayUse)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read (%s): the day's bytes are counted from 0", self._path, error)
            return None

    def _save_if_due(self) -> None:
        use, saved = self._budget.use, self._saved
        if use is None:
            return
        unsaved = use.used - saved.used if saved is not None and saved.day == use.day else use.used
        if unsaved >= self._budget.limit * SAVE_SHARE or self._clock.monotonic() - self._saved_at >= SAVE_S:
            self._save()

    def _save(self) -> None:
        use = self._budget.use
        if not self._budget.limit or use is None or use == self._saved:
            return
        self._saved, self._saved_at = use, self._clock.monotonic()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, msgspec.json.encode(use))
        except OSError as error:
            log.warning("%s cannot be written (%s): a restart would forget what was sent today", self._path, error)
