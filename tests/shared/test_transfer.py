"""Both ends of an upload as a pair: each row of the two state tables, then everything at once on a bad line."""

import itertools
import random
import time
from dataclasses import dataclass, field, replace

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
    SPILL_AFTER,
    Answer,
    Complete,
    Drop,
    Effect,
    Held,
    Keep,
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


def event(one: str, data: bytes, *, follows: bool = True, chunk_size: int = CHUNK, held: bool = False) -> Event:
    fields = {"id": one, "size": len(data), "sha256": sha256_hex(data), "chunk_size": chunk_size, "held": held}
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


def test_a_retained_counter_that_is_higher_proves_nothing() -> None:
    """It may have been published at any time between; only what is heard live was published now."""
    sender = Sender()
    sender.add(offer(A))
    sender.connected()
    for number in (9, 10, 11):
        sender.hub(beat(number), 0, retained=True)
    assert take(sender, 0) == []


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
    sender = online(offer(A))
    assert sender.next(0) == SendEvent(A, follows=False)
    sender.reply(Reply(resend={A: [(0, 3)]}, credit=10_000), 0)
    assert [sender.next(0) for _ in range(2)] == [SendChunk(A, 0), SendChunk(A, 1)]
    sender.reply(Reply(resend={A: [(0, 0), (2, 2)]}), 0)
    assert take(sender, 0) == [SendChunk(A, 0), SendChunk(A, 2), SendChunk(A, 3)]


def test_a_hub_that_has_a_part_from_before_spares_the_rest_of_the_first_pass() -> None:
    """The camera restarted: it sends unasked, and the hub says at once what it lacks."""
    sender = online(offer(A), credit=10_000)
    assert [sender.next(0) for _ in range(2)] == whole(A)[:2]
    sender.reply(Reply(resend={A: [(0, 0), (3, 3)]}), 0)
    assert take(sender, 0) == [SendChunk(A, 3)], "0 is on its way, 1 and 2 are there"
    sender.reply(Reply(resend={A: [(0, 0)]}), 0)
    assert take(sender, 0) == [SendChunk(A, 0)], "it was lost after all"


def test_a_hub_that_has_all_the_rest_ends_the_first_pass() -> None:
    sender = online(offer(A), credit=10_000)
    assert [sender.next(0) for _ in range(2)] == whole(A)[:2]
    sender.reply(Reply(resend={A: [(0, 0)]}), 0)
    assert take(sender, 0) == []
    sender.reply(Reply(stored=[A]), 0)
    assert sender.idle


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


# ------------------------------------------------------------------------------------ camera: hubs, and their room


def status(number: int, *, name: str = "hub", **fields: object) -> HubStatus:
    return HubStatus(online=True, beat=number, **{"boot": f"boot-{name}1", **fields})  # type: ignore[arg-type]


def living(sender: Sender, now: float = 0.0, *, name: str = "hub", **fields: object) -> None:
    """Two beats of a hub, one after the other."""
    sender.hub(status(1, name=name, **fields), now, retained=True, name=name)
    sender.hub(status(2, name=name, **fields), now, retained=False, name=name)


def sited(*offers: Offer, site: str = "north") -> Sender:
    sender = Sender(site)
    for one in offers:
        sender.add(one)
    sender.connected()
    return sender


@pytest.mark.parametrize(
    ("site", "serves", "sends"),
    [
        ("north", ["north"], True),
        ("north", ["south", "north"], True),
        ("north", [], True),
        ("north", ["south"], False),
        ("", ["south"], True),
    ],
)
def test_only_a_hub_that_serves_the_site_counts(site: str, serves: list[str], sends: bool) -> None:
    sender = sited(offer(A), site=site)
    living(sender, sites=serves, credit=10_000)
    assert sender.hub_lives(0) == sends
    assert take(sender, 0) == (whole(A) if sends else [])


def test_another_hub_takes_the_site_over() -> None:
    """The first one dies without a word; what was on its way is asked for at the second one."""
    sender = sited(offer(A), offer(B))
    living(sender, name="one", sites=["north"], credit=1000)
    living(sender, name="two", sites=["south"], credit=9)
    assert taken(sender, 0) == whole(A)
    sender.hub(status(9, name="two", sites=["south", "north"], credit=5000), 100, retained=False, name="two")
    assert taken(sender, 100) == [SendEvent(A, follows=False), *whole(B)]


def test_a_hub_that_gives_the_site_away_is_sent_nothing_more() -> None:
    sender = sited(offer(A))
    living(sender, sites=["north"], credit=10_000)
    sender.hub(status(3, sites=["south"]), 1, retained=False)
    assert not sender.hub_lives(1)
    assert take(sender, 1) == []


def test_one_living_hub_is_enough() -> None:
    sender = sited(offer(A))
    living(sender, name="one", credit=10_000)
    living(sender, name="two", credit=10_000)
    for second in range(20):
        sender.hub(status(10 + second, name="two", credit=10_000), second, retained=False, name="two")
    assert sender.hub_lives(19)
    sender.hub(HubStatus(online=False), 19, retained=False, name="two")
    assert not sender.hub_lives(19)


def test_a_hub_whose_disk_is_full_is_sent_nothing_until_it_accepts() -> None:
    """Paused by `accepts`, with one on its way; then all goes on where it was."""
    sender = sited(offer(A, value=1), offer(B))
    living(sender, credit=1500)
    assert [sender.next(0) for _ in range(3)] == whole(A)[:3]
    for second in range(1, 300):
        sender.hub(status(2 + second, accepts=False), second, retained=False)
        assert take(sender, second) == [], "not even a question"
    assert sender.hub_lives(299)
    sender.hub(status(500, credit=1500), 300, retained=False)
    assert take(sender, 300) == [SendEvent(A, follows=False)]
    sender.reply(Reply(resend={A: [(2, 3)]}), 300)
    assert take(sender, 300) == [SendChunk(A, 2), SendChunk(A, 3)]
    sender.reply(Reply(stored=[A]), 301)
    assert take(sender, 301) == whole(B)


