"""Server-sent events: tells open pages which topics changed; they fetch what they show anew.

An event's id is the state that it brings a page to. The browser repeats it when it connects again, and a page names
the state that it was rendered with, so no change falls between two looks.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool

from shared.clock import Clock
from shared.errors import StoreError

log = logging.getLogger(__name__)

State = dict[str, str]
RETRY = "retry: 2000\n\n"
HEARTBEAT = ": still here\n\n"


class Stream:
    """Looks at the state once per `every` seconds, however many pages are open, and while any is."""

    def __init__(self, look: Callable[[], State], clock: Clock, *, every: float = 1.0, heartbeat: float = 10.0) -> None:
        self._look = look
        self._clock = clock
        self._every = every
        self._heartbeat = heartbeat
        self._closed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._state: State = {}
        self._looked: float | None = None

    def close(self) -> None:
        """End all streams at once; call it in the server's event loop."""
        self._closed.set()

    async def events(self, seen: str = "") -> AsyncIterator[str]:
        """Lines of `text/event-stream`, from the state `seen` on: one event for each topic that changed."""
        yield RETRY
        known = parse(seen)
        silent = 0.0
        while not self._closed.is_set():
            state = await self._now()
            changed = [topic for topic, value in state.items() if known and known.get(topic) != value]
            known = state
            for topic in changed:
                yield f"event: {topic}\nid: {name(state)}\ndata: {topic}\n\n"
            silent = 0.0 if changed else silent + self._every
            if silent >= self._heartbeat:
                silent = 0.0
                yield HEARTBEAT
            await self._pause()

    async def _now(self) -> State:
        async with self._lock:
            now = self._clock.monotonic()
            if self._looked is None or now - self._looked >= self._every * 0.9:
                try:
                    self._state = await run_in_threadpool(self._look)
                except StoreError as error:
                    log.warning("%s", error)
                self._looked = now
            return self._state

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), self._every)
        except TimeoutError:
            return


def name(state: State) -> str:
    """A state as an event id."""
    return ",".join(f"{topic}:{value}" for topic, value in sorted(state.items()))


def parse(text: str) -> State:
    """An event id as a state; empty when it is none."""
    pairs = (one.partition(":") for one in text[:1000].split(",") if ":" in one)
    return {topic: value for topic, _, value in pairs}
