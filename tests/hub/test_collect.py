"""The collector on a FakeBroker and a real store: `stored` is said only of what is on disk, and nothing is lost."""

import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from sqlalchemy import event as happening

from hub import collect, epoch
from hub.collect import UNKNOWN_PAUSE_MS
from hub.store import open_store
from hub.tables import Tombstone
from shared import topics
from shared.bus import Message
from shared.clock import SystemClock
from shared.files import chunk_count, chunks, sha256_hex
from shared.messages import HubStatus, Reply, Status, decode, encode, encode_attached
from shared.transfer import Offer, Sender, SendEvent
from tests.fakes.bus import FakeBus
from tests.fakes.listener import Recorder
from tests.hub.collecting import Hub
from tests.hub.making import NOW, HandCamera, event_of, picture, settings_in


@pytest.fixture
def camera(hub):
    return HandCamera(hub.broker)


def break_database(store):
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON image BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )


def mend_database(store):
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER full")


# -- the way of an image


def test_an_image_becomes_blob_and_row_and_only_then_is_called_stored(hub, camera):
    data = picture()
    event = event_of(data, release=7, label="defect", score=0.6, scores={"good": 0.4, "defect": 0.6}, why="random")
    camera.upload(event, data)
    hub.wait(lambda: camera.stored, "stored")
    assert camera.stored == [event.id]
    assert hub.bus.proofs == [(event.id, True, True)]
    [row] = hub.rows()
    assert hub.store.blobs.read(row.sha256) == data
    assert (row.camera, row.event_id, row.project, row.size, row.ext) == (
        "site/cam-1", event.id, "cells", len(data), "png",
    )  # fmt: skip
    assert (row.split, row.state, row.release, row.guess, row.score) == ("pool", "new", 7, "defect", 0.6)
    assert (row.scores, row.why, row.probability, row.captured_at) == (event.scores, "random", 0.5, NOW)
    assert (row.label, row.decided) == (None, False)
    assert not hub.errors


def test_the_real_sender_gets_everything_through_a_broker_that_loses_repeats_and_shuffles(hub):
    broker, name, clock = hub.broker, "site/cam-1", SystemClock()
    broker.drop, broker.duplicate, broker.reorder = 0.1, 0.1, 0.1
    camera = HandCamera(broker, name)
    status = FakeBus(broker, "status reader")
    heard = Recorder()
    status.subscribe([topics.hub_status("hub")])
    status.start(heard)
    files = {event.id: (event, data) for data in (picture(one) for one in range(6)) for event in [event_of(data)]}
    sender, told, beats, ahead = Sender(), 0, 0, 0.0
    sender.connected()
    camera.hello()
    for event, _ in files.values():
        sender.add(Offer(event.id, event.size, event.chunk_size, event.value))

    def step():
        nonlocal told, beats, ahead
        ahead += 1.0  # the camera's patience runs fast, so that the test does not wait for it
        now = clock.monotonic() + ahead
        for message in heard.messages[beats:]:
            sender.hub(decode(message.payload, HubStatus), now, retained=message.retained)
            beats += 1
        for message in camera.heard.messages[told:]:
            sender.reply(decode(message.payload, Reply), now)
            told += 1
        while (action := sender.next(now)) is not None:
            event, data = files[action.id]
            if isinstance(action, SendEvent):
                camera.bus.publish(topics.event(name), encode(msgspec.structs.replace(event, follows=action.follows)))
            else:
                begin = action.index * event.chunk_size
                topic = topics.chunk(name, event.id, action.index)
                camera.bus.publish(topic, data[begin : begin + event.chunk_size])
            sender.delivered(action.id, now)
        return sender.idle

    hub.wait(step, "all stored")
    assert sorted(row.event_id for row in hub.rows()) == sorted(files)
    assert all(row and blob for _, row, blob in hub.bus.proofs)
    assert {row.sha256 for row in hub.rows()} == {event.sha256 for event, _ in files.values()}


