"""Both ends of an upload as a pair: each row of the two state tables, then everything at once on a bad line."""

import itertools
import random
import time
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.errors import ChunkError, HashMismatchError, MessageError, TooLargeError
from shared.files import chunk_count, chunks, sha256_hex
from shared.messages import Event, HubStatus, Reply, decode, encode
from shared.transfer import (
    FIRST_PATIENCE,
    LOST_BEATS,
    MAX_PATIENCE,
    MAX_PAUSE,
    Answer,
    Complete,
    Effect,
    Limits,
    Offer,
    Problem,
    Receiver,
    SendChunk,
    Sender,
    SendEvent,
    to_ranges,
)
from shared.transfer.receiver import ACTIVE_FOR
from tests.fakes.messages import EVENT as TEMPLATE

CAMERA = "site/cam-1"
CHUNK = 256


def ident(number: int) -> str:
    return f"01890a5d-ac96-774b-bcce-{number:012x}"


A, B, C = ident(1), ident(2), ident(3)


def image(seed: int, size: int = 4 * CHUNK - 10) -> bytes:
    return random.Random(seed).randbytes(size)


def event(one: str, data: bytes, *, follows: bool = True, sha256: str | None = None) -> Event:
    fields = {"id": one, "size": len(data), "sha256": sha256 or sha256_hex(data), "chunk_size": CHUNK}
    return decode(encode(_with(TEMPLATE, follows=follows, **fields)), Event)


def _with(template: Event, **fields: object) -> Event:
    return msgspec.structs.replace(template, **fields)  # type: ignore[arg-type]


def beat(number: int, *, boot: str = "boot-1", online: bool = True, beat_s: float = 2.0) -> HubStatus:
    return HubStatus(online=online, boot=boot, beat=number, beat_s=beat_s)


def online(*offers: Offer, credit: int | None = None, now: float = 0.0) -> Sender:
    """A sender that is connected to a living hub."""
    sender = Sender()
    for one in offers:
        sender.add(one)
    sender.connected()
    sender.hub(beat(1), now, retained=True)
    sender.hub(beat(2), now, retained=False)
    if credit is not None:
        sender.reply(Reply(credit=credit), now)
    return sender


def offer(one: str, size: int = 1000, value: float = 0.5) -> Offer:
    return Offer(one, size, CHUNK, value)


def take(sender: Sender, now: float, limit: int = 10_000) -> list[SendEvent | SendChunk]:
    """Everything that the sender wants to publish now; the broker has acknowledged none of it."""
    out: list[SendEvent | SendChunk] = []
    while (one := sender.next(now)) is not None:
        out.append(one)
        assert len(out) <= limit, "the sender never stops"
    return out


def taken(sender: Sender, now: float) -> list[SendEvent | SendChunk]:
    """The same, and the broker acknowledges all of it at once."""
    out = take(sender, now)
    for one in out:
        sender.delivered(one.id, now)
    return out


def whole(one: str, size: int = 1000) -> list[SendEvent | SendChunk]:
    return [SendEvent(one, follows=True), *(SendChunk(one, i) for i in range(chunk_count(size, CHUNK)))]


def awake(
    sender: Sender, start: float, until: float, boot: str = "boot-1"
) -> list[tuple[float, SendEvent | SendChunk]]:
    """Let the hub beat, the broker acknowledge, and time pass; returns what was sent, and when."""
    out = []
    now = start
    number = 1000 + int(start * 10)
    while now <= until:
        number += 1
        sender.hub(beat(number), now, retained=False)
        out += [(now, one) for one in taken(sender, now)]
        now += 1.0
    return out


# ------------------------------------------------------------------------------------ ranges


@given(st.sets(st.integers(0, 400)))
def test_ranges_hold_the_indices_and_no_others(indices: set[int]) -> None:
    ranges = to_ranges(indices)
    assert [i for first, last in ranges for i in range(first, last + 1)] == sorted(indices)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(ranges)), "neighbours are one range"


# ------------------------------------------------------------------------------------ camera: when it may send


def test_nothing_is_sent_before_the_hub_was_seen_to_live() -> None:
    sender = Sender()
    sender.add(offer(A))
    assert take(sender, 0) == []
    sender.connected()
    assert take(sender, 0) == []


def test_a_ghost_is_sent_nothing() -> None:
    """The broker came back with the hub's retained `online`, and no hub: on every reconnect the same status."""
    sender = Sender()
    sender.add(offer(A))
    for start in (0.0, 100.0, 200.0):
        sender.connected()
        sender.hub(beat(41), start, retained=True)
        for second in range(60):
            assert take(sender, start + second) == []
        sender.disconnected()


def test_a_hub_that_was_alive_before_the_reconnect_may_be_a_ghost_after_it() -> None:
    sender = online(offer(A), credit=10_000)
    sender.disconnected()
    assert take(sender, 1) == []
    sender.connected()
    sender.hub(beat(2), 1, retained=True)
    assert take(sender, 1) == []
    sender.hub(beat(2), 2, retained=False)
    assert take(sender, 2) == [], "the counter did not advance"
    sender.hub(beat(3), 3, retained=False)
    assert take(sender, 3)


@pytest.mark.parametrize("retained", [True, False])
def test_an_old_counter_proves_nothing(retained: bool) -> None:
    sender = Sender()
    sender.add(offer(A))
    sender.connected()
    sender.hub(beat(9), 0, retained=True)
    for old in (9, 8, 0):
        sender.hub(beat(old), 1, retained=retained)
    assert take(sender, 1) == []


def test_a_hub_lives_for_a_few_beats() -> None:
    sender = online(offer(A))
    assert sender.hub_lives(LOST_BEATS * 2.0 - 0.1)
    assert not sender.hub_lives(LOST_BEATS * 2.0)
    assert take(sender, LOST_BEATS * 2.0) == []