def test_a_camera_that_comes_to_a_full_hub_waits() -> None:
    sender = sited(offer(A))
    living(sender, credit=10_000, accepts=False)
    assert take(sender, 0) == []
    sender.hub(status(3, credit=10_000), 2, retained=False)
    assert take(sender, 2) == whole(A)


def test_a_blocked_hub_that_beats_gets_its_credit_and_then_only_questions_ever_more_rarely() -> None:
    """It beats and stores nothing, and says nothing. Then it comes to life."""
    offers = [offer(ident(n), value=1 - n / 100) for n in range(20)]
    sender = online(*offers, credit=3500)
    sent = [(0.0, one) for one in taken(sender, 0)] + awake(sender, 1, 900)
    offered = {one.id for _, one in sent}
    assert offered == {ident(0), ident(1), ident(2)}
    assert sender.outstanding == 3000
    asked = [now for now, one in sent if one == SendEvent(ident(0), follows=False)]
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert gaps == sorted(gaps)
    assert len(asked) <= 12
    assert not [one for now, one in sent if now and isinstance(one, SendChunk)], "only questions"
    done: list[str] = []
    number = 10_000
    while not sender.idle:
        number += 1
        sender.hub(beat(number), number, retained=False)
        fresh = [one.id for one in taken(sender, number) if isinstance(one, SendEvent)]
        done += [one for one in fresh if one not in done]
        sender.reply(Reply(stored=done), number)
        assert number < 10_000 + 2 * MAX_PATIENCE


def test_a_blocked_hub_that_does_not_beat_gets_no_questions_either() -> None:
    sender = online(offer(A), offer(B), credit=1500)
    assert taken(sender, 0) == whole(A)
    for second in range(1, 1000):
        assert take(sender, second) == []
    assert sender.outstanding == 1000
    sender.hub(beat(3), 1000, retained=False)
    assert taken(sender, 1000) == [SendEvent(A, follows=False)]


@pytest.mark.parametrize(("pace", "first"), [(1000, FIRST_PATIENCE), (200, 20.0), (40, 100.0), (10, MAX_PATIENCE)])
def test_patience_with_a_slow_hub_grows_with_the_measured_pace(pace: int, first: float) -> None:
    """pace: bytes a second that the hub stored before; four times what all on its way took is silence."""
    sender = online(offer(A, value=2), offer(B, value=1), credit=1000)
    assert taken(sender, 0) == whole(A)
    took = 1000 / pace
    sender.hub(beat(3), took, retained=False)
    sender.reply(Reply(stored=[A]), took)
    assert taken(sender, took) == whole(B)
    asked = [now - took for now, _ in awake(sender, took, took + 2 * MAX_PATIENCE)]
    assert first <= asked[0] <= first + 2


# ------------------------------------------------------------------------------------ camera: the first credit


def test_the_status_names_the_first_credit() -> None:
    sender = sited(offer(A, value=3), offer(B, value=2), offer(C, value=1))
    living(sender, credit=2000)
    assert take(sender, 0) == [*whole(A), *whole(B)], "not a question is asked"


def test_a_lost_credit_is_made_good_by_the_next_status() -> None:
    """The reply with the larger credit was lost; what the hub says in its status is less, and enough to go on with."""
    sender = sited(offer(A, value=3), offer(B, value=2), offer(C, value=1))
    sender.hub(status(1), 0, retained=True)
    sender.hub(status(2), 0, retained=False)
    assert taken(sender, 0) == [SendEvent(A, follows=False)], "an old hub, whose status names none"
    sender.hub(status(3, credit=2000), 2, retained=False)
    assert taken(sender, 2) == whole(B)
    sender.hub(status(4, credit=9000), 4, retained=False)
    assert taken(sender, 4) == [], "the first credit counts until a reply names another one, and once"
    sender.reply(Reply(credit=3000), 5)
    assert taken(sender, 5) == whole(C)


def test_after_a_reconnect_the_status_counts_anew() -> None:
    """What was granted before may be more than there is for each of those who come back at once."""
    sender = sited(*(offer(ident(n)) for n in range(5)))
    living(sender, credit=1000)
    sender.reply(Reply(credit=5000), 0)
    sender.disconnected()
    sender.connected()
    living(sender, 1, credit=2000)
    sender.hub(status(3, credit=2000), 1, retained=False)
    assert taken(sender, 1) == [*whole(ident(0)), *whole(ident(1))]


# ------------------------------------------------------------------------------------ camera: the cut


@pytest.mark.parametrize(("attach", "size", "attached"), [(0, 100, False), (255, 256, False), (256, 256, True)])
@pytest.mark.parametrize("more", [0, 1])
def test_the_first_chunk_goes_with_the_event_where_the_hub_takes_it(
    attach: int, size: int, attached: bool, more: int
) -> None:
    size = size + more * CHUNK  # one chunk more
    sender = sited(offer(A, size))
    living(sender, credit=10_000, attach=attach)
    rest = [SendChunk(A, at) for at in range(chunk_count(size, CHUNK))]
    first = min(size, CHUNK) <= attach
    assert take(sender, 0) == [SendEvent(A, follows=True, attached=first), *rest[first:]]
    if not more:
        assert first == attached


def test_a_question_never_carries_a_chunk() -> None:
    sender = sited(offer(A))
    living(sender, credit=10_000, attach=1 << 20)
    assert take(sender, 0)[0] == SendEvent(A, follows=True, attached=True)
    sender.reply(Reply(pause_ms=0), 0)
    assert take(sender, 0) == [SendEvent(A, follows=False)]


@pytest.mark.parametrize(
    ("limit", "size", "own", "cut"),
    [
        (1 << 20, 100_000, 65536, 65536),
        (65536, 100_000, 65536, 65536),
        (65535, 100_000, 65536, 50_000),  # two pieces, as equal as can be
        (8192, 100_000, 65536, 7693),  # thirteen
        (8192, 8192, 65536, 65536),  # it fits as it is
        (1, 100_000, 65536, 256),
        (1, 10, 65536, 256),
        (300, 300, 256, 256),
    ],
)
def test_an_upload_is_cut_to_what_the_link_carries(limit: int, size: int, own: int, cut: int) -> None:
    sender = sited(Offer(A, size, own, 0.5))
    sender.chunk_limit = limit
    living(sender, credit=10**9)
    sent = take(sender, 0)
    assert sender.chunk_size(A) == cut
    assert sent == [SendEvent(A, follows=True), *(SendChunk(A, at) for at in range(chunk_count(size, cut)))]


