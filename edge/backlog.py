"""Backlog: what waits in the spool is valued anew by another head, from the embeddings that are kept with the events.

Only events whose embedding is by the same backbone, and which a strategy chose; the images are not looked at, and what
is being sent is left alone. Nothing is written: the model in use values the backlog at each start. The embeddings of
the last CACHE events stay in memory, so that it takes milliseconds and no disk; the others are read.
"""

import base64
import binascii
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from edge.infer import Facts
from edge.priority import lower_priority
from edge.spool import Spool
from edge.strategies import Judge
from shared.errors import HoneError
from shared.litert import Floats, Part, Prediction
from shared.messages import Event
from shared.policy import TriageSettings
from shared.transfer import Offer

log = logging.getLogger(__name__)
CACHE = 4096
"""Embeddings in memory: 10 MB of 1280 dims."""
BATCH = 500
"""Events whose new values are told at a time."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Of an event: why it was chosen, and its embedding, float16 [dims], by which backbone."""

    why: str
    backbone: str | None
    embedding: NDArray[np.float16] | None


class Backlog:
    """The thread that values the backlog. revalued: told the offers whose values have changed, from that thread.

    errors: counts of what went wrong, by code.
    """

    def __init__(self, spool: Spool, revalued: Callable[[list[Offer]], None], errors: Counter[str]) -> None:
        self._spool = spool
        self._revalued = revalued
        self._errors = errors
        self._wanted: tuple[Facts, TriageSettings] | None = None
        self._kept: dict[str, _Kept] = {}  # in the order in which they came
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)

    def start(self) -> None:
        """Begin to wait for models."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it has not come to keeps its value."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def value(self, facts: Facts, settings: TriageSettings) -> None:
        """Have all that waits valued by this model and these settings, soon; the last call counts. Returns at once."""
        self._wanted = facts, settings
        self._wake.set()

    def keep(self, event: Event) -> _Kept:
        """An event is in the spool: its embedding will be at hand. From any thread."""
        kept = _Kept(event.why, event.backbone, embedding_of(event))
        self._kept[event.id] = kept
        if len(self._kept) > CACHE:
            self._kept.pop(next(iter(self._kept)), None)
        return kept

    def _run(self) -> None:
        lower_priority()
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            wanted, self._wanted = self._wanted, None
            if wanted is None:
                continue
            begin = time.perf_counter()
            try:
                count = self._value_all(*wanted)
            except HoneError as error:
                self._errors[error.code] += 1
                log.error("backlog: %s", error)
            except OSError as error:
                self._errors["spool"] += 1
                log.error("backlog: the spool cannot be read (%s)", error)
            else:
                took = 1000 * (time.perf_counter() - begin)
                log.info("%d waiting events are valued by release %d (%.0f ms)", count, wanted[0].release, took)

    def _value_all(self, facts: Facts, settings: TriageSettings) -> int:
        """How many have a value by this model now; ends early when there is another wish."""
        if not facts.head:
            return 0
        judge = Judge(settings, facts.classes, facts.references)
        head = Part(facts.head, name="head")  # the one in use belongs to the frame loop
        values, count = self._values(head, judge, facts.backbone), 0
        while some := dict(islice(values, BATCH)):
            self._revalued(self._spool.revalue(some))
            count += len(some)
        return count

    def _values(self, head: Part, judge: Judge, backbone: str) -> Iterator[tuple[str, float]]:
        for offer in self._spool.offers():
            if self._stopping or self._wanted is not None:
                return
            kept = self._kept.get(offer.id) or self._read(offer.id)
            if kept is None or kept.backbone != backbone or kept.why not in judge.shares:
                continue
            if kept.embedding is None or (1, *kept.embedding.shape) != head.input_shape:
                continue
            embedding = kept.embedding.astype(np.float32)
            probabilities, *confidence = head.run_all(embedding[np.newaxis])
            prediction = Prediction(probabilities[0], embedding, float(confidence[0][0, 0]) if confidence else None)
            value = judge.value(kept.why, prediction)
            if value is not None:
                yield offer.id, value

    def _read(self, event_id: str) -> _Kept | None:
        event = self._spool.event(event_id)
        return None if event is None else self.keep(event)


def encode_embedding(embedding: Floats) -> str:
    """An embedding as events carry it: float16, little-endian, base64; numbers too large become the largest."""
    largest = np.finfo(np.float16).max
    return base64.b64encode(embedding.clip(-largest, largest).astype("<f2").tobytes()).decode()


def embedding_of(event: Event) -> NDArray[np.float16] | None:
    """The embedding that an event carries, float16 [dims]; None when it has none that can be read."""
    try:
        return np.frombuffer(binascii.a2b_base64(event.embedding or "", strict_mode=True), "<f2").astype(np.float16)
    except ValueError:
        return None