@pytest.mark.parametrize("retained", [True, False])
def test_the_beat_of_a_new_hub_counts_from_its_first_word(retained: bool) -> None:
    """A hub that says that it beats every 10 s is not dead after 7."""
    sender = Sender()
    sender.connected()
    sender.hub(beat(1, beat_s=10), 0, retained=retained)
    sender.hub(beat(2, beat_s=10), 0, retained=False)
    assert sender.hub_lives(20)
    sender.hub(beat(1, boot="boot-2", beat_s=20), 21, retained=False)
    assert sender.hub_lives(21 + 3 * 20)


def test_a_hub_that_says_goodbye_is_gone_at_once() -> None:
    sender = online(offer(A), credit=10_000)
    sender.hub(beat(0, boot="", online=False), 1, retained=False)
    assert take(sender, 1) == []
    sender.hub(beat(3), 2, retained=False)
    assert take(sender, 2) == whole(A)


# ------------------------------------------------------------------------------------ camera: rows of the table


def test_waiting_within_credit_sends_event_and_chunks_in_order() -> None:
    sender = online(offer(A), credit=10_000)
    assert take(sender, 0) == whole(A)
    assert sender.outstanding == 1000
    assert not sender.idle


def test_waiting_without_credit_asks_for_one() -> None:
    sender = online(offer(A), offer(B))
    assert take(sender, 0) == [SendEvent(A, follows=False)]


@pytest.mark.parametrize("before", ["asked", "sent"])
def test_resend_sends_the_chunks_asked_for(before: str) -> None:
    sender = online(offer(A), credit=10_000 if before == "sent" else None)
    take(sender, 0)
    sender.reply(Reply(resend={A: [(0, 0), (2, 3)]}), 1)
    assert take(sender, 1) == [SendChunk(A, 0), SendChunk(A, 2), SendChunk(A, 3)]
    assert take(sender, 1) == []


def test_resend_while_sending_adds_to_what_is_left() -> None:
    sender = online(offer(A), credit=10_000)
    assert [sender.next(0) for _ in range(3)] == whole(A)[:3]
    sender.reply(Reply(resend={A: [(0, 0), (2, 2)]}), 0)
    assert take(sender, 0) == [SendChunk(A, 0), SendChunk(A, 2), SendChunk(A, 3)]


@pytest.mark.parametrize("cause", ["reconnect", "boot"])
@pytest.mark.parametrize("sent", [0, 2, 5])
def test_after_a_loss_it_asks_again(cause: str, sent: int) -> None:
    """sent: how much was published before; 0 means asked only."""
    sender = online(offer(A), credit=10_000 if sent else None)
    for _ in range(max(1, sent)):
        sender.next(0)
    if cause == "reconnect":
        sender.disconnected()
        sender.connected()
        sender.hub(beat(2), 1, retained=True)
        sender.hub(beat(3), 1, retained=False)
    else:
        sender.hub(beat(0, boot="boot-2"), 1, retained=False)
        sender.hub(beat(1, boot="boot-2"), 1, retained=False)
    assert take(sender, 1) == [SendEvent(A, follows=False)]
    sender.reply(Reply(resend={A: [(1, 1)]}, credit=1000), 1)
    assert take(sender, 1) == [SendChunk(A, 1)]


def test_a_new_hubs_credit_is_not_the_old_ones() -> None:
    sender = online(offer(A), offer(B), credit=10_000)
    sender.hub(beat(0, boot="boot-2"), 1, retained=False)
    assert take(sender, 1) == [SendEvent(A, follows=False)]


def test_a_resend_from_before_the_loss_waits_for_the_new_question() -> None:
    sender = online(offer(A), credit=10_000)
    take(sender, 0)
    sender.disconnected()
    sender.connected()
    sender.reply(Reply(resend={A: [(0, 3)]}), 1)
    sender.hub(beat(2), 1, retained=True)
    sender.hub(beat(3), 1, retained=False)
    assert take(sender, 1) == [SendEvent(A, follows=False)]


def test_a_lost_stored_is_asked_for_again_and_again_but_ever_more_rarely() -> None:
    sender = online(offer(A), credit=10_000)
    taken(sender, 0)
    asked = [now for now, one in awake(sender, 1, 600) if one == SendEvent(A, follows=False)]
    assert FIRST_PATIENCE <= asked[0] <= FIRST_PATIENCE + 2
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    assert gaps[-1] <= MAX_PATIENCE + 2
    assert len(asked) >= 6
    sender.reply(Reply(stored=[A]), 601)
    assert sender.idle


def test_a_lost_stored_is_asked_for_though_others_get_through() -> None:
    """Replies for other events are no progress of this one: it must not wait until the stream of events ends."""
    sender = online(offer(A, value=1.0), credit=10_000)
    taken(sender, 0)
    for second in range(1, 400):
        one = ident(100 + second)
        sender.hub(beat(1000 + second), second, retained=False)
        sender.add(offer(one))
        sent = taken(sender, second)
        if SendEvent(A, follows=False) in sent:
            return
        sender.reply(Reply(stored=[one]), second)
    pytest.fail("never asked again")


def test_stored_and_refused_are_gone() -> None:
    sender = online(offer(A), offer(B), offer(C), credit=10_000)
    take(sender, 0)
    assert sender.reply(Reply(stored=[A], refuse={B: "too large"}), 1) == ([A], [(B, "too large")])
    assert sender.outstanding == 1000
    assert sender.reply(Reply(stored=[A], refuse={B: "x"}), 1) == ([], []), "told twice, done once"
    assert sender.reply(Reply(stored=[C]), 1) == ([C], [])
    assert sender.idle
    assert awake(sender, 1, 300) == []


def test_stored_while_waiting_or_sending() -> None:
    sender = online(offer(A, value=1), offer(B), credit=1000)
    sender.next(0)
    sender.next(0)
    assert sender.reply(Reply(stored=[A, B]), 0)[0] == [A, B]
    assert take(sender, 0) == []
    assert sender.idle


