"""A camera of which reload and trial are real, driven by hand: no threads, no lens; what two models say is drawn."""

import random
from collections import Counter
from datetime import timedelta
from typing import ClassVar
from unittest.mock import patch

from edge.infer import Engine
from edge.reload import Reload
from edge.settings import EdgeSettings
from edge.shelf import WELL_SECONDS, Shelf
from edge.trial import TrialRun
from shared import topics
from shared.errors import PartError
from shared.files import sha256_hex
from shared.ids import boot_id, event_id
from shared.messages import (
    Event,
    FrameState,
    Rates,
    Reply,
    Reported,
    Rival,
    SpoolState,
    Status,
    decode,
    encode,
    encode_attached,
)
from shared.topics import BlobTopic, CameraTopic, HubTopic, PlanTopic, ReleaseTopic, parse
from tests.fakes.hub import CLASSES

IMAGE = 20_000
"""Bytes of an image on which two models differ."""
MS, LOW = 8.0, 0.1
_POOL = random.Random(0).randbytes(1 << 20)


class SharedShelf(Shelf):
    """A shelf whose state is a file of its own, and whose parts are empty files: the bytes, checked each time they
    come, are kept once for the fleet. A thousand cards of 13 MB would be all that is measured here.
    """

    pool: ClassVar[dict[str, bytes]] = {}

    def read(self, part):
        if not (self._parts / part.sha256).exists():
            raise PartError("is not there", subject=f"model part {part.sha256[:12]}")
        return self.pool[part.sha256]

    def write(self, part, data):
        if len(data) != part.size or sha256_hex(data) != part.sha256:
            raise PartError("has other bytes than the manifest says", subject=f"model part {part.sha256[:12]}")
        self.pool.setdefault(part.sha256, data)
        (self._parts / part.sha256).touch()


class _StillEngine(Engine):
    """Between two frames all the time: a model that is handed in is in use at once."""

    infer_ms = MS

    def offer(self, running, timeout):
        self._next = running
        self.turn()
        return True


class _CountedTrial(TrialRun):
    """A trial that is told what its two models would have said."""

    def judged(self, count, differed, low):
        """So many frames were judged by both; the numbers of those on which they differ."""
        told = self._counts
        told.frames += count
        told.differed += differed
        told.low += low
        told.other_low += low
        told.times.append(MS)
        return range(told.differed - differed + 1, told.differed + 1)


class _NoThread:
    def start(self):
        pass