@pytest.mark.parametrize(("limit", "cut"), [(5000, 8192), (4097, 4096), (4096, 4096), (1 << 20, 65536)])
def test_a_question_cuts_anew_when_the_link_is_far_from_what_it_was(limit: int, cut: int) -> None:
    sender = sited(Offer(A, 65536, 65536, 0.5))
    sender.chunk_limit = 8192
    living(sender, credit=10**9)
    take(sender, 0)
    sender.chunk_limit = limit
    sender.reply(Reply(resend={A: [(0, 0)]}), 0)
    assert take(sender, 0) == [SendChunk(A, 0)]
    assert sender.chunk_size(A) == 8192, "never without telling the hub"
    sender.reply(Reply(pause_ms=0), 0)
    assert take(sender, 0) == [SendEvent(A, follows=False)]
    assert sender.chunk_size(A) == cut
    sender.reply(Reply(resend={A: [(0, 10**6)]}), 0)
    assert len(take(sender, 0)) == chunk_count(65536, cut)


# ------------------------------------------------------------------------------------ camera: previews


def preview(one: str, size: int = 1000, value: float = 0.5) -> Offer:
    return Offer(one, size, CHUNK, value, held=True)


def test_a_preview_is_offered_and_the_image_stays() -> None:
    sender = online(preview(A), credit=100_000)
    assert taken(sender, 0) == [SendEvent(A, follows=False, held=True)]
    sender.reply(Reply(noted=[A]), 0)
    assert sender.outstanding == 0
    assert awake(sender, 0, 1000) == []
    assert not sender.idle


def test_an_image_that_is_asked_for_is_sent_and_is_a_preview_no_more() -> None:
    sender = online(preview(A), credit=100_000)
    take(sender, 0)
    sender.reply(Reply(noted=[A]), 0)
    sender.reply(Reply(resend={A: [(0, 3)]}), 5)
    assert taken(sender, 5) == whole(A)[1:]
    assert sender.outstanding == 1000
    assert [one for _, one in awake(sender, 6, 17)] == [SendEvent(A, follows=False)], "asked for as any other"
    sender.reply(Reply(stored=[A]), 20)
    assert sender.idle
    assert sender.outstanding == 0


def test_an_image_that_is_asked_for_at_once_needs_no_note() -> None:
    sender = online(preview(A), credit=100_000)
    take(sender, 0)
    sender.reply(Reply(resend={A: [(0, 3)]}), 0)
    sender.reply(Reply(noted=[A]), 0)  # overtaken
    assert take(sender, 0) == whole(A)[1:]
    assert sender.outstanding == 1000


def test_a_lost_note_is_asked_for_again() -> None:
    sender = online(preview(A), credit=100_000)
    taken(sender, 0)
    asked = [one for _, one in awake(sender, 1, 12)]
    assert asked == [SendEvent(A, follows=False, held=True)]


def test_a_note_from_before_the_loss_waits_for_the_new_question() -> None:
    """It may be the word of a hub that is gone, to one that took its place and knows nothing of the preview."""
    sender = online(preview(A), credit=100_000)
    take(sender, 0)
    sender.hub(beat(1, boot="boot-2"), 0, retained=False)
    sender.hub(beat(2, boot="boot-2"), 0, retained=False)
    sender.reply(Reply(noted=[A]), 0)
    assert take(sender, 0) == [SendEvent(A, follows=False, held=True)]


def test_held_images_survive_reconnects_and_restarts_of_the_hub_without_a_word() -> None:
    sender = online(preview(A), credit=100_000)
    take(sender, 0)
    sender.reply(Reply(noted=[A]), 0)
    sender.disconnected()
    sender.connected()
    living(sender, 1, boot="boot-2")
    assert take(sender, 1) == []


def test_a_hub_that_lost_what_it_knew_is_offered_previews_again() -> None:
    sender = online(preview(A, value=0.9), preview(B), offer(C, value=0.1), credit=100_000)
    take(sender, 0)
    sender.reply(Reply(noted=[A, B], stored=[C]), 0)
    sender.reply(Reply(resend={B: [(0, 3)]}), 0)
    take(sender, 0)
    sender.renew()
    assert take(sender, 1) == [SendEvent(A, follows=False, held=True)], "what is on its way is not held"
    sender.renew()
    assert take(sender, 1) == []


def test_a_held_image_that_left_the_spool_is_unknown() -> None:
    sender = online(preview(A), preview(B), credit=100_000)
    take(sender, 0)
    sender.reply(Reply(noted=[A, B]), 0)
    sender.remove(A)
    assert sender.unknown(Reply(resend={A: [(0, 0)], B: [(0, 0)]})) == [A]


def test_previews_count_little_in_the_credit() -> None:
    sender = online(*(preview(ident(n), size=1 << 20) for n in range(10)), credit=3 * 8192)
    assert len(take(sender, 0)) == 3
    assert sender.outstanding == 3 * 8192
    sender.reply(Reply(noted=[ident(0)]), 0)
    assert len(take(sender, 0)) == 1


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
    receiver.hello(CAMERA, 0.0)
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
        receiver.hello(f"site/cam-{number}", 0.0)
        told.append(receiver.first_credit)
    assert told == [300, 300, 300, 250, 200]
    receiver.bye("site/cam-3")
    assert receiver.first_credit == 250


