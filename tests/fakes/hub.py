"""A small hub: the real `Receiver` on any bus, a disk in memory, and releases signed with real keys."""

import itertools
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from hub import keys as hub_keys
from shared import topics
from shared.bus import Bus, Message
from shared.clock import Clock
from shared.errors import HoneError
from shared.files import chunk_count, sha256_hex
from shared.golden import Golden, golden_outputs
from shared.golden import encode as encode_golden
from shared.ids import boot_id
from shared.litert import Model, Part
from shared.manifest import (
    DELEGATION_TYPE,
    DESIRED_TYPE,
    PLAN_TYPE,
    RELEASE_TYPE,
    Delegation,
    Desired,
    Group,
    Manifest,
    ModelSpec,
    Packed,
    PartSpec,
    Plan,
    Trial,
    Variant,
    key_id,
    public_hex,
    seal,
    sign,
)
from shared.messages import Event, Gone, HubStatus, Reply, Reported, Status, Want, decode, encode, split_attached
from shared.preprocess import Preprocess, encode_png
from shared.topics import CameraTopic, ChunkTopic
from shared.transfer import Answer, Complete, Effect, Limits, Problem, Receiver
from tests.fakes.clock import FakeClock
from tests.fakes.models import mean_backbone, softmax_head

CLASSES = ["red", "green", "blue"]
PART_CHUNK = 256
"""Small, so that each part of the tiny models makes several windows."""


class FakeHub:
    """`shared.bus.Listener`: takes events of all cameras and keeps them. What `refuses` gives a reason for, it refuses.

    disk: (camera, event id) -> the event and its bytes. reported, status: the last of each camera. previews: noted ones
    of held images. gone: ids that cameras said they do not have. offers: id of each event message, attached: of those
    that carried their first chunk.

    deaf: hears nothing and says nothing. beats: false, and its counter stands still. hears: false, and what is sent to
    it is lost, though it beats. stores: false, and complete images wait. loses: replies of which it says so get lost.
    """

    def __init__(self, bus: Bus, clock: Clock, *, name: str = "hub", limits: Limits | None = None) -> None:
        self.bus = bus
        self.disk: dict[tuple[str, str], tuple[Event, bytes]] = {}
        self.refuses: Callable[[Event], str | None] = lambda _: None
        self.offers: list[str] = []
        self.attached: list[str] = []
        self.previews: dict[tuple[str, str], Event] = {}
        self.gone: list[str] = []
        self.attach = 1 << 20
        self.epoch = "epoch-1"
        self.sites: list[str] = []
        self.beats = self.hears = True
        self.loses: Callable[[Reply], bool] = lambda _: False
        self.wants: list[Want] = []
        self.on_want: Callable[[Want], None] = lambda _: None
        self.problems: list[HoneError] = []
        self.bad: list[Exception] = []
        self.reported: dict[str, Reported] = {}
        self.status: dict[str, Status] = {}
        self.deaf = False
        self._stores = True
        self._complete: list[Complete] = []
        self._clock = clock
        self._name = name
        self._limits = limits or Limits()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="hub", daemon=True)
        self.restart()
        bus.subscribe([*topics.uploads(), *topics.states()])

    # -- what tests do with it

    def start(self) -> "FakeHub":
        """Connect and beat."""
        self.bus.start(self)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.bus.stop()

    def restart(self) -> None:
        """All that is not on disk is forgotten."""
        self._boot = boot_id()
        self._complete.clear()
        self._numbers = itertools.count(1)
        self._receiver = Receiver(self._limits)

    @property
    def stored(self) -> set[str]:
        return {one for _, one in self.disk}

    @property
    def accepts(self) -> bool:
        """Whether there is room on the disk."""
        return self._receiver.accepts

    @accepts.setter
    def accepts(self, value: bool) -> None:
        self._receiver.accepts = value

    @property
    def stores(self) -> bool:
        return self._stores

    @stores.setter
    def stores(self, value: bool) -> None:
        self._stores = value
        if value:
            waiting, self._complete = self._complete, []
            for one in waiting:
                self._store(one)

    def ask_for(self, camera: str, event_id: str) -> None:
        """The operator wants to see the image of a preview."""
        event = msgspec.structs.replace(self.previews[camera, event_id], held=False, follows=False)
        self._act(self._receiver.event(camera, event, None, self._clock.monotonic()))

    # -- the bus; called in its thread

    def connected(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        pass

    def message(self, message: Message) -> None:
        if self.deaf or not self.hears:
            return
        try:
            self._take(message)
        except HoneError as error:
            self.bad.append(error)

    # -- below the surface

    def _beat(self) -> None:
        while not self._stop.wait(0.1):
            if not self.deaf and self.beats:
                status = HubStatus(
                    online=True,
                    boot=self._boot,
                    beat=next(self._numbers),
                    beat_s=2.0,
                    sites=self.sites,
                    epoch=self.epoch,
                    accepts=self.accepts,
                    attach=self.attach,
                    credit=self._receiver.first_credit,
                )
                self.bus.publish(topics.hub_status(self._name), encode(status), retain=True)

    def _take(self, message: Message) -> None:
        now = self._clock.monotonic()
        match topics.parse(message.topic):
            case CameraTopic(camera=camera, leaf="status"):
                self.status[camera] = decode(message.payload, Status)
                self._receiver.hello(camera, now)
            case CameraTopic(camera=camera, leaf="reported"):
                self.reported[camera] = decode(message.payload, Reported)
            case CameraTopic(leaf="want"):
                self.wants.append(decode(message.payload, Want))
                self.on_want(self.wants[-1])
            case CameraTopic(leaf="gone"):
                self.gone += decode(message.payload, Gone).ids
            case CameraTopic(camera=camera, leaf="event"):
                text, first = split_attached(message.payload)
                event = decode(text, Event)
                self.offers.append(event.id)
                if first is not None:
                    self.attached.append(event.id)
                if reason := self.refuses(event):
                    self._act([Answer(camera, Reply(refuse={event.id: reason}))])
                    return
                old = self.disk.get((camera, event.id))
                if event.held and old is None:
                    self.previews[camera, event.id] = event
                    self._act([Answer(camera, Reply(noted=[event.id]))])
                    return
                self._act(self._receiver.event(camera, event, old and old[0].sha256, now, first))
            case ChunkTopic(camera=camera, event=one, index=index):
                self._act(self._receiver.chunk(camera, one, index, message.payload, now))

    def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Complete):
                if self._stores:
                    self._store(effect)
                else:
                    self._complete.append(effect)
            elif isinstance(effect, Answer) and not self.loses(effect.reply):
                self.bus.publish(topics.reply(effect.camera), encode(effect.reply))
            elif isinstance(effect, Problem):
                self.problems.append(effect.error)

    def _store(self, one: Complete) -> None:
        assert (one.camera, one.event.id) not in self.disk, "stored twice"
        self.disk[one.camera, one.event.id] = (one.event, one.data)
        self._act(self._receiver.durable(one.camera, [one.event.id]))