def test_words_about_events_that_nobody_has_are_nothing() -> None:
    sender = online(offer(A), credit=10_000)
    assert sender.reply(Reply(stored=[B], refuse={C: "x"}, resend={B: [(0, 9)], C: []}), 0) == ([], [])
    assert take(sender, 0) == whole(A)


def test_an_evicted_event_is_not_sent_any_more() -> None:
    sender = online(offer(A, value=1), offer(B), credit=1000)
    sender.next(0)
    sender.next(0)
    sender.remove(A)
    assert sender.outstanding == 0
    assert take(sender, 0) == whole(B)
    sender.remove(B)
    sender.remove(B)
    assert sender.idle


def test_an_event_added_twice_is_sent_once() -> None:
    sender = online(offer(A), offer(A), credit=10_000)
    assert take(sender, 0) == whole(A)
    sender.add(offer(A))
    assert take(sender, 0) == []


def test_most_valuable_first() -> None:
    offers = [offer(ident(i), value=value) for i, value in enumerate([0.3, 0.9, 0.1, 0.5])]
    sender = online(*offers, credit=10_000)
    sent = [one.id for one in take(sender, 0) if isinstance(one, SendEvent)]
    assert sent == [ident(1), ident(3), ident(0), ident(2)]


def test_one_that_comes_later_and_is_worth_more_goes_next() -> None:
    sender = online(offer(A, value=0.2), offer(B, value=0.1), credit=1000)
    assert take(sender, 0) == whole(A)
    sender.add(offer(C, value=0.9))
    sender.reply(Reply(stored=[A]), 0)
    assert take(sender, 0) == whole(C)


# ------------------------------------------------------------------------------------ camera: credit and pause


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=12), st.integers(0, 6000), st.randoms())
def test_outstanding_stays_within_the_credit_except_for_a_single_event(
    sizes: list[int], credit: int, chance: random.Random
) -> None:
    sender = online(*(offer(ident(i), size, chance.random()) for i, size in enumerate(sizes)), credit=credit)
    sent: set[str] = set()
    for _ in range(200):
        for one in take(sender, 0):
            if isinstance(one, SendEvent):
                sent.add(one.id)
                assert sender.outstanding <= credit or len(sent) == 1
        assert sender.outstanding == sum(sizes[int(one[-12:], 16)] for one in sent)
        if not sent:
            break
        done = chance.choice(sorted(sent))
        sent.discard(done)
        sender.reply(Reply(stored=[done]), 0)
    assert sender.idle == (credit > 0)


def test_an_event_above_the_credit_goes_alone() -> None:
    sender = online(offer(A, size=5000, value=1), offer(B), credit=1500)
    assert take(sender, 0) == whole(A, 5000)
    sender.reply(Reply(stored=[A]), 0)
    assert take(sender, 0) == whole(B)


def test_credit_of_nothing_starts_nothing() -> None:
    sender = online(offer(A), credit=0)
    assert awake(sender, 0, 60) == []
    sender.reply(Reply(credit=1), 61)
    assert take(sender, 60) == whole(A)


def test_lost_credit_costs_a_question_an_event_and_no_more() -> None:
    """The hub's word on credit was lost: the camera asks, and the answer (which may come late) sets it going."""
    sender = online(offer(A, value=1), offer(B))
    assert taken(sender, 0) == [SendEvent(A, follows=False)]
    asked = [one for _, one in awake(sender, 1, 30)]
    assert asked == [SendEvent(A, follows=False)] * len(asked)
    assert asked
    sender.reply(Reply(resend={A: [(0, 3)]}, credit=10_000), 30)
    assert take(sender, 30) == [*whole(A)[1:], *whole(B)]


def test_pause_sends_nothing_then_goes_on() -> None:
    sender = online(offer(A), credit=10_000)
    sender.next(0)
    sender.reply(Reply(pause_ms=5000), 0)
    sent = awake(sender, 0, 30)
    assert sent[0][0] == 5.0
    assert sum(isinstance(one, SendChunk) for now, one in sent if now < 6) <= 4


def test_after_a_pause_it_asks_soon_and_does_not_send_chunks_that_nobody_awaits() -> None:
    """The hub had no room for the event: it kept nothing of it, so its chunks would belong to no event."""
    receiver = Receiver(Limits(partial_bytes=1000, pause_s=2.0))
    receiver.event("site/other", event(B, image(2, 900)), None, 0)
    data = image(1, 900)
    sender = online(offer(A, 900), credit=10_000)
    assert sender.next(0) == SendEvent(A, follows=True)
    for effect in receiver.event(CAMERA, event(A, data), None, 0):
        assert isinstance(effect, Answer)
        sender.reply(effect.reply, 0)
    receiver.durable("site/other", [B])
    sent = awake(sender, 1, 5)
    assert [one for _, one in sent] == [SendEvent(A, follows=False)]


def test_a_pause_ends_with_the_hub_that_asked_for_it() -> None:
    sender = online(offer(A), credit=10_000)
    sender.reply(Reply(pause_ms=3_600_000), 0)
    assert take(sender, 5) == []
    sender.hub(beat(1, boot="boot-2"), 6, retained=False)
    sender.hub(beat(2, boot="boot-2"), 6, retained=False)
    assert take(sender, 6) == [SendEvent(A, follows=False)]


@pytest.mark.parametrize("pause", [3_600_001, 2**63 - 1, 10**400, -1])
def test_a_mad_pause_never_gets_here(pause: int) -> None:
    with pytest.raises(MessageError):
        decode(b'{"pause_ms": %d}' % pause, Reply)


