"""Previews by the rules of both ends: what a camera holds, what the hub asks for, and what either forgets."""

import msgspec
import pytest

from shared.files import chunk_count, sha256_hex
from shared.messages import Event, HubStatus, Reply
from shared.transfer import (
    FIRST_PATIENCE,
    Answer,
    Complete,
    Effect,
    Held,
    Limits,
    Offer,
    Receiver,
    SendChunk,
    Sender,
    SendEvent,
)
from shared.transfer.receiver import CROSSED_S, REMIND_AFTER
from shared.transfer.sender import PREVIEW_BYTES
from tests.fakes.messages import event_of, ident

CAMERA = "site/cam-1"
A, B, C = ident(1), ident(2), ident(3)
SIZE, CHUNK = 1000, 256
ALL = [(0, 3)]


def online(*offers: Offer, credit: int | None = None, boot: str = "boot-1", noted: int | None = None) -> Sender:
    sender = Sender()
    for one in offers:
        sender.add(one, noted=noted)
    sender.connected()
    live(sender, 0.0, boot)
    sender.reply(Reply(credit=credit), 0.0)
    return sender


def live(sender: Sender, now: float, boot: str = "boot-1") -> None:
    for beat in (1, 2):
        sender.hub(HubStatus(online=True, boot=boot, beat=beat + int(now * 10)), now, retained=False)


def offer(one: str, *, value: float = 0.5, held: bool = True) -> Offer:
    return Offer(one, SIZE, CHUNK, value, held)


def take(sender: Sender, now: float = 0.0) -> list[SendEvent | SendChunk]:
    out = []
    while (one := sender.next(now)) is not None:
        out.append(one)
        sender.delivered(one.id, now)
    return out


def preview(one: str, *, held: bool = True) -> SendEvent:
    return SendEvent(one, follows=False, held=held)


def chunks_of(one: str, *indices: int) -> list[SendChunk]:
    return [SendChunk(one, index) for index in indices]


# ---------------------------------------------------------------------------------------------- the camera's end


@pytest.mark.parametrize("credit", [None, 1 << 20])
def test_a_held_event_is_offered_without_a_chunk_and_rests_once_it_is_noted(credit: int | None) -> None:
    sender = online(offer(A), credit=credit)
    assert take(sender) == [preview(A)]
    assert sender.outstanding == PREVIEW_BYTES
    assert not sender.holds(A)
    assert sender.reply(Reply(noted=[A]), 1.0) == ([], [])
    assert sender.holds(A)
    assert sender.outstanding == 0
    for now in (10.0, 100.0, 1000.0):
        live(sender, now)
        assert take(sender, now) == []
    assert not sender.idle, "the image is still here"


def test_what_is_noted_stays_so_through_a_cut_a_pause_and_another_hub() -> None:
    sender = online(offer(A))
    take(sender)
    sender.reply(Reply(noted=[A]), 1.0)
    sender.disconnected()
    sender.connected()
    sender.reply(Reply(pause_ms=10), 1.0)
    live(sender, 5.0, "boot-2")
    assert take(sender, 6.0) == []
    assert sender.holds(A)


def test_a_lost_noted_is_asked_for_and_the_preview_goes_with_it() -> None:
    sender = online(offer(A))
    assert take(sender) == [preview(A)]
    live(sender, FIRST_PATIENCE + 1)
    assert take(sender, FIRST_PATIENCE + 1) == [preview(A)]


def test_an_image_that_is_asked_for_is_sent_and_counts_as_an_image() -> None:
    sender = online(offer(A), offer(B), credit=1 << 20)
    take(sender)
    sender.reply(Reply(noted=[A, B]), 1.0)
    sender.reply(Reply(resend={A: ALL}), 1.0)
    assert sender.outstanding == SIZE
    assert not sender.holds(A)
    assert take(sender, 1.0) == chunks_of(A, 0, 1, 2, 3)
    assert sender.holds(B)
    assert sender.reply(Reply(stored=[A]), 2.0) == ([A], [])
    assert sender.outstanding == 0