# ------------------------------------------------------------------------------------------------- releases


@cache
def _keys(folder: Path) -> hub_keys.Keys:
    if not (folder / hub_keys.DELEGATION).exists():
        hub_keys.make(folder, FakeClock())
    return hub_keys.load(folder)


@dataclass
class Parts:
    """A model as bytes: its parts, references or not, and what goes into the manifest.

    int8: of the same classes, which travels as its int8 variant. packed: parts travel so, and no other way.
    """

    backbone: bytes
    head: bytes
    golden: bytes
    probabilities: list[list[float]]
    size: int
    references: bytes = b""
    classes: Sequence[str] = tuple(CLASSES)
    int8: "Parts | None" = None
    packed: bool = False

    def spec(self, chunk_size: int = PART_CHUNK) -> ModelSpec:
        one = partial(part, chunk_size=chunk_size, packed=self.packed)
        int8 = self.int8
        return ModelSpec(
            backbone=one(self.backbone), head=one(self.head), golden=one(self.golden), classes=list(self.classes),
            preprocess=Preprocess(size=self.size), golden_probabilities=self.probabilities,
            references=one(self.references) if self.references else None,
            int8=Variant(
                backbone=one(int8.backbone), head=one(int8.head), golden=one(int8.golden),
                golden_probabilities=int8.probabilities,
            ) if int8 else None,
        )  # fmt: skip

    def blobs(self) -> list[bytes]:
        parts = [self.golden, self.backbone, *([self.references] if self.references else []), self.head]
        mine = [zlib.compress(one) for one in parts] if self.packed else parts
        return [*mine, *(self.int8.blobs() if self.int8 else [])]


