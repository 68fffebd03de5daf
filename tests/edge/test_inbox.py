"""Inbox: one step after another, in one thread, and no more from the broker than there is room for."""

import threading
from collections import Counter
from collections.abc import Callable

from edge.inbox import INBOX, Inbox
from tests.fakes.listener import wait_until


def make(done: list[str], errors: Counter[str]) -> Inbox:
    def note(what: str) -> Callable[[], None]:
        return lambda: done.append(what)

    return Inbox(first=note("first"), idle=note("idle"), pause=note("pause"), errors=errors)


def test_steps_are_done_in_turn_each_after_a_pause_and_stop_waits_for_them() -> None:
    done: list[str] = []
    inbox = make(done, Counter())
    inbox.tell(lambda: done.append("one"))
    inbox.hear(lambda: done.append("two"))
    inbox.start()
    inbox.stop()
    assert [one for one in done if one != "idle"] == ["first", "pause", "one", "pause", "two"]


def test_what_is_not_started_can_be_stopped() -> None:
    make([], Counter()).stop()


def test_it_looks_about_when_nothing_comes() -> None:
    done: list[str] = []
    inbox = make(done, Counter())
    inbox.start()
    wait_until(lambda: "idle" in done, "a look about")
    inbox.stop()
    assert "pause" not in done


def test_a_flood_is_counted_and_what_the_agent_tells_is_not_part_of_it() -> None:
    done: list[str] = []
    errors = Counter[str]()
    inbox = make(done, errors)
    for _ in range(INBOX + 10):
        inbox.hear(lambda: done.append("heard"))
    told = threading.Event()
    inbox.tell(told.set)
    assert errors == {"flood": 10}
    inbox.start()
    assert told.wait(10)
    inbox.stop()
    assert done.count("heard") == INBOX