class Driven:
    """One camera; `message` does all that its messages cause. ran: releases that were in use, with the time.

    truth: event id -> what is on the image, shared by the fleet. models: release -> its `Model`, see `plant`.
    """

    def __init__(self, name, *, bus, clock, root, folder, chance, models, truth, report_s):
        self.name, self.bus = name, bus
        self.ran = {}
        self._clock, self._chance, self._models, self._truth = clock, chance, models, truth
        self._boot = boot_id()
        self._report_s, self._due = report_s, 0.0
        self._told = None
        self._well, self._since = 0, 0.0
        self.engine = _StillEngine()
        self.trial = _CountedTrial(self.engine, is_low=lambda _: False)
        settings = EdgeSettings(
            camera=name, project="cells", root_key=root, capture={"source": "."}, state=str(folder), clock="trusted"
        )
        self.errors = Counter()
        with patch("edge.reload.Shelf", SharedShelf):
            self.reload = Reload(
                settings, bus=bus, engine=self.engine, trial=self.trial, clock=clock, errors=self.errors,
                clock_trusted=lambda: True,
            )  # fmt: skip
        self.reload._inbox._thread = _NoThread()

    def start(self):
        """Connect, and follow the plan."""
        self.bus.start(self)
        self.bus.publish(topics.status(self.name), encode(Status(online=True, boot=self._boot)), retain=True)
        self.bus.subscribe([topics.hub_status("hub"), topics.reply(self.name)])
        self.reload.start()
        self._work()

    @property
    def release(self):
        return self.engine.running.release if self.engine.running else 0

    def message(self, message):
        match parse(message.topic):
            case HubTopic():
                return
            case CameraTopic(leaf="reply"):
                decode(message.payload, Reply)
                return
            case CameraTopic(leaf="desired"):
                self.reload.desired(message.payload)
            case PlanTopic():
                self.reload.plan(message.payload)
            case ReleaseTopic(number=number):
                self.reload.manifest(number, message.payload)
            case BlobTopic(sha256=sha256, index=index):
                self.reload.chunk(sha256, index, message.payload)
        self._work()

    def look(self, frames):
        """So many frames have passed: those of the trial are judged, and what is new is told."""
        now = self._clock.monotonic()
        if self.release != self._well and now - self._since >= WELL_SECONDS:
            self._well = self.release
            self.reload.ran_well()
            self._work()
        self._compare(frames)
        state = (self.reload.state, self.trial.state())
        if state != self._told or now >= self._due:
            self._told, self._due = state, now + self._report_s
            self._report()

    # -- below the surface

    def _work(self):
        """What the reload's thread would do."""
        steps = self.reload._inbox._steps
        while not steps.empty():
            steps.get()()
        if self.release and self.release not in self.ran:
            self.ran[self.release] = self._clock.utc()
            self._since = self._clock.monotonic()

    def _compare(self, frames):
        wish = self.reload._beside.wish
        if wish is None or not self.trial.runs:
            return
        count = int(self._chance.binomial(frames, wish.share))
        model = self._models[max(self.release, wish.release)]
        broken, mended, _ = self._chance.multinomial(
            count, [model.broken, model.mended, 1 - model.broken - model.mended]
        )
        numbers = self.trial.judged(count, int(broken + mended), int(self._chance.binomial(count, LOW)))
        if wish.ask:
            wrong = self._chance.permutation([True] * broken + [False] * mended)
            for number, one in zip(numbers, wrong, strict=True):
                self._send(wish.release, number, one)

    def _send(self, other, number, wrong):
        """An event on which the two differ, the so manieth. wrong: the model in use is."""
        label, rival = self._chance.permutation(CLASSES)[:2]
        start = int(self._chance.integers(len(_POOL) - IMAGE))
        data = _POOL[start : start + IMAGE - 16] + self._chance.bytes(16)
        at = self._clock.utc() + timedelta(microseconds=int(self._chance.integers(1_000_000)))
        one = event_id(at)
        self._truth[self.name, one] = str(rival if wrong else label)
        event = Event(
            id=one, project="cells", release=self.release, time=at, clock="synchronised", label=str(label), score=0.6,
            scores={str(label): 0.6, str(rival): 0.4}, why="pair", probability=1.0, value=3.0, size=IMAGE,
            sha256=sha256_hex(data), ext="jpg", chunk_size=65536,
            rival=Rival(
                release=other, label=str(rival), score=0.7, trial=self.trial.state().id, number=number
            ),
        )  # fmt: skip
        self.bus.publish(topics.event(self.name), encode_attached(event, data))

    def _report(self):
        spool = dict.fromkeys(
            ("spooled", "stored", "left", "quarantined", "dropped", "unspooled", "torn", "bytes", "limit"), 0
        )
        reported = Reported(
            time=self._clock.utc(), agent="0.1.0", boot=self._boot, project="cells", release=self.release,
            floor=self.reload.floor, plan_floor=self.reload.plan_floor, reload=self.reload.state,
            spool=SpoolState(**spool), frames=FrameState(captured=0, inferred=0, dropped=0),
            rates=Rates(fps=1.0, low_score=LOW, infer_ms=MS), clock="synchronised",
            up=self.bus.sent, down=self.bus.received, trial=self.trial.state(),
        )  # fmt: skip
        self.bus.publish(topics.reported(self.name), encode(reported), retain=True)
