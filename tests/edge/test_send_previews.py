"""Previews by the real sending thread and spool: what it offers, what it strips, and what it says is gone."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.send import Sending
from edge.spool import Spool
from edge.waiting import offer_of
from shared import topics
from shared.bus import Message
from shared.clock import SystemClock
from shared.messages import Event, Gone, HubStatus, Reply, decode, encode
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA, Wires
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.messages import event_of, ident

SIZE = 1000


class Camera:
    """A spool and a sending thread on a broker in memory."""

    def __init__(
        self,
        broker: FakeBroker,
        folder: Path,
        *,
        limit: int = 1 << 20,
        name: str = "camera",
        embeddings: bool = False,
    ) -> None:
        clock = SystemClock()
        self.spool = Spool(folder / "spool", limit=limit, quarantine_limit=1 << 20, keep_s=0, clock=clock)
        self.bus = FakeBus(broker, name)
        self.errors: Counter[str] = Counter()
        self.sending = Sending(
            *(CAMERA, self.bus, self.spool, clock, self.errors),
            memory=folder / "epoch",
            noted=folder / "noted",
            embeddings=embeddings,
        )
        self.sending.start()
        self.bus.start(Wires(self.bus, sending=self.sending))

    def add(self, number: int, *, held: bool = True, **fields: object) -> Event:
        more = {"held": held, "thumbnail": "/9j/", "embedding": "ADwA", "backbone": "ab" * 32}
        event, data = event_of(number, size=SIZE, **more, **fields)
        self.spool.add(event, data)
        self.sending.spooled(offer_of(event))
        return event

    def stop(self) -> None:
        self.sending.stop()
        self.bus.stop()


class Hub:
    """A hub played by hand."""

    def __init__(self, broker: FakeBroker) -> None:
        self.bus = FakeBus(broker, "hub")
        self.heard = Recorder()
        self.bus.subscribe(topics.uploads())
        self.bus.start(self.heard)
        self.beats = 0

    def beat(self, *, boot: str = "b1", epoch: str = "e1") -> None:
        for _ in range(2):
            self.beats += 1
            status = HubStatus(online=True, boot=boot, beat=self.beats, beat_s=10.0, epoch=epoch, credit=1 << 20)
            self.bus.publish(topics.hub_status("hub"), encode(status))

    def reply(self, **fields: object) -> None:
        self.bus.publish(topics.reply(CAMERA), encode(Reply(**fields)))  # type: ignore[arg-type]

    def on(self, leaf: str) -> list[Message]:
        return [one for one in list(self.heard.messages) if one.topic.split("/")[4] == leaf]

    @property
    def events(self) -> list[Event]:
        return [decode(one.payload, Event) for one in self.on("event")]

    @property
    def gone(self) -> list[str]:
        return [one for message in self.on("gone") for one in decode(message.payload, Gone).ids]

    @property
    def image(self) -> bytes:
        return b"".join(one.payload for one in self.on("chunk"))


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def hub(broker: FakeBroker) -> Iterator[Hub]:
    one = Hub(broker)
    yield one
    one.bus.stop()


@pytest.fixture
def make_camera(broker: FakeBroker, tmp_path: Path) -> Iterator[Callable[..., Camera]]:
    made: list[Camera] = []

    def make(**more: int) -> Camera:
        for one in made[-1:]:
            one.stop()
        made.append(Camera(broker, tmp_path, name=f"camera-{len(made)}", **more))
        return made[-1]

    yield make
    made[-1].stop()


def settled(camera: Camera) -> None:
    """The thread has read all notes, and looked at what they mean."""
    done: list[bool] = []
    for _ in range(2):
        camera.sending._inbox.put(lambda: done.append(True))
    wait_until(lambda: len(done) == 2, "the notes to be read")
    camera.sending._inbox.put(lambda: done.append(True))
    wait_until(lambda: len(done) == 3, "another round")


def test_a_preview_is_offered_whole_and_the_image_without_it(hub: Hub, make_camera: Callable[..., Camera]) -> None:
    camera = make_camera()
    hub.beat()
    event = camera.add(1)
    wait_until(lambda: hub.events, "the preview")
    [offered] = hub.events
    assert (offered.held, offered.follows, offered.thumbnail, offered.embedding) == (True, False, "/9j/", "ADwA")
    hub.reply(noted=[event.id])
    hub.reply(resend={event.id: [(0, 3)]})
    wait_until(lambda: len(hub.image) == SIZE, "the image")
    assert hub.image == event_of(1, size=SIZE)[1]
    hub.beat(boot="b2")  # a new hub: what is on its way is asked for, as an image
    wait_until(lambda: len(hub.events) == 2, "the question")
    assert (hub.events[1].held, hub.events[1].thumbnail, hub.events[1].embedding) == (False, None, None)
    hub.reply(stored=[event.id])
    wait_until(lambda: camera.spool.state().left == 0, "the spool to let go")
    assert hub.gone == []


@pytest.mark.parametrize(
    ("why", "embeddings", "carried"), [("audit", True, True), ("audit", False, False), ("margin", True, False)]
)
def test_what_is_not_held_carries_an_embedding_only_as_part_of_the_random_sample(
    hub: Hub, make_camera: Callable[..., Camera], *, why: str, embeddings: bool, carried: bool
) -> None:
    camera = make_camera(embeddings=embeddings)
    hub.beat()
    camera.add(1, held=False, why=why)
    wait_until(lambda: hub.events, "the event")
    [sent] = hub.events
    assert (sent.held, sent.thumbnail) == (False, None)
    assert (sent.embedding, sent.backbone) == (("ADwA", "ab" * 32) if carried else (None, None))


def test_noted_ones_are_not_offered_after_a_restart_until_the_epoch_changes(
    hub: Hub, make_camera: Callable[..., Camera]
) -> None:
    camera = make_camera()
    hub.beat()
    camera.add(1)
    camera.add(2)
    wait_until(lambda: len(hub.events) == 2, "two previews")
    hub.reply(noted=[ident(1)])
    settled(camera)
    camera = make_camera()
    hub.beat()
    wait_until(lambda: len(hub.events) == 3, "the one that was not noted")
    settled(camera)
    assert hub.events[2].id == ident(2)
    hub.reply(noted=[ident(2)])
    settled(camera)
    hub.beat(epoch="e2")
    wait_until(lambda: len(hub.events) == 5, "both again")
    settled(camera)
    camera = make_camera()
    hub.beat(epoch="e2")
    wait_until(lambda: len(hub.events) == 7, "both again: the new epoch has noted neither")


def test_a_camera_that_never_heard_an_epoch_trusts_no_memory(
    hub: Hub, make_camera: Callable[..., Camera], tmp_path: Path
) -> None:
    (tmp_path / "noted").write_text(f"{ident(1)} 256\n")
    camera = make_camera()
    camera.add(1)
    camera = make_camera()
    hub.beat()
    wait_until(lambda: hub.events, "the preview")


def test_an_evicted_preview_is_told_at_once_or_when_the_line_is_back(
    hub: Hub, make_camera: Callable[..., Camera]
) -> None:
    camera = make_camera(limit=5 * 8192)
    hub.beat()
    for number in range(1, 6):
        camera.add(number, value=number / 10)
    wait_until(lambda: len(hub.events) == 5, "five previews")
    hub.reply(noted=[ident(number) for number in range(1, 6)])
    camera.add(6, value=0.9)
    wait_until(lambda: hub.gone == [ident(1)], "the word that it is gone")
    camera.bus.cut()
    camera.add(7, value=0.9)
    camera.add(8, value=0.9)
    settled(camera)
    assert hub.gone == [ident(1)]
    camera.bus.mend()
    wait_until(lambda: len(hub.gone) == 3, "the rest")
    assert sorted(hub.gone) == [ident(1), ident(2), ident(3)]


def test_what_was_never_offered_needs_no_word(hub: Hub, make_camera: Callable[..., Camera]) -> None:
    camera = make_camera(limit=2 * 8192)
    for number in range(1, 5):
        camera.add(number, value=number / 10)
    settled(camera)
    hub.beat()
    wait_until(lambda: len(hub.events) == 2, "those that are left")
    settled(camera)
    assert hub.gone == []


def test_what_the_hub_asks_for_and_is_not_there_is_told(hub: Hub, make_camera: Callable[..., Camera]) -> None:
    camera = make_camera()
    hub.beat()
    hub.reply(resend={ident(9): [(0, 3)]})
    wait_until(lambda: hub.gone == [ident(9)], "the word that it is not there")
    settled(camera)
    assert hub.gone == [ident(9)]


def test_a_held_image_that_cannot_be_read_any_more_is_gone(
    hub: Hub, make_camera: Callable[..., Camera], tmp_path: Path
) -> None:
    camera = make_camera()
    hub.beat()
    event = camera.add(1)
    wait_until(lambda: hub.events, "the preview")
    hub.reply(noted=[event.id])
    settled(camera)
    [image] = (tmp_path / "spool").rglob("*_IM.png")
    image.write_bytes(b"short")
    hub.reply(resend={event.id: [(0, 3)]})
    wait_until(lambda: hub.gone == [event.id], "the word that it is gone")
    assert camera.spool.state().torn == 1
    settled(camera)
    assert hub.gone == [event.id], "once"
