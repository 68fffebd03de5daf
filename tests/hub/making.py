"""What hub tests are made of: settings, drawn images, rows, and a camera and a hub on a FakeBroker."""

import hashlib
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlmodel import select

from hub import split
from hub.commit import Committer, Round
from hub.settings import (
    CollectSettings,
    HubSettings,
    ProjectSettings,
    RetrainSettings,
    SplitSettings,
    TrainSettings,
    WebSettings,
)
from hub.split import Standing
from hub.store import Store
from hub.tables import Assignment, Embedding, Image
from shared import topics
from shared.clock import SystemClock
from shared.files import chunks, sha256_hex
from shared.ids import event_id
from shared.messages import (
    Event,
    FrameState,
    Rates,
    ReloadState,
    Reply,
    Reported,
    SpoolState,
    Status,
    decode,
    encode,
)
from shared.preprocess import encode_png
from shared.transfer import Complete
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.clock import FakeClock
from tests.fakes.listener import Recorder

CLASSES = ["good", "defect"]
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
QUICK = TrainSettings(l2=(0.01,), folds=2)


def settings_in(folder: Path, **fields: object) -> HubSettings:
    """Settings of project cells whose state is in `folder`."""
    given: dict[str, object] = {
        "project": ProjectSettings(name="cells", classes=CLASSES),
        "state": str(folder / "state"),
        "cache": str(folder / "cache"),
        "web": WebSettings(port=0),
        "train": QUICK,
        "collect": CollectSettings(image_mb=1, partial_mb=4),
        "retrain": RetrainSettings(every_labels=0),
        **fields,
    }
    return HubSettings(**given)  # type: ignore[arg-type]


def toml_in(folder: Path, *, mqtt: int = 1, password: str = "", web: int = 0, more: str = "") -> Path:
    """A hub.toml in `folder`; mqtt: the broker's port, by default one where nobody listens."""
    path = folder / "hub.toml"
    path.write_text(
        f'name = "hub-{folder.name[-20:]}"\nstate = "state"\nbeat_s = 0.2\n{more}\n'
        f'[project]\nname = "cells"\nclasses = ["good", "defect"]\n'
        f'[mqtt]\nport = {mqtt}\nusername = "hub"\npassword_file = "{password}"\n[web]\nport = {web}\n'
    )
    return path


def picture(seed: int = 0, *, defect: bool = False, side: int = 64, mean: int = 120) -> bytes:
    """A drawn PNG: a soft gradient with grain, with dark bars across it when it has a defect."""
    rng = np.random.default_rng(seed)
    pixels = mean + rng.normal(0, 9, (side, side, 3)) + np.linspace(-20, 20, side)[:, None, None]
    if defect:
        for at in rng.integers(4, side - 4, 5):
            pixels[:, at - 2 : at + 2] = 15
    return encode_png(np.clip(pixels, 0, 255).astype(np.uint8))


def add_image(store: Store, data: bytes | None = None, **fields: object) -> int:
    """A stored image's row (and blob, where data is given); returns its id."""
    number = time.monotonic_ns()
    given: dict[str, object] = {
        "camera": "site/cam-1",
        "event_id": f"event-{number}",
        "project": "cells",
        "sha256": hashlib.sha256(data if data is not None else str(number).encode()).hexdigest(),
        "size": len(data or b""),
        "ext": "png",
        "captured_at": NOW,
        "received_at": NOW,
        "state": "verified",
        **fields,
    }
    if data is not None:
        store.blobs.put([data])
    with store.write() as session:
        image = Image(**given)  # type: ignore[arg-type]
        session.add(image)
        session.flush()
        assert image.id is not None
        return image.id


def commit(store: Store, *blobs: bytes, camera: str = "site/cam-1", **fields: object) -> list[str]:
    """Store images as the collector does, in a segment and by rows; returns their event ids. fields: of the events."""
    told: list[Round] = []
    committer = Committer(store, SystemClock(), told.append, batch=256)
    events = [event_of(one, **fields) for one in blobs]
    for event, data in zip(events, blobs, strict=True):
        committer.put(Complete(camera, event, data))
    committer.start()
    committer.stop()
    assert sum(len(one.stored) for one in told) == len(blobs)
    return [one.id for one in events]


def add_vector(store: Store, image_id: int, vector: list[float], backbone: str = "b") -> None:
    with store.write() as session:
        session.add(Embedding(image_id=image_id, backbone=backbone, vector=np.array(vector, "<f4").tobytes()))