def test_once_asked_for_it_is_offered_as_an_image_after_a_cut() -> None:
    sender = online(offer(A))
    take(sender)
    sender.reply(Reply(noted=[A]), 1.0)
    sender.reply(Reply(resend={A: ALL}), 1.0)
    assert sender.next(1.0) == SendChunk(A, 0)
    sender.disconnected()
    sender.connected()
    live(sender, 2.0)
    assert take(sender, 2.0) == [preview(A, held=False)]


def test_previews_within_the_credit() -> None:
    sender = online(*(offer(ident(n)) for n in range(10)), credit=3 * PREVIEW_BYTES)
    assert len(take(sender)) == 3
    sender.reply(Reply(noted=[ident(0), ident(1)]), 1.0)
    assert len(take(sender, 1.0)) == 2


def test_another_epoch_brings_previews_again() -> None:
    sender = online(offer(A), offer(B, held=False, value=0.1))
    take(sender)
    sender.reply(Reply(noted=[A]), 1.0)
    sender.renew()
    assert take(sender, 1.0) == [preview(A)]


def test_what_was_noted_before_the_start_is_not_offered_and_is_cut_as_the_hub_knows_it() -> None:
    sender = online(offer(A), noted=500)
    assert sender.holds(A)
    assert take(sender) == []
    assert sender.outstanding == 0
    sender.reply(Reply(resend={A: [(0, 1)]}), 1.0)
    assert sender.chunk_size(A) == 500
    assert take(sender, 1.0) == chunks_of(A, 0, 1)


def test_an_image_that_is_not_held_is_never_noted() -> None:
    sender = online(offer(A, held=False), noted=500)
    assert not sender.holds(A)
    assert take(sender) == [preview(A, held=False)], "offered, though a file says that it was noted"
    sender.reply(Reply(noted=[A]), 1.0)
    assert not sender.holds(A)


def test_removing_says_whether_the_hub_may_know_a_preview() -> None:
    sender = online(offer(A), offer(B, value=0.4), offer(C, value=0.3, held=False), credit=PREVIEW_BYTES)
    assert take(sender) == [preview(A)]
    assert sender.remove(B) is False, "never offered"
    assert sender.remove(C) is False, "no preview"
    assert sender.remove(A) is True
    assert sender.remove(A) is False
    sender.add(offer(C, held=False))
    assert len(take(sender)) > 1
    assert sender.remove(C) is False, "offered, but no preview"
    assert sender.outstanding == 0
    assert sender.idle


def test_what_is_asked_for_and_is_not_here() -> None:
    sender = online(offer(A))
    assert sender.unknown(Reply(resend={A: ALL, B: ALL})) == [B]


# ---------------------------------------------------------------------------------------------------- the hub's end


def held(number: int = 1, **fields: object) -> tuple[Event, bytes]:
    event, data = event_of(number, size=SIZE, follows=False, held=True, thumbnail="/9j/", **fields)
    return event, data


def greeted(limits: Limits | None = None) -> Receiver:
    receiver = Receiver(limits)
    assert receiver.hello(CAMERA, 0.0) == []
    return receiver


def replies(effects: list[Effect]) -> list[Reply]:
    assert all(isinstance(one, Answer) and one.camera == CAMERA for one in effects)
    return [one.reply for one in effects if isinstance(one, Answer)]


def resends(effects: list[Effect]) -> list[dict[str, list[tuple[int, int]]]]:
    return [one.resend for one in replies(effects)]


def image(event: Event) -> Event:
    return msgspec.structs.replace(event, held=False, thumbnail=None, embedding=None)


def give(receiver: Receiver, event: Event, data: bytes, *indices: int, now: float = 0.0) -> list[Effect]:
    size = event.chunk_size
    every = indices or range(chunk_count(event.size, size))
    return [
        effect
        for index in every
        for effect in receiver.chunk(CAMERA, event.id, index, data[index * size : (index + 1) * size], now)
    ]


def test_a_preview_is_handed_over_takes_no_room_and_is_noted_when_durable() -> None:
    receiver = greeted()
    event, _ = held()
    assert receiver.event(CAMERA, event, None, 0.0) == [Held(CAMERA, event)]
    assert receiver.partial_bytes == 0
    assert [one.noted for one in replies(receiver.noted(CAMERA, [event.id]))] == [[event.id]]
    assert receiver.event(CAMERA, event, None, 1.0) == [Held(CAMERA, event)], "a repeat is the same"