@pytest.mark.parametrize(
    ("missing", "indices"),
    [
        ([(0, 10**9)], [0, 1, 2, 3]),
        ([(2, 2**62)], [2, 3]),
        ([(4, 10**9)], []),
        ([(10**9, 10**9 + 5)], []),
        ([(3, 1)], []),
        ([], []),
        ([(0, 1), (1, 2), (0, 0)], [0, 1, 2]),
    ],
)
def test_resend_is_clipped_to_the_chunks_there_are(missing: list[tuple[int, int]], indices: list[int]) -> None:
    sender = online(offer(A), credit=10_000)
    take(sender, 0)
    sender.reply(Reply(resend={A: missing}), 0)
    assert take(sender, 0) == [SendChunk(A, i) for i in indices]


def test_resend_walks_overlapping_ranges_once() -> None:
    """As many ranges as one reply of 256 KiB holds; each walked whole, they would take a minute."""
    count = 40_000
    sender = online(offer(A, size=count * CHUNK), credit=10**9)
    take(sender, 0, limit=count + 1)
    began = time.process_time()
    sender.reply(Reply(resend={A: [(0, 10**9), *[(i % 7, count) for i in range(15_000)]]}), 0)
    assert time.process_time() - began < 5, "far beyond what walking once costs"
    assert len(take(sender, 0, limit=count)) == count


# ------------------------------------------------------------------------------------ camera: patience


def test_a_slow_link_starts_no_timer() -> None:
    """While the broker has not acknowledged every message of an event, the hub cannot have it: nothing to ask."""
    sender = online(offer(A), credit=10_000)
    sent = take(sender, 0)
    for second, one in enumerate(sent[:-1]):
        sender.delivered(one.id, 100.0 * second)
    assert awake(sender, 1, 900) == []
    sender.delivered(A, 900)
    asked = [now for now, _ in awake(sender, 901, 930)]
    assert FIRST_PATIENCE < asked[0] - 900 <= FIRST_PATIENCE + 2


def test_a_question_on_its_way_is_not_repeated() -> None:
    sender = online(offer(A))
    assert take(sender, 0) == [SendEvent(A, follows=False)]
    assert awake(sender, 1, 300) == []
    sender.delivered(A, 300)
    assert [one for _, one in awake(sender, 301, 312)] == [SendEvent(A, follows=False)]


def test_each_event_has_a_timer_of_its_own() -> None:
    sender = online(offer(A, value=1), offer(B), credit=10_000)
    sent = take(sender, 0)
    for one in sent:
        if one.id == A:
            sender.delivered(A, 0)
    assert {one.id for _, one in awake(sender, 1, 60)} == {A}


def test_acknowledgements_of_what_is_gone_or_too_many_are_nothing() -> None:
    sender = online(offer(A), credit=10_000)
    sender.delivered(B, 0)
    for _ in range(20):
        sender.delivered(A, 0)
    sent = take(sender, 0)
    assert sent == whole(A)
    for _ in sent[:-1]:
        sender.delivered(A, 1)
    assert awake(sender, 1, 100) == [], "early words do not count for later messages"
    sender.reply(Reply(stored=[A]), 100)
    sender.delivered(A, 100)
    assert sender.idle


def test_what_flew_before_the_loss_holds_nothing_up_after_it() -> None:
    sender = online(offer(A), credit=10_000)
    take(sender, 0)  # five messages that nobody ever acknowledges
    sender.disconnected()
    sender.connected()
    sender.hub(beat(2), 1, retained=True)
    sender.hub(beat(3), 1, retained=False)
    assert taken(sender, 1) == [SendEvent(A, follows=False)]
    assert [one for _, one in awake(sender, 2, 14)] == [SendEvent(A, follows=False)]


def test_the_hubs_word_makes_it_patient_anew() -> None:
    sender = online(offer(A), credit=10_000)
    taken(sender, 0)
    awake(sender, 1, 200)
    sender.reply(Reply(resend={A: [(0, 0)]}), 200)
    sent = awake(sender, 200, 200 + FIRST_PATIENCE + 3)
    assert [one for _, one in sent] == [SendChunk(A, 0), SendEvent(A, follows=False)]


def test_after_a_pause_every_active_event_is_asked_for() -> None:
    """The hub lets go of a whole batch with one word, and does not say of which events."""
    sender = online(offer(A, value=3), offer(B, value=2), offer(C, value=1), credit=2000)
    assert len(taken(sender, 0)) == 10
    sender.reply(Reply(pause_ms=1000), 0)
    assert awake(sender, 0.1, 0.9) == []
    assert [one for _, one in awake(sender, 1.0, 1.0)] == [SendEvent(A, follows=False), SendEvent(B, follows=False)]
    assert sender.outstanding == 2000, "what waits beyond the credit goes on waiting"


def test_no_pause_is_longer_than_the_longest() -> None:
    sender = online(offer(A), credit=10_000)
    sender.reply(Reply(pause_ms=2**63 - 1), 0)
    assert next(now for now, _ in awake(sender, MAX_PAUSE - 5, MAX_PAUSE + 5)) == MAX_PAUSE


# ------------------------------------------------------------------------------------ hub: rows of the table


def problems(effects: list[Effect]) -> list[Exception]:
    return [one.error for one in effects if isinstance(one, Problem)]


def replies(effects: list[Effect]) -> list[Reply]:
    """What the camera is told, but the credit: that has tests of its own."""
    return [msgspec.structs.replace(one.reply, credit=None) for one in effects if isinstance(one, Answer)]


def credits(effects: list[Effect]) -> list[int | None]:
    return [one.reply.credit for one in effects if isinstance(one, Answer)]


def give(receiver: Receiver, one: str, data: bytes, indices: list[int] | None = None, now: float = 0) -> list[Effect]:
    """Chunks arrive; returns what the last of them caused."""
    parts = list(chunks(data, CHUNK))
    effects: list[Effect] = []
    for index in range(len(parts)) if indices is None else indices:
        effects = receiver.chunk(CAMERA, one, index, parts[index], now)
    return effects