def test_credit_grows_for_those_who_have_something_to_send() -> None:
    receiver = Receiver(Limits(credit_total=1000, credit_camera=400, credit_first=100))
    names = [f"site/cam-{number}" for number in range(10)]
    for name in names:
        receiver.hello(name, 0.0)
    assert credits(receiver.durable(names[0], [A])) == [100], "all have just come, and may have a backlog"
    receiver.tick(ACTIVE_FOR)
    told = [credits(receiver.durable(names[0], [A]))[0] for _ in range(4)]
    assert told == [200, 400, None, None], "twofold from reply to reply, up to its limit, and told when it changed"
    for number, name in enumerate(names[:4]):
        receiver.event(name, event(A, b"x" * 10), None, ACTIVE_FOR + number)
    assert credits(receiver.durable(names[0], [A])) == [250], "four share"
    receiver.tick(3.0 + 2 * ACTIVE_FOR)
    assert credits(receiver.durable(names[0], [A])) == [400], "the others have nothing more"


# ------------------------------------------------------------------------------------ hub: the first chunk, the cut


def test_an_event_with_its_only_chunk_is_complete() -> None:
    data = image(1, 200)
    assert greeted().event(CAMERA, event(A, data), None, 0, data) == [Complete(CAMERA, event(A, data), data)]


def test_an_event_with_its_first_chunk_waits_for_the_others() -> None:
    receiver = greeted()
    data = image(1)
    assert receiver.event(CAMERA, event(A, data), None, 0, data[:CHUNK]) == []
    repeated = receiver.event(CAMERA, event(A, data), None, 0, data[:CHUNK])
    assert replies(repeated) == [Reply(resend={A: [(1, 3)]})], "to a camera that has begun anew it tells what is there"
    assert give(receiver, A, data, [1, 2, 3]) == [Complete(CAMERA, event(A, data), data)]


def test_an_event_of_which_only_the_first_chunk_was_missing() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data, [1, 2, 3])
    assert receiver.event(CAMERA, event(A, data), None, 0, data[:CHUNK]) == [Complete(CAMERA, event(A, data), data)]


def test_a_first_chunk_of_what_is_stored_or_too_large_changes_nothing() -> None:
    receiver = greeted(Limits(image_bytes=500))
    small, large = image(1, 200), image(2, 501)
    assert replies(receiver.event(CAMERA, event(A, small), sha256_hex(small), 0, small)) == [Reply(stored=[A])]
    assert B in replies(receiver.event(CAMERA, event(B, large), None, 0, large[:CHUNK]))[0].refuse
    assert receiver.partial_bytes == 0


@given(
    size=st.integers(1, 3000),
    old=st.integers(256, 1500),
    new=st.integers(256, 1500),
    came=st.sets(st.integers(0, 11)),
)
def test_of_an_image_that_is_cut_otherwise_what_is_covered_is_kept(
    size: int, old: int, new: int, came: set[int]
) -> None:
    receiver = greeted()
    data = image(1, size)
    first = event(A, data, chunk_size=old, follows=False)
    receiver.event(CAMERA, first, None, 0)
    olds = list(chunks(data, old))
    came = {at for at in came if at < len(olds)}
    if len(came) == len(olds):
        came.discard(0)
    for at in came:
        receiver.chunk(CAMERA, A, at, olds[at], 0)
    second = event(A, data, chunk_size=new, follows=False)
    effects = receiver.event(CAMERA, second, None, 0)
    there = {byte for at in came for byte in range(at * old, min(size, (at + 1) * old))}
    news = list(chunks(data, new))
    missing = [at for at in range(len(news)) if not set(range(at * new, min(size, (at + 1) * new))) <= there]
    assert replies(effects)[0].resend == {A: to_ranges(missing)}
    made = [one for at in missing for one in receiver.chunk(CAMERA, A, at, news[at], 0) if isinstance(one, Complete)]
    assert [one.data for one in made] == [data]
    assert receiver.partial_bytes == size


def test_a_cut_that_is_covered_whole_completes_the_image() -> None:
    """A chunk with a wrong length was the last one: the cut that covers all of it needs no more."""
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data, [0, 1, 2])
    receiver.restore("site/cam-2", event(A, data), dict(enumerate(chunks(data, CHUNK))), 0)
    again = event(A, data, chunk_size=512, follows=False)
    assert receiver.event("site/cam-2", again, None, 0) == [Complete("site/cam-2", again, data)]


def test_a_hub_that_reminds_lets_the_camera_say_how_it_cuts_the_image_now() -> None:
    """The hub's preview is of an earlier cut, since the later offer was lost; and it is known to be a slow hub."""
    data = image(1, 1025)
    sender, receiver, done = sited(Offer(B, 100, CHUNK, 0.9), site="site"), greeted(), False
    living(sender, credit=10**6)
    taken(sender, 0)
    sender.hub(status(3, credit=10**6), 1000, retained=False)
    sender.reply(Reply(stored=[B]), 1000)
    sender.add(Offer(A, len(data), 1024, 0.5, held=True))
    sender.chunk_limit = 256
    assert taken(sender, 1000) == [SendEvent(A, follows=False, held=True)]
    sender.reply(Reply(noted=[A]), 1000)
    kept = event(A, data, chunk_size=1024, held=True)
    for second in range(1001, 1001 + int(3 * MAX_PATIENCE)):
        sender.hub(status(second, credit=10**6), second, retained=False)
        receiver.tick(second)
        effects = receiver.want(CAMERA, kept, second)
        for one in taken(sender, second):
            cut = sender.chunk_size(A)
            if isinstance(one, SendEvent):
                effects += receiver.event(CAMERA, event(A, data, chunk_size=cut, follows=False), None, second)
            else:
                effects += receiver.chunk(CAMERA, A, one.index, data[one.index * cut :][:cut], second)
        for effect in effects:
            done = done or isinstance(effect, Complete)
            if isinstance(effect, Answer):
                sender.reply(effect.reply, second)
    assert done


# ------------------------------------------------------------------------------------ hub: spilled to disk


def kept(work: list[Keep | Drop]) -> list[tuple[str, list[int]]]:
    return [(one.event.id, sorted(one.chunks)) for one in work if isinstance(one, Keep)]


