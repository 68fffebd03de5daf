"""A hub and a fleet on a counting broker and a clock that is moved by hand.

Real: store and database, keys and signatures, `Rollouts`, `Publisher`, `Registry`, the collector's rules and its
commit, an operator's decisions by `Desk`; of each camera `edge.reload` and `edge.fetch` with hashes, signatures, the
load of a .tflite and its golden check.
"""

import queue
from dataclasses import dataclass

import msgspec
import numpy as np
from sqlmodel import col, select

from hub import keys
from hub.commit import Committer
from hub.label import Desk
from hub.registry import Registry
from hub.release import Publisher
from hub.rollouts import Rollouts, current, load
from hub.settings import ProjectSettings, RolloutSettings
from hub.store import open_store
from hub.tables import Image, Run
from shared import topics
from shared.messages import Event, HubStatus, Reported, Status, Want, decode, encode, split_attached
from shared.preprocess import Preprocess
from shared.topics import CameraTopic, parse
from shared.transfer import Answer, Complete, Receiver
from tests.bench.rolling.camera import Driven, SharedShelf
from tests.bench.rolling.wire import Broker, CountedBus
from tests.fakes.clock import FakeClock
from tests.fakes.hub import CLASSES, parts
from tests.hub.making import settings_in

BACKBONE, HEAD = 13_485_384, 22_000
"""Bytes of Lite0's float backbone and of a linear head."""
SIZE = 16
"""Pixels of a side that the tiny models take."""
BEAT_S, PULSE_BEATS = 2.0, 15
DELAY_S, LABEL_S = 120.0, 3.0
"""Of the operator."""


@dataclass(frozen=True)
class Model:
    """A tiny model in files as large as real ones. broken, mended: against the one before, shares of all frames."""

    parts: dict[str, bytes]
    probabilities: list[list[float]]
    broken: float = 0.0
    mended: float = 0.0


def model(chance, *, backbone, beta, broken=0.0, mended=0.0):
    """A model. backbone: bytes; behind what LiteRT reads may be anything, so these give it a hash of its own."""
    tiny = parts(size=SIZE, beta=beta)
    head = tiny.head + chance.bytes(HEAD - len(tiny.head))
    files = {"backbone": tiny.backbone + backbone[len(tiny.backbone) :], "head": head, "golden": tiny.golden}
    return Model(files, tiny.probabilities, broken, mended)


