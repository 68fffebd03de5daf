"""Previews on the hub: the collector on a FakeBroker and a real store, the queries, and the pace of the policy."""

import base64
import threading
from datetime import timedelta

import msgspec
import pytest
from sqlalchemy import event as happening
from sqlmodel import Session, select

from hub import previews
from hub.collect import ASK_EACH
from hub.tables import Image, Preview, Tombstone
from shared import topics
from shared.clock import SystemClock
from shared.errors import MessageError
from shared.files import chunk_count
from shared.messages import Event, Gone, Rival, Status, decode, encode
from shared.preprocess import decode as decode_image
from shared.preprocess import encode_jpeg
from tests.hub.making import NOW, HandCamera, event_of, picture

CAMERA = "site/cam-1"
VECTOR = b"\x00\x3c\x00\xbc"  # 1.0 and -1.0 as float16


def small(data: bytes) -> bytes:
    return encode_jpeg(decode_image(data)[::4, ::4], 50)


def held(data: bytes, **fields: object) -> Event:
    """The event that offers a preview of these bytes."""
    given = {
        "held": True,
        "follows": False,
        "thumbnail": base64.b64encode(small(data)).decode(),
        "embedding": base64.b64encode(VECTOR).decode(),
        **fields,
    }
    return event_of(data, **given)


@pytest.fixture
def camera(hub):
    one = HandCamera(hub.broker, CAMERA)
    one.hello()
    return one


def noted(camera):
    return [one for reply in camera.replies for one in reply.noted]


def asked(camera):
    """(event id, ranges) in the order in which they were asked for."""
    return [(one, missing) for reply in camera.replies for one, missing in reply.resend.items()]


def whole(event: Event) -> list[tuple[int, int]]:
    return [(0, chunk_count(event.size, event.chunk_size) - 1)]


def let_go(camera, *ids: str) -> None:
    camera.bus.publish(topics.gone(camera.name), encode(Gone(ids=list(ids))))


# ---------------------------------------------------------------------------------------------- the way of a preview


def test_a_frame_on_which_two_releases_differ_is_wanted_at_once(hub, camera):
    data = picture()
    event = held(data, why="pair", rival=Rival(release=1, label="good", score=0.6, trial="t", number=1))
    camera.offer(event)
    hub.wait(lambda: asked(camera) == [(event.id, whole(event))], "the question for the image")
    assert hub.previews()[event.id].asked_at is not None


def test_a_preview_becomes_a_row_and_only_then_is_called_noted(hub, camera):
    data = picture()
    event = held(data, label="defect", score=0.6, value=0.4, release=7)
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    assert noted(camera) == [event.id]
    assert hub.bus.noted == [(event.id, True)]
    [row] = hub.previews().values()
    assert (row.camera, row.event_id, row.project, row.value, row.captured_at) == (
        CAMERA, event.id, "cells", 0.4, NOW,
    )  # fmt: skip
    assert (row.thumbnail, row.embedding, row.asked_at, row.gone) == (small(data), VECTOR, None, False)
    assert decode(row.event, Event) == previews.bare(event)
    assert len(row.event) < 600
    assert hub.rows() == []
    assert list((hub.store.blobs.segments.folder).glob("*")) == [], "no image, no segment"
    assert not hub.errors


def test_a_repeat_is_noted_again_adds_no_row_and_keeps_who_asked(hub, camera):
    event = held(picture())
    camera.offer(event)
    hub.wait(lambda: len(noted(camera)) == 1, "noted")
    [before] = hub.previews().values()
    with hub.store.write() as session:
        session.get(Preview, before.id).asked_at = NOW
    camera.bus.publish(topics.status(CAMERA), encode(Status(online=False)), retain=True)
    recut = msgspec.structs.replace(event, chunk_size=2048)
    camera.offer(recut)
    hub.wait(lambda: len(noted(camera)) == 2, "noted again")
    [after] = hub.previews().values()
    assert (after.id, after.asked_at) == (before.id, NOW)
    assert after.received_at > before.received_at, "it was renewed"
    assert decode(after.event, Event).chunk_size == 2048, "as the camera will cut it now"