def test_what_is_unfinished_for_long_is_put_on_disk_chunk_by_chunk() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 10)
    give(receiver, A, data, [0, 2], now=10)
    assert receiver.spill(10 + SPILL_AFTER - 0.1) == []
    [keep] = receiver.spill(10 + SPILL_AFTER)
    assert keep == Keep(CAMERA, event(A, data), {0: data[:CHUNK], 2: data[2 * CHUNK : 3 * CHUNK]})
    assert receiver.spill(30) == [], "nothing new"
    give(receiver, A, data, [0, 1], now=30)
    assert kept(receiver.spill(30)) == [(A, [1])]
    assert [type(one) for one in give(receiver, A, data, [3], now=31)] == [Complete]
    assert receiver.spill(40) == [], "not before it is durable"
    receiver.durable(CAMERA, [A])
    assert receiver.spill(40) == [Drop(CAMERA, A)]
    assert receiver.spill(50) == []


def test_what_is_quickly_done_never_touches_the_disk() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data)
    receiver.durable(CAMERA, [A])
    assert receiver.spill(float("inf")) == []


def test_what_is_cut_otherwise_is_put_on_disk_anew() -> None:
    receiver = greeted()
    data = image(1, 1000)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, data, [0, 1])
    assert kept(receiver.spill(9)) == [(A, [0, 1])]
    again = event(A, data, chunk_size=512, follows=False)
    receiver.event(CAMERA, again, None, 9)
    assert receiver.spill(9) == [Keep(CAMERA, again, {0: data[:512]})]


@pytest.mark.parametrize("end", ["expired", "refused", "spoilt"])
def test_what_ends_unfinished_leaves_the_disk(end: str) -> None:
    receiver = greeted()
    data, bad = image(1), image(2)
    receiver.event(CAMERA, event(A, data), None, 0)
    give(receiver, A, bad, [0, 1])
    receiver.spill(9)
    if end == "expired":
        receiver.tick(1000)
    else:
        give(receiver, A, bad, [2, 3], now=10)
        if end == "refused":
            give(receiver, A, bad, now=10)
    assert receiver.spill(1000) == [Drop(CAMERA, A)]


def test_what_was_on_disk_when_the_hub_started_need_not_be_sent_again() -> None:
    receiver = greeted()
    data = image(1)
    receiver.restore(CAMERA, event(A, data), {0: data[:CHUNK], 3: data[3 * CHUNK :], 9: b"none of it"}, 0)
    assert receiver.partial_bytes == len(data)
    effects = receiver.event(CAMERA, event(A, data, follows=False), None, 1)
    assert replies(effects)[0].resend == {A: [(1, 2)]}
    assert give(receiver, A, data, [1, 2], now=2) == [Complete(CAMERA, event(A, data), data)]
    receiver.durable(CAMERA, [A])
    assert receiver.spill(3) == [Drop(CAMERA, A)]


def test_what_was_on_disk_and_is_damaged_is_sent_again() -> None:
    receiver = greeted()
    data = image(1)
    receiver.restore(CAMERA, event(A, data), {0: bytes(CHUNK)}, 0)
    effects = give(receiver, A, data, [1, 2, 3])
    assert isinstance(problems(effects)[0], HashMismatchError)
    assert replies(effects)[0].resend == {A: [(0, 3)]}
    assert isinstance(give(receiver, A, data)[0], Complete)


def test_no_more_is_restored_than_there_is_room_for() -> None:
    receiver = greeted(Limits(partial_bytes=1500))
    for one in (A, B):
        receiver.restore(CAMERA, event(one, image(1, 1000)), {}, 0)
    assert receiver.partial_bytes == 1000
    receiver.restore(CAMERA, event(A, image(1, 1000)), {0: image(1, 1000)[:CHUNK]}, 0)
    assert receiver.partial_bytes == 1000, "what is there already stays as it is"


# ------------------------------------------------------------------------------------ hub: room on the disk


def test_with_a_full_disk_what_was_begun_goes_on_and_nothing_else_begins() -> None:
    receiver = greeted()
    data = image(1)
    receiver.event(CAMERA, event(A, data), None, 0)
    receiver.accepts = False
    paused = replies(receiver.event(CAMERA, event(B, data), None, 0))
    assert [one.pause_ms for one in paused] == [2000]
    assert receiver.partial_bytes == len(data)
    assert replies(receiver.event(CAMERA, event(C, data), sha256_hex(data), 0)) == [Reply(stored=[C])]
    assert isinstance(give(receiver, A, data)[0], Complete)
    receiver.accepts = True
    assert receiver.event(CAMERA, event(B, data), None, 0) == []


# ------------------------------------------------------------------------------------ the pair, on a bad line

SITE = CAMERA.partition("/")[0]
CUT = 1024
"""Bytes of the chunks into which the spool's events are cut, where the link carries them."""
ASK_S = 5.0
"""Seconds between two looks for previews whose image a hub wants."""


@dataclass
class Line:
    """A channel with faults. Messages wait a little; each may be lost, repeated or overtaken."""

    chance: random.Random
    drop: float = 0.0
    repeat: float = 0.0
    shuffle: float = 0.0
    waiting: list[object] = field(default_factory=list)

    def put(self, message: object, *, surely: bool = False) -> None:
        if surely or self.chance.random() >= self.drop:
            self.waiting += [message] * (2 if self.chance.random() < self.repeat else 1)

    def take(self) -> list[object]:
        out, self.waiting = self.waiting, []
        if self.chance.random() < self.shuffle:
            self.chance.shuffle(out)
        if out and self.chance.random() < self.shuffle:
            held = self.chance.randrange(len(out))
            out, self.waiting = out[:held], out[held:]
        return out


@dataclass(frozen=True)
class Offered:
    """`C/event`, perhaps with the first chunk behind it."""

    event: Event
    first: bytes | None


@dataclass(frozen=True)
class Piece:
    """`C/chunk`."""

    event_id: str
    index: int
    data: bytes


@dataclass(frozen=True)
class Heard:
    """A message on its way to the camera, and the hub that sent it."""

    hub: str
    message: HubStatus | Reply


