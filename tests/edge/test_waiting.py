"""Waiting: whatever comes and goes, the least valuable are found, oldest first among equals."""

import random

from hypothesis import given
from hypothesis import strategies as st

from edge.waiting import Entry, Waiting, offer_of
from tests.fakes.messages import event_of, ident


def entry_of(number: int, value: float, size: int = 10) -> Entry:
    event, _ = event_of(number, size=1, value=value)
    return Entry(offer_of(event), event.ext, size)


def test_an_offer_says_what_the_event_says() -> None:
    event, _ = event_of(3, size=77, value=0.25)
    offer = offer_of(event)
    assert (offer.id, offer.size, offer.chunk_size, offer.value) == (event.id, 77, event.chunk_size, 0.25)


VALUES = st.sampled_from([0.1, 0.2, 0.5, 0.9])
STEPS = st.one_of(
    st.tuples(st.just("put"), VALUES, st.integers(1, 40)),
    st.tuples(st.just("pop"), st.integers(0, 99), st.just(0)),
    st.tuples(st.just("back"), st.integers(0, 99), st.just(0)),
    st.tuples(st.just("least"), VALUES, st.integers(-5, 300)),
)


@given(st.lists(STEPS, max_size=60))
def test_against_sorting_all(steps: list[tuple[str, float, int]]) -> None:
    waiting = Waiting()
    known: dict[str, Entry] = {}
    ended: list[Entry] = []
    for number, (step, value, size) in enumerate(steps):
        if step == "put":
            known[ident(number)] = entry_of(number, value, size)
            waiting.put(known[ident(number)])
        elif step == "pop" and known:
            one = sorted(known)[int(value) % len(known)]
            assert waiting.pop(one) == known[one]
            ended.append(known.pop(one))
        elif step == "back" and ended:
            entry = ended.pop(int(value) % len(ended))
            known[entry.offer.id] = entry
            waiting.put(entry)
        elif step == "least":
            assert waiting.least(size, value) == expected(known, size, value)
        assert waiting.least(30, 0.5) == expected(known, 30, 0.5)
        assert waiting.least(1, 1.0) == expected(known, 1, 1.0)
        assert waiting.bytes == sum(one.bytes for one in known.values())
        assert {one.offer.id for one in waiting} == known.keys()
        assert len(waiting) == len(known)


def expected(known: dict[str, Entry], need: int, value: float) -> list[str] | None:
    chosen = []
    for one in sorted(known.values(), key=lambda entry: (entry.offer.value, entry.offer.id)):
        if need <= 0 or one.offer.value > value:
            break
        chosen.append(one.offer.id)
        need -= one.bytes
    return chosen if need <= 0 else None


def test_what_has_left_takes_no_memory_for_ever() -> None:
    """Ten thousand come and go, and the order is right in between."""
    waiting = Waiting()
    chance = random.Random(1)
    known: dict[str, Entry] = {}
    for number in range(10_000):
        entry = entry_of(number, chance.random())
        waiting.put(entry)
        known[entry.offer.id] = entry
        if len(known) > 100:
            one = chance.choice(list(known))
            waiting.pop(one)
            del known[one]
        if number % 500 == 0:
            assert waiting.least(50, 0.7) == expected(known, 50, 0.7)
    assert sum(map(len, waiting._heaps.values())) <= 300
