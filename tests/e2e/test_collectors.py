"""Two real collectors beside each other and cameras of two sites: one dies, comes back, another freezes and wakes."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from sqlmodel import select

from edge.send import Sending
from edge.spool import Spool
from hub.settings import read
from hub.store import open_store
from hub.tables import Image, Lease
from shared import topics
from shared.clock import SystemClock
from shared.files import sha256_hex
from shared.messages import HubStatus, Reply, Status, decode, encode
from shared.mqtt import PahoBus
from shared.topics import CameraTopic, HubTopic
from shared.transfer import Offer
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.mosquitto import Mosquitto
from tests.hub.making import event_of, toml_in

SITES = ("berlin", "paris")
CAMERAS = [f"{site}/cam-{number}" for site in SITES for number in (1, 2)]
SIZE, CHUNK = 20_000, 8192


class Camera:
    """A spool and the thread that sends it, on a connection of its own."""

    def __init__(self, name, broker, folder):
        self.name = name
        self.spool = Spool(
            folder / name.replace("/", "__"), limit=1 << 30, quarantine_limit=1 << 20, keep_s=0.0, clock=SystemClock()
        )
        self.bus = PahoBus(broker.settings_for(name), client_id=f"hone/{name}", max_delay=1)
        self.errors = Counter()
        self.sending = Sending(name, self.bus, self.spool, SystemClock(), self.errors)
        self.bus.subscribe([topics.hub_status("+"), topics.reply(name)])
        self.sending.start()
        self.bus.start(self)

    def connected(self):
        self.bus.publish(topics.status(self.name), encode(Status(online=True, boot="1")), retain=True)
        self.sending.connected()

    def disconnected(self, reason):
        self.sending.disconnected()

    def message(self, message):
        match topics.parse(message.topic):
            case HubTopic(name=name):
                self.sending.hub(name, decode(message.payload, HubStatus), retained=message.retained)
            case CameraTopic(leaf="reply"):
                self.sending.reply(decode(message.payload, Reply))

    def add(self, serial):
        data = serial.to_bytes(8, "big") + os.urandom(SIZE - 8)
        event = event_of(data, at=SystemClock().utc(), chunk_size=CHUNK)
        self.spool.add(event, data)
        self.sending.spooled(Offer(event.id, event.size, event.chunk_size, event.value))
        return event.id

    def stop(self):
        self.sending.stop()
        self.bus.stop()


class Feed:
    """Frames that never cease: each camera in turn gets an event, with a serial in its bytes."""

    def __init__(self, cameras):
        self.given = {}  # (camera, event id) -> serial
        self._cameras = cameras
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self):
        self._thread.start()

    def stop(self):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(0.02):
            camera = self._cameras[len(self.given) % len(self._cameras)]
            serial = len(self.given)
            self.given[camera.name, camera.add(serial)] = serial


class Plant:
    """Broker, settings, collectors by name and a watcher of their statuses."""

    def __init__(self, folder):
        self.folder = folder
        self.broker = Mosquitto(folder / "broker", ["hub", "scada", *CAMERAS])
        self.broker.start()
        password = self.broker.folder / "clear" / "hub"
        more = "[collect]\nenabled = false\n"
        self.config = toml_in(folder, mqtt=self.broker.port, password=str(password), more=more)
        self.settings = read(self.config)
        self.processes = {}
        self.begun = []  # all of them
        self.store = open_store(self.settings)
        self.watcher = PahoBus(self.broker.settings_for("hub"), client_id="watcher")
        self.seen = Recorder()
        self.watcher.subscribe([topics.hub_status("+")])
        self.watcher.start(self.seen)

    def begin(self, name, *sites):
        arguments = [one for site in sites for one in ("--site", site)]
        command = [sys.executable, "-m", "hub", "collect", *arguments, "--name", name, "--config", str(self.config)]
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log)
        self.begun.append(self.processes[name])
        return self.processes[name]

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def statuses(self, name, after=0):
        mine = [one for one in self.seen.messages[after:] if one.topic == topics.hub_status(name)]
        return [decode(one.payload, HubStatus) for one in mine]

    def serves(self, name, *sites, after=0):
        """Whether the last status of a collector, no older than a place in what was seen, names exactly these."""
        last = self.statuses(name, after)[-1:]
        return bool(last) and last[0].online == bool(sites) and last[0].sites == sorted(sites)

    def wait_serving(self, **sites):
        after = len(self.seen.messages)
        for name, ones in sites.items():
            wait_until(
                lambda name=name, ones=ones: self.serves(name, *ones, after=after), f"{name} serves {ones}", seconds=60
            )

    def freeze(self, name, *, committing):
        """SIGSTOP while the collector holds SQLite's one write lock, in the middle of a commit; or while it does not:
        with that, everybody would wait for it.
        """
        probe = sqlite3.connect(self.settings.state_folder / "hone.db", timeout=1, isolation_level=None)
        deadline = time.monotonic() + 60
        while True:
            self.processes[name].send_signal(signal.SIGSTOP)
            try:
                probe.execute("BEGIN IMMEDIATE")
                probe.execute("ROLLBACK")
                held = False
            except sqlite3.OperationalError:
                held = True
            if held == committing:
                probe.close()
                return
            assert time.monotonic() < deadline
            self.processes[name].send_signal(signal.SIGCONT)
            time.sleep(0.01)

    def stored(self, site):
        with self.store.read() as session:
            return set(session.exec(select(Image.event_id).where(Image.camera.startswith(f"{site}/"))))

    def wait_for_more(self, site):
        """That images come in which were not there yet."""
        before = len(self.stored(site))
        wait_until(lambda: len(self.stored(site)) > before + 20, f"more images of {site}", seconds=60)

    def end(self):
        for one in self.begun:
            one.send_signal(signal.SIGCONT)
            one.terminate()
        for one in self.begun:
            try:
                one.wait(30)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        self.watcher.stop()
        self.store.close()
        self.broker.stop()


@pytest.fixture
def plant(tmp_path):
    made = Plant(tmp_path)
    yield made
    made.end()


def test_every_image_is_stored_once_whoever_dies_and_whoever_takes_over(plant, tmp_path):
    plant.begin("x", "berlin")
    plant.begin("y", "paris")
    plant.wait_serving(x=["berlin"], y=["paris"])
    cameras = [Camera(name, plant.broker, tmp_path / "spools") for name in CAMERAS]
    feed = Feed(cameras)
    feed.start()
    try:
        for site in SITES:
            plant.wait_for_more(site)

        plant.freeze("x", committing=True)
        plant.processes["x"].kill()
        plant.processes["x"].wait()
        plant.wait_serving(y=["berlin", "paris"])
        for site in SITES:
            plant.wait_for_more(site)

        plant.begin("x", "berlin")
        plant.wait_serving(x=["berlin"], y=["paris"])
        for site in SITES:
            plant.wait_for_more(site)

        plant.freeze("y", committing=False)
        plant.wait_serving(x=["berlin", "paris"])
        for site in SITES:
            plant.wait_for_more(site)
        awake = len(plant.seen.messages)
        plant.processes["y"].send_signal(signal.SIGCONT)
        wait_until(lambda: len(plant.statuses("y", awake)) >= 2, "signs of life of the one that was frozen", seconds=30)
        # A beat may have been on its way when the process froze; after that it knows that it has nothing.
        assert not all(one.online for one in plant.statuses("y", awake)[:2])
        plant.wait_serving(x=["berlin"], y=["paris"])
        for site in SITES:
            plant.wait_for_more(site)

        plant.processes["x"].terminate()
        assert plant.processes["x"].wait(30) == 0
        plant.wait_serving(y=["berlin", "paris"])
        for site in SITES:
            plant.wait_for_more(site)
    finally:
        feed.stop()
        try:
            wait_until(lambda: not any(one.spool.state().left for one in cameras), "empty spools", seconds=60)
        finally:
            for one in cameras:
                one.stop()

    plant.processes["y"].terminate()
    assert plant.processes["y"].wait(30) == 0
    with plant.store.read() as session:
        images = session.exec(select(Image)).all()
        assert {one.owner for one in session.exec(select(Lease))} == {""}
    assert sorted((one.camera, one.event_id) for one in images) == sorted(feed.given)
    serials = {}
    for one in images:
        data = plant.store.blobs.read(one.sha256)
        assert sha256_hex(data) == one.sha256
        serials[one.camera, one.event_id] = int.from_bytes(data[:8], "big")
    assert serials == feed.given
    for one in cameras:
        state = one.spool.state()
        assert (state.stored, state.left, state.quarantined, state.dropped) == (state.spooled, 0, 0, 0)
        assert not one.errors
    for name in "xy":
        assert "Traceback" not in plant.log(name)


def test_a_second_collector_of_one_name_ends_and_the_first_one_never_notices(plant):
    plant.begin("x", "berlin")
    plant.wait_serving(x=["berlin"])
    first = plant.processes["x"]
    twin = plant.begin("x", "berlin")
    assert twin.wait(60) == 1
    assert plant.log("x").splitlines()[-1].startswith("hone-hub: x: is the name of another collector that runs")
    assert first.poll() is None
    assert {one.boot for one in plant.statuses("x")} == {plant.statuses("x")[0].boot}
    assert "disconnected" not in plant.log("x")
    plant.wait_serving(x=["berlin"])