def test_asking_brings_the_image_and_the_preview_goes(hub, camera):
    data = picture()
    event = held(data)
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    hub.collector.ask(CAMERA, event.id)
    hub.wait(lambda: asked(camera), "the question")
    assert asked(camera) == [(event.id, whole(event))]
    assert hub.previews()[event.id].asked_at is not None
    camera.chunks(event, data)
    hub.wait(lambda: camera.stored, "stored")
    assert camera.stored == [event.id]
    [row] = hub.rows()
    assert hub.store.blobs.read(row.sha256) == data
    assert (row.event_id, row.guess, row.score, row.state) == (event.id, "good", 0.5, "new")
    assert hub.previews() == {}
    assert not hub.errors


def test_asking_twice_asks_the_camera_once(hub, camera):
    event = held(picture())
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    for _ in range(3):
        hub.collector.ask(CAMERA, event.id)
    hub.wait(lambda: asked(camera), "the question")
    since = hub.previews()[event.id].asked_at
    beat = hub.collector._beat
    hub.wait(lambda: hub.collector._beat > beat + 3, "some beats")
    assert asked(camera) == [(event.id, whole(event))]
    assert hub.previews()[event.id].asked_at == since


def test_what_is_asked_of_a_camera_that_is_away_is_asked_when_it_comes(hub, camera):
    data = picture()
    event = held(data)
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    camera.bus.publish(topics.status(CAMERA), encode(Status(online=False)), retain=True)
    hub.collector.ask(CAMERA, event.id)
    beat = hub.collector._beat
    hub.wait(lambda: hub.collector._beat > beat + 3, "some beats")
    assert asked(camera) == []
    camera.hello()
    hub.wait(lambda: asked(camera), "the question")
    camera.chunks(event, data)
    hub.wait(lambda: camera.stored, "stored")


def test_a_camera_that_restarted_is_asked_for_the_rest(hub, camera):
    data = picture()
    event = held(data)
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    hub.collector.ask(CAMERA, event.id)
    hub.wait(lambda: asked(camera), "the question")
    camera.bus.publish(topics.chunk(CAMERA, event.id, 0), data[: event.chunk_size])
    camera.bus.publish(topics.status(CAMERA), encode(Status(online=False)), retain=True)
    camera.hello()
    hub.wait(lambda: len(asked(camera)) == 2, "the second question")
    assert asked(camera)[1] == (event.id, [(1, whole(event)[0][1])])


def test_a_new_hub_asks_again_for_what_the_old_one_was_asked(make_hub):
    data = picture()
    event = held(data)
    first = make_hub()
    camera = HandCamera(first.broker)
    camera.hello()
    camera.offer(event)
    first.wait(lambda: noted(camera), "noted")
    first.collector.ask(CAMERA, event.id)
    first.wait(lambda: asked(camera), "the question")
    first.collector.stop()
    second = make_hub()
    again = HandCamera(second.broker)
    again.hello()
    second.wait(lambda: asked(again), "the question of the new hub")
    again.chunks(event, data)
    second.wait(lambda: again.stored, "stored")
    assert second.previews() == {}
    assert [one.sha256 for one in second.rows()] == [event.sha256]


def test_no_more_than_a_few_at_a_time_and_the_next_when_one_is_stored(hub, camera):
    files = {event.id: (event, data) for data in map(picture, range(ASK_EACH + 2)) for event in [held(data)]}
    for event, _ in files.values():
        camera.offer(event)
    hub.wait(lambda: len(noted(camera)) == len(files), "all noted")
    for one in files:
        hub.collector.ask(CAMERA, one)
    hub.wait(lambda: len(asked(camera)) == ASK_EACH, "the first questions")
    assert [one for one, _ in asked(camera)] == list(files)[:ASK_EACH], "longest wanted first"
    for done in range(len(files)):
        hub.wait(lambda so_far=done: len(asked(camera)) > so_far, "the next question")
        camera.chunks(*files[asked(camera)[done][0]])
    hub.wait(lambda: len(camera.stored) == len(files), "all stored")
    assert hub.previews() == {}
    assert {one.sha256 for one in hub.rows()} == {event.sha256 for event, _ in files.values()}


def test_a_preview_of_what_is_stored_is_called_stored(hub, camera):
    data = picture()
    event = held(data)
    camera.upload(msgspec.structs.replace(event, held=False, follows=True), data)
    hub.wait(lambda: camera.stored, "stored")
    camera.offer(event)
    hub.wait(lambda: len(camera.stored) == 2, "stored again")
    assert hub.previews() == {}
    other = held(picture(1), id=event.id)
    camera.offer(other)
    hub.wait(lambda: camera.refused, "refusal")
    assert "another sha256" in camera.refused[event.id]


