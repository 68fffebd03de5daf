"""Bench: a whole fleet comes back after an outage, each camera with a backlog, and one hub takes it all.

    python -m tests.bench.fleet --cameras 1000

Ours: the cameras connect to mosquitto with Hone's configuration (an account and a last will each) and wait for a hub;
then `python -m hub serve` starts. With --hub-first it is the network that comes back: the hub is there, and the cameras
connect all at once. The clock starts with the first offer of any camera, as soon as it believes in the hub, and ends
when every camera was told `stored` for every image. The cameras are the real rules, messages and topics, all in this
one process and thread; their images are made when they are sent, not read from a disk.

Ideal: the same connections, driving loop, window and bytes in the same chunks at QoS 1 by bare paho, to one paho
subscriber in a process of its own that only counts bytes; no hub, nothing is stored; the clock starts with the first
chunk. Connecting is measured apart for both. The ideal runs before and after each of ours, and the median counts; one
more before all, to warm up, does not.

Checked at the end, from the hub's database and blobs: every image of every camera, with the right hash. Exit status 1
when one is missing, when a camera did not finish in time, or when the broker dropped a message.

The last line is one JSON object. hub_rss_mb, broker_rss_mb: most memory ever (VmHWM, MB of 10^6 bytes).
broker_queue_max: most messages in the broker's store beyond those before the start, from $SYS once a second. fairness:
slowest / fastest camera, counted from the common start. time_ratio: ours / ideal.
"""

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from sqlmodel import select

from hub.settings import read
from hub.store import open_store
from hub.tables import Image
from shared.clock import SystemClock
from shared.files import sha256_hex
from tests.fakes.fleet import Backlog, Connection, FleetCamera, Loop, PlainCamera, room_for
from tests.fakes.mosquitto import Mosquitto

PROJECT = "fleet"
CHUNK = 65_536
SYS = "$SYS/broker/"
CONFIG = """\
state = "state"
[project]
name = "fleet"
classes = ["a", "b"]
[mqtt]
port = {port}
username = "hub"
password_file = "{password}"
[web]
port = 0
[retrain]
every_labels = 0
"""


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def memory_mb(pid, key="VmHWM"):
    """MB of a process, now (VmRSS) or at most (VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def cpu_s(pid):
    """Seconds of CPU that a process took, its own and the kernel's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch:
    """What the broker says of itself; with the hub's account, which may read it."""

    def __init__(self, loop, mqtt):
        self.base = 0
        self.most = Counter()
        self.now = Counter()
        names = ["store/messages/count", "store/messages/bytes", "publish/messages/dropped"]
        filters = [SYS + name for name in names]
        self.connection = Connection(loop, mqtt, client_id="fleet-watch", filters=filters, on_message=self._message)

    def _message(self, message):
        name, value = message.topic.removeprefix(SYS), int(message.payload)
        self.now[name] = value
        self.most[name] = max(self.most[name], value)

    def start(self, more):
        """What is in the store now, and so many messages more, is none of the fleet's images."""
        self.base = self.now["store/messages/count"] + more
        self.most.clear()

    @property
    def queue(self):
        return max(0, self.most["store/messages/count"] - self.base)


