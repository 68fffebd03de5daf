"""Programs for `test_disk_faults`: a collector and a spool that work on a disk which fails under them.

    python -m tests.e2e.disk_programs hub|camera FOLDER COUNT SOCKET

Both tell what they do line by line over a socket: `write` may be among the calls that fail.
"""

import logging
import os
import socket
import sys
import time
from collections import Counter
from pathlib import Path

from edge.send import Sending
from edge.spool import Spool
from hub.collect import Collector
from hub.settings import CollectSettings
from hub.store import open_store
from shared import topics
from shared.clock import SystemClock
from shared.errors import SpoolError
from shared.messages import Reply, decode
from shared.transfer import Offer
from tests.fakes.bus import FakeBroker, FakeBus
from tests.fakes.camera import CAMERA, Wires
from tests.fakes.hub import FakeHub
from tests.fakes.messages import event_of as numbered
from tests.hub.making import HandCamera, event_of, picture, settings_in

PATIENCE_S = 40.0
"""Seconds after which a program gives up."""


class Telling:
    """The way to the test."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def say(self, *words: object) -> None:
        self._socket.sendall((" ".join(map(str, words)) + "\n").encode())


class HubBus(FakeBus):
    """Tells of every `stored` at the moment at which it is published."""

    def __init__(self, broker: FakeBroker, test: Telling) -> None:
        super().__init__(broker, "hub")
        self._test = test

    def publish(self, topic: str, payload: bytes, **more: object) -> bool:
        if topic.endswith("/reply"):
            for one in decode(payload, Reply).stored:
                self._test.say("stored", one)
        return super().publish(topic, payload, **more)  # type: ignore[arg-type]


def hub_settings(folder: Path):
    """Rounds of four images, so that there are many."""
    return settings_in(folder, collect=CollectSettings(image_mb=1, partial_mb=64, batch=4), beat_s=0.5)


def run_hub(folder: Path, count: int, test: Telling) -> None:
    """Collect `count` images of a camera that does not give up."""
    settings = hub_settings(folder)
    store, broker, errors = open_store(settings), FakeBroker(), Counter()
    bus = HubBus(broker, test)
    collector = Collector(settings, store=store, bus=bus, clock=SystemClock(), errors=errors)
    bus.subscribe(topics.uploads())
    bus.start(collector)
    collector.start()
    camera = HandCamera(broker)
    images = {event.id: (event, data) for data in (picture(one) for one in range(count)) for event in [event_of(data)]}
    for event, _ in images.values():
        test.say("offered", event.id, event.sha256)
    test.say("begun", os.getpid())
    until = time.monotonic() + PATIENCE_S
    while left := images.keys() - set(camera.stored):
        for one in sorted(left):
            camera.upload(*images[one])
        time.sleep(0.2)
        if time.monotonic() > until:
            break
    collector.stop()
    store.close()
    test.say("errors", errors["store"])
    test.say("left", len(left))


def run_camera(folder: Path, count: int, test: Telling) -> None:
    """Spool `count` images, a few at a time, and send them to a hub in memory."""
    clock, broker, errors = SystemClock(), FakeBroker(), Counter()
    hub = FakeHub(FakeBus(broker, "hub"), clock).start()
    bus = FakeBus(broker, "camera")
    spool = Spool(folder / "spool", limit=1 << 24, quarantine_limit=1 << 20, keep_s=0, clock=clock)
    sending = Sending(CAMERA, bus, spool, clock, errors)
    wires = Wires(bus, sending=sending)
    sending.start()
    bus.start(wires)
    test.say("begun", os.getpid())
    failed = 0
    for number in range(count):
        event, data = numbered(number, size=3000)
        try:
            spool.add(event, data)
        except SpoolError:
            failed += 1
            continue
        test.say("spooled", event.id)
        sending.spooled(Offer(event.id, event.size, event.chunk_size, event.value))
        time.sleep(0.02)
    until = time.monotonic() + PATIENCE_S
    while spool.state().left and time.monotonic() < until:
        time.sleep(0.05)
    test.say("left", spool.state().left)
    sending.stop()
    bus.stop()
    hub.stop()
    for one in sorted(hub.stored):
        test.say("hub", one)
    test.say("errors", errors["spool"] + failed)
    test.say("unspooled", failed, spool.state().unspooled)


if __name__ == "__main__":
    logging.disable()  # what it would write is not what shall fail
    kind, folder, count, descriptor = sys.argv[1:]
    {"hub": run_hub, "camera": run_camera}[kind](Path(folder), int(count), Telling(int(descriptor)))
