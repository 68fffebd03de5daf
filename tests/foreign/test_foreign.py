"""A camera in JavaScript that knows no more than docs/protocol.md, and the real hub behind a real broker."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlmodel import select

from hub import keys
from hub.settings import read
from hub.store import open_store
from hub.tables import Image
from shared import topics
from shared.clock import SystemClock
from shared.files import chunk_count, sha256_hex
from shared.messages import Event, HubStatus, Reply, Status, decode, encode, split_attached
from shared.mqtt import PahoBus
from shared.topics import CameraTopic, ChunkTopic
from tests.fakes.listener import Recorder, wait_until
from tests.hub.making import toml_in

ROOT = Path(__file__).parents[2]
CAMERA = "site/cam-1"
CHUNK = 4096
SIZES = {"byte.png": 1, "chunk.png": CHUNK, "more.png": CHUNK + 1, "several.png": 5 * CHUNK - 1, "many.png": 300_000}


class Scene:
    """A broker, a state folder for a hub that can be killed, a camera's folder of images, and all that is published."""

    def __init__(self, folder, broker):
        self.broker = broker
        self.images = folder / "images"
        self.images.mkdir()
        self.config = toml_in(folder, mqtt=broker.port, password=str(broker.folder / "clear" / "hub"))
        settings = read(self.config)
        keys.make(settings.state_folder / "keys", SystemClock())
        self.partials = settings.state_folder / "partials" / settings.name
        self.store = open_store(settings)
        self.log = folder / "log"
        self.hub = self.camera = None
        self.watcher = PahoBus(broker.settings_for("hub"), client_id="watcher", max_delay=1)
        self.seen = Recorder()
        self.watcher.subscribe(["hone/camera/#", "hone/hub/#"])
        self.watcher.start(self.seen)
        self.seen.wait_connected()

    def close(self):
        for one in (self.camera, self.hub):
            if one is not None:
                one.kill()
                one.communicate(timeout=10)
        self.watcher.stop()
        self.store.close()

    def add(self, sizes):
        """Images whose bytes are no image: the hub keeps them all the same. Returns name -> bytes."""
        made = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
        for name, data in made.items():
            (self.images / name).write_bytes(data)
        return made

    def start_hub(self):
        command = [sys.executable, "-m", "hub", "serve", "--config", str(self.config)]
        with open(self.log, "ab") as log:
            self.hub = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def end_hub(self, how):
        self.hub.send_signal(how)
        self.hub.wait(20)

    def start_camera(self, **options):
        places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
        node = shutil.which("node", path=places)
        assert node is not None, "there is no Node.js; make setup installs it"
        assert (ROOT / "node_modules/mqtt").is_dir(), "the library mqtt is missing; make setup installs it"
        config = {
            "folder": str(self.images), "camera": CAMERA, "port": self.broker.port, "project": "cells",
            "password_file": str(self.broker.folder / "clear" / CAMERA.replace("/", "__")),
            "chunk_size": CHUNK, "attach": True, "patience_s": 60, "leave_out": {}, **options,
        }  # fmt: skip
        command = [node, str(ROOT / "tests/foreign/camera.mjs"), json.dumps(config)]
        with open(self.log, "ab") as log:
            self.camera = subprocess.Popen(command, cwd=self.images, stdout=subprocess.PIPE, stderr=log)

    def finish_camera(self, code=0):
        """What the camera reports at its end."""
        printed, _ = self.camera.communicate(timeout=60)
        assert self.camera.returncode == code, printed
        return json.loads(printed)

    def wait_camera(self):
        """Until the camera is connected and has subscribed."""
        self.seen.wait_message(topics.status(CAMERA), encode(Status(online=True, boot=self.boot_of_camera())))

    def boot_of_camera(self):
        wait_until(lambda: topics.status(CAMERA) in self.seen.topics, "the camera's status")
        [first, *_] = [one for one in self.seen.messages if one.topic == topics.status(CAMERA)]
        return decode(first.payload, Status).boot

    @property
    def sent(self):
        """What the camera published of its images: (event, its first chunk or None) and (id, index)."""
        found = []
        for one in list(self.seen.messages):
            match topics.parse(one.topic):
                case CameraTopic(leaf="event"):
                    text, first = split_attached(one.payload)
                    found.append((decode(text, Event), first))
                case ChunkTopic(event=event, index=index):
                    found.append((event, index))
        return found

    @property
    def replies(self):
        return [decode(one.payload, Reply) for one in list(self.seen.messages) if one.topic == topics.reply(CAMERA)]

    def rows(self):
        with self.store.read() as session:
            return {one.sha256: one for one in session.exec(select(Image)).all()}

    def kept(self):
        """Chunks of unfinished images on the hub's disk: index -> bytes."""
        return {one.name: one.stat().st_size for one in self.partials.glob("*/*") if one.name.isdigit()}

    def check_stored(self, images, report):
        """Every image has its row and its bytes, once; the camera has none of them any more."""
        assert sorted(report["stored"]) == sorted(images)
        with self.store.read() as session:
            rows = session.exec(select(Image)).all()
        assert sorted(one.sha256 for one in rows) == sorted(map(sha256_hex, images.values()))
        assert {(one.camera, one.project, one.ext) for one in rows} == {(CAMERA, "cells", "png")}
        for data in images.values():
            assert self.store.blobs.read(sha256_hex(data)) == data
        assert {one.name for one in self.images.iterdir()} <= {"refused"}