class Fleet:
    """Broker and connected cameras of one kind, until `close`."""

    def __init__(self, arguments, folder, kind, *, unbounded=False):
        """The broker runs, nobody is connected. unbounded: its queue has room for everything."""
        self.arguments = arguments
        self.loop = Loop()
        self.names = [f"site-{number // 100}/cam-{number % 100:02}" for number in range(arguments.cameras)]
        began = time.monotonic()
        self.broker = Mosquitto(folder / "broker", ["hub", *self.names])
        say(f"accounts for {arguments.cameras} cameras made in {time.monotonic() - began:.1f} s")
        text = self.broker.configuration.read_text() + "sys_interval 1\n"
        if unbounded:
            text = text.replace("max_queued_messages 20000", "max_queued_messages 0")
        self.broker.configuration.write_text(text)
        self.broker.start()
        now = SystemClock().utc()
        self.watch = Watch(self.loop, self.broker.settings_for("hub"))
        self.watch.connection.connect()
        self.cameras = []
        for number, name in enumerate(self.names):
            backlog = Backlog(number, arguments.images, arguments.size)
            events = backlog.events(PROJECT, now, CHUNK)
            mqtt = self.broker.settings_for(name, keepalive=15)
            self.cameras.append(kind(self.loop, mqtt, name, backlog=backlog, events=events))

    def connect(self):
        """All cameras at once."""
        began = time.monotonic()
        for number, camera in enumerate(self.cameras):
            camera.connection.connect()
            if number % 50 == 49:
                self.loop.run(lambda: False, seconds=0.001)
        if not self.loop.run(lambda: all(one.announced for one in self.cameras), seconds=120):
            raise SystemExit(f"the cameras did not connect: {dict(self.loop.failed)}")
        self.connect_s = time.monotonic() - began
        say(f"{len(self.cameras)} cameras connected in {self.connect_s:.1f} s")

    def settle(self):
        """Until $SYS shows the quiet state."""
        self.loop.run(lambda: False, seconds=2.5)
        unannounced = sum(not one.announced for one in self.cameras)  # each will retain its status
        self.watch.start(unannounced)

    @property
    def broker_pid(self):
        return self.broker._process.pid

    def close(self):
        """The cameras leave; the broker ends whatever happens."""
        connections = [self.watch.connection, *(one.connection for one in self.cameras)]
        self.loop.on_tick.clear()
        try:
            for one in connections:
                one.leave()
            self.loop.run(lambda: not any(one.online for one in connections), seconds=20)
            self.loop.close()
        finally:
            self.broker.stop()


def count_bytes(mqtt, expected, ready, result, go):
    """The ideal's other end: a subscriber that counts. It waits for `go`, so that its CPU can be read."""
    got = 0

    def on_message(client, _data, message):
        nonlocal got
        got += len(message.payload)
        if got >= expected:
            result.put(time.monotonic())
            client.disconnect()

    one = paho.Client(CallbackAPIVersion.VERSION2, client_id="plain-hub", protocol=paho.MQTTv311)
    one.username_pw_set(mqtt.username, Path(mqtt.password_file).read_text().strip())
    one.on_message = on_message
    one.on_subscribe = lambda *_: ready.set()
    one.on_connect = lambda client, *_: client.subscribe("hone/camera/+/+/chunk/+/+", 1)
    one.connect(mqtt.host, mqtt.port)
    one.loop_forever()
    go.wait(20)


def ideal(arguments, folder):
    """Seconds for the same bytes by bare paho."""
    # There is no credit here, so the broker's queue must hold what the receiver is slow to take.
    fleet = Fleet(arguments, folder, PlainCamera, unbounded=True)
    context = multiprocessing.get_context("spawn")
    ready, go, result = context.Event(), context.Event(), context.Queue()
    expected = arguments.cameras * arguments.images * arguments.size
    mqtt = fleet.broker.settings_for("hub", keepalive=60)
    receiver = context.Process(target=count_bytes, args=(mqtt, expected, ready, result, go))
    with closing(fleet):
        fleet.connect()
        fleet.settle()
        receiver.start()
        try:
            if not fleet.loop.run(ready.is_set, seconds=30):
                raise SystemExit("the counting subscriber did not come")
            receiver_s, broker_s = cpu_s(receiver.pid), cpu_s(fleet.broker_pid)
            began, mine = time.monotonic(), time.process_time()
            for camera in fleet.cameras:
                camera.started = True
                camera.pump()
            if not fleet.loop.run(lambda: not result.empty(), seconds=arguments.timeout):
                raise SystemExit("the ideal did not end in time")
            seconds = result.get() - began
            mine = time.process_time() - mine
            cpu = [cpu_s(receiver.pid) - receiver_s, cpu_s(fleet.broker_pid) - broker_s]
            go.set()
            receiver.join(20)
            say(
                f"ideal: {seconds:.2f} s, {expected / seconds / 1e6:.0f} MB/s; CPU: cameras {mine:.1f} s, receiver"
                f" {cpu[0]:.1f} s, broker {cpu[1]:.1f} s; broker at most {memory_mb(fleet.broker_pid):.0f} MB"
            )
            return seconds
        finally:
            if receiver.is_alive():
                receiver.terminate()