def greeted(limits: Limits | None = None) -> Receiver:
    receiver = Receiver(limits)
    receiver.hello(CAMERA)
    return receiver


def test_stored_before_under_the_same_hash() -> None:
    data = image(1)
    assert replies(greeted().event(CAMERA, event(A, data), sha256_hex(data), 0)) == [Reply(stored=[A])]


def test_stored_before_under_another_hash_is_refused() -> None:
    effects = greeted().event(CAMERA, event(A, image(1)), "0" * 64, 0)
    assert isinstance(problems(effects)[0], HashMismatchError)
    assert list(replies(effects)[0].refuse) == [A]


def test_too_large_is_refused() -> None:
    receiver = greeted(Limits(image_bytes=900))
    assert not problems(receiver.event(CAMERA, event(A, image(1, 900)), None, 0))
    effects = receiver.event(CAMERA, event(B, image(1, 901)), None, 0)
    assert isinstance(problems(effects)[0], TooLargeError)
    assert B in replies(effects)[0].refuse
    assert receiver.partial_bytes == 900


def test_no_room_is_a_pause_until_there_is_room() -> None:
    receiver = greeted(Limits(partial_bytes=1500, pause_s=2.5))
    receiver.event(CAMERA, event(A, image(1, 1000)), None, 0)
    paused = replies(receiver.event(CAMERA, event(B, image(2, 1000)), None, 0))
    assert paused[0].pause_ms == 2500
    assert receiver.partial_bytes == 1000
    receiver.event(CAMERA, event(C, image(3, 500)), None, 0)
    give(receiver, A, image(1, 1000))
    receiver.durable(CAMERA, [A])
    assert receiver.partial_bytes == 500
    assert replies(receiver.event(CAMERA, event(B, image(2, 1000)), None, 0)) == []


@pytest.mark.parametrize(("follows", "answer"), [(True, []), (False, [{A: [(0, 3)]}])])
def test_a_new_event(follows: bool, answer: list[dict[str, list[tuple[int, int]]]]) -> None:
    effects = greeted().event(CAMERA, event(A, image(1), follows=follows), None, 0)
    assert [one.resend for one in replies(effects)] == answer
    assert all(credits(effects)), "who is asked for chunks learns the credit"


def test_event_again_is_told_what_is_missing() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data, [0, 2])
    for follows in (True, False):
        effects = receiver.event(CAMERA, event(A, data, follows=follows), None, 0)
        assert replies(effects)[0].resend == {A: [(1, 1), (3, 3)]}
    assert receiver.partial_bytes == len(data)


def test_chunks_in_order_make_the_image() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    assert give(receiver, A, data) == [Complete(CAMERA, event(A, data), data)]
    assert receiver.event(CAMERA, event(A, data), None, 0) == [], "being made durable: `stored` will come"
    assert give(receiver, A, data) == []
    assert replies(receiver.durable(CAMERA, [A])) == [Reply(stored=[A])]
    assert receiver.partial_bytes == 0


def test_a_gap_is_asked_for_when_the_last_chunk_came() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    assert give(receiver, A, data, [0, 2]) == []
    assert replies(give(receiver, A, data, [3]))[0].resend == {A: [(1, 1)]}
    assert isinstance(give(receiver, A, data, [1])[0], Complete)


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=4))
def test_any_order_and_any_repeats_make_the_image_once(order: list[int], repeats: list[int]) -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    made = [
        effect
        for index in [*repeats, *order, *repeats]
        for effect in give(receiver, A, data, [index])
        if isinstance(effect, Complete)
    ]
    assert [one.data for one in made] == [data]


def test_wrong_hash_once_is_sent_again_twice_is_refused() -> None:
    receiver = greeted()
    good, bad = image(1), image(2)
    receiver.event(CAMERA, event(A, good), None, 0)
    first = give(receiver, A, bad)
    assert isinstance(problems(first)[0], HashMismatchError)
    assert replies(first)[0].resend == {A: [(0, 3)]}
    second = give(receiver, A, bad)
    assert isinstance(problems(second)[0], HashMismatchError)
    assert A in replies(second)[0].refuse
    assert receiver.partial_bytes == 0
    assert A in str(problems(second)[0])


def test_wrong_hash_once_then_right() -> None:
    receiver = greeted()
    good = image(1)
    receiver.event(CAMERA, event(A, good), None, 0)
    give(receiver, A, image(2))
    assert give(receiver, A, good) == [Complete(CAMERA, event(A, good), good)]


@pytest.mark.parametrize(
    ("one", "index", "size", "says"),
    [
        (B, 0, CHUNK, "no event"),
        (A, 4, CHUNK, "out of range"),
        (A, 999_999_999, CHUNK, "out of range"),
        (A, 0, CHUNK - 1, "255 bytes, expected 256"),
        (A, 0, CHUNK + 1, "257 bytes, expected 256"),
        (A, 0, 0, "0 bytes"),
        (A, 3, CHUNK, "256 bytes, expected 246"),
    ],
)
def test_a_bad_chunk_is_a_problem_and_changes_nothing(one: str, index: int, size: int, says: str) -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    effects = receiver.chunk(CAMERA, one, index, b"x" * size, 0)
    assert len(effects) == 1
    error = problems(effects)[0]
    assert isinstance(error, ChunkError)
    assert says in str(error)
    assert CAMERA in str(error)
    assert isinstance(give(receiver, A, data)[0], Complete)


def test_a_chunk_of_another_camera_is_of_no_known_event() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    assert isinstance(problems(receiver.chunk("site/cam-2", A, 0, data[:CHUNK], 0))[0], ChunkError)


def test_partials_that_nobody_touches_expire() -> None:
    receiver = greeted(Limits(partial_ttl_s=300))
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    receiver.event(CAMERA, event(B, data), None, 0)
    give(receiver, B, data, [0], now=200)
    assert receiver.tick(300) == 0
    assert receiver.tick(301) == 1
    assert receiver.partial_bytes == len(data)
    assert isinstance(problems(give(receiver, A, data, [0]))[0], ChunkError)
    assert replies(receiver.event(CAMERA, event(A, data, follows=False), None, 301))[0].resend == {A: [(0, 3)]}


