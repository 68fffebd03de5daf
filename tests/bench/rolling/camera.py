"""A camera of which the reload is real, driven by hand: no thread, no lens, and a trial in numbers."""

import random
from collections import Counter
from datetime import timedelta
from typing import ClassVar
from unittest.mock import patch

from edge.infer import Engine
from edge.reload import Reload
from edge.settings import EdgeSettings
from edge.shelf import Shelf
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
    TrialState,
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

    def offer(self, running, timeout):
        self._next = running
        self.turn()
        return True


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
        self._trial = None
        self.engine = _StillEngine()
        settings = EdgeSettings(
            camera=name, project="cells", root_key=root, capture={"source": "."}, state=str(folder), clock="trusted"
        )
        self.errors = Counter()
        with patch("edge.reload.Shelf", SharedShelf):
            self.reload = Reload(
                settings, bus=bus, engine=self.engine, clock=clock, errors=self.errors, clock_trusted=lambda: True
            )
        self.reload._thread = _NoThread()

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
        self._compare(frames)
        state = (self.reload.state, self._trial)
        if state != self._told or now >= self._due:
            self._told, self._due = state, now + self._report_s
            self._report()

    # -- below the surface

    def _work(self):
        """What the reload's thread would do."""
        inbox = self.reload._inbox
        while not inbox.empty():
            inbox.get()()
        if self.release and self.release not in self.ran:
            self.ran[self.release] = self._clock.utc()

    def _compare(self, frames):
        plan = self.reload._plan
        group = plan.group_for(self.name, {}) if plan else None
        wish = group.trial if group and group.release == self.release else None
        if wish is None:
            self._trial = None
            return
        if self._trial is None or (self._trial.release, self._trial.other) != (self.release, wish.release):
            self._trial = TrialState(release=self.release, other=wish.release, ms=MS, other_ms=MS)
        count = int(self._chance.binomial(frames, wish.share))
        model = self._models[max(self.release, wish.release)]
        broken, mended, _ = self._chance.multinomial(
            count, [model.broken, model.mended, 1 - model.broken - model.mended]
        )
        told, low = self._trial, self._chance.binomial(count, LOW)
        self._trial = TrialState(
            release=told.release,
            other=told.other,
            frames=told.frames + count,
            differed=told.differed + int(broken + mended),
            low=told.low + int(low),
            other_low=told.other_low + int(low),
            ms=MS,
            other_ms=MS,
        )
        if wish.ask:
            for wrong in [True] * broken + [False] * mended:
                self._send(wish.release, wrong)

    def _send(self, other, wrong):
        """An event on which the two differ. wrong: the model in use is."""
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
            rival=Rival(release=other, label=str(rival), score=0.7),
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
            up=self.bus.sent, down=self.bus.received, trial=self._trial,
        )  # fmt: skip
        self.bus.publish(topics.reported(self.name), encode(reported), retain=True)