class Hub:
    """`python -m hub serve` as a process, its log in a file."""

    def __init__(self, folder, broker):
        self.config = folder / "hub.toml"
        mqtt = broker.settings_for("hub")
        self.config.write_text(CONFIG.format(port=mqtt.port, password=mqtt.password_file))
        self._log = folder / "hub.log"
        subprocess.run(self._command("keys"), check=True, stdout=subprocess.DEVNULL)
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(self._command("serve"), stdout=log, stderr=log)
        self.pid = self._process.pid

    def _command(self, name):
        return [sys.executable, "-m", "hub", name, "--config", str(self.config)]

    @property
    def complaints(self):
        """Warnings and errors in the log, but for its own goodbye to the broker."""
        lines = self._log.read_text().splitlines()
        return [one for one in lines if (" WARNING " in one or " ERROR " in one) and "Normal disconn" not in one]

    def wait(self, loop):
        """Until it says that it serves, and has had the time to connect."""
        if not loop.run(lambda: "hub hub of project" in self._log.read_text(), seconds=60):
            raise SystemExit("the hub did not start: " + "\n".join(self.complaints))
        loop.run(lambda: False, seconds=2.5)

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


def missing(config, fleet):
    """How many images are not in the database, or not in the blobs with the right hash."""
    store = open_store(read(config))
    with store.read() as session:
        rows = {(one.camera, one.event_id): one.sha256 for one in session.exec(select(Image)).all()}
    lost = 0
    for camera in fleet.cameras:
        for event in camera.events.values():
            sha256 = rows.get((camera.name, event.id))
            good = sha256 == event.sha256 and store.blobs.has(sha256) and sha256_hex(store.blobs.read(sha256)) == sha256
            lost += not good
    store.close()
    return lost