def test_chunks_that_did_not_come_are_asked_for(hub, camera):
    data = picture()
    event = event_of(data)
    assert len(data) > 3 * event.chunk_size
    camera.offer(event)
    for index in (0, 2, (len(data) - 1) // event.chunk_size):
        begin = index * event.chunk_size
        camera.bus.publish(topics.chunk(camera.name, event.id, index), data[begin : begin + event.chunk_size])
    hub.wait(lambda: any(one.resend for one in camera.replies), "resend")
    [missing] = [one.resend[event.id] for one in camera.replies if one.resend]
    assert missing[0] == (1, 1)
    camera.chunks(event, data)
    hub.wait(lambda: camera.stored, "stored")


@pytest.mark.parametrize("fault", ["disk", "database"])
def test_what_cannot_be_stored_is_not_called_stored_and_comes_later(hub, camera, fault):
    data = picture()
    event = event_of(data)
    folder = hub.store.blobs.segments.folder
    if fault == "disk":
        folder.mkdir(exist_ok=True)
        folder.rename(folder.with_name("away"))
        folder.write_text("a file where the folder belongs")
    else:
        break_database(hub.store)
    camera.upload(event, data)
    hub.wait(lambda: camera.pauses, "pause")
    assert camera.stored == []
    assert hub.rows() == []
    assert hub.errors["store"] == 1
    if fault == "disk":
        folder.unlink()
        folder.with_name("away").rename(folder)
    else:
        mend_database(hub.store)
    camera.offer(msgspec.structs.replace(event, follows=False))  # after the pause the camera asks again
    hub.wait(lambda: any(event.id in one.resend for one in camera.replies), "resend")
    camera.chunks(event, data)
    hub.wait(lambda: camera.stored, "stored")
    assert camera.stored == [event.id]
    assert hub.bus.proofs == [(event.id, True, True)]
    assert hub.store.blobs.read(event.sha256) == data


def test_a_repeat_is_answered_at_once_and_adds_nothing(hub, camera):
    data = picture()
    event = event_of(data)
    camera.upload(event, data)
    hub.wait(lambda: len(camera.stored) == 1, "stored")
    camera.offer(event)  # without a single chunk
    hub.wait(lambda: len(camera.stored) == 2, "stored again")
    assert len(hub.rows()) == 1


def test_a_repeat_after_a_restart_of_the_hub_is_answered_at_once(settings, store, make_hub):
    first = make_hub()
    camera = HandCamera(first.broker)
    data = picture()
    event = event_of(data)
    camera.upload(event, data)
    first.wait(lambda: camera.stored, "stored")
    second = make_hub()
    again = HandCamera(second.broker)
    again.offer(event)
    second.wait(lambda: again.stored, "stored by the new hub")
    assert len(second.rows()) == 1


def test_the_same_id_with_other_bytes_is_refused(hub, camera):
    data, other = picture(1), picture(2)
    event = event_of(data)
    camera.upload(event, data)
    hub.wait(lambda: camera.stored, "stored")
    camera.offer(event_of(other, id=event.id))
    hub.wait(lambda: camera.refused, "refusal")
    assert "another sha256" in camera.refused[event.id]
    assert hub.errors["hash_mismatch"] == 1
    assert [one.sha256 for one in hub.rows()] == [event.sha256]


def test_two_cameras_may_use_the_same_id_and_the_same_bytes(hub, camera):
    other = HandCamera(hub.broker, "site/cam-2")
    data = picture()
    event = event_of(data)
    camera.upload(event, data)
    other.upload(event, data)
    hub.wait(lambda: camera.stored and other.stored, "both stored")
    assert {(one.camera, one.sha256) for one in hub.rows()} == {
        ("site/cam-1", event.sha256),
        ("site/cam-2", event.sha256),
    }


def test_two_cameras_at_once_from_threads_of_their_own(hub):
    def send(camera, files):
        camera.hello()
        for event, data in files:
            camera.upload(event, data)

    fleet = [HandCamera(hub.broker, f"site/cam-{one}") for one in (1, 2)]
    files = [
        [(event_of(data), data) for data in (picture(100 * number + one) for one in range(12))] for number in (1, 2)
    ]
    threads = [threading.Thread(target=send, args=pair) for pair in zip(fleet, files, strict=True)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    hub.wait(lambda: all(len(one.stored) == 12 for one in fleet), "24 images")
    for camera, sent in zip(fleet, files, strict=True):
        assert sorted(camera.stored) == sorted(event.id for event, _ in sent)
        mine = {one.event_id: one.sha256 for one in hub.rows() if one.camera == camera.name}
        assert mine == {event.id: sha256_hex(data) for event, data in sent}
    assert not hub.errors


def test_a_purged_event_is_called_stored_and_does_not_come_back(hub, camera):
    event = event_of(picture())
    with hub.store.write() as session:
        session.add(Tombstone(camera=camera.name, event_id=event.id, sha256=event.sha256, purged_at=NOW))
    camera.offer(event)
    hub.wait(lambda: camera.stored == [event.id], "stored")
    assert hub.rows() == []


def test_what_no_one_can_decode_is_stored_all_the_same(hub, camera):
    data = b"this is not an image" * 200
    event = event_of(data)
    camera.upload(event, data)
    hub.wait(lambda: camera.stored, "stored")
    assert hub.store.blobs.read(event.sha256) == data


# -- many at once


class Gate:
    """Holds up the first round of commit until the test has put in all that the second one shall find."""

    def __init__(self, store, monkeypatch):
        self.inside, self.free = threading.Event(), threading.Event()
        self.rounds: list[int] = []
        really = store.blobs.append

        def append(blobs):
            self.rounds.append(len(blobs))
            if not self.inside.is_set():
                self.inside.set()
                assert self.free.wait(20)
            return really(blobs)

        monkeypatch.setattr(store.blobs, "append", append)


def test_what_comes_during_a_round_is_one_transaction(make_hub, store, monkeypatch):
    hub = make_hub(batch=64)
    camera = HandCamera(hub.broker)
    gate = Gate(store, monkeypatch)
    begun: list[str] = []
    inserts: list[int] = []

    def saw(_connection, _cursor, text, parameters, _context, many):
        if text.startswith("BEGIN IMMEDIATE"):
            begun.append(text)
        if text.startswith("INSERT INTO image"):
            inserts.append(len(parameters) if many else 1)

    hub.wait(lambda: hub.broker.retained, "the first beat")
    happening.listen(store.engine, "before_cursor_execute", saw)
    first = picture(100)
    camera.upload(event_of(first), first)
    assert gate.inside.wait(20)
    for one in range(20):
        data = picture(one)
        camera.upload(event_of(data), data)
    hub.wait(lambda: len(hub.collector._committer._waiting) == 20, "20 that wait")
    gate.free.set()
    hub.wait(lambda: len(camera.stored) == 21, "21 images")
    assert len(hub.rows()) == 21
    assert (len(begun), gate.rounds, inserts) == (2, [1, 20], [1, 20])
    assert max(len(one.stored) for one in camera.replies) == 20, "one reply for many"


def test_a_round_takes_no_more_than_the_batch(make_hub, store, monkeypatch):
    hub = make_hub(batch=3)
    camera = HandCamera(hub.broker)
    gate = Gate(store, monkeypatch)
    for one in range(8):
        data = picture(one)
        camera.upload(event_of(data), data)
    assert gate.inside.wait(20)
    hub.wait(lambda: len(hub.collector._committer._waiting) == 8 - gate.rounds[0], "the others to wait")
    gate.free.set()
    hub.wait(lambda: len(camera.stored) == 8, "8 images")
    assert max(gate.rounds) == 3
    assert sum(gate.rounds) == 8


def test_an_image_is_stored_while_messages_never_pause(make_hub):
    hub = make_hub(batch=64)
    camera = HandCamera(hub.broker)
    data = picture()
    stop = threading.Event()

    def chatter():
        """Messages of another camera, without a pause in which the collector could come to rest."""
        while not stop.wait(0.002):
            hub.collector.message(Message(topics.status("site/cam-2"), encode(Status(online=True, boot="b"))))

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        camera.upload(event_of(data), data)
        hub.wait(lambda: camera.stored, "stored")
    finally:
        stop.set()
        thread.join(10)


def test_what_is_complete_is_stored_before_the_end(make_hub):
    hub = make_hub()
    camera = HandCamera(hub.broker)
    data = picture()
    event = event_of(data)
    camera.upload(event, data)
    hub.collector.stop()
    assert camera.stored == [event.id]
    assert len(hub.rows()) == 1


def test_an_image_that_is_offered_twice_while_it_is_being_stored_is_stored_once(make_hub):
    hub = make_hub()
    camera = HandCamera(hub.broker)
    data = picture()
    event = event_of(data)
    for _ in range(3):
        camera.upload(event, data)
    hub.wait(lambda: camera.stored, "stored")
    assert len(hub.rows()) == 1
    assert not hub.errors["store"]


# -- who and what is let in


def test_an_unknown_camera_is_paused_and_counted(make_hub):
    hub = make_hub(cameras=["site/cam-1"])
    known, stranger = HandCamera(hub.broker), HandCamera(hub.broker, "site/cam-9")
    data = picture()
    stranger.upload(event_of(data), data)
    hub.wait(lambda: stranger.pauses, "pause")
    assert stranger.pauses == [UNKNOWN_PAUSE_MS]
    assert hub.errors["unknown_camera"] == 1
    assert stranger.refused == {}  # it keeps its image: the camera may be added tomorrow
    known.upload(event_of(data), data)
    hub.wait(lambda: known.stored, "stored of the known one")
    assert [one.camera for one in hub.rows()] == ["site/cam-1"]


def test_another_project_is_paused_and_counted(hub, camera):
    data = picture()
    camera.upload(event_of(data, project="welds"), data)
    hub.wait(lambda: camera.pauses, "pause")
    assert hub.errors["scope"] == 1
    assert hub.rows() == []


def test_an_image_above_the_limit_is_refused_with_the_reason(hub, camera):
    event = event_of(b"x", size=(1 << 20) + 1, sha256="ab" * 32)
    camera.offer(event)
    hub.wait(lambda: camera.refused, "refusal")
    assert "the hub takes 1048576" in camera.refused[event.id]
    assert hub.errors["too_large"] == 1


def test_more_than_there_is_memory_for_is_paused(hub, camera):
    other = HandCamera(hub.broker, "site/cam-2")
    for one in range(4):  # partial_mb is 4: the memory is full, within this camera's own share
        camera.offer(event_of(bytes([one]), size=1 << 20, sha256=f"{one:064x}"))
    hub.wait(lambda: hub.collector._receiver.partial_bytes == 4 << 20, "four offers")
    other.offer(event_of(b"4", size=1 << 20, sha256="4" * 64))
    hub.wait(lambda: other.pauses, "pause")
    assert (camera.pauses, camera.refused, other.refused) == ([], {}, {})


def test_bytes_with_another_hash_are_asked_for_again_then_refused(hub, camera):
    data = picture()
    event = event_of(data, sha256="ab" * 32)
    camera.upload(event, data)
    hub.wait(lambda: any(one.resend for one in camera.replies), "resend")
    camera.chunks(event, data)
    hub.wait(lambda: camera.refused, "refusal")
    assert hub.errors["hash_mismatch"] == 2
    assert hub.rows() == []


GARBAGE = [
    ("hone/camera/site/cam-1/event", b"\xff\xfe\x00", "message"),
    ("hone/camera/site/cam-1/event", b"", "message"),
    ("hone/camera/site/cam-1/event", b"[" * 100_000, "message"),
    ("hone/camera/site/cam-1/event", b'{"v":1,"id":"../../etc/passwd"}', "message"),
    ("hone/camera/site/cam-1/event", b" " * 300_000, "message"),
    ("hone/camera/site/cam-1/event", encode(event_of(b"x", release=1 << 63)), "message"),
    ("hone/camera/site/cam-1/event", encode(event_of(b"x", release=1 << 80)), "message"),
    ("hone/camera/site/cam-1/event", encode(event_of(b"x", v=9)), "message"),
    ("hone/camera/site/cam-1/event", encode(event_of(b"x", chunk_size=1)), "message"),
    ("hone/camera/site/cam-1/status", b"gone fishing", "message"),
    ("hone/camera/site/cam-1/reported", b"{}", "message"),
    ("hone/camera/site/cam-1/nonsense", b"{}", "topic"),
    ("hone/plan/cells", b"{}", "message"),
    ("elsewhere/entirely", b"", "topic"),
    ("hone/camera/site/cam-1/chunk/01890a5d-ac96-774b-bcce-b302099a8057/0", b"x", "chunk"),
    ("hone/camera/site/cam-1/chunk/not-an-event/0", b"x", "topic"),
    ("hone/camera/site/cam-1/chunk/01890a5d-ac96-774b-bcce-b302099a8057/-1", b"x", "topic"),
]


@pytest.mark.parametrize(("topic", "payload", "code"), GARBAGE)
def test_garbage_is_counted_and_the_thread_lives(hub, camera, topic, payload, code):
    hub.collector.message(Message(topic, payload))
    data = picture()
    event = event_of(data)
    camera.upload(event, data)
    hub.wait(lambda: event.id in camera.stored, "the next image")
    assert dict(hub.errors) == {code: 1}


def test_an_image_taken_on_the_first_day_there_is_does_not_block_the_others(hub, camera):
    strange, data = picture(1), picture(2)
    message = encode(event_of(strange)).replace(b'"2026-03-01T12:00:00Z"', b'"0001-01-01T00:00:00+14:00"')
    event = event_of(data)
    camera.bus.publish(topics.event(camera.name), message)
    camera.chunks(decode_event(message), strange)
    camera.upload(event, data)
    hub.wait(lambda: len(camera.stored) == 2, "both")
    assert not hub.errors


def decode_event(message):
    from shared.messages import Event

    return decode(message, Event)


# -- signs of life


def test_the_counter_beats_retained_under_one_boot_id(hub):
    def beats():
        return [decode(one.payload, HubStatus) for one in hub.broker.seen if one.topic == topics.hub_status("hub")]

    hub.wait(lambda: len(beats()) >= 4, "four beats")
    seen = beats()
    assert [one.beat for one in seen] == list(range(1, len(seen) + 1))
    assert {(one.online, one.boot, one.beat_s) for one in seen} == {(True, hub.collector.boot, 0.05)}
    assert topics.hub_status("hub") in hub.broker.retained


def test_a_collector_whose_disk_is_stuck_stops_beating(make_hub, store, monkeypatch):
    monkeypatch.setattr(collect, "STUCK_S", 0.2)
    one = make_hub()
    one.wait(lambda: one.broker.retained, "the first beat")
    camera = HandCamera(one.broker)
    gate = Gate(store, monkeypatch)
    data = picture()
    try:
        camera.upload(event_of(data), data)
        assert gate.inside.wait(20)
        one.wait(lambda: one.collector._committer.busy() > 0.2 + 2 * 0.05, "a round that takes too long")
        before = len(one.broker.seen)
        threading.Event().wait(0.3)  # six beats' time
        assert len(one.broker.seen) == before
        assert camera.stored == []
    finally:
        gate.free.set()
    one.wait(lambda: camera.stored, "stored in the end")
    one.wait(lambda: len(one.broker.seen) > before + 5, "beats again")


def said(hub):
    """What the hub's retained status says now."""
    return decode(hub.broker.retained[topics.hub_status("hub")], HubStatus)


def test_the_status_tells_what_a_camera_needs_to_begin(hub, store):
    hub.wait(lambda: hub.broker.retained, "the first beat")
    told = said(hub)
    assert (told.attach, told.accepts) == (1 << 20, True)
    hub.wait(lambda: said(hub).credit == 1 << 20, "the credit, once the broker has told who is there")
    assert told.epoch == epoch.current(store, SystemClock())


def test_a_restore_that_begins_an_epoch_is_told_at_the_next_beat(hub, store):
    hub.wait(lambda: hub.broker.retained, "the first beat")
    before = said(hub).epoch
    with store.write() as session:
        after = epoch.begin(session, "a restore", NOW)
    hub.wait(lambda: said(hub).epoch == after, "the new epoch")
    assert after != before


def test_who_is_there_is_not_known_at_the_first_beat_and_little_is_promised(make_hub):
    hub = make_hub(beat_s=5.0)
    hub.wait(lambda: hub.broker.retained, "the first beat")
    assert said(hub).credit == 64 << 10


def test_little_is_promised_again_when_the_broker_was_away(hub):
    hub.wait(lambda: hub.broker.retained and said(hub).credit == 1 << 20, "settled")
    before = len(hub.broker.seen)
    hub.collector.connected()
    hub.wait(lambda: len(hub.broker.seen) > before + 4, "beats")
    told = [one.payload for one in hub.broker.seen[before:] if one.topic == topics.hub_status("hub")]
    assert 64 << 10 in [decode(one, HubStatus).credit for one in told]


def test_life_is_shown_under_one_boot_id_a_connection(hub):
    hub.wait(lambda: hub.broker.retained, "the first beat")
    first = said(hub).boot
    assert first == hub.collector.boot
    hub.collector.disconnected("the broker is gone")
    with hub.collector._shown:  # a beat that was under way
        silent = len(hub.broker.seen)
    hub.collector._beat_at = float("-inf")
    hub.collector._keep_beating()
    assert len(hub.broker.seen) == silent, "a beat of a connection that is not known of yet"
    hub.collector.connected()
    hub.wait(lambda: said(hub).boot == hub.collector.boot, "the first beat of the new one")
    boots = [decode(one.payload, HubStatus).boot for one in hub.broker.seen if one.topic == topics.hub_status("hub")]
    assert list(dict.fromkeys(boots)) == [first, hub.collector.boot]


def test_a_greeting_is_answered_by_a_sign_of_life_alone(hub, camera):
    hub.wait(lambda: hub.broker.retained and said(hub).credit == 1 << 20, "settled")
    camera.hello()
    hub.wait(lambda: camera.replies, "a sign of life")
    assert camera.replies == [Reply()], "the credit to begin with is in the status"
    data = picture()
    camera.upload(event_of(data), data)
    hub.wait(lambda: camera.stored, "stored")
    assert camera.replies[-1].credit == 2 << 20, "twice the first"


def test_an_empty_retained_status_is_no_message(hub, camera):
    hub.collector.message(Message(topics.status(camera.name), b""))
    data = picture()
    camera.upload(event_of(data), data)
    hub.wait(lambda: camera.stored, "stored")
    assert not hub.errors


# -- the first chunk behind the event


def test_a_small_image_comes_in_one_message(hub, camera):
    data = picture()
    event = event_of(data, chunk_size=1 << 20)
    camera.bus.publish(topics.event(camera.name), encode_attached(event, data))
    hub.wait(lambda: camera.stored, "stored")
    assert hub.store.blobs.read(event.sha256) == data
    assert len([one for one in hub.broker.seen if one.topic.startswith("hone/camera")]) == 2, "event and reply"


def test_the_rest_of_a_larger_one_follows(hub, camera):
    data = picture()
    event = event_of(data)
    camera.bus.publish(topics.event(camera.name), encode_attached(event, data[: event.chunk_size]))
    for index, piece in list(enumerate(chunks(data, event.chunk_size)))[1:]:
        camera.bus.publish(topics.chunk(camera.name, event.id, index), piece)
    hub.wait(lambda: camera.stored, "stored")
    assert hub.store.blobs.read(event.sha256) == data
    assert not hub.errors


@pytest.mark.parametrize("wrong", [b"", b"x", b"x" * 2000])
def test_a_first_chunk_of_the_wrong_length_is_counted_and_asked_for(hub, camera, wrong):
    data = picture()
    event = event_of(data)
    camera.bus.publish(topics.event(camera.name), encode_attached(event, wrong))
    for index, piece in list(enumerate(chunks(data, event.chunk_size)))[1:]:
        camera.bus.publish(topics.chunk(camera.name, event.id, index), piece)
    hub.wait(lambda: any(one.resend for one in camera.replies), "resend")
    assert [one.resend for one in camera.replies if one.resend] == [{event.id: [(0, 0)]}]
    assert dict(hub.errors) == {"chunk": 1}


# -- room


class Disk:
    """What shutil.disk_usage says of the state folder."""

    def __init__(self, monkeypatch, free):
        self.free = free
        monkeypatch.setattr(collect.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=self.free))


def test_below_the_watermark_the_cameras_wait_and_nothing_is_refused(make_hub, monkeypatch):
    disk = Disk(monkeypatch, 99 << 20)
    one = make_hub(free_mb=100)
    camera = HandCamera(one.broker)
    one.wait(lambda: one.broker.retained, "the first beat")
    assert not said(one).accepts
    assert one.errors["disk_full"] == 1, "counted once, not at each beat"
    data = picture()
    event = event_of(data)
    camera.upload(event, data)
    one.wait(lambda: camera.pauses, "pause")
    assert (camera.stored, camera.refused, one.rows()) == ([], {}, [])
    disk.free = 124 << 20
    before = said(one).beat
    one.wait(lambda: said(one).beat > before + 2, "beats")
    assert not said(one).accepts, "a little more must be free"
    disk.free = 125 << 20
    one.wait(lambda: said(one).accepts, "room")
    camera.upload(event, data)
    one.wait(lambda: camera.stored, "stored")
    assert one.errors["disk_full"] == 1


def test_what_was_begun_before_the_watermark_is_finished(make_hub, monkeypatch):
    disk = Disk(monkeypatch, 101 << 20)
    one = make_hub(free_mb=100)
    camera = HandCamera(one.broker)
    data = picture()
    event = event_of(data)
    camera.offer(event)
    one.wait(lambda: one.collector._receiver.partial_bytes, "the offer")
    disk.free = 1 << 20
    one.wait(lambda: one.broker.retained and not said(one).accepts, "the watermark")
    camera.chunks(event, data)
    one.wait(lambda: camera.stored, "stored")


def test_a_camera_above_its_quota_waits_and_others_do_not(make_hub):
    one = make_hub(quota_mb_per_day=1)
    greedy, other = HandCamera(one.broker), HandCamera(one.broker, "site/cam-2")
    big, small = bytes(1 << 20), picture()
    first = event_of(big, chunk_size=1 << 20)
    greedy.upload(first, big)
    one.wait(lambda: greedy.stored, "the first image of the day")
    greedy.upload(event_of(small), small)
    other.upload(event_of(small), small)
    one.wait(lambda: greedy.pauses and other.stored, "pause for one, stored for the other")
    assert len(greedy.stored) == 1
    assert greedy.refused == {}
    assert one.errors["quota"] == 1
    assert 0 < greedy.pauses[0] <= 3_600_000


# -- slow uploads survive a restart


def test_half_an_image_survives_a_restart_of_the_hub(make_hub, settings):
    first = make_hub()
    camera = HandCamera(first.broker)
    data = picture()
    event = event_of(data)
    count = chunk_count(len(data), event.chunk_size)
    camera.offer(event)
    for index in range(count - 2):
        piece = data[index * event.chunk_size :][: event.chunk_size]
        camera.bus.publish(topics.chunk(camera.name, event.id, index), piece)
    first.collector.stop()
    assert camera.stored == []
    second = make_hub()
    again = HandCamera(second.broker)
    again.offer(msgspec.structs.replace(event, follows=False))
    second.wait(lambda: again.replies, "an answer")
    assert again.replies[0].resend == {event.id: [(count - 2, count - 1)]}
    for index in (count - 2, count - 1):
        again.bus.publish(topics.chunk(camera.name, event.id, index), data[index * event.chunk_size :][:1024])
    second.wait(lambda: again.stored, "stored")
    assert second.store.blobs.read(event.sha256) == data
    second.wait(lambda: not list((settings.state_folder / "partials" / settings.name).iterdir()), "nothing left over")


def test_two_hubs_on_one_state_folder_do_not_store_twice(tmp_path: Path, make_hub):
    hub = make_hub()
    second_store = open_store(settings_in(tmp_path))
    other = Hub(msgspec.structs.replace(settings_in(tmp_path), beat_s=0.05), second_store)
    other.collector.start()
    data = picture()
    event = event_of(data)
    cameras = HandCamera(hub.broker), HandCamera(other.broker)
    for camera in cameras:
        camera.upload(event, data)
    try:
        for one, camera in zip((hub, other), cameras, strict=True):
            one.wait(lambda camera=camera: camera.stored or camera.pauses, "an answer")
        assert len(hub.rows()) == 1
    finally:
        other.collector.stop()
        second_store.close()