@pytest.fixture
def scene(tmp_path, make_broker):
    broker = make_broker()
    broker.start()
    with contextlib.closing(Scene(tmp_path, broker)) as made:
        yield made


@pytest.mark.parametrize("attach", [True, False], ids=["attached", "plain"])
def test_images_of_all_lengths_are_stored_and_only_a_living_hub_is_sent_any(scene, attach):
    ghost = HubStatus(online=True, boot="dead", beat=7, credit=1 << 20, attach=1 << 20)
    scene.watcher.publish(topics.hub_status("ghost"), encode(ghost), retain=True)
    images = scene.add(SIZES)
    scene.start_camera(attach=attach)
    scene.wait_camera()
    scene.start_hub()
    report = scene.finish_camera()
    scene.check_stored(images, report)
    assert (report["refused"], report["resend"], report["pauses"]) == ({}, {}, 0)
    assert report["attached"] == (len(images) if attach else 0)
    assert report["chunks"] == {name: [*range(chunk_count(size, CHUNK))] for name, size in SIZES.items()}

    lives = [
        at
        for at, one in enumerate(scene.seen.messages)
        if one.topic.startswith("hone/hub/hub-") and decode(one.payload, HubStatus).online
    ]
    first_event = next(at for at, one in enumerate(scene.seen.messages) if one.topic == topics.event(CAMERA))
    assert lives[0] < first_event
    by_hash = scene.rows()
    offered = [(event, first) for event, first in scene.sent if isinstance(event, Event)]
    for event, first in offered:
        assert first == (next(d for d in images.values() if sha256_hex(d) == event.sha256)[:CHUNK] if attach else None)
        assert by_hash[event.sha256].event_id == event.id
    assert len(offered) == len(images)


def test_a_chunk_that_got_lost_is_asked_for_and_sent_alone(scene):
    images = scene.add({"a.png": 5 * CHUNK, "b.png": 10})
    scene.start_hub()
    scene.start_camera(leave_out={"a.png": [1, 3]})
    report = scene.finish_camera()
    scene.check_stored(images, report)
    assert report["resend"] == {"a.png": [[[1, 1], [3, 3]]]}
    assert report["chunks"]["a.png"] == [0, 2, 4, 1, 3]


