"""Room: when a camera waits for the disk, or for its share of it, and when no longer."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.room import RESUME, Quota, Watermark
from hub.store import Store
from tests.hub.making import add_image

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, 0, 0, tzinfo=UTC)
CAMERA, OTHER = "site/cam-1", "site/cam-2"


# -- the watermark


def test_below_it_nothing_is_accepted_until_a_little_more_is_free() -> None:
    mark = Watermark(1000)
    free = [5000, 1001, 1000, 999, 1000, 1249, 1250, 1000, 0, 1249, 9000]
    assert [mark.accepts(one) for one in free] == [
        True, True, True, False, False, False, True, True, False, False, True,
    ]  # fmt: skip


def test_without_a_watermark_everything_is_accepted() -> None:
    mark = Watermark(0)
    assert all(mark.accepts(free) for free in (1, 0, 5))


@given(st.integers(0, 10**6), st.lists(st.integers(0, 2 * 10**6), max_size=50))
def test_it_never_flaps_within_the_gap(low: int, free: list[int]) -> None:
    mark, accepts = Watermark(low), True
    for one in free:
        told = mark.accepts(one)
        if one < low:
            assert not told
        elif one >= low * RESUME:
            assert told
        else:
            assert told == accepts, "between the two marks nothing changes"
        accepts = told


# -- the quota


def test_bytes_of_a_day_are_bounded_for_each_camera() -> None:
    quota = Quota(1000)
    assert quota.wait(CAMERA, 600, NOON) == 0
    quota.spend(CAMERA, 600, NOON)
    assert quota.wait(CAMERA, 400, NOON) == 0
    assert quota.wait(CAMERA, 401, NOON) == 12 * 3600
    assert quota.wait(OTHER, 1000, NOON) == 0
    quota.spend(CAMERA, 400, NOON)
    assert quota.wait(CAMERA, 1, NOON) == 12 * 3600


def test_the_first_image_of_a_day_may_always() -> None:
    quota = Quota(1000)
    assert quota.wait(CAMERA, 5000, NOON) == 0
    quota.spend(CAMERA, 5000, NOON)
    assert quota.wait(CAMERA, 1, NOON) > 0


def test_without_a_limit_nobody_waits(store: Store) -> None:
    quota = Quota(0)
    add_image(store, b"x" * 1000, camera=CAMERA, received_at=NOON)
    quota.load(store, NOON)
    quota.spend(CAMERA, 10**12, NOON)
    assert quota.wait(CAMERA, 10**12, NOON) == 0


def test_a_new_day_in_utc_begins_anew() -> None:
    quota = Quota(1000)
    quota.spend(CAMERA, 1000, NOON)
    before = MIDNIGHT - timedelta(milliseconds=1)
    assert quota.wait(CAMERA, 1, before) == 1.0, "never less than a second"
    assert quota.wait(CAMERA, 1, MIDNIGHT) == 0
    quota.spend(CAMERA, 1000, MIDNIGHT)
    assert quota.wait(CAMERA, 1, MIDNIGHT) == 24 * 3600


@pytest.mark.parametrize("hours", [-11, 0, 14])
def test_a_day_is_one_in_utc_whatever_the_clocks_zone(hours: int) -> None:
    quota = Quota(1000)
    quota.spend(CAMERA, 1000, NOON)
    there = NOON.astimezone(timezone(timedelta(hours=hours)))
    assert quota.wait(CAMERA, 1, there) == 12 * 3600


def test_after_a_restart_it_counts_what_was_stored_today(store: Store) -> None:
    for at, camera, size in [
        (NOON - timedelta(days=1), CAMERA, 900),
        (datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC), CAMERA, 900),
        (datetime(2026, 3, 1, 0, 0, tzinfo=UTC), CAMERA, 300),
        (NOON, CAMERA, 300),
        (NOON, OTHER, 500),
        (NOON, "", 10_000),  # imported by hand
    ]:
        add_image(store, b"x" * size, camera=camera, received_at=at)
    quota = Quota(1000)
    quota.load(store, NOON)
    assert quota.wait(CAMERA, 400, NOON) == 0
    assert quota.wait(CAMERA, 401, NOON) > 0
    assert quota.wait(OTHER, 500, NOON) == 0
    assert quota.wait(OTHER, 501, NOON) > 0


@given(
    limit=st.integers(1, 5000),
    story=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3 * 86_400)), max_size=40),
)
def test_no_day_takes_more_than_the_limit_and_one_image(limit: int, story: list[tuple[int, int]]) -> None:
    quota, used = Quota(limit), dict.fromkeys(range(5), 0)
    for size, second in sorted(story, key=lambda one: one[1]):
        now = NOON + timedelta(seconds=second)
        day = (now - datetime(2026, 3, 1, tzinfo=UTC)).days
        wait = quota.wait(CAMERA, size, now)
        fits = used[day] == 0 or used[day] + size <= limit
        assert (wait == 0) == fits
        if fits:
            used[day] += size
            quota.spend(CAMERA, size, now)
        else:
            later = now + timedelta(seconds=wait)
            assert later.astimezone(UTC).date() > now.date(), "then it may"
    assert all(one <= max(limit, 3000) for one in used.values())