def test_a_preview_of_what_is_stored_or_too_large_or_while_the_disk_is_full() -> None:
    receiver = greeted(Limits(image_bytes=SIZE))
    event, _ = held()
    assert [one.stored for one in replies(receiver.event(CAMERA, event, event.sha256, 0.0))] == [[event.id]]
    large = msgspec.structs.replace(event, size=SIZE + 1)
    _problem, answer = receiver.event(CAMERA, large, None, 0.0)
    assert isinstance(answer, Answer)
    assert list(answer.reply.refuse) == [event.id]
    receiver.accepts = False
    [reply] = replies(receiver.event(CAMERA, event, None, 0.0))
    assert reply.pause_ms
    assert not reply.noted


def test_a_wanted_image_is_asked_for_once_and_made_of_its_chunks() -> None:
    receiver = greeted()
    event, data = held()
    [reply] = replies(receiver.want(CAMERA, image(event), 0.0))
    assert reply.resend == {event.id: ALL}
    assert reply.credit
    assert receiver.partial_bytes == SIZE
    assert receiver.want(CAMERA, image(event), 1.0) == []
    assert give(receiver, event, data) == [Complete(CAMERA, image(event), data)]
    assert receiver.want(CAMERA, image(event), 1000.0) == [], "it is being stored"
    assert [one.stored for one in replies(receiver.durable(CAMERA, [event.id]))] == [[event.id]]
    assert receiver.partial_bytes == 0


def test_nothing_is_asked_of_a_camera_that_is_away_or_while_the_disk_is_full() -> None:
    event, _ = held()
    receiver = Receiver()
    assert receiver.want(CAMERA, image(event), 0.0) == []
    receiver.hello(CAMERA, 0.0)
    receiver.accepts = False
    assert receiver.want(CAMERA, image(event), 0.0) == []
    receiver.accepts = True
    assert resends(receiver.want(CAMERA, image(event), 0.0)) == [{event.id: ALL}]