def test_a_hub_killed_in_the_middle_asks_for_no_more_than_it_misses(scene):
    images = scene.add({"a.png": 6 * CHUNK - 100, "b.png": 10, "c.png": 2 * CHUNK})
    scene.start_hub()
    scene.start_camera(leave_out={"a.png": [5]})  # its last one: the hub stays silent, and the camera patient
    wait_until(lambda: len(scene.rows()) == 2, "the other images are stored", seconds=90)
    wait_until(lambda: scene.kept() == {str(at): CHUNK for at in range(5)}, "the rest is on the hub's disk", seconds=90)
    scene.end_hub(signal.SIGKILL)
    assert scene.camera.poll() is None
    scene.start_hub()
    report = scene.finish_camera()
    scene.check_stored(images, report)
    assert len(report["boots"]) == 2
    assert report["resend"] == {"a.png": [[[5, 5]]]}
    assert report["chunks"]["a.png"] == [0, 1, 2, 3, 4, 5]


def test_no_more_is_on_its_way_than_the_credit_and_the_camera_asks_when_the_hub_is_silent(scene):
    images = scene.add({f"{number}.png": 300_000 for number in range(5)})
    scene.start_hub()

    def first_credits():
        told = [one for one in list(scene.seen.messages) if one.topic.startswith("hone/hub/hub-")]
        return [decode(one.payload, HubStatus).credit for one in told]

    wait_until(lambda: 1 << 20 in first_credits(), "a hub that knows who is there", seconds=60)
    scene.start_camera(chunk_size=65536, patience_s=2, leave_out={name: [4] for name in images})
    report = scene.finish_camera()
    scene.check_stored(images, report)
    events = [event for event, _ in scene.sent if isinstance(event, Event)]
    offered = list(itertools.takewhile(lambda event: event.follows, events))
    assert len(offered) == 3  # of 300000 bytes each; the first credit is 1048576
    assert not events[3].follows
    assert {tuple(one) for one in report["chunks"].values()} == {(0, 1, 2, 3, 4)}


def test_while_the_hub_cannot_store_the_camera_pauses_and_keeps_its_images(scene):
    images = scene.add({"a.png": CHUNK, "b.png": 3 * CHUNK})
    with scene.store.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER broken BEFORE INSERT ON image BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    scene.start_hub()
    scene.start_camera()
    wait_until(lambda: any(one.pause_ms for one in scene.replies), "a pause", seconds=90)
    assert {one.name for one in scene.images.glob("*.png")} == set(images)
    with scene.store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER broken")
    report = scene.finish_camera()
    scene.check_stored(images, report)
    assert report["pauses"] >= 1


def test_what_is_refused_is_kept_aside_and_the_rest_goes_on(scene):
    images = scene.add({"a.png": 1000})
    scene.start_hub()
    scene.start_camera()
    scene.check_stored(images, scene.finish_camera())
    [(event, _)] = scene.sent
    other = scene.add({"a.png": 2000, "b.png": 10})
    note = json.loads(encode(event)) | {"size": 2000, "sha256": sha256_hex(other["a.png"])}  # one id, two images
    (scene.images / "a.png.json").write_text(json.dumps(note))
    scene.start_camera()
    report = scene.finish_camera(code=1)
    assert set(report["refused"]) == {"a.png"}
    assert "sha256" in report["refused"]["a.png"]
    assert report["stored"] == ["b.png"]
    assert (scene.images / "refused/a.png").read_bytes() == other["a.png"]
    assert set(scene.rows()) == {sha256_hex(images["a.png"]), sha256_hex(other["b.png"])}


def test_nothing_is_sent_while_the_hub_does_not_accept(scene):
    images = scene.add({"a.png": CHUNK, "b.png": 3 * CHUNK})
    text = scene.config.read_text()
    scene.config.write_text(text + f"[collect]\nfree_mb = {1 << 40}\n")
    scene.start_camera()
    scene.start_hub()

    def beats():
        told = [one for one in list(scene.seen.messages) if one.topic.startswith("hone/hub/hub-")]
        return [one for one in told if one.topic.endswith("/status") and not decode(one.payload, HubStatus).accepts]

    wait_until(lambda: len(beats()) >= 4, "a hub that lives and accepts nothing", seconds=90)
    scene.end_hub(signal.SIGTERM)
    assert scene.sent == []
    scene.config.write_text(text + "[collect]\nfree_mb = 0\n")
    scene.start_hub()
    scene.check_stored(images, scene.finish_camera())