def test_a_complete_image_does_not_expire() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data)
    assert receiver.tick(10**6) == 0
    assert replies(receiver.durable(CAMERA, [A]))[0].stored == [A]


def test_what_could_not_be_made_durable_is_paused_and_asked_for_again() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data)
    assert replies(receiver.not_durable(CAMERA, [A]))[0].pause_ms == 2000
    assert receiver.partial_bytes == 0
    receiver.event(CAMERA, event(A, data, follows=False), None, 3)
    assert isinstance(give(receiver, A, data)[0], Complete)


def test_the_same_id_with_another_hash_while_partial_starts_anew() -> None:
    receiver = greeted()
    old, new = image(1), image(2, 300)
    receiver.event(CAMERA, event(A, old), None, 0)
    give(receiver, A, old, [0])
    receiver.event(CAMERA, event(A, new), None, 0)
    assert receiver.partial_bytes == 300
    assert isinstance(give(receiver, A, new)[0], Complete)


def test_the_same_id_with_another_hash_while_being_stored_is_refused() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data)
    effects = receiver.event(CAMERA, event(A, image(2)), None, 0)
    assert isinstance(problems(effects)[0], HashMismatchError)
    assert A in replies(effects)[0].refuse


def test_one_byte_and_whole_chunks() -> None:
    for size in (1, CHUNK, 2 * CHUNK):
        receiver = greeted()
        data = image(3, size)
        receiver.event(CAMERA, event(A, data), None, 0)
        assert give(receiver, A, data) == [Complete(CAMERA, event(A, data), data)]


def test_the_first_credit_is_shared_by_all_who_are_there() -> None:
    receiver = Receiver(Limits(credit_total=1000, credit_camera=400, credit_first=300))
    told = []
    for number in range(5):
        receiver.hello(f"site/cam-{number}")
        told.append(receiver.first_credit)
    assert told == [300, 300, 300, 250, 200]
    receiver.bye("site/cam-3")
    assert receiver.first_credit == 250


def test_credit_grows_for_those_who_have_something_to_send() -> None:
    receiver = Receiver(Limits(credit_total=1000, credit_camera=400, credit_first=100))
    names = [f"site/cam-{number}" for number in range(10)]
    for name in names:
        receiver.hello(name)
    told = [credits(receiver.durable(names[0], [A]))[0] for _ in range(4)]
    assert told == [200, 400, None, None], "twofold from reply to reply, up to its limit, and told when it changed"
    for number, name in enumerate(names[:4]):
        receiver.event(name, event(A, b"x" * 10), None, float(number))
    assert credits(receiver.durable(names[0], [A])) == [250], "four share"
    receiver.tick(3.0 + ACTIVE_FOR)
    assert credits(receiver.durable(names[0], [A])) == [400], "the others have nothing more"


# ------------------------------------------------------------------------------------ the pair, on a bad line


@dataclass
class Line:
    """A channel with faults. Messages wait a little; each may be lost, repeated or overtaken."""

    chance: random.Random
    drop: float = 0.0
    repeat: float = 0.0
    shuffle: float = 0.0
    waiting: list[object] = field(default_factory=list)

    def put(self, message: object) -> None:
        if self.chance.random() >= self.drop:
            self.waiting += [message] * (2 if self.chance.random() < self.repeat else 1)

    def take(self) -> list[object]:
        out, self.waiting = self.waiting, []
        if self.chance.random() < self.shuffle:
            self.chance.shuffle(out)
        if out and self.chance.random() < self.shuffle:
            held = self.chance.randrange(len(out))
            out, self.waiting = out[:held], out[held:]
        return out


