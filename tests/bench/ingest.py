"""Bench: the way of an image from a camera's spool to the hub's disk, against raw paho with the same bytes.

    python -m tests.bench.ingest --rounds 3

Ours: a spool with a backlog -> the sending thread -> mosquitto -> the collector -> segments and rows, fsync on, until
`stored` of the last one is in the camera's journal. Settings are the defaults: so the camera keeps its copies for a
day, and deleting them is no part of the time. Raw: one paho client publishes the same bytes in the same chunks at
QoS 1, with 20 messages in flight, to mosquitto, and another receives them; nothing is stored. Sender, receiver and
broker are processes of their own; both ways alternate in one run.

Prints the median throughput and its spread for each size, and what CPU time each process took for a megabyte, so that
it can be seen where the time goes. The last line is one JSON object: ratios ours / raw of the medians, images a second
(64 kB), and CPU in milliseconds a megabyte.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event as Flag

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edge.send import Sending
from edge.spool import Spool
from hub.collect import Collector
from hub.settings import HubSettings, ProjectSettings
from hub.store import open_store
from shared import heap, topics
from shared.clock import SystemClock
from shared.files import chunks, sha256_hex
from shared.ids import event_id
from shared.messages import Event, HubStatus, Reply, Status, decode, encode
from shared.mqtt import PahoBus
from shared.topics import CameraTopic, HubTopic
from tests.fakes.mosquitto import Mosquitto

CAMERA = "site/cam-1"
SIZES = {"20k": 20_000, "64k": 65_536, "1m": 1_000_000}
CHUNK = 65_536


def images(size, count):
    """Images that do not compress and differ; only their number and size matter here."""
    return [os.urandom(size) for _ in range(count)]


def run_hub(mqtt, folder, ready, stop):
    """The real collector as a process."""
    settings = HubSettings(project=ProjectSettings(name="bench", classes=["a", "b"]), state=str(folder))
    store = open_store(settings)
    bus = PahoBus(mqtt, client_id="hub")
    collector = Collector(settings, store=store, bus=bus, clock=SystemClock(), errors=Counter())

    class Listener:
        def connected(self):
            collector.connected()
            ready.set()

        def disconnected(self, reason):
            collector.disconnected(reason)

        def message(self, message):
            collector.message(message)

    bus.subscribe(topics.uploads())
    heap.settle()
    collector.start()
    bus.start(Listener())
    stop.wait()
    collector.stop()
    bus.stop()
    store.close()


def fill(folder, size, count):
    """A spool with a backlog."""
    clock = SystemClock()
    spool = Spool(folder, limit=1 << 40, quarantine_limit=0, keep_s=24 * 3600, clock=clock)
    for data in images(size, count):
        now = clock.utc()
        event = Event(
            id=event_id(now), project="bench", release=1, time=now, label="a", score=0.5, scores={"a": 0.5, "b": 0.5},
            why="low_score", probability=1.0, value=0.5, size=size, sha256=sha256_hex(data), ext="png",
            chunk_size=CHUNK,
        )  # fmt: skip
        spool.add(event, data)
    return spool


def run_camera(mqtt, folder, go, result):
    """The real sending thread as a process: reports the seconds from the hub's first sign of life to an empty spool."""
    clock = SystemClock()
    spool = Spool(folder, limit=1 << 40, quarantine_limit=0, keep_s=24 * 3600, clock=clock)
    bus = PahoBus(mqtt, client_id="camera")
    sending = Sending(CAMERA, bus, spool, clock, Counter())
    known, live = Flag(), Flag()

    class Listener:
        def connected(self):
            bus.publish(topics.status(CAMERA), encode(Status(online=True, boot="b")), retain=True)
            sending.connected()

        def disconnected(self, reason):
            sending.disconnected()

        def message(self, message):
            match topics.parse(message.topic):
                case HubTopic():
                    known.set()
                    sending.hub("hub", decode(message.payload, HubStatus), retained=message.retained)
                    if not message.retained:
                        live.set()
                case CameraTopic(leaf="reply"):
                    sending.reply(decode(message.payload, Reply))
                    if known.is_set():
                        live.set()  # the answer to our greeting shows life, too, and mostly comes first

    bus.subscribe([topics.hub_status("hub"), topics.reply(CAMERA)])
    heap.settle()
    sending.start()
    go.wait()
    bus.start(Listener())
    live.wait()
    began = time.perf_counter()
    while spool.state().left:
        time.sleep(0.005)
    result.put(time.perf_counter() - began)
    time.sleep(0.5)  # the bench reads our CPU time
    sending.stop()
    bus.stop()


def client(mqtt, name):
    one = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv311)
    one.username_pw_set(mqtt.username, Path(mqtt.password_file).read_text().strip())
    one.max_inflight_messages_set(20)
    one.max_queued_messages_set(0)
    return one