@dataclass
class Hub:
    """A hub with its disk: images, previews, and unfinished images that were spilled. receiver: None while it is dead.

    done: rounds that are on disk and of which the camera has not been told. wanted: previews whose image it asks for.
    """

    name: str
    limits: Limits
    serves: bool
    disk: dict[str, bytes] = field(default_factory=dict)
    previews: dict[str, Event] = field(default_factory=dict)
    spilled: dict[str, tuple[Event, dict[int, bytes]]] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    receiver: Receiver | None = None
    boot: int = 0
    beats: int = 0
    epoch: int = 0
    attach: int = 0
    accepts: bool = True
    committing: list[Complete] = field(default_factory=list)
    done: list[Complete] = field(default_factory=list)
    retained: HubStatus | None = None

    def kill(self) -> None:
        """No goodbye: the retained status stays a ghost."""
        self.receiver = None
        self.committing.clear()
        self.done.clear()

    def start(self, now: float, *, online: bool) -> None:
        self.receiver = Receiver(self.limits)
        self.boot += 1
        self.beats = 0
        for told, parts in self.spilled.values():
            self.receiver.restore(CAMERA, told, parts, now)
        if online:
            self.receiver.hello(CAMERA, now)  # the camera's retained status

    def spill(self, now: float) -> None:
        assert self.receiver is not None
        for one in self.receiver.spill(now):
            if isinstance(one, Drop):
                self.spilled.pop(one.event_id, None)
                continue
            old = self.spilled.get(one.event.id)
            if old is None or old[0] != one.event:
                self.spilled[one.event.id] = old = (one.event, {})
            for index, part in one.chunks.items():
                assert len(part) == min(one.event.chunk_size, one.event.size - index * one.event.chunk_size)
                old[1][index] = part

    def status(self) -> HubStatus:
        assert self.receiver is not None
        return HubStatus(
            online=True,
            boot=f"{self.name}-{self.boot}",
            beat=self.beats,
            beat_s=2.0,
            sites=[SITE, "other"] if self.serves else ["other"],
            epoch=f"{self.name}-{self.epoch}",
            accepts=self.receiver.accepts,
            attach=self.attach,
            credit=self.receiver.first_credit,
        )


TIGHT = Limits(image_bytes=5000, partial_bytes=8000, partial_ttl_s=30, credit_total=4000, credit_camera=2500, pause_s=2)
WIDE = Limits(
    image_bytes=5000, partial_bytes=30_000, partial_ttl_s=30, credit_total=40_000, credit_camera=20_000,
    credit_first=3000, pause_s=2,
)  # fmt: skip