def test_asked_images_stay_within_the_room_and_the_credit_except_for_a_single_one() -> None:
    (one, data), (two, _), (three, _) = held(1), held(2), held(3)
    narrow = greeted(Limits(credit_camera=SIZE // 2, credit_first=SIZE // 2))
    assert resends(narrow.want(CAMERA, image(one), 0.0)) == [{one.id: ALL}]
    assert narrow.want(CAMERA, image(two), 0.0) == []
    give(narrow, one, data)
    narrow.durable(CAMERA, [one.id])
    assert resends(narrow.want(CAMERA, image(two), 1.0)) == [{two.id: ALL}]
    small = greeted(Limits(image_bytes=SIZE, partial_bytes=2 * SIZE))
    assert [bool(small.want(CAMERA, image(event), 0.0)) for event in (one, two, three)] == [True, True, False]


def test_a_camera_that_comes_back_is_asked_again_for_what_is_missing() -> None:
    receiver = greeted()
    event, data = held()
    other, _ = event_of(2, size=SIZE)
    receiver.want(CAMERA, image(event), 0.0)
    receiver.event(CAMERA, other, None, 0.0)
    give(receiver, event, data, 0, 2)
    receiver.bye(CAMERA)
    assert receiver.want(CAMERA, image(event), 1000.0) == []
    assert resends(receiver.hello(CAMERA, 0.0)) == [{event.id: [(1, 1), (3, 3)]}], (
        "what it follows up itself is not asked"
    )
    assert receiver.hello("site/cam-2", 0.0) == []
    assert give(receiver, event, data, 1, 3) == [Complete(CAMERA, image(event), data)]
    assert receiver.hello(CAMERA, 0.0) == []


def test_what_does_not_come_is_asked_for_again_but_not_while_it_comes() -> None:
    receiver = greeted()
    event, data = held()
    receiver.want(CAMERA, image(event), 0.0)
    give(receiver, event, data, 0, now=REMIND_AFTER - 1)
    assert receiver.want(CAMERA, image(event), 2 * REMIND_AFTER - 2) == []
    assert resends(receiver.want(CAMERA, image(event), 2 * REMIND_AFTER)) == [{event.id: [(1, 3)]}]
    assert receiver.want(CAMERA, image(event), 2 * REMIND_AFTER + 1) == []


def test_what_was_on_disk_of_a_wanted_image_is_asked_for_when_nobody_speaks_of_it() -> None:
    """Hub and camera restarted: the camera holds the image and waits, the hub has half of it."""
    receiver = Receiver()
    event, data = held()
    receiver.restore(CAMERA, image(event), {0: data[:CHUNK]}, 0.0)
    receiver.hello(CAMERA, 0.0)
    assert receiver.want(CAMERA, image(event), 1.0) == []
    assert resends(receiver.want(CAMERA, image(event), REMIND_AFTER)) == [{event.id: [(1, 3)]}]


def test_a_preview_of_what_is_wanted_already_is_told_what_is_missing() -> None:
    receiver = greeted()
    event, data = held()
    receiver.want(CAMERA, image(event), 0.0)
    give(receiver, event, data, 0)
    assert receiver.event(CAMERA, event, None, 1.0) == [], "it may have crossed our question"
    assert resends(receiver.event(CAMERA, event, None, CROSSED_S)) == [{event.id: [(1, 3)]}]
    recut = msgspec.structs.replace(event, chunk_size=500)
    assert resends(receiver.event(CAMERA, recut, None, CROSSED_S)) == [{event.id: [(0, 1)]}], "cut otherwise: anew"
    [done] = give(receiver, recut, data)
    assert isinstance(done, Complete)
    assert (done.event.thumbnail, done.event.held, done.data) == (None, False, data)


def test_a_preview_of_other_bytes_than_the_wanted_ones_starts_anew() -> None:
    receiver = greeted()
    event, _ = held()
    receiver.want(CAMERA, image(event), 0.0)
    other = msgspec.structs.replace(event, sha256=sha256_hex(b"other"))
    assert receiver.event(CAMERA, other, None, 1.0) == [Held(CAMERA, other)]
    assert receiver.partial_bytes == 0


def test_what_is_gone_is_not_waited_for() -> None:
    receiver = greeted()
    (one, _), (two, data) = held(1), held(2)
    receiver.want(CAMERA, image(one), 0.0)
    receiver.want(CAMERA, image(two), 0.0)
    receiver.gone("site/cam-2", [one.id])
    assert receiver.partial_bytes == 2 * SIZE
    receiver.gone(CAMERA, [one.id, C])
    assert receiver.partial_bytes == SIZE
    give(receiver, two, data)
    receiver.gone(CAMERA, [two.id])
    assert receiver.partial_bytes == SIZE, "what is complete will be stored"


# ------------------------------------------------------------------------------------------------------ as a pair


def test_both_ends_agree_from_the_preview_to_the_image() -> None:
    event, data = held()
    sender, receiver = online(offer(event.id)), greeted()
    kept: list[Event] = []
    stored: list[bytes] = []

    def carry(effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Answer):
                sender.reply(effect.reply, 1.0)
            elif isinstance(effect, Held):
                kept.append(effect.event)
                carry(receiver.noted(CAMERA, [effect.event.id]))
            elif isinstance(effect, Complete):
                stored.append(effect.data)
                carry(receiver.durable(CAMERA, [effect.event.id]))

    def run() -> list[SendEvent | SendChunk]:
        sent = []
        while (action := sender.next(1.0)) is not None:
            sent.append(action)
            sender.delivered(action.id, 1.0)
            if isinstance(action, SendEvent):
                told = msgspec.structs.replace(event, held=action.held, follows=action.follows)
                carry(receiver.event(CAMERA, told, None, 1.0))
            else:
                begin = action.index * CHUNK
                carry(receiver.chunk(CAMERA, action.id, action.index, data[begin : begin + CHUNK], 1.0))
        return sent

    assert run() == [preview(event.id)]
    assert kept == [event]
    assert stored == []
    carry(receiver.want(CAMERA, image(event), 1.0))
    assert run() == chunks_of(event.id, 0, 1, 2, 3)
    assert stored == [data]
    assert sender.idle