def test_a_preview_of_what_was_purged_is_called_stored(hub, camera):
    event = held(picture())
    with hub.store.write() as session:
        session.add(Tombstone(camera=CAMERA, event_id=event.id, sha256=event.sha256, purged_at=NOW))
    camera.offer(event)
    hub.wait(lambda: camera.stored == [event.id], "stored")
    assert hub.previews() == {}


def test_the_image_of_a_lost_one_is_wanted_back_by_itself(hub, camera):
    data = picture()
    event = held(data)
    camera.upload(msgspec.structs.replace(event, held=False, follows=True), data)
    hub.wait(lambda: camera.stored, "stored")
    with hub.store.write() as session:
        image = session.exec(select(Image)).one()
        image.state, image.label = "lost", "defect"
    camera.offer(event)
    hub.wait(lambda: asked(camera), "the question")
    assert noted(camera) == [event.id]
    camera.chunks(event, data)
    hub.wait(lambda: len(camera.stored) == 2, "stored")
    [row] = hub.rows()
    assert (row.state, row.label) == ("new", "defect")
    assert hub.previews() == {}


# -- when things go wrong


def test_what_cannot_be_written_is_not_called_noted_and_comes_later(hub, camera):
    event = held(picture())
    with hub.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON preview BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    camera.offer(event)
    hub.wait(lambda: camera.pauses, "pause")
    assert noted(camera) == []
    assert hub.errors["store"] == 1
    with hub.store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    assert hub.bus.noted == [(event.id, True)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"thumbnail": "not base64!"}, "base64"),
        ({"embedding": "AAA"}, "base64"),
        ({"thumbnail": base64.b64encode(b"<svg onload=x>").decode()}, "no JPEG"),
        ({"embedding": base64.b64encode(b"abc").decode()}, "half a number"),
    ],
)
def test_a_preview_with_a_bad_half_is_kept_without_it(hub, camera, fields, says):
    event = held(picture(), **fields)
    with pytest.raises(MessageError, match=says):
        previews.parts(event)
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted")
    [row] = hub.previews().values()
    assert (row.thumbnail, row.embedding) == (b"", b"")
    assert hub.errors == {"message": 1}


def test_what_is_gone_is_marked_and_asked_for_no_more(hub, camera):
    data = picture()
    one, two = held(data), held(picture(1))
    camera.offer(one)
    camera.offer(two)
    hub.wait(lambda: len(noted(camera)) == 2, "both noted")
    hub.collector.ask(CAMERA, one.id)
    hub.wait(lambda: asked(camera), "the question")
    let_go(camera, one.id, held(picture(2)).id)
    hub.wait(lambda: hub.previews()[one.id].gone, "the mark")
    assert not hub.previews()[two.id].gone
    camera.hello()
    hub.collector.ask(CAMERA, one.id)
    beat = hub.collector._beat
    hub.wait(lambda: hub.collector._beat > beat + 3, "some beats")
    assert asked(camera) == [(one.id, whole(one))]
    other = HandCamera(hub.broker, "site/cam-2")
    let_go(other, two.id)
    camera.offer(one)  # it is there after all
    hub.wait(lambda: len(asked(camera)) == 2, "the question, once more")
    assert {key: row.gone for key, row in hub.previews().items()} == {one.id: False, two.id: False}
    camera.chunks(one, data)
    hub.wait(lambda: camera.stored, "stored")


def test_gone_right_behind_its_preview_finds_the_row(hub, camera):
    """Both in one round: the row is made before it is marked."""
    entered, leave = threading.Event(), threading.Event()

    def slow(connection, _cursor, text, *_more):
        if text.startswith("INSERT INTO preview") and not entered.is_set():
            entered.set()
            leave.wait(10)

    happening.listen(hub.store.engine, "before_cursor_execute", slow)
    first, event = held(picture(1)), held(picture())
    camera.offer(first)
    hub.wait(entered.is_set, "a round that takes its time")
    camera.offer(event)
    let_go(camera, event.id)
    leave.set()
    hub.wait(lambda: event.id in hub.previews() and hub.previews()[event.id].gone, "the mark")
    assert not hub.previews()[first.id].gone


