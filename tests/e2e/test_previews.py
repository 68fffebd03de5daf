"""Thumbnail first, from end to end: a real broker, the real agent with a real model, the real hub."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from sqlmodel import delete, select

from edge.agent import Agent
from edge.noted import Noted
from edge.settings import read
from hub import epoch, keys, settings
from hub.daemon import Daemon
from hub.store import open_store
from hub.tables import Image, Preview
from shared import topics
from shared.clock import SystemClock
from shared.messages import Event, Gone, Reported, decode
from shared.mqtt import PahoBus
from shared.preprocess import decode as decode_image
from shared.preprocess import encode_png
from tests.fakes.hub import Registry, parts
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.mosquitto import Mosquitto
from tests.hub.making import toml_in

CAMERA = "site/cam-1"
MODEL = parts(beta=1.0)
PREVIEW_MOST = 6000
"""Bytes of an offered preview: a thumbnail of 3 kB in base64, a small embedding, and the words."""
_numbers = itertools.count()


def picture(seed: int) -> bytes:
    """A PNG of 100 kB: grain on a colour of its own."""
    pixels = np.random.default_rng(seed).integers(0, 60, (180, 200, 3), np.uint8)
    pixels[..., seed % 3] += np.uint8(60 + 10 * (seed % 12))
    return encode_png(pixels)


class Plant:
    """A broker, a hub, a camera, and somebody who counts what travels."""

    def __init__(self, folder: Path, broker: Mosquitto, key_folder: Path) -> None:
        self.folder, self.broker, self.clock = folder, broker, SystemClock()
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        self.heard = Recorder()
        self.bus = PahoBus(broker.settings_for("hub"), client_id="listener", max_delay=1)
        self.bus.subscribe([*topics.uploads(), topics.reported(CAMERA)])
        self.bus.start(self.heard)
        self.heard.wait_connected()
        self.registry = Registry(key_folder, self.bus, self.clock)
        self.registry.release(7, MODEL)
        self.registry.plan(7)
        self.store = None
        self.daemon: Daemon | None = None
        self._agent: tuple[Agent, threading.Thread] | None = None

    # -- the hub

    def start_hub(self, more: str = "") -> Daemon:
        config = toml_in(
            self.folder, mqtt=self.broker.port, password=str(self.broker.folder / "clear" / "hub"), more=more
        )
        found = settings.read(config)
        if not (found.state_folder / "keys").exists():
            keys.make(found.state_folder / "keys", self.clock)
        self.store = self.store or open_store(found)
        self.daemon = Daemon(found, config, self.store, self.clock)
        self.daemon.start()
        return self.daemon

    def stop_hub(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon = None

    @property
    def previews(self) -> dict[str, Preview]:
        with self.store.read() as session:
            return {one.event_id: one for one in session.exec(select(Preview).order_by(Preview.id))}

    @property
    def images(self) -> dict[str, Image]:
        with self.store.read() as session:
            return {one.event_id: one for one in session.exec(select(Image).order_by(Image.id))}

    # -- the camera

    def show(self, *seeds: int) -> None:
        """Drop pictures in front of the camera."""
        for seed in seeds:
            aside = self.folder / f"{seed}.tmp"
            aside.write_bytes(picture(seed))
            aside.rename(self.pictures / f"{next(_numbers):04}.png")

    def start_camera(self, *, more: str = "", limit: int = 64) -> None:
        mqtt = self.broker.settings_for(CAMERA)
        path = self.folder / "edge.toml"
        path.write_text(
            f'camera = "{CAMERA}"\nproject = "cells"\nroot_key = "{self.registry.root}"\nreport_s = 0.2\n'
            f'clock = "trusted"\nstate = "camera"\n[capture]\nsource = "pictures"\nwatch = true\nqueue = 100\n'
            f'[mqtt]\nport = {mqtt.port}\npassword_file = "{mqtt.password_file}"\n'
            '[triage]\nstrategy = "low_score"\nwindow = 1\ntop = 1\nlow_score = 1.0\naudit = 0.0\nduplicate = 1.01\n'
            f"[spool]\nlimit_mb = {limit}\nkeep_hours = 0\n[link]\npreviews = true\n{more}"
        )
        agent = Agent(read(path), self.clock)
        thread = threading.Thread(target=agent.run)
        thread.start()
        self._agent = agent, thread
        before = len(self.reports)
        wait_until(lambda: any(one.release == 7 for one in self.reports[before:]), "a model", seconds=20)

    def stop_camera(self) -> None:
        if self._agent is not None:
            agent, thread = self._agent
            self._agent = None
            agent.stop()
            thread.join(20)
            assert not thread.is_alive()

    @property
    def reports(self) -> list[Reported]:
        return [decode(one.payload, Reported) for one in self._on("reported") if one.payload]

    @property
    def spooled(self) -> set[str]:
        return {one.name.removesuffix("_MD.json") for one in (self.folder / "camera" / "spool").rglob("*_MD.json")}

    # -- what travelled

    def _on(self, leaf: str) -> list:
        return [one for one in list(self.heard.messages) if one.topic.split("/")[4] == leaf]

    @property
    def offers(self) -> list[bytes]:
        return [one.payload for one in self._on("event")]

    @property
    def image_bytes(self) -> int:
        return sum(len(one.payload) for one in self._on("chunk"))

    @property
    def gone(self) -> set[str]:
        return {one for message in self._on("gone") for one in decode(message.payload, Gone).ids}

    def stop(self) -> None:
        self.stop_camera()
        self.stop_hub()
        self.bus.stop()
        if self.store is not None:
            self.store.close()


@pytest.fixture
def plant(make_broker: Callable[[], Mosquitto], tmp_path: Path, key_folder: Path) -> Iterator[Plant]:
    broker = make_broker()
    broker.start()
    one = Plant(tmp_path, broker, key_folder)
    yield one
    one.stop()


@pytest.fixture(scope="module")
def key_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signing") / "keys"


def test_a_preview_travels_alone_and_the_image_when_somebody_asks(plant: Plant) -> None:
    plant.start_hub()
    plant.start_camera()
    plant.show(0, 1, 2)
    wait_until(lambda: len(plant.previews) == 3, "three previews", seconds=20)
    rows = plant.previews
    sent = {decode(one, Event).id: decode(one, Event) for one in plant.offers}
    assert sent.keys() == rows.keys() == plant.spooled
    assert plant.image_bytes == 0
    assert plant.images == {}
    assert all(len(one) <= PREVIEW_MOST for one in plant.offers)
    assert all(event.held and not event.follows for event in sent.values())
    data = {event.id: one for one in map(picture, range(3)) for event in sent.values() if event.size == len(one)}
    assert len(data) == 3
    for key, row in rows.items():
        small = decode_image(row.thumbnail)
        assert max(small.shape) == 128
        pixels = decode_image(data[key])
        wanted = cv2.resize(pixels, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
        assert np.abs(small.mean((0, 1)) - wanted.mean((0, 1))).max() < 6, "the same colour"
        vector = np.frombuffer(row.embedding, "<f2")
        # The model's embedding is the mean of each colour, of an image shrunk to 16 x 16, (x - 127) / 128.
        assert vector == pytest.approx((pixels.mean((0, 1)) - 127) / 128, abs=0.02)

    # Neither a restart of the camera nor one of the hub brings the previews again.
    plant.stop_camera()
    offered = len(plant.offers)
    assert offered == 3
    plant.start_camera()
    plant.stop_hub()
    hub = plant.start_hub()
    plant.show(3)
    wait_until(lambda: len(plant.previews) == 4, "the fourth", seconds=20)
    assert len(plant.offers) == offered + 1
    assert plant.image_bytes == 0

    # Somebody opens the second one.
    key = list(rows)[1]
    assert rows[key].id is not None
    hub.ask_preview(rows[key].id)
    wait_until(lambda: key in plant.images, "the image", seconds=20)
    image = plant.images[key]
    assert plant.store.blobs.read(image.sha256) == data[key]
    assert (image.guess, image.score, image.release, image.why) == (
        sent[key].label, sent[key].score, 7, "low_score",
    )  # fmt: skip
    assert plant.image_bytes == len(data[key]), "this image, once, and no other"
    assert len(plant.offers) == offered + 1
    assert key not in plant.previews
    wait_until(lambda: key not in plant.spooled, "the camera to delete its copy")
    assert plant.spooled == set(plant.previews)


def test_what_is_asked_while_the_camera_is_away_comes_when_it_is_back(plant: Plant) -> None:
    hub = plant.start_hub()
    plant.start_camera()
    plant.show(0, 1)
    wait_until(lambda: len(plant.previews) == 2, "two previews", seconds=20)
    plant.stop_camera()
    first, second = plant.previews.values()
    hub.ask_preview(first.id)
    plant.stop_hub()
    plant.start_camera()
    plant.start_hub()
    wait_until(lambda: first.event_id in plant.images, "the image", seconds=20)
    assert list(plant.previews) == [second.event_id]
    assert plant.image_bytes == plant.images[first.event_id].size


def test_without_its_memory_the_camera_offers_previews_again_and_no_harm_is_done(plant: Plant) -> None:
    hub = plant.start_hub()
    plant.start_camera()
    plant.show(0, 1)
    wait_until(lambda: len(plant.previews) == 2, "two previews", seconds=20)
    plant.stop_camera()
    before = {key: row.id for key, row in plant.previews.items()}
    offered = len(plant.offers)
    hub.ask_preview(next(iter(before.values())))
    (plant.folder / "camera" / "noted").unlink()
    plant.start_camera()
    wait_until(lambda: next(iter(before)) in plant.images, "what was asked for", seconds=20)
    wait_until(lambda: len(plant.offers) >= offered + 2, "the previews again", seconds=20)
    assert {key: row.id for key, row in plant.previews.items()} == dict(list(before.items())[1:])
    assert plant.image_bytes == next(iter(plant.images.values())).size


def test_an_image_that_had_to_go_is_told_and_its_preview_stays(plant: Plant) -> None:
    plant.start_hub()
    plant.start_camera(limit=1)
    plant.show(*range(6))
    wait_until(lambda: len(plant.previews) == 6, "six previews", seconds=20)
    assert plant.gone == set()
    plant.show(*range(6, 16))
    wait_until(lambda: len(plant.previews) >= 10 and plant.gone, "some to go", seconds=20)
    wait_until(
        lambda: {key for key, row in plant.previews.items() if not row.gone} == plant.spooled, "the books", seconds=20
    )
    gone = {key for key, row in plant.previews.items() if row.gone}
    assert gone == plant.gone & plant.previews.keys()
    assert len(gone) >= 3
    assert all(plant.previews[key].thumbnail for key in gone)
    least = max(plant.previews[key].value for key in gone)
    assert all(row.value >= least for key, row in plant.previews.items() if key not in gone)
    assert plant.image_bytes == 0


def test_what_went_while_nobody_listened_is_told_when_it_is_asked_for(plant: Plant) -> None:
    hub = plant.start_hub()
    plant.start_camera()
    plant.show(0, 1)
    wait_until(lambda: len(plant.previews) == 2, "two previews", seconds=20)
    plant.stop_camera()
    lost, kept = plant.previews.values()
    for path in (plant.folder / "camera" / "spool").rglob(f"{lost.event_id}*"):
        path.unlink()
    hub.ask_preview(lost.id)
    plant.start_camera()
    wait_until(lambda: plant.previews[lost.event_id].gone, "the word of the camera", seconds=20)
    assert plant.gone == {lost.event_id}
    assert not plant.previews[kept.event_id].gone
    assert plant.images == {}


def test_another_epoch_of_the_hub_brings_the_previews_again(plant: Plant) -> None:
    plant.start_hub()
    plant.start_camera()
    plant.show(0, 1)
    wait_until(lambda: len(plant.previews) == 2, "two previews", seconds=20)
    memory = Noted(plant.folder / "camera" / "noted")

    def remembered() -> set[str]:
        memory.load(plant.spooled)
        return {one for one in plant.spooled if memory.get(one)}

    wait_until(lambda: remembered() == plant.spooled, "the camera's memory")
    before = set(plant.previews)
    with plant.store.write() as session:
        session.exec(delete(Preview))
        epoch.begin(session, "a restore", plant.clock.utc())
    wait_until(lambda: set(plant.previews) == before, "the previews again", seconds=20)
    assert plant.image_bytes == 0


def test_the_hub_fetches_the_most_valuable_by_itself(plant: Plant) -> None:
    plant.start_hub()
    plant.start_camera()
    plant.show(*range(4))
    wait_until(lambda: len(plant.previews) == 4, "four previews", seconds=20)
    order = sorted(plant.previews.values(), key=lambda one: (-one.value, -one.id))
    plant.stop_hub()
    # One an hour: the first at once, and no other.
    plant.start_hub("[collect]\nfetch_per_hour = 1\n")
    wait_until(lambda: plant.images, "the first", seconds=20)
    assert plant.daemon is not None
    collector, beat = plant.daemon._collector, plant.daemon._collector._beat
    wait_until(lambda: collector._beat > beat + 12, "some rounds of the hub")
    assert list(plant.images) == [order[0].event_id]
    plant.stop_hub()
    plant.start_hub("[collect]\nfetch_per_hour = 3600\n")
    wait_until(lambda: len(plant.images) == 4, "all of them", seconds=20)
    assert list(plant.images) == [one.event_id for one in order]
    assert plant.previews == {}
    assert plant.image_bytes == sum(one.size for one in plant.images.values())