def divide(
    store: Store, near: float = 0.995, vectors: dict[int, list[float]] | None = None, **fields: object
) -> Standing:
    """Divide all labelled images; those without a vector look like no other one. fields: of SplitSettings."""
    with store.read() as session:
        ids = split.candidates(session, "cells", CLASSES)
    size = len(ids) + 2
    made = {one: np.eye(size, dtype=np.float32)[place + 2] for place, one in enumerate(ids)}
    for one, vector in (vectors or {}).items():
        made[one] = np.zeros(size, np.float32)
        made[one][:2] = vector
    return split.divide(store, "cells", made, SplitSettings(near=near, **fields), FakeClock(NOW))  # type: ignore[arg-type]


def sides(store: Store) -> dict[int, str]:
    """Image id -> side."""
    with store.read() as session:
        return {one.image_id: one.side for one in session.exec(select(Assignment))}


def get_image(store: Store, image_id: int) -> Image:
    with store.read() as session:
        found = session.get(Image, image_id)
        assert found is not None
        return found


def reported(
    release: int = 1, *, project: str = "cells", floor: int | None = None, plan_floor: int = 0, **reload: object
) -> Reported:
    """What a camera could say of itself."""
    said: dict[str, object] = {"state": "running", "release": release}
    for key, value in reload.items():
        said[key.removeprefix("reload_")] = value
    return Reported(
        time=NOW, agent="0", boot="b1", project=project, release=release, floor=release if floor is None else floor,
        plan_floor=plan_floor,
        reload=ReloadState(**said),  # type: ignore[arg-type]
        spool=SpoolState(
            spooled=0, stored=0, left=0, quarantined=0, dropped=0, unspooled=0, torn=0, bytes=0, limit=1
        ),
        frames=FrameState(captured=0, inferred=0, dropped=0), rates=Rates(fps=0, low_score=0, infer_ms=0),
        clock="synchronised", up=0, down=0,
    )  # fmt: skip


def event_of(data: bytes, *, at: datetime = NOW, **fields: object) -> Event:
    """The event that offers these bytes."""
    given: dict[str, object] = {
        "id": event_id(at), "project": "cells", "release": 3, "time": at, "label": "good", "score": 0.5,
        "scores": {"good": 0.5, "defect": 0.5}, "why": "low_score", "probability": 0.5, "value": 0.5,
        "size": len(data), "sha256": sha256_hex(data), "ext": "png", "chunk_size": 1024, **fields,
    }  # fmt: skip
    return Event(**given)  # type: ignore[arg-type]


class HandCamera:
    """A camera played by hand on a FakeBroker; remembers what the hub replied."""

    def __init__(self, broker: FakeBroker, name: str = "site/cam-1") -> None:
        self.name = name
        self.broker = broker
        self.bus = FakeBus(broker, name)
        self.heard = Recorder()
        self.bus.start(self.heard)
        self.bus.subscribe([topics.reply(name)])

    def hello(self) -> None:
        self.bus.publish(topics.status(self.name), encode(Status(online=True, boot="b1")), retain=True)

    def offer(self, event: Event) -> None:
        self.bus.publish(topics.event(self.name), encode(event))

    def chunks(self, event: Event, data: bytes) -> None:
        for index, chunk in enumerate(chunks(data, event.chunk_size)):
            self.bus.publish(topics.chunk(self.name, event.id, index), chunk)

    def upload(self, event: Event, data: bytes) -> None:
        self.offer(event)
        self.chunks(event, data)

    @property
    def replies(self) -> list[Reply]:
        self.broker.pump()
        return [decode(one.payload, Reply) for one in self.heard.messages]

    @property
    def stored(self) -> list[str]:
        return [one for reply in self.replies for one in reply.stored]

    @property
    def refused(self) -> dict[str, str]:
        return {key: why for reply in self.replies for key, why in reply.refuse.items()}

    @property
    def pauses(self) -> list[int]:
        return [reply.pause_ms for reply in self.replies if reply.pause_ms is not None]


def occupied() -> socket.socket:
    """A socket that listens on a free loopback port."""
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    made.listen()
    return made


def planned(plan, camera, **labels):
    """The release that a plan names to a camera with these labels; None where it does not speak of it."""
    group = plan.group_for(camera, labels)
    return None if group is None else group.release