def test_the_disk_bounds_previews_and_the_quota_does_not_but_bounds_what_is_asked(make_hub):
    hub = make_hub(quota_mb_per_day=1)
    camera = HandCamera(hub.broker)
    camera.hello()
    data = picture()
    hub.collector._quota.spend(CAMERA, 1 << 20, SystemClock().utc())
    event = held(data)
    camera.offer(event)
    hub.wait(lambda: noted(camera), "noted, quota or not")
    hub.collector.ask(CAMERA, event.id)
    beat = hub.collector._beat
    hub.wait(lambda: hub.collector._beat > beat + 3, "some beats")
    assert asked(camera) == []
    assert camera.pauses == []
    hub.collector._watermark._low = 1 << 60
    hub.wait(lambda: not hub.collector._receiver.accepts, "a full disk")
    camera.offer(held(picture(1)))
    hub.wait(lambda: camera.pauses, "pause")
    assert list(hub.previews()) == [event.id]


def test_previews_of_other_projects_are_not_taken(hub, camera):
    camera.offer(held(picture(), project="other"))
    hub.wait(lambda: camera.pauses, "pause")
    assert hub.previews() == {}
    assert hub.errors["scope"] == 1


def test_many_previews_are_one_transaction(make_hub, store):
    hub = make_hub()
    camera = HandCamera(hub.broker)
    begun = []
    entered, leave = threading.Event(), threading.Event()

    def saw(_connection, _cursor, text, *_more):
        if text.startswith("INSERT INTO preview"):
            begun.append(text)
            if not entered.is_set():
                entered.set()
                leave.wait(10)

    happening.listen(store.engine, "before_cursor_execute", saw)
    camera.offer(held(picture(0)))
    hub.wait(entered.is_set, "a round that takes its time")
    for one in range(1, 40):
        camera.offer(held(picture(one)))
    hub.wait(hub.collector._inbox.empty, "all taken")
    leave.set()
    hub.wait(lambda: len(noted(camera)) == 40, "40 previews")
    assert len(begun) <= 3
    assert len(hub.previews()) == 40


# ----------------------------------------------------------------------------------------------------- the queries


def add(session: Session, number: int, camera: str = CAMERA, **fields: object) -> str:
    event = held(picture(number))
    values = previews.row(camera, event, NOW, None)
    session.add(Preview(**{**values, **fields}))
    return event.id


def test_the_best_is_the_most_valuable_of_cameras_that_are_free(store):
    with store.write() as session:
        add(session, 0, value=0.9, camera="a/away")
        add(session, 1, value=0.8, gone=True)
        add(session, 2, value=0.8, project="other")
        older = add(session, 3, value=0.7)
        newer = add(session, 4, value=0.7)
        low = add(session, 5, value=0.1, camera="b/free")
        add(session, 6, value=0.95, camera="c/busy")
        add(session, 7, value=0.2, camera="c/busy", asked_at=NOW)
    online = [CAMERA, "b/free", "c/busy"]
    with store.write() as session:
        assert previews.best(session, "cells", online) == (CAMERA, newer)
        previews.ask(session, CAMERA, newer, NOW)
        assert previews.best(session, "cells", online) == ("b/free", low), "one at a time of each camera"
        previews.ask(session, "b/free", low, NOW)
        assert previews.best(session, "cells", online) is None
        assert previews.best(session, "cells", []) is None
        session.exec(select(Preview).where(Preview.event_id == newer)).one().gone = True
        session.flush()
        assert previews.best(session, "cells", online) == (CAMERA, older)


def test_wanted_are_those_of_cameras_that_are_there_longest_wanted_first(store):
    def at(minutes):
        return NOW + timedelta(minutes=minutes)

    with store.write() as session:
        late = add(session, 0, asked_at=at(3))
        early = add(session, 1, asked_at=at(1))
        middle = add(session, 2, asked_at=at(2))
        add(session, 3)
        add(session, 4, asked_at=at(0), gone=True)
        add(session, 5, asked_at=at(0), project="other")
        other = add(session, 6, asked_at=at(9), camera="b/two")
        add(session, 7, asked_at=at(0), camera="c/away")
    with store.read() as session:
        found = previews.wanted(session, "cells", {CAMERA, "b/two", "d/none"}, 2)
        every = previews.wanted(session, "cells", {CAMERA}, 9)
    assert [(camera, event.id) for camera, event in found] == [("b/two", other), (CAMERA, early), (CAMERA, middle)]
    assert [event.id for _, event in every] == [early, middle, late]