class Hub:
    """One hub of project cells; `tick` is a turn of its daemon."""

    def __init__(self, folder, bus, clock, rules, truth):
        self.bus, self._clock, self._truth = bus, clock, truth
        self.settings = settings_in(folder, rollout=rules, project=ProjectSettings(name="cells", classes=CLASSES))
        self.store = open_store(self.settings)
        keys.make(folder / "keys", clock)
        pair = keys.load(folder / "keys")
        self.root = pair.root_public
        self.registry = Registry(self.store, clock)
        self.publisher = Publisher(self.store, bus, "cells", clock)
        self.rollouts = Rollouts(
            self.store, "cells", pair, self.registry, clock,
            settings=lambda: self.settings, changed=self.publisher.changed,
        )  # fmt: skip
        self._desk = Desk(self.store, "cells", CLASSES, clock)
        self._receiver = Receiver()
        self._rounds = queue.SimpleQueue()
        self._committer = Committer(self.store, clock, self._rounds.put, batch=256)
        self._committer.start()
        self._uncommitted = 0
        self._waiting = []  # differences that nobody has settled: since when, camera, event
        self._free_at = 0.0
        self._beat = 0
        bus.start(self)
        bus.subscribe([*topics.uploads(), *topics.states()])

    def close(self):
        self._committer.stop()
        self.store.close()

    def release(self, one):
        """The number of a release of this model."""
        names = self.store.blobs.put(list(one.parts.values()))
        how = Preprocess(size=SIZE)
        with self.store.write() as session:
            run = Run(
                project="cells", state="done", created_at=self._clock.utc(),
                parts=dict(zip(one.parts, names, strict=True)), golden_probabilities=one.probabilities,
                settings={"classes": CLASSES, "preprocess": msgspec.to_builtins(how)},
            )  # fmt: skip
            session.add(run)
            session.flush()
            session.refresh(run)
            session.expunge(run)
        return self.rollouts.release(run, "bench")

    def progress(self):
        """Of the rollout under way, or the last one; with its row."""
        with self.store.read() as session:
            row = current(session, "cells")
            return load(row), row

    def tick(self, seconds):
        """A turn of the daemon after so many seconds, with the beats of that time."""
        count = round(seconds / BEAT_S)
        self._beat += count
        status = HubStatus(
            online=True, boot="0" * 16, beat=self._beat, epoch="0" * 16, attach=1 << 20,
            credit=self._receiver.first_credit,
        )  # fmt: skip
        self.bus.publish(topics.hub_status("hub"), encode(status), retain=True, times=count)
        if self._beat // PULSE_BEATS > (self._beat - count) // PULSE_BEATS:
            self.bus.publish(topics.hub_pulse("hub"), encode(status), retain=True)
        self._commit()
        self._operate()
        self.registry.flush()
        self.rollouts.look(restored=False)
        self.publisher.turn()

    def message(self, message):
        topic = parse(message.topic)
        assert isinstance(topic, CameraTopic), "images come whole, with their event"
        now = self._clock.monotonic()
        match topic.leaf:
            case "status":
                self.registry.status(topic.camera, decode(message.payload, Status))
                self._act(self._receiver.hello(topic.camera, now))
            case "reported":
                self.registry.reported(topic.camera, decode(message.payload, Reported))
            case "want":
                self.publisher.want(decode(message.payload, Want))
            case "event":
                text, first = split_attached(message.payload)
                self._act(self._receiver.event(topic.camera, decode(text, Event), None, now, first))

    # -- below the surface

    def _act(self, effects):
        for one in effects:
            if isinstance(one, Complete):
                self._uncommitted += 1
                self._committer.put(one)
                self._waiting.append((self._clock.monotonic(), one.camera, one.event.id))
            elif isinstance(one, Answer):
                self.bus.publish(topics.reply(one.camera), encode(one.reply))

    def _commit(self):
        """Wait until all that came is durable, and say so."""
        while self._uncommitted:
            done = self._rounds.get(timeout=60)
            assert not done.failed, done.error
            self._uncommitted -= len(done.stored)
            for camera in dict.fromkeys(one.camera for one in done.stored):
                ids = [one.event.id for one in done.stored if one.camera == camera]
                self._act(self._receiver.durable(camera, ids))

    def _operate(self):
        """What the operator had the time for."""
        now = self._clock.monotonic()
        while self._waiting:
            since, camera, event = self._waiting[0]
            done = max(self._free_at, since + DELAY_S) + LABEL_S
            if done > now:
                return
            self._waiting.pop(0)
            self._free_at = done
            with self.store.read() as session:
                found = session.exec(select(Image.id).where(col(Image.camera) == camera, Image.event_id == event)).one()
            self._desk.decide(found, self._truth[camera, event], operator="bench")


class Plant:
    """The fleet with its hub. cameras, canary: how many. fps, share: frames of each, and of these on trial."""

    def __init__(self, folder, *, cameras, canary, fps=1.0, share=0.1, look_s=10.0, report_s=30.0, seed=0):
        self.clock = FakeClock()
        self.look_s, self._fps = look_s, fps
        self._chance = np.random.default_rng(seed)
        self.models, self._truth = {}, {}
        broker = Broker()
        rules = RolloutSettings(canary=canary, share=share)
        self.hub = Hub(folder / "hub", CountedBus(broker), self.clock, rules, self._truth)
        self.cameras = [
            Driven(
                f"site-{number // 50:02}/cam-{number:04}",
                bus=CountedBus(broker), clock=self.clock, root=self.hub.root, folder=folder / f"camera-{number}",
                chance=self._chance, models=self.models, truth=self._truth, report_s=report_s,
            )
            for number in range(cameras)
        ]  # fmt: skip
        for one in self.cameras:
            one.start()

    def close(self):
        self.hub.close()
        SharedShelf.pool.clear()

    def release(self, one):
        """Have a model released; its number."""
        number = self.hub.release(one)
        self.models[number] = one
        self.hub.publisher.turn()
        return number

    def turn(self):
        """One look of all."""
        self.clock.advance(self.look_s)
        for one in self.cameras:
            one.look(round(self._fps * self.look_s))
        self.hub.tick(self.look_s)

    def forget(self):
        """Count from here."""
        for one in (self.hub, *self.cameras):
            one.bus.forget()

    def account(self):
        """Bytes that the hub sent, and that all cameras received, by kind."""
        received = sum((one.bus.into for one in self.cameras), start=type(self.hub.bus.out)())
        return self.hub.bus.out.copy(), received
