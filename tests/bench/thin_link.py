"""Bench: images over a link of some kbit/s, with the agent's own program, mosquitto and the real collector.

    python -m tests.bench.thin_link --kbit 12
    python -m tests.bench.thin_link --kbit 12 --cuts 5

    agent (`python -m edge run`, link.thin) -> thin link (tests.fakes.proxy) -> mosquitto -> collector

The agent's spool holds N images of 20 kB when it starts; no frames come. Measured from the first byte of the first
event on the line to the last `stored` at the agent. Prints where the bytes went, and as the last line one JSON object:

    overhead_percent      all TCP payload, both ways, over the bytes of the images, minus 1
    overhead_with_start   the same from the agent's first byte on: connect, subscribe, first report
    goodput_ratio         bytes of the images over what the line carries one way in that time, cuts included
    false_timeouts        disconnects that the proxy did not cause; and, without a cut, events asked for again though
                          all their chunks were there, and chunks that came twice
    sent_twice            bytes of images on the line beyond the images themselves, with chunks that were cut short

TCP's and IP's own headers (40 bytes a segment, and as much for acknowledgements) are not counted.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from edge.spool import Spool
from shared import topics
from shared.clock import SystemClock
from shared.errors import MessageError
from shared.files import sha256_hex
from shared.ids import event_id
from shared.messages import Event, Reply, decode, split_attached
from shared.mqtt import PahoBus
from shared.topics import CameraTopic, ChunkTopic
from tests.bench.ingest import CAMERA, run_hub
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.proxy import Passed, Proxy
from tests.fakes.wire import Packet, Packets

SIZE = 20_000
RUN_S = 270
"""About so long a run without options takes."""


def fill(folder, count, chunk):
    """The spool of a camera that was offline for a while."""
    spool = Spool(folder, limit=1 << 40, quarantine_limit=0, keep_s=0, clock=SystemClock())
    clock = SystemClock()
    for _ in range(count):
        now, data = clock.utc(), os.urandom(SIZE)
        score = float(np.float32(random.uniform(0.5, 0.8)))  # as many digits as the model's own
        event = Event(
            id=event_id(now), project="bench", release=3, time=now, clock="synchronised", label="good", score=score,
            scores={"good": score, "defective": float(np.float32(1 - score))}, why="low_score", probability=1.0,
            value=1 - score, size=SIZE, sha256=sha256_hex(data), ext="jpg",
            chunk_size=chunk,
        )  # fmt: skip
        spool.add(event, data)


def configure(folder, broker, port, *, thin):
    """edge.toml of an agent that comes through the proxy and sees no frames."""
    (folder / "no-frames").mkdir()
    settings = broker.settings_for(CAMERA)
    path = folder / "edge.toml"
    path.write_text(
        f'camera = "{CAMERA}"\nproject = "bench"\nroot_key = "{"ab" * 32}"\nclock = "trusted"\n'
        '[capture]\nsource = "no-frames"\nwatch = true\n'
        f'[mqtt]\nport = {port}\npassword_file = "{settings.password_file}"\n'
        f"[link]\nthin = {'true' if thin else 'false'}\n"
    )
    return path


# ----------------------------------------------------------------------------- what the line saw


@dataclass
class Book:
    """What came through the proxy: packets and bytes, and which images the agent was told are stored.

    start: when the first byte of the first event began on the line. end: when the agent heard the last `stored`.
    """

    images: int
    packets: list[tuple[bool, Packet]] = field(default_factory=list)
    bytes: list[tuple[float, bool, int]] = field(default_factory=list)  # when, up, how many
    stored: set[str] = field(default_factory=set)
    start: float = math.inf
    end: float = math.inf
    done: threading.Event = field(default_factory=threading.Event)
    _streams: dict[tuple[int, bool], Packets] = field(default_factory=dict)

    def seen(self, passed: Passed) -> None:
        """In the proxy's thread."""
        self.bytes.append((passed.ended, passed.up, len(passed.data)))
        stream = self._streams.setdefault((passed.connection, passed.up), Packets())
        for packet in stream.feed(passed.data, passed.began, passed.ended):
            self.packets.append((passed.up, packet))
            if packet.topic.endswith("/event"):
                self.start = min(self.start, packet.began)
            if packet.topic.endswith("/reply"):
                self._reply(packet)

    def _reply(self, packet: Packet) -> None:
        try:
            self.stored.update(decode(packet.payload, Reply).stored)
        except MessageError as error:
            print(f"a reply that cannot be read: {error}", file=sys.stderr)
        if len(self.stored) == self.images:
            self.end = min(self.end, packet.ended)
            self.done.set()

    def within(self, start, end):
        """Bytes that came through between two moments, up and down."""
        sums = [sum(n for at, way, n in self.bytes if start < at <= end and way == up) for up in (True, False)]
        return sums[0], sums[1]

    def cut_short(self):
        """Bytes up in packets that a cut interrupted."""
        last = max(connection for connection, _ in self._streams)
        return sum(one.rest for (connection, up), one in self._streams.items() if up and connection != last)

    def table(self, start, end):
        """Bytes and packets by kind; a chunk's image bytes apart from what is around them."""
        sizes, counts = Counter(), Counter()
        for up, packet in self.packets:
            if not start < packet.ended <= end:
                continue
            way = "up" if up else "down"
            name, body = kind_of(packet), 0
            if name == "chunk":
                body = len(packet.payload)
                sizes[way, "chunk: image"] += body
                counts[way, "chunk: image"] += 1
                name = "chunk: topic, header"
            elif packet.payload:
                body = len(packet.payload)
                _, first = split_attached(packet.payload) if name == "event" else (packet.payload, None)
                sizes[way, f"{name}: JSON"] += body - len(first or b"")
                counts[way, f"{name}: JSON"] += 1
                if first is not None:
                    sizes[way, "chunk: image"] += len(first)
                    counts[way, "chunk: image"] += 1
                name = f"{name}: topic, header"
            sizes[way, name] += packet.size - body
            counts[way, name] += 1
        return sizes, counts