class World:
    """A camera with its spool, a hub with its disk, and two lines between them; time goes in half seconds."""

    STEP = 0.5

    def __init__(self, seed: int, sizes: list[int], drop: float, repeat: float, shuffle: float) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.faults = True
        self.up = Line(self.chance, drop, repeat, shuffle)
        self.down = Line(self.chance, drop, repeat, shuffle)
        self.limits = Limits(
            image_bytes=5000, partial_bytes=8000, partial_ttl_s=30, credit_total=4000, credit_camera=2500, pause_s=2
        )
        # camera
        self.images = {ident(i): image(seed + i, size) for i, size in enumerate(sizes)}
        self.values = {one: self.chance.random() for one in self.images}
        self.spool: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self.evicted: set[str] = set()
        self.sender = Sender()
        self.connected_at: float | None = None
        self.taken: list[str] = []  # event of each message that the broker has and has not acknowledged
        # hub
        self.disk: dict[str, bytes] = {}
        self.receiver: Receiver | None = None
        self.boot = 0
        self.beats = 0
        self.committing: list[Complete] = []
        self.retained = HubStatus(online=False)
        self.dead_since: float | None = 0.0

    # -- disasters

    def cut(self) -> None:
        self.connected_at = None
        self.sender.disconnected()
        self.up.waiting.clear()
        self.down.waiting.clear()
        self.taken.clear()
        if self.receiver is not None:
            self.receiver.bye(CAMERA)

    def connect(self) -> None:
        self.connected_at = self.now
        self.sender.connected()
        self.sender.hub(self.retained, self.now, retained=True)
        self.up.put("hello")

    def kill_hub(self) -> None:
        """No goodbye: the retained status stays a ghost."""
        self.receiver = None
        self.committing.clear()
        self.dead_since = self.dead_since if self.dead_since is not None else self.now

    def start_hub(self) -> None:
        self.receiver = Receiver(self.limits)
        self.boot += 1
        self.beats = 0
        self.dead_since = None
        if self.connected_at is not None:
            self.up.put("hello")  # the camera's retained status

    def restart_camera(self) -> None:
        self.cut()
        self.sender = Sender()
        for one, data in self.spool.items():
            self.sender.add(Offer(one, len(data), CHUNK, self.values[one]))

    def evict(self) -> None:
        if self.spool:
            one = self.chance.choice(sorted(self.spool))
            del self.spool[one]
            self.evicted.add(one)
            self.sender.remove(one)

    def strike(self, disaster: str) -> None:
        match disaster:
            case "cut":
                self.cut()
            case "hub restart":
                self.kill_hub()
                self.start_hub()
            case "hub dies":
                self.kill_hub()
            case "broker dies with the hub":
                self.kill_hub()
                self.cut()
            case "camera restart":
                self.restart_camera()
            case "evict":
                self.evict()
            case "stored, then dies":
                self.commit(silent=True)
                self.kill_hub()
                self.start_hub()
            case "wait":
                self.now += 20

    # -- one step

    def step(self) -> None:
        self.now += self.STEP
        if self.connected_at is None and (not self.faults or self.chance.random() < 0.4):
            self.connect()
        if self.receiver is None and (not self.faults or self.chance.random() < 0.1):
            self.start_hub()
        self.beat()
        if self.connected_at is not None:
            self.broker_acknowledges()
            self.camera_sends()
            for message in self.up.take():
                self.hub_hears(message)
        self.commit()
        if self.receiver is not None:
            self.receiver.tick(self.now)
        for message in self.down.take():
            self.camera_hears(message)
        assert self.acknowledged <= set(self.disk), "acknowledged is a subset of what is on the hub's disk"
        assert set(self.spool) | self.acknowledged | self.evicted == self.spooled, "no event is forgotten"

    def beat(self) -> None:
        if self.receiver is not None and self.now % 2 < self.STEP:
            self.beats += 1
            self.retained = HubStatus(online=True, boot=f"boot-{self.boot}", beat=self.beats, beat_s=2.0)
            if self.connected_at is not None:
                self.down.put(self.retained)

    def broker_acknowledges(self) -> None:
        """In its own time, and also what it lost on the way to the hub: no proof of anything."""
        count = self.chance.randrange(len(self.taken) + 1) if self.faults else len(self.taken)
        for one in self.taken[:count]:
            self.sender.delivered(one, self.now)
        del self.taken[:count]

    def camera_sends(self) -> None:
        for _ in range(self.chance.randrange(30) if self.faults else 30):
            one = self.sender.next(self.now)
            if one is None:
                return
            assert self.dead_since is None or self.now - self.dead_since < LOST_BEATS * 2 + 4, "sent to a ghost"
            assert one.id in self.spool, "sent what it no longer has"
            data = self.spool[one.id]
            if isinstance(one, SendEvent):
                self.up.put(event(one.id, data, follows=one.follows))
            else:
                assert 0 <= one.index < chunk_count(len(data), CHUNK)
                self.up.put((one.id, one.index, data[one.index * CHUNK :][:CHUNK]))
            self.taken.append(one.id)

    def hub_hears(self, message: object) -> None:
        if self.receiver is None:
            return
        if isinstance(message, Event):
            stored = self.disk.get(message.id)
            self.act(self.receiver.event(CAMERA, message, None if stored is None else sha256_hex(stored), self.now))
        elif isinstance(message, tuple):
            self.act(self.receiver.chunk(CAMERA, *message, self.now))
        else:
            self.receiver.hello(CAMERA)
        assert self.receiver.partial_bytes <= self.limits.partial_bytes

    def act(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Complete):
                self.committing.append(effect)
            elif isinstance(effect, Answer):
                assert not effect.reply.refuse, "nothing here deserves refusal"
                self.down.put(effect.reply)
            elif isinstance(effect, Problem):
                assert isinstance(effect.error, ChunkError)

    def commit(self, *, silent: bool = False) -> None:
        if self.receiver is None or not self.committing or (self.faults and self.chance.random() < 0.3):
            return
        batch, self.committing = self.committing, []
        if self.faults and not silent and self.chance.random() < 0.15:
            self.act(self.receiver.not_durable(CAMERA, [one.event.id for one in batch]))
            return
        for one in batch:
            assert one.event.id not in self.disk, "stored twice"
            assert one.data == self.images[one.event.id]
            self.disk[one.event.id] = one.data
        if not silent:
            self.act(self.receiver.durable(CAMERA, [one.event.id for one in batch]))

    def camera_hears(self, message: object) -> None:
        if isinstance(message, HubStatus):
            self.sender.hub(message, self.now, retained=False)
        elif isinstance(message, Reply):
            stored, refused = self.sender.reply(message, self.now)
            assert not refused
            for one in stored:
                assert self.disk.get(one) == self.spool[one], "acknowledged, and not on the hub's disk"
                del self.spool[one]
                self.acknowledged.add(one)

    # -- the story

    def spool_one(self, one: str) -> None:
        self.spool[one] = self.images[one]
        self.sender.add(Offer(one, len(self.images[one]), CHUNK, self.values[one]))

    @property
    def spooled(self) -> set[str]:
        return set(list(self.images)[: self._added])

    _added = 0

    def add(self, count: int) -> None:
        for one in list(self.images)[self._added : self._added + count]:
            self._added += 1
            self.spool_one(one)

    def heal(self) -> None:
        """No more faults from here on."""
        self.faults = False
        self.up.drop = self.up.repeat = self.up.shuffle = 0
        self.down.drop = self.down.repeat = self.down.shuffle = 0