class World:
    """A camera with its spool, two hubs with their disks, and lines between them; time goes in half seconds."""

    STEP = 0.5

    def __init__(
        self, seed: int, sizes: list[int], drop: float, repeat: float, shuffle: float, *, previews: float = 0.0
    ) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.faults = True
        self.up = Line(self.chance, drop, repeat, shuffle)
        self.down = Line(self.chance, drop, repeat, shuffle)
        limits = TIGHT if self.chance.random() < 0.5 else WIDE
        if previews:  # what is begun must outlive a camera's longest patience, or it is asked for in vain for ever
            limits = replace(limits, partial_ttl_s=Limits().partial_ttl_s)
        # camera
        self.images = {ident(i): image(seed + i, size) for i, size in enumerate(sizes)}
        self.values = {one: self.chance.random() for one in self.images}
        self.held = {one for one in self.images if self.chance.random() < previews}
        self.spool: dict[str, bytes] = {}
        self.acknowledged: set[str] = set()
        self.evicted: set[str] = set()
        self.sender = Sender(SITE)
        self.connected_at: float | None = None
        self.taken: list[str] = []  # event of each message that the broker has and has not acknowledged
        self.way: dict[str, int] = {}  # what was offered and is not ended, and its bytes
        self.told: list[int] = []  # every credit that was heard since it connected
        self.epoch = ""  # the last one that a hub which serves us told
        self.sent: list[SendEvent | SendChunk] = []
        # hubs; the second one takes over when it is told to
        self.hubs = {name: Hub(name, limits, serves=name == "a") for name in ("a", "b")}
        self.served_at = 0.0  # when a hub that serves us was last alive
        self.damaged = False

    @property
    def serving(self) -> list[Hub]:
        """Hubs that are there for this camera."""
        return [hub for hub in self.hubs.values() if hub.receiver is not None and hub.serves]

    # -- disasters

    def cut(self) -> None:
        self.connected_at = None
        self.sender.disconnected()
        self.up.waiting.clear()
        self.down.waiting.clear()
        self.taken.clear()
        for hub in self.hubs.values():
            if hub.receiver is not None:
                hub.receiver.bye(CAMERA)

    def connect(self) -> None:
        self.connected_at = self.now
        self.sender.connected()
        self.told.clear()
        for hub in self.hubs.values():
            if hub.retained is not None:
                self.hear_status(hub.name, hub.retained, retained=True)
        self.up.put("hello", surely=True)

    def restart(self, hub: Hub) -> None:
        hub.kill()
        hub.start(self.now, online=self.connected_at is not None)

    def restart_camera(self) -> None:
        self.cut()
        self.sender = Sender(SITE)
        self.way.clear()
        for one in self.spool:
            self.offer(one)

    def evict(self) -> None:
        if self.spool:
            one = self.chance.choice(sorted(self.spool))
            del self.spool[one]
            self.evicted.add(one)
            self.sender.remove(one)
            self.way.pop(one, None)

    def take_over(self) -> None:
        """The other hub serves the site from now on; the one that did is dead, and comes back for other sites."""
        heir = "b" if self.hubs["a"].serves else "a"
        for hub in self.hubs.values():
            hub.serves = hub.name == heir
            self.restart(hub)
            if not hub.serves:
                hub.kill()

    def lose_previews(self) -> None:
        """A restore from a backup, as far as a camera may know of it."""
        for hub in self.serving:
            hub.previews.clear()
            hub.wanted.clear()
            hub.epoch += 1
            self.restart(hub)

    def spoil_spilled(self) -> None:
        """A power cut: chunks that were not synced are missing or damaged."""
        for hub in self.hubs.values():
            for told, parts in hub.spilled.values():
                for index in sorted(parts):
                    fate = self.chance.random()
                    if fate < 0.3:
                        del parts[index]
                    elif fate < 0.5:
                        parts[index] = bytes(len(parts[index]))
                        self.damaged = True
                assert told.id in self.images
            self.restart(hub)

    def strike(self, disaster: str) -> None:
        serving = self.serving
        match disaster:
            case "cut":
                self.cut()
            case "hub restart":
                for hub in serving:
                    hub.spill(float("inf"))
                    self.restart(hub)
            case "hub dies":
                for hub in serving:
                    hub.kill()
            case "broker dies with the hub":
                for hub in serving:
                    hub.kill()
                self.cut()
            case "camera restart":
                self.restart_camera()
            case "evict":
                self.evict()
            case "stored, then dies":
                for hub in serving:
                    self.commit(hub, surely=True)
                    self.restart(hub)
            case "wait":
                self.now += 20
            case "power cut of the hub":
                self.spoil_spilled()
            case "take over":
                self.take_over()
            case "both serve" if self.held:
                pass  # a preview is with the one that noted it, and which one that was no camera can know
            case "both serve":
                for hub in self.hubs.values():
                    hub.serves = True
                    self.restart(hub)
            case "new epoch":
                self.lose_previews()
            case "disk full":
                for hub in self.hubs.values():
                    hub.accepts = False
            case _:
                raise AssertionError(disaster)

    # -- one step

    def step(self) -> None:
        self.now += self.STEP
        if self.connected_at is None and (not self.faults or self.chance.random() < 0.4):
            self.connect()
        self.link_changes()
        for hub in self.hubs.values():
            if hub.receiver is None and (not self.faults or self.chance.random() < 0.1):
                hub.start(self.now, online=self.connected_at is not None)
            if hub.receiver is not None:
                self.live(hub)
        if self.serving:
            self.served_at = self.now
        if self.connected_at is not None:
            self.broker_acknowledges()
            self.camera_sends()
            for message in self.up.take():
                for hub in self.serving:
                    self.hub_hears(hub, message)
        for hub in self.hubs.values():
            if hub.receiver is not None:
                self.conclude(hub)
                self.commit(hub)
                hub.receiver.tick(self.now)
                hub.spill(self.now)
        for heard in self.down.take():
            assert isinstance(heard, Heard)
            self.camera_hears(heard)
        on_disk = set().union(*(hub.disk for hub in self.hubs.values()))
        assert self.acknowledged <= on_disk, "acknowledged is a subset of what is on the hubs' disks"
        assert set(self.spool) | self.acknowledged | self.evicted == self.spooled, "no event is forgotten"
        if not self.held:
            assert self.sender.outstanding == sum(self.way.values())

    def live(self, hub: Hub) -> None:
        """A beat; room that comes and goes; an operator who wants to see images of previews."""
        assert hub.receiver is not None
        if not hub.accepts and (not self.faults or self.chance.random() < 0.1):
            hub.accepts = True
        hub.receiver.accepts = hub.accepts
        hub.attach = self.chance.choice([0, 300, 1 << 20]) if self.faults else 1 << 20
        if self.now % 2 < self.STEP or not hub.beats:
            hub.beats += 1
            hub.retained = hub.status()
            if self.connected_at is not None:
                self.down.put(Heard(hub.name, hub.retained), surely=hub.beats == 1)
        if hub.serves and self.now % ASK_S < self.STEP:
            hub.wanted |= {one for one in hub.previews if not self.faults or self.chance.random() < 0.2}
            for one in sorted(hub.wanted):
                self.act(hub, hub.receiver.want(CAMERA, hub.previews[one], self.now))

    def link_changes(self) -> None:
        if self.faults and self.chance.random() < 0.1:
            self.sender.chunk_limit = self.chance.choice([100, 256, 300, 700, 1 << 20])

    def broker_acknowledges(self) -> None:
        """In its own time, and also what it lost on the way to the hub: no proof of anything."""
        count = self.chance.randrange(len(self.taken) + 1) if self.faults else len(self.taken)
        for one in self.taken[:count]:
            self.sender.delivered(one, self.now)
        del self.taken[:count]

    def camera_sends(self) -> None:
        for _ in range(self.chance.randrange(30) if self.faults else 30):
            before = self.sender.outstanding
            one = self.sender.next(self.now)
            if one is None:
                return
            assert self.now - self.served_at < LOST_BEATS * 2 + 4, "sent to a ghost"
            assert one.id in self.spool, "sent what it no longer has"
            if self.sender.outstanding > before > 0:
                assert self.sender.outstanding <= max(self.told), "more is offered than the credit allows"
            self.sent.append(one)
            data, cut = self.spool[one.id], self.sender.chunk_size(one.id)
            assert 256 <= cut <= CUT
            if isinstance(one, SendEvent):
                self.way[one.id] = len(data)
                told = event(one.id, data, follows=one.follows, chunk_size=cut, held=one.held)
                self.up.put(Offered(told, data[:cut] if one.attached else None))
            else:
                assert 0 <= one.index < chunk_count(len(data), cut)
                self.up.put(Piece(one.id, one.index, data[one.index * cut :][:cut]))
            self.taken.append(one.id)

    def hub_hears(self, hub: Hub, message: object) -> None:
        assert hub.receiver is not None
        match message:
            case Offered(event=told, first=first):
                self.hub_takes_event(hub, told, first)
            case Piece(event_id=one, index=index, data=data):
                self.act(hub, hub.receiver.chunk(CAMERA, one, index, data, self.now))
            case _:
                hub.receiver.hello(CAMERA, self.now)
        assert hub.receiver.partial_bytes <= hub.limits.partial_bytes

    def hub_takes_event(self, hub: Hub, told: Event, first: bytes | None) -> None:
        """As the collector: whether a small image is stored already is found out when it comes to store."""
        assert hub.receiver is not None
        before = None
        if not told.held and (not told.follows or told.size > told.chunk_size):
            before = sha256_hex(hub.disk[told.id]) if told.id in hub.disk else None
        self.act(hub, hub.receiver.event(CAMERA, told, before, self.now, first))

    def act(self, hub: Hub, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Complete):
                hub.committing.append(effect)
            elif isinstance(effect, Held):
                self.keep_preview(hub, effect.event)
            elif isinstance(effect, Answer):
                assert not effect.reply.refuse, "nothing here deserves refusal"
                self.down.put(Heard(hub.name, effect.reply))
            elif isinstance(effect, Problem):
                assert isinstance(effect.error, ChunkError) or self.damaged

    def keep_preview(self, hub: Hub, told: Event) -> None:
        assert hub.receiver is not None
        if told.id in hub.disk:
            self.act(hub, hub.receiver.stored_before(CAMERA, told, sha256_hex(hub.disk[told.id])))
        else:
            hub.previews[told.id] = told
            self.act(hub, hub.receiver.noted(CAMERA, [told.id]))

    def commit(self, hub: Hub, *, surely: bool = False) -> None:
        """A round of commit; the camera is told by `conclude`, if the hub lives so long."""
        assert hub.receiver is not None
        if not hub.committing or hub.done or (self.faults and not surely and self.chance.random() < 0.3):
            return
        batch, hub.committing = hub.committing, []
        assert len({one.event.id for one in batch}) == len(batch), "the same image twice in one round"
        if self.faults and not surely and self.chance.random() < 0.15:
            self.act(hub, hub.receiver.not_durable(CAMERA, [one.event.id for one in batch]))
            return
        for one in batch:
            assert one.data == self.images[one.event.id]
            assert hub.disk.setdefault(one.event.id, one.data) == one.data
            hub.previews.pop(one.event.id, None)
            hub.wanted.discard(one.event.id)
        hub.done = batch

    def conclude(self, hub: Hub) -> None:
        assert hub.receiver is not None
        if hub.done:
            self.act(hub, hub.receiver.durable(CAMERA, [one.event.id for one in hub.done]))
            hub.done = []

    def camera_hears(self, heard: Heard) -> None:
        if isinstance(heard.message, HubStatus):
            self.hear_status(heard.hub, heard.message, retained=False)
            return
        reply = heard.message
        hub = self.hubs[heard.hub]
        if gone := self.sender.unknown(reply):  # `C/gone`
            for one in gone:
                hub.previews.pop(one, None)
                hub.wanted.discard(one)
            if hub.receiver is not None:
                hub.receiver.gone(CAMERA, gone)
        if reply.credit is not None:
            self.told.append(reply.credit)
        stored, refused = self.sender.reply(reply, self.now)
        assert not refused
        for one in stored:
            assert any(hub.disk.get(one) == self.spool[one] for hub in self.hubs.values()), "acknowledged, not on disk"
            del self.spool[one]
            self.acknowledged.add(one)
            self.way.pop(one, None)

    def hear_status(self, name: str, status: HubStatus, *, retained: bool) -> None:
        self.sender.hub(status, self.now, retained=retained, name=name)
        if SITE in status.sites:
            assert status.credit is not None
            self.told.append(status.credit)
            if not retained and self.epoch != status.epoch:
                self.epoch = status.epoch
                self.sender.renew()

    # -- the story

    def offer(self, one: str) -> None:
        self.sender.add(Offer(one, len(self.images[one]), CUT, self.values[one], one in self.held))

    @property
    def spooled(self) -> set[str]:
        return set(list(self.images)[: self._added])

    _added = 0

    def add(self, count: int) -> None:
        for one in list(self.images)[self._added : self._added + count]:
            self._added += 1
            self.spool[one] = self.images[one]
            self.offer(one)

    def heal(self) -> None:
        """No more faults from here on."""
        self.faults = False
        self.up.drop = self.up.repeat = self.up.shuffle = 0
        self.down.drop = self.down.repeat = self.down.shuffle = 0