def kind_of(packet):
    """The packet's MQTT kind; of a publish what it publishes."""
    if packet.kind != "publish":
        return packet.kind
    match topics.parse(packet.topic):
        case ChunkTopic():
            return "chunk"
        case CameraTopic(leaf=leaf):
            return leaf
    return packet.topic.split("/")[1] + " " + packet.topic.split("/")[-1]


# ------------------------------------------------------------------- what the broker's side saw


class Witness:
    """A subscriber beside the collector: every event and chunk that the broker took from the camera, and when."""

    def __init__(self, settings) -> None:
        self.events: list[tuple[float, Event]] = []
        self.chunks: list[tuple[float, str, int, int]] = []  # when, event, index, bytes
        self.here = threading.Event()
        self.bus = PahoBus(settings, client_id="witness")
        self.bus.subscribe([topics.event(CAMERA), f"hone/camera/{CAMERA}/chunk/+/+"])
        self.bus.start(self)

    def connected(self):
        self.here.set()

    def disconnected(self, reason):
        pass

    def message(self, message):
        now = time.monotonic()
        match topics.parse(message.topic):
            case ChunkTopic(event=one, index=index):
                self.chunks.append((now, one, index, len(message.payload)))
            case CameraTopic(leaf="event"):
                text, first = split_attached(message.payload)
                event = decode(text, Event)
                self.events.append((now, event))
                if first is not None:
                    self.chunks.append((now, event.id, 0, len(first)))

    def again(self, cuts):
        """(events asked for again though all their chunks were there, chunks that came again), as no cut explains them.

        After each cut an event may be asked for twice, since paho sends a question again that the cut interrupted, and
        then the sender asks; and a chunk may come once more.
        """
        early = 1  # the witness hears of a message a little after the line had it
        asked = again = 0
        for position, (at, event) in enumerate(self.events):
            before = [one for one in self.events[:position] if one[1].id == event.id]
            if event.follows or not before:
                continue
            cut = max((when for when, _ in cuts if when - early <= at), default=math.inf)
            explained = cut < math.inf and sum(not one.follows and when > cut for when, one in before) < 2
            there = {index: size for when, one, index, size in self.chunks if one == event.id and when < at}
            asked += sum(there.values()) >= event.size and not explained
        last = {}
        for at, one, index, _ in self.chunks:
            first = last.get((one, index), math.inf)
            again += first < math.inf and not any(first - early <= when <= at for when, _ in cuts)
            last[one, index] = at
        return asked, again


# ------------------------------------------------------------------------------------------ the run


def cut_at_random(proxy, book, moments, rng):
    """Cut the line at these seconds after the first event, each time for some seconds."""
    while book.start == math.inf and not book.done.wait(0.1):
        pass
    for moment in sorted(moments):
        if book.done.wait(max(0.0, book.start + moment - time.monotonic())):
            return
        proxy.cut(rng.uniform(1, 8))
        print(f"cut at {moment:.0f} s, {len(book.stored)} of {book.images} stored", flush=True)