def run_raw_receiver(mqtt, expected, ready, result, stop):
    """A paho subscriber that counts bytes."""
    got = 0
    done = Flag()

    def on_message(_client, _data, message):
        nonlocal got
        got += len(message.payload)
        if got >= expected:
            done.set()

    one = client(mqtt, "raw-in")
    one.on_message = on_message
    one.on_subscribe = lambda *_: ready.set()
    one.on_connect = lambda c, *_: c.subscribe("hone/camera/+/+/chunk/+/+", 1)
    one.connect(mqtt.host, mqtt.port)
    one.loop_start()
    done.wait()
    result.put(time.perf_counter())
    stop.wait()
    one.disconnect()
    one.loop_stop()


def run_raw_sender(mqtt, size, count, flags, result):
    """A paho publisher of the same chunks, as fast as the window allows. flags: begin, end."""
    go, stop = flags
    pieces = [piece for data in images(size, count) for piece in chunks(data, CHUNK)]
    topic = topics.chunk(CAMERA, event_id(SystemClock().utc()), 0)
    one = client(mqtt, "raw-out")
    one.connect(mqtt.host, mqtt.port)
    one.loop_start()
    while not one.is_connected():
        time.sleep(0.01)
    result.put("ready")
    go.wait()
    result.put(time.perf_counter())
    for info in [one.publish(topic, piece, 1) for piece in pieces]:
        info.wait_for_publish()
    stop.wait()
    one.disconnect()
    one.loop_stop()


def ours(broker, size, count, folder):
    """Seconds for `count` images our way."""
    context = multiprocessing.get_context("spawn")
    ready, stop, go, result = context.Event(), context.Event(), context.Event(), context.Queue()
    fill(folder / "spool", size, count)
    hub = context.Process(target=run_hub, args=(broker.settings_for("hub"), folder / "hub", ready, stop))
    camera = context.Process(target=run_camera, args=(broker.settings_for(CAMERA), folder / "spool", go, result))
    hub.start()
    camera.start()
    ready.wait(30)
    time.sleep(1)
    pids = {"camera": camera.pid, "broker": broker.pid, "hub": hub.pid}
    before = cpu(pids)
    go.set()
    seconds = result.get(timeout=300)
    spent = {name: one - before[name] for name, one in cpu(pids).items()}
    camera.join(20)
    stop.set()
    hub.join(20)
    return seconds, spent


def raw(broker, size, count, _folder):
    """Seconds for the same bytes by paho alone."""
    context = multiprocessing.get_context("spawn")
    ready, go, stop = context.Event(), context.Event(), context.Event()
    began, ended = context.Queue(), context.Queue()
    settings = broker.settings_for("hub")
    receiver = context.Process(target=run_raw_receiver, args=(settings, size * count, ready, ended, stop))
    sender = context.Process(target=run_raw_sender, args=(settings, size, count, (go, stop), began))
    receiver.start()
    sender.start()
    ready.wait(30)
    began.get(timeout=60)
    pids = {"camera": sender.pid, "broker": broker.pid, "hub": receiver.pid}
    before = cpu(pids)
    go.set()
    seconds = -began.get(timeout=60) + ended.get(timeout=300)
    spent = {name: one - before[name] for name, one in cpu(pids).items()}
    stop.set()
    sender.join(20)
    receiver.join(20)
    return seconds, spent


def cpu(pids):
    """CPU seconds of each process so far (proc(5): utime and stime, in hundredths)."""
    fields = {name: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for name, pid in pids.items()}
    return {name: (int(one[11]) + int(one[12])) / os.sysconf("SC_CLK_TCK") for name, one in fields.items()}


def main():
    """All sizes, both ways, alternating."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each way and size (default: 5)")
    parser.add_argument("--megabytes", type=int, default=256, help="bytes of a round (default: 256 MB)")
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    answer = {}
    for name in arguments.sizes:
        size = SIZES[name]
        count = max(20, arguments.megabytes * 1_000_000 // size)
        megabytes = size * count / 1e6
        speeds, spent = {"ours": [], "raw": []}, {"ours": [], "raw": []}
        for _ in range(arguments.rounds):
            with TemporaryDirectory() as folder:
                broker = Mosquitto(Path(folder) / "broker")
                broker.start()
                try:
                    for way, run in (("ours", ours), ("raw", raw)):
                        seconds, used = run(broker, size, count, Path(folder))
                        speeds[way].append(megabytes / seconds)
                        spent[way].append(used)
                finally:
                    broker.stop()
        medians = {way: statistics.median(values) for way, values in speeds.items()}
        for way, values in speeds.items():
            used = {who: 1000 * statistics.median(one[who] for one in spent[way]) / megabytes for who in spent[way][0]}
            print(
                f"{name:4} {way:5} {medians[way]:7.1f} MB/s  ({min(values):.1f} to {max(values):.1f})   CPU ms/MB: "
                + ", ".join(f"{who} {one:.1f}" for who, one in used.items()),
                flush=True,
            )
            answer[f"cpu_ms_per_mb_{name}_{way}"] = {who: round(one, 2) for who, one in used.items()}
        answer[f"ratio_{name}"] = round(medians["ours"] / medians["raw"], 3)
        if name == "64k":
            answer["images_per_s"] = round(medians["ours"] * 1e6 / size, 1)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
