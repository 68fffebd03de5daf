import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids, messages
from shared.errors import ConfigError

moments = st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))


@given(moments)
def test_event_id_is_a_uuid_of_version_seven(at: datetime) -> None:
    one = uuid.UUID(ids.event_id(at))
    assert one.version == 7
    assert one.variant == uuid.RFC_4122
    assert ids.EVENT_ID.fullmatch(str(one))
    seconds = (one.int >> 80) / 1000
    assert abs(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds) - at) <= timedelta(milliseconds=1.1)


@given(moments, st.integers(2, 10_000_000))
def test_event_ids_sort_by_time(at: datetime, later_ms: int) -> None:
    assert ids.event_id(at) < ids.event_id(at + timedelta(milliseconds=later_ms))


def test_event_ids_of_one_moment_differ() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert len({ids.event_id(at) for _ in range(2000)}) == 2000


def test_boot_ids_are_fresh() -> None:
    made = {ids.boot_id() for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"[0-9a-f]{16}", one) for one in made)


@pytest.mark.parametrize("name", ["a", "0", "cam-1", "A.b_c-9", "x" * 63])
def test_good_names(name: str) -> None:
    assert ids.check_name(name, "name") == name
    assert ids.check_camera(f"{name}/{name}") == f"{name}/{name}"


BAD = ["", ".", "..", "-a", "_a", "a/b", "a b", "a+", "#", "ä", "a\n", "\na", "a\0", "x" * 64, "1\u0660"]


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError, match="not a valid project"):
        ids.check_name(name, "project")
    for camera in (f"{name}/ok", f"ok/{name}"):
        with pytest.raises(ConfigError, match="not a valid"):
            ids.check_camera(camera)


@pytest.mark.parametrize("camera", ["", "press", "a/b/c", "/", "a/", "/b"])
def test_a_camera_has_a_site_and_a_name(camera: str) -> None:
    with pytest.raises(ConfigError):
        ids.check_camera(camera)


@pytest.mark.parametrize(
    ("pattern", "annotated"),
    [(ids.NAME, messages.Name), (ids.EVENT_ID, messages.EventId), (ids.SHA256, messages.Sha256)],
)
def test_messages_and_topics_agree_on_what_an_id_is(pattern: re.Pattern[str], annotated: object) -> None:
    assert re.sub(r"^\^|\$$|\\Z$", "", annotated.__metadata__[0].pattern) == pattern.pattern  # type: ignore[attr-defined]