DISASTERS = ["cut", "hub restart", "hub dies", "broker dies with the hub", "camera restart", "evict"]
DISASTERS += ["stored, then dies", "wait"]


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 4500), min_size=1, max_size=12),
    rates=st.tuples(*[st.sampled_from([0.0, 0.05, 0.3])] * 3),
    story=st.lists(st.tuples(st.integers(1, 25), st.sampled_from(DISASTERS)), max_size=8),
)
@example(seed=1, sizes=[4500] * 12, rates=(0.3, 0.3, 0.3), story=[(20, one) for one in DISASTERS])
@example(seed=2, sizes=[100] * 12, rates=(0.0, 0.0, 0.0), story=[])
@settings(max_examples=1000)
def test_nothing_is_lost_and_nothing_comes_twice(
    seed: int, sizes: list[int], rates: tuple[float, float, float], story: list[tuple[int, str]]
) -> None:
    world = World(seed, sizes, *rates)
    for steps, disaster in story:
        world.add(max(1, len(sizes) // max(1, len(story))))
        for _ in range(steps):
            world.step()
        world.strike(disaster)
        world.step()
    world.add(len(sizes))
    world.heal()
    began = world.now
    while world.spool:
        world.step()
        assert world.now - began < 3 * MAX_PATIENCE, f"still waiting: {sorted(world.spool)}"
    assert world.acknowledged | world.evicted == set(world.images)
    for one in world.acknowledged:
        assert world.disk[one] == world.images[one]
    assert world.sender.idle
    assert world.sender.outstanding == 0


def test_on_a_good_line_nothing_is_sent_twice() -> None:
    world = World(7, [3000] * 10, 0, 0, 0)
    world.heal()
    world.add(10)
    carried = 0
    while world.spool:
        world.step()
        carried = max(carried, len(world.disk))
        assert world.now < 60
    assert carried == 10


def test_a_camera_that_only_offers_takes_no_room_from_the_others() -> None:
    limits = Limits(image_bytes=1000, partial_bytes=5000, credit_camera=1500)
    receiver = Receiver(limits)
    for number in range(50):  # its share is 3000: the oldest of its own go
        receiver.event("site/greedy", event(ident(number), bytes(1000)), None, float(number))
    assert receiver.partial_bytes == 3000
    data = image(7, 1000)
    other = event(ident(900), data)
    assert receiver.event("site/good", other, None, 60.0) == []
    effects = [receiver.chunk("site/good", other.id, at, piece, 60.0) for at, piece in enumerate(chunks(data, CHUNK))]
    assert [one for some in effects for one in some] == [Complete("site/good", other, data)]


# ------------------------------------------------------------------------------------ several hubs


def of_berlin(*offers: Offer, hubs: str = "xy") -> Sender:
    """A sender of site berlin with living hubs that serve it."""
    sender = Sender("berlin")
    for one in offers:
        sender.add(one)
    sender.connected()
    for name in hubs:
        for number in (1, 2):
            sender.hub(serving(number, name, "berlin"), 0, retained=number == 1, name=name)
    sender.reply(Reply(credit=10_000), 0)
    return sender


def serving(number: int, name: str, *sites: str, online: bool = True) -> HubStatus:
    return HubStatus(online=online, boot=f"boot of {name}", beat=number, sites=list(sites))


@pytest.mark.parametrize("end", [serving(3, "x", "paris"), serving(3, "x", online=False)], ids=["leaves", "ends"])
def test_of_two_hubs_one_leaves_the_site_and_the_other_is_asked_at_once(end: HubStatus) -> None:
    sender = of_berlin(offer(A))
    assert taken(sender, 0) == whole(A)
    sender.hub(end, 1, retained=False, name="x")
    assert sender.hub_lives(1)
    assert take(sender, 1) == [SendEvent(A, follows=False)]
    sender.hub(end, 1, retained=False, name="x")  # said once more, it changes nothing
    if end.online:
        assert take(sender, 1) == []


@pytest.mark.parametrize("end", [serving(3, "x", "paris"), serving(3, "x", online=False)], ids=["leaves", "ends"])
def test_the_only_hub_leaves_the_site_and_is_asked_when_it_serves_it_again(end: HubStatus) -> None:
    sender = of_berlin(offer(A), offer(B, value=0.1), hubs="x")
    assert taken(sender, 0) == whole(A) + whole(B)
    sender.hub(end, 1, retained=False, name="x")
    assert not sender.hub_lives(1)
    assert take(sender, 1) == []
    sender.hub(serving(4, "x", "berlin"), 2, retained=False, name="x")
    assert take(sender, 2) == [SendEvent(A, follows=False), SendEvent(B, follows=False)]


def test_a_hub_of_another_site_that_comes_and_goes_changes_nothing() -> None:
    sender = of_berlin(offer(A), hubs="x")
    assert taken(sender, 0) == whole(A)
    for status in (serving(1, "y", "paris"), serving(2, "y", "rome"), serving(3, "y", online=False)):
        sender.hub(status, 1, retained=False, name="y")
    assert take(sender, 1) == []


def test_a_site_that_is_left_takes_its_unfinished_images_along_and_no_others() -> None:
    receiver, data = Receiver(), image(1)
    for camera in ("berlin/1", "berlin/2", "paris/1"):
        receiver.hello(camera)
        assert receiver.event(camera, event(A, data), None, 0) == []
    [piece, *rest] = chunks(data, CHUNK)
    for index, one in enumerate([piece, *rest]):
        effects = receiver.chunk("berlin/2", A, index, one, 0)
    assert effects == [Complete("berlin/2", event(A, data), data)]
    credit = receiver.first_credit
    receiver.leave("berlin")
    assert receiver.first_credit > credit / 2
    assert receiver.partial_bytes == 2 * len(data)
    assert isinstance(receiver.chunk("berlin/1", A, 0, piece, 1)[0], Problem)
    assert receiver.chunk("paris/1", A, 0, piece, 1) == []
    # What is complete is being stored, and its camera is told so all the same.
    [answer] = receiver.durable("berlin/2", [A])
    assert isinstance(answer, Answer)
    assert answer.reply.stored == [A]
    assert receiver.partial_bytes == len(data)