def test_asking_changes_nothing_that_was_asked_or_is_gone(store):
    with store.write() as session:
        was = add(session, 0, asked_at=NOW)
        gone = add(session, 1, gone=True)
        new = add(session, 2)
        later = NOW + timedelta(hours=1)
        for one in (was, gone, new):
            previews.ask(session, CAMERA, one, later)
            previews.ask(session, "other/camera", one, later)
    with store.read() as session:
        rows = {one.event_id: one.asked_at for one in session.exec(select(Preview))}
    assert rows == {was: NOW, gone: None, new: later}


def test_old_ones_go_unless_somebody_waits_for_the_image(store):
    def days(count):
        return {"received_at": NOW - timedelta(days=count)}

    with store.write() as session:
        kept = {
            add(session, 1, **days(29)),
            add(session, 2, gone=True, **days(29)),
            add(session, 3, asked_at=NOW, **days(99)),
            add(session, 4, project="other", **days(99)),
        }
        for number, fields in enumerate([{}, {"gone": True}, {"gone": True, "asked_at": NOW}]):
            add(session, 10 + number, **days(31), **fields)
    before = NOW - timedelta(days=30)
    with store.read() as session:
        ids = previews.expired(session, "cells", before)
    assert len(ids) == 3
    with store.write() as session:
        renewed = session.get(Preview, ids[0])
        renewed.received_at = NOW  # between the look and the deletion
        kept.add(renewed.event_id)
    with store.write() as session:
        assert previews.drop(session, "cells", before, ids) == 2
    with store.read() as session:
        assert set(session.exec(select(Preview.event_id))) == kept
        assert previews.expired(session, "cells", before) == []


def test_what_a_camera_offers_again_after_its_preview_went_comes_back(hub, camera):
    data = picture()
    event = held(data)
    camera.offer(event)
    hub.wait(lambda: len(noted(camera)) == 1, "noted")
    later = SystemClock().utc() + timedelta(seconds=1)
    with hub.store.write() as session:
        ids = previews.expired(session, "cells", later)
        assert previews.drop(session, "cells", later, ids) == 1
    let_go(camera, event.id)  # of a row that is not there any more: nothing happens
    beat = hub.collector._beat
    hub.wait(lambda: hub.collector._beat > beat + 3, "some beats")
    camera.offer(event)
    hub.wait(lambda: len(noted(camera)) == 2, "noted again")
    [row] = hub.previews().values()
    assert (row.event_id, row.gone, row.asked_at) == (event.id, False, None)
    assert row.id not in ids
    hub.collector.ask(CAMERA, event.id)
    hub.wait(lambda: asked(camera), "the question")
    camera.chunks(event, data)
    hub.wait(lambda: camera.stored, "stored")
    assert not hub.errors


def test_no_thumbnail_ever_gets_the_address_of_another(store):
    with store.write() as session:
        add(session, 0)
        session.flush()
        first = session.exec(select(Preview)).one()
        session.delete(first)
    with store.write() as session:
        add(session, 1)
        session.flush()
        assert session.exec(select(Preview.id)).one() > first.id


def test_queries_read_no_thumbnails(store):
    """A page looks every second, and the collector at every beat: both by the index alone."""
    statements = []
    happening.listen(
        store.engine, "before_cursor_execute", lambda _c, _u, text, args, *_m: statements.append((text, args))
    )
    with store.read() as session:
        previews.best(session, "cells", [CAMERA])
        previews.wanted(session, "cells", [CAMERA], 2)
    plans = []
    with store.engine.connect() as connection:
        for text, args in list(statements):
            if "FROM preview" in text:
                rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text, args)
                plans += [str(row[3]) for row in rows if "preview" in str(row[3])]
    assert plans
    assert all("INDEX ix_preview_state" in one for one in plans), plans


# ------------------------------------------------------------------------------------------------------- the pace


def test_so_many_an_hour_and_what_was_not_used_is_not_saved_up():
    pace = previews.Pace(4)
    assert pace.due(1000.0)
    pace.spend(1000.0)
    assert [pace.due(1000.0 + s) for s in (0, 899, 900)] == [False, False, True]
    pace.spend(10_000.0)
    assert [pace.due(10_000.0 + s) for s in (899, 900)] == [False, True]


def test_none_an_hour_is_none():
    assert not previews.Pace(0).due(1e12)