def run(arguments, folder):
    """One run; returns the book, the witness, the proxy, and the agent's log."""
    count = arguments.images
    ideal = count * SIZE * 8 / (arguments.kbit * 1000)
    book = Book(count)
    broker = Mosquitto(folder / "broker")
    broker.start()
    proxy = Proxy(
        broker.port, bits_per_s=arguments.kbit * 1000, delay=arguments.delay, buffer=arguments.buffer,
        half_duplex=arguments.half_duplex, seen=book.seen,
    )  # fmt: skip
    fill(folder / "state" / "spool", count, arguments.chunk)
    path = configure(folder, broker, proxy.port, thin=not arguments.not_thin)
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    hub = context.Process(target=run_hub, args=(broker.settings_for("hub"), folder / "hub", ready, stop))
    hub.start()
    ready.wait(30)
    witness = Witness(broker.settings_for("hub"))
    witness.here.wait(30)
    proxy.start()
    with open(folder / "agent.log", "wb") as log:
        agent = subprocess.Popen([sys.executable, "-m", "edge", "run", "--config", str(path)], stderr=log)
    rng = random.Random(arguments.seed)
    moments = [rng.uniform(0.05, 0.95) * ideal for _ in range(arguments.cuts)]
    threading.Thread(target=cut_at_random, args=(proxy, book, moments, rng), daemon=True).start()
    try:
        limit = time.monotonic() + 120 + 4 * ideal
        while not book.done.wait(30) and time.monotonic() < limit and agent.poll() is None:
            now = time.monotonic()
            up, down = book.within(0, now)
            print(f"{max(0.0, now - book.start):5.0f} s: {len(book.stored)} of {count} stored, "
                  f"{up} bytes up, {down} down", flush=True)  # fmt: skip
        ended = [at for at in proxy.ended if at <= book.end]
        time.sleep(0.5)  # the witness may be a little behind
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(30)
        proxy.stop()
        witness.bus.stop()
        stop.set()
        hub.join(20)
        broker.stop()
    return book, witness, proxy, ended, (folder / "agent.log").read_text()


def main():
    """One run, its table and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kbit", type=float, default=12, help="rate of the line, kbit/s (default: 12)")
    parser.add_argument("--images", type=int, default=0, help=f"of {SIZE} bytes (default: about {RUN_S} s of line)")
    parser.add_argument("--cuts", type=int, default=0, help="at random moments, 1 to 8 s each (default: 0)")
    parser.add_argument("--delay", type=float, default=0.3, help="one way, seconds (default: 0.3)")
    parser.add_argument("--buffer", type=int, default=16_000, help="of the modem, bytes (default: 16000)")
    parser.add_argument("--half-duplex", action="store_true", help="both directions share the line")
    parser.add_argument("--chunk", type=int, default=65536, help="chunk_size in the spool (default: 65536)")
    parser.add_argument("--not-thin", action="store_true", help="link.thin = false, to compare")
    parser.add_argument("--seed", type=int, default=0, help="of the cuts (default: 0)")
    parser.add_argument("--verbose", action="store_true", help="print the agent's log")
    arguments = parser.parse_args()
    arguments.images = arguments.images or max(4, round(RUN_S * arguments.kbit * 1000 / 8 / SIZE))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end what was started
    with TemporaryDirectory() as folder:
        book, witness, proxy, ended, log = run(arguments, Path(folder))
    if arguments.verbose:
        print(log)
    complete = len(book.stored) == arguments.images
    end = book.end if complete else time.monotonic()
    payload = SIZE * len(book.stored)
    up, down = book.within(book.start, end)
    sizes, counts = book.table(book.start, end)
    print(f"\n{'':4} {'kind':24} {'packets':>8} {'bytes':>9} {'an image':>9} {'of images':>9}")
    for (way, name), size in sorted(sizes.items(), key=lambda item: (item[0][0] != "up", -item[1])):
        each, share = size / arguments.images, size / max(payload, 1)
        print(f"{way:4} {name:24} {counts[way, name]:8} {size:9} {each:9.1f} {100 * share:8.2f}%")
    print(f"{'':4} {'in packets cut or open':24} {'':8} {up + down - sum(sizes.values()):9}")
    for way, total in (("up", up), ("down", down)):
        print(f"{way:4} {'all':24} {'':8} {total:9} {total / arguments.images:9.1f}")
    asked, again = witness.again(proxy.cuts)
    seconds = end - book.start
    whole = sum(book.within(0, end))
    print(
        json.dumps(
            {
                "kbit": arguments.kbit,
                "images": arguments.images,
                "stored": len(book.stored),
                "overhead_percent": round(100 * ((up + down) / max(payload, 1) - 1), 2),
                "overhead_with_start": round(100 * (whole / max(payload, 1) - 1), 2),
                "goodput_ratio": round(payload * 8 / seconds / (arguments.kbit * 1000), 3),
                "false_timeouts": len(ended) + asked + again,
                "disconnects": len(ended),
                "asked_again": asked,
                "chunks_again": again,
                "events_sent": counts["up", "event: JSON"],
                "sent_twice": sizes["up", "chunk: image"] + book.cut_short() - payload,
                "cuts": len(proxy.cuts),
                "seconds_cut": round(sum(until - at for at, until in proxy.cuts), 1),
                "connections": proxy.connections,
                "seconds": round(seconds, 1),
                "seconds_to_first_event": round(book.start - min(at for at, _, _ in book.bytes), 1),
            }
        )
    )
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