def spread(name, values):
    """One line of percentiles."""
    values = sorted(values)
    if not values:
        return f"  {name}: none"
    at = {f"p{p}": values[min(len(values) - 1, len(values) * p // 100)] for p in (10, 50, 90, 99)}
    shown = {"first": values[0], **at, "last": values[-1]}
    return f"  {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in shown.items()) + " s"


def ours(arguments, folder):
    """One round of the real thing: a dict of figures."""
    counts = Counter()
    fleet = Fleet(arguments, folder, partial(FleetCamera, counts=counts))
    total = arguments.cameras * arguments.images
    with closing(fleet):
        if not arguments.hub_first:
            fleet.connect()
        fleet.settle()
        hub = Hub(folder, fleet.broker)
        say(f"hub serve: pid {hub.pid}; broker: pid {fleet.broker_pid}; cameras: pid {os.getpid()}")
        try:
            if arguments.hub_first:
                hub.wait(fleet.loop)
                fleet.connect()
            if not fleet.loop.run(lambda: any(one.began for one in fleet.cameras), seconds=60):
                raise SystemExit("no camera believes in the hub: " + "\n".join(hub.complaints))
            began = min(one.began for one in fleet.cameras if one.began)
            before = memory_mb(hub.pid, "VmRSS")
            cpu = {"hub": cpu_s(hub.pid), "broker": cpu_s(fleet.broker_pid), "cameras": time.process_time()}
            say(f"the first image is offered; hub {before:.0f} MB")
            shown = began

            def progress(now):
                nonlocal shown
                if now - shown >= 2:
                    shown = now
                    queue = fleet.watch.now["store/messages/count"] - fleet.watch.base
                    say(
                        f"  {now - began:5.1f} s: {counts['stored']}/{total} images, {counts['finished']} cameras done,"
                        f" hub {memory_mb(hub.pid, 'VmRSS'):.0f} MB,"
                        f" broker {memory_mb(fleet.broker_pid, 'VmRSS'):.0f} MB with {queue} messages"
                    )

            fleet.loop.on_tick += [lambda _now: [one.pump() for one in fleet.cameras], progress]
            done = fleet.loop.run(lambda: counts["finished"] == len(fleet.cameras), seconds=arguments.timeout)
            ended = time.monotonic()
            cpu = {
                "hub": cpu_s(hub.pid) - cpu["hub"],
                "broker": cpu_s(fleet.broker_pid) - cpu["broker"],
                "cameras": time.process_time() - cpu["cameras"],
            }
            fleet.loop.run(lambda: False, seconds=2.5)  # what $SYS says of the end
            figures = {
                "hub_rss_mb": round(memory_mb(hub.pid)),
                "broker_rss_mb": round(memory_mb(fleet.broker_pid)),
                "broker_queue_max": fleet.watch.queue,
                "broker_dropped": fleet.watch.now["publish/messages/dropped"],
            }
        finally:
            status = hub.stop()
    finishes = [one.finished - began for one in fleet.cameras if one.finished is not None and one.finished <= ended]
    seconds = max(finishes, default=0.0) if done else ended - began
    figures |= {
        "fairness": round(max(finishes) / min(finishes), 2) if done else None,
        "lost": missing(hub.config, fleet),
        "unfinished": len(fleet.cameras) - len(finishes),
        "seconds": round(seconds, 2),
        "connect_s": round(fleet.connect_s, 2),
    }
    say(
        f"ours: {seconds:.2f} s, {total * arguments.size / seconds / 1e6:.0f} MB/s, {total / seconds:.0f} images/s;"
        f" hub from {before:.0f} to {figures['hub_rss_mb']} MB, ended with {status}"
    )
    print("  CPU: " + ", ".join(f"{name} {value:.1f} s" for name, value in cpu.items()))
    print(
        f"  broker's store at most {figures['broker_queue_max']} messages,"
        f" {fleet.watch.most['store/messages/bytes'] / 1e6:.0f} MB"
    )
    print("  cameras: " + ", ".join(f"{name} {value}" for name, value in sorted(counts.items())))
    print(spread("first image stored", [one.first - began for one in fleet.cameras if one.first is not None]))
    print(spread("finished", finishes))
    if fleet.loop.failed:
        print(f"  broken connections: {dict(fleet.loop.failed)}")
    if complaints := hub.complaints:
        print(f"  the hub complained {len(complaints)} times, first: {complaints[0]}")
    return figures


def main():
    """Ideal, ours, ideal, and so on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", type=int, default=1000, help="default: 1000")
    parser.add_argument("--images", type=int, default=5, help="backlog of each camera (default: 5)")
    parser.add_argument("--size", type=int, default=30_000, help="bytes of an image (default: 30000)")
    parser.add_argument("--rounds", type=int, default=1, help="of ours; the ideal has one more (default: 1)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each round (default: 600)")
    parser.add_argument("--hub-first", action="store_true", help="the hub is up before the cameras connect")
    parser.add_argument("--no-ideal", action="store_true", help="only ours; then there is no time_ratio")
    arguments = parser.parse_args()
    room_for(arguments.cameras)
    ideals, rounds = [], []
    if not arguments.no_ideal:
        with TemporaryDirectory() as folder:
            ideal(arguments, Path(folder))
    for number in range(2 * arguments.rounds + 1):
        if number % 2 == 0 and arguments.no_ideal:
            continue
        with TemporaryDirectory() as folder:
            if number % 2:
                rounds.append(ours(arguments, Path(folder)))
            else:
                ideals.append(ideal(arguments, Path(folder)))
    # Memory, queue and losses: the worst round; times: the median.
    answer = {"cameras": arguments.cameras, "images": arguments.cameras * arguments.images}
    worst = ("hub_rss_mb", "broker_rss_mb", "broker_queue_max", "broker_dropped", "lost", "unfinished")
    answer |= {name: max(one[name] for one in rounds) for name in worst}
    fair = [one["fairness"] for one in rounds if one["fairness"] is not None]
    answer["fairness"] = round(statistics.median(fair), 2) if fair else None
    for name in ("seconds", "connect_s"):
        answer[name] = round(statistics.median(one[name] for one in rounds), 2)
    if ideals:
        answer["ideal_s"] = round(statistics.median(ideals), 2)
        answer["time_ratio"] = round(answer["seconds"] / statistics.median(ideals), 2)
    print(json.dumps(answer))
    return 1 if answer["lost"] or answer["unfinished"] or answer["broker_dropped"] else 0


if __name__ == "__main__":
    sys.exit(main())
