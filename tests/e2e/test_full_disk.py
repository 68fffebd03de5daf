"""`hone-hub serve` starts on a disk that is full to the last byte: cameras wait, pages answer, and all goes on when
there is room again.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from hub.broker import free_port
from shared import topics
from shared.messages import HubStatus, Reply, Status, decode, encode
from shared.mqtt import PahoBus
from tests.fakes.listener import Recorder, wait_until
from tests.hub.making import event_of, picture, toml_in

ROOT = Path(__file__).parents[2]
CAMERA = "site/cam-1"
OWN = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module", autouse=True)
def _may_mount():
    command = [*OWN, "mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")


class Scene:
    """A hub on a full disk, a camera at its broker, and the hub's page."""

    def __init__(self, folder, broker):
        self.port = free_port()
        password = broker.folder / "clear" / "hub"
        more = "[collect]\nfree_mb = 16\nimage_mb = 1\npartial_mb = 4\n"
        self.config = toml_in(folder, mqtt=broker.port, password=str(password), web=self.port, more=more)
        self.name = f"hub-{folder.name[-20:]}"
        self.camera = PahoBus(broker.settings_for(CAMERA), client_id="camera", max_delay=1)
        self.heard = Recorder()
        self.log = folder / "log"

    @contextmanager
    def serving(self, end, reserve, *, asked=True):
        command = [*OWN, sys.executable, "-m", "tests.e2e.full_disk", str(self.config), end, reserve]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.camera.subscribe([topics.reply(CAMERA), topics.hub_status(self.name)])
        self.camera.start(self.heard)
        self.heard.wait_connected()
        try:
            yield
        finally:
            self.camera.stop()
            self.process.communicate(b"end\n" if asked else b"", timeout=90)

    def free(self):
        self.process.stdin.write(b"free\n")
        self.process.stdin.flush()

    def wait(self, true, what):
        def look():
            assert self.process.poll() is None, self.log.read_text()
            return true()

        try:
            wait_until(look, what, seconds=120)
        except AssertionError as error:
            raise AssertionError(f"{error}; the hub said: {self.log.read_text()}") from error

    def accepts(self):
        found = [
            one.payload for one in self.heard.messages if one.topic == topics.hub_status(self.name) and one.payload
        ]
        return decode(found[-1], HubStatus).accepts if found else None

    def replies(self):
        return [decode(one.payload, Reply) for one in self.heard.messages if one.topic == topics.reply(CAMERA)]

    def page(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read()


@pytest.fixture
def scene(tmp_path, make_broker):
    broker = make_broker()
    broker.start()
    return Scene(tmp_path, broker)


@pytest.mark.parametrize(("end", "reserve"), [("ended", "kept"), ("killed", "kept"), ("killed", "none")])
def test_it_starts_cameras_wait_pages_answer_and_it_goes_on_when_there_is_room(scene, end, reserve):
    data = picture(1)
    event = event_of(data, chunk_size=1 << 20)
    with scene.serving(end, reserve):
        scene.wait(lambda: scene.accepts() is False, "a hub that takes nothing")
        scene.camera.publish(topics.status(CAMERA), encode(Status(online=True, boot="b1")), retain=True)
        scene.camera.publish(topics.event(CAMERA), encode(event))
        scene.wait(lambda: any(one.pause_ms for one in scene.replies()), "a pause")
        assert json.loads(scene.page("/api/overview"))["project"] == "cells"
        assert len(json.loads(scene.page("/api/images"))["items"]) == 1
        assert b"<html" in scene.page("/")
        scene.free()
        scene.wait(scene.accepts, "a hub that takes images again")
        scene.camera.publish(topics.event(CAMERA), encode(event))
        scene.camera.publish(topics.chunk(CAMERA, event.id, 0), data)
        scene.wait(lambda: any(event.id in one.stored for one in scene.replies()), "stored")

        def online() -> bool:
            return [one["online"] for one in json.loads(scene.page("/api/cameras"))] == [True]

        scene.wait(online, "what cameras said meanwhile, written now that there is room")
    assert scene.process.returncode == 0
    assert "Traceback" not in scene.log.read_text()


def test_without_a_reserve_sqlite_cannot_open_its_log_and_the_error_says_what_to_do(scene):
    with scene.serving("ended", "none", asked=False):
        pass
    lines = [one for one in scene.log.read_text().splitlines() if one]
    assert scene.process.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith("hone-hub: sqlite:///")
    assert lines[0].endswith("Its disk is full, and SQLite needs room even to read: make some")
