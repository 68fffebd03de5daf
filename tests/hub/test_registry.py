"""What cameras say is written together, the latest of each; numbers only grow."""

from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from sqlalchemy import event
from sqlmodel import select

from hub.registry import CameraView, Registry, next_number
from hub.tables import Camera
from shared.errors import MessageError, StoreError
from shared.messages import Status
from tests.hub.making import NOW, reported


@pytest.fixture
def registry(store, clock):
    clock.set_utc(NOW)
    return Registry(store, clock)


def cameras(store):
    with store.read() as session:
        return {one.name: one for one in session.exec(select(Camera)).all()}


def writes(store):
    """Statements that change something, as they happen."""
    seen: list[str] = []
    event.listen(
        store.engine,
        "before_cursor_execute",
        lambda _c, _cursor, text, *_: seen.append(text) if text.split()[0] in ("INSERT", "UPDATE") else None,
    )
    return seen


def test_many_reports_become_one_row_and_one_write(store, registry):
    seen = writes(store)
    registry.status("site/cam-1", Status(online=True, boot="b1"))
    for release in range(1, 30):
        registry.reported("site/cam-1", reported(release))
    assert seen == []
    registry.flush()
    assert len(seen) == 1
    row = cameras(store)["site/cam-1"]
    assert (row.online, row.boot, row.release, row.floor, row.project) == (True, "b1", 29, 29, "cells")
    assert row.reported["reload"]["state"] == "running"
    assert row.first_seen == row.last_seen == NOW
    registry.flush()
    assert len(seen) == 1  # nothing new, nothing written


def test_the_last_will_keeps_boot_and_release(store, registry, clock):
    registry.status("site/cam-1", Status(online=True, boot="b1"))
    registry.reported("site/cam-1", reported(4))
    registry.flush()
    clock.advance(60)
    registry.status("site/cam-1", Status(online=False))
    registry.flush()
    row = cameras(store)["site/cam-1"]
    assert (row.online, row.boot, row.release) == (False, "b1", 4)
    assert (row.first_seen, row.last_seen) == (NOW, clock.utc())


def test_nobody_is_online_after_a_start(store, registry, clock):
    registry.status("site/cam-1", Status(online=True, boot="b1"))
    registry.flush()
    Registry(store, clock).start()
    assert not cameras(store)["site/cam-1"].online


def test_what_could_not_be_written_is_written_later_and_newer_words_win(store, registry):
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON camera BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    registry.status("site/cam-1", Status(online=True, boot="b1"))
    registry.status("site/cam-2", Status(online=True, boot="b2"))
    registry.reported("site/cam-1", reported(3))
    with pytest.raises(StoreError):
        registry.flush()
    registry.status("site/cam-2", Status(online=False))  # newer than what waits
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    registry.flush()
    rows = cameras(store)
    assert (rows["site/cam-1"].online, rows["site/cam-1"].release) == (True, 3)
    assert not rows["site/cam-2"].online


def test_a_report_that_no_database_can_keep_does_not_silence_the_others(store, registry):
    with pytest.raises(MessageError, match="site/cam-1"):
        registry.reported("site/cam-1", reported(1 << 63))
    with pytest.raises(MessageError):
        registry.reported("site/cam-1", reported(1, floor=1_000_000_000))
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    registry.reported("site/cam-1", msgspec.structs.replace(reported(2), time=early))
    registry.status("site/cam-2", Status(online=True, boot="b"))
    registry.flush()
    assert {name: row.release for name, row in cameras(store).items()} == {"site/cam-1": 2, "site/cam-2": 0}


def test_views_are_of_one_project_by_name(store, registry):
    registry.status("site/b", Status(online=True, boot="b1"))
    registry.reported("site/b", reported(2, state="failed", reload_release=3, reason="golden"))
    registry.reported("site/a", reported(2))
    registry.reported("site/other", reported(2, project="welds"))
    registry.status("site/mute", Status(online=True, boot="b1"))
    registry.flush()
    assert registry.cameras("cells") == [
        CameraView("site/a", False, 2, "running", 2, ""),
        CameraView("site/b", True, 2, "failed", 3, "golden"),
    ]


def test_numbers_grow_by_name_and_stay_above_what_cameras_saw(store):
    with store.write() as session:
        assert [next_number(session, "release/cells") for _ in range(3)] == [1, 2, 3]
        assert next_number(session, "plan/cells") == 1
        assert next_number(session, "release/cells", above=40) == 41
        assert next_number(session, "release/cells", above=5) == 42


def test_a_number_of_a_transaction_that_failed_was_never_used(store):
    def fails():
        with store.write() as session:
            next_number(session, "release/cells")
            raise StoreError("rolled back")

    with pytest.raises(StoreError, match="rolled back"):
        fails()
    with store.write() as session:
        assert next_number(session, "release/cells") == 1