DISASTERS = ["cut", "hub restart", "hub dies", "broker dies with the hub", "camera restart", "evict"]
DISASTERS += ["stored, then dies", "wait", "power cut of the hub", "take over", "both serve", "new epoch", "disk full"]


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 4500), min_size=1, max_size=12),
    rates=st.tuples(*[st.sampled_from([0.0, 0.05, 0.3])] * 3),
    previews=st.sampled_from([0.0, 0.0, 0.5]),
    story=st.lists(st.tuples(st.integers(1, 25), st.sampled_from(DISASTERS)), max_size=8),
)
@example(seed=1, sizes=[4500] * 12, rates=(0.3, 0.3, 0.3), previews=0.5, story=[(20, one) for one in DISASTERS])
@example(seed=2, sizes=[100] * 12, rates=(0.0, 0.0, 0.0), previews=0.0, story=[])
@settings(max_examples=1000)
def test_nothing_is_lost_and_nothing_comes_twice(
    seed: int, sizes: list[int], rates: tuple[float, float, float], previews: float, story: list[tuple[int, str]]
) -> None:
    world = World(seed, sizes, *rates, previews=previews)
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
        assert world.now - began < 5 * MAX_PATIENCE, f"still waiting: {sorted(world.spool)}"
    assert world.acknowledged | world.evicted == set(world.images)
    for one in world.acknowledged:
        assert any(hub.disk.get(one) == world.images[one] for hub in world.hubs.values())
    assert world.sender.idle
    assert world.sender.outstanding == 0


def test_on_a_good_line_nothing_is_sent_twice() -> None:
    world = World(7, [3000] * 10, 0, 0, 0)
    world.heal()
    world.add(10)
    while world.spool:
        world.step()
        assert world.now < 60
    assert len(world.hubs["a"].disk) == 10
    assert world.hubs["b"].disk == {}
    assert len(world.sent) == len({(one.id, getattr(one, "index", -1)) for one in world.sent})
    assert len(world.sent) == 10 * 3, "an event with its first chunk, and two more"


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
        receiver.hello(camera, 0.0)
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