def part(data: bytes, chunk_size: int = PART_CHUNK, *, packed: bool = False) -> PartSpec:
    form = zlib.compress(data)
    return PartSpec(
        sha256=sha256_hex(data),
        size=len(data),
        chunk_size=chunk_size,
        packed=Packed(sha256=sha256_hex(form), size=len(form)) if packed else None,
    )


def parts(*, size: int = 16, beta: float = 1.0) -> Parts:
    """A real model: mean of each colour, softmax of beta times that."""
    backbone, head = mean_backbone(size), softmax_head(3, beta=beta)
    model = Model(Part(backbone, name="b"), Part(head, name="h"), CLASSES, Preprocess(size=size))
    images = [np.random.default_rng(n).integers(0, 255, (size, size, 3), np.uint8) for n in range(2)]
    for number, one in enumerate(images):
        one[..., number] = 255  # of a clear colour, so that heads differ
    golden = Golden(
        dims=3, inputs=[encode_png(one) for one in images], embeddings=[model.embed(one).tobytes() for one in images]
    )
    return Parts(backbone, head, encode_golden(golden), golden_outputs(model, golden), size)


@dataclass
class Registry:
    """What a hub publishes of models, signed; `bus` may come and go. folder: of the keys. delegation: its number."""

    folder: Path
    bus: Bus
    clock: Clock
    project: str = "cells"
    blobs: dict[str, bytes] = field(default_factory=dict)
    plans: int = 0
    exceptions: int = 0
    delegation: int = 1
    chunk_size: int = PART_CHUNK
    pair: hub_keys.Keys | None = None
    """What to sign with; None: the folder's key, under a delegation made for each message."""

    @property
    def root(self) -> str:
        return _keys(self.folder).root_public

    def release(self, number: int, model: Parts, *, chunks: bool = True, manifest: bool = True) -> None:
        """Publish a release: its manifest and the chunks of its parts."""
        for data in model.blobs():
            self.blobs[sha256_hex(data)] = data
            if chunks:
                self.chunks(sha256_hex(data))
        if manifest:
            self.bus.publish(topics.release(self.project, number), self.manifest(number, model), retain=True)

    def manifest(self, number: int, model: Parts, **fields: object) -> bytes:
        return self._seal(
            Manifest, RELEASE_TYPE, number, project=self.project, model=model.spec(self.chunk_size), **fields
        )

    def chunks(self, sha256: str, indices: Sequence[int] | None = None) -> None:
        data = self.blobs[sha256]
        size = self.chunk_size
        for index in range(chunk_count(len(data), size)) if indices is None else indices:
            self.bus.publish(topics.blob(sha256, index), data[index * size : (index + 1) * size], retain=True)

    def answer(self, want: Want) -> None:
        """Publish anew what a camera misses."""
        if want.sha256 is not None:
            self.chunks(want.sha256, [i for first, last in want.ranges for i in range(first, last + 1)])

    def plan(
        self,
        release: int,
        *,
        number: int | None = None,
        triage: dict[str, object] | None = None,
        trial: Trial | None = None,
    ) -> None:
        """Every camera shall run this release, triage so, and try that one beside it."""
        self.plans += 1
        data = self._seal(
            Plan,
            PLAN_TYPE,
            number or self.plans,
            project=self.project,
            stage="all",
            groups=[Group(name="all", release=release, trial=trial)],
            triage=triage,
        )
        self.bus.publish(topics.plan(self.project), data, retain=True)

    def desired(self, camera: str, release: int) -> None:
        """This one camera shall run that release."""
        self.exceptions += 1
        data = self._seal(
            Desired, DESIRED_TYPE, self.exceptions, project=self.project, camera=camera, release=release, reason="test"
        )
        self.bus.publish(topics.desired(camera), data, retain=True)

    def _seal(self, kind: type, payload_type: str, number: int, **fields: object) -> bytes:
        keys, now = _keys(self.folder), self.clock.utc()
        body = kind(**{"number": number, "created": now, "expires": now + timedelta(days=30), **fields})
        if self.pair is not None:
            return seal(body, payload_type, self.pair.signer, self.pair.delegation)
        delegation = Delegation(
            number=self.delegation,
            created=now,
            expires=now + timedelta(days=30),
            keys={keys.signer.public_key.keyid: public_hex(keys.signer)},
        )
        root = CryptoSigner(load_pem_private_key((self.folder / hub_keys.ROOT).read_bytes(), None))
        root.public_key.keyid = key_id(keys.root_public)
        return seal(body, payload_type, keys.signer, sign(delegation, DELEGATION_TYPE, root))
