"""Whether the formula for bytes tells what is on the line: a release by a real broker to a few cameras with threads.

hub, paho -> proxy that counts -> mosquitto -> proxy that counts -> paho, three cameras' real reload
"""

import threading
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from edge.infer import Engine
from edge.reload import Reload
from edge.settings import EdgeSettings
from edge.trial import TrialRun
from shared.clock import SystemClock
from shared.mqtt import PahoBus
from shared.topics import BlobTopic, PlanTopic, ReleaseTopic, parse
from tests.bench.rolling.plant import SIZE
from tests.bench.rolling.wire import ACK, packet, published
from tests.fakes.hub import Parts, Registry
from tests.fakes.listener import wait_until
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.proxy import Proxy

CAMERAS = "site/cam-1", "site/cam-2", "site/cam-3"
CHUNK = 65_536
FAST = 1e9


class _Told(PahoBus):
    """paho, with the account that `wire.CountedBus` would keep. out, into: bytes by formula."""

    out = into = 0

    def publish(self, topic, payload, **more):
        self.out += published(topic, payload)
        self.into += ACK
        return super().publish(topic, payload, **more)

    def subscribe(self, filters):
        if filters and self.online:
            self.out += packet(2 + sum(3 + len(one) for one in filters))
            self.into += packet(2 + len(filters))
        super().subscribe(filters)

    def unsubscribe(self, filters):
        if filters and self.online:
            self.out += packet(2 + sum(2 + len(one) for one in filters))
            self.into += ACK
        super().unsubscribe(filters)

    def came(self, message):
        """A message came and was acknowledged."""
        self.into += published(message.topic, message.payload)
        self.out += ACK


class _Hub:
    """Listens to nothing."""

    def connected(self):
        pass

    def disconnected(self, reason):
        pass

    def message(self, message):
        raise AssertionError(message.topic)


class _Camera:
    """Reload with its own thread, and frames that never end."""

    def __init__(self, name, broker, port, root, folder):
        self.bus = _Told(broker.settings_for(name, port=port, keepalive=60), client_id=name)
        self.engine = Engine()
        settings = EdgeSettings(
            camera=name, project="cells", root_key=root, capture={"source": "."}, state=str(folder), clock="trusted"
        )
        self._trial = TrialRun(self.engine, lambda _: False)
        self.reload = Reload(
            settings, bus=self.bus, engine=self.engine, trial=self._trial, clock=SystemClock(), errors=Counter(),
            clock_trusted=lambda: True,
        )  # fmt: skip
        self._end = threading.Event()
        self._frames = threading.Thread(target=self._turn, daemon=True)

    def start(self):
        self._frames.start()
        self._trial.start()
        self.bus.start(self)
        wait_until(lambda: self.bus.online, "the camera's connection")
        self.reload.start()

    def stop(self):
        self.reload.stop()
        self._end.set()
        self._frames.join()
        self._trial.stop()
        self.bus.stop()

    def _turn(self):
        while not self._end.wait(0.002):
            self.engine.turn()

    def connected(self):
        pass

    def disconnected(self, reason):
        pass

    def message(self, message):
        self.bus.came(message)
        match parse(message.topic):
            case PlanTopic():
                self.reload.plan(message.payload)
            case ReleaseTopic(number=number):
                self.reload.manifest(number, message.payload)
            case BlobTopic(sha256=sha256, index=index):
                self.reload.chunk(sha256, index, message.payload)


def formula_off(one):
    """By how much of the line's bytes the formula is off, for a `plant.Model`: of what the hub sent, and what came."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        broker = Mosquitto(folder / "broker")
        broker.start()
        proxies = [Proxy(broker.port, bits_per_s=FAST) for _ in range(2)]
        for proxy in proxies:
            proxy.start()
        bus = _Told(broker.settings_for("hub", port=proxies[0].port, keepalive=60), client_id="hub")
        bus.start(_Hub())
        registry = Registry(folder / "keys", bus, SystemClock(), chunk_size=CHUNK)
        cameras = [_Camera(one, broker, proxies[1].port, registry.root, folder / one) for one in CAMERAS]
        try:
            wait_until(lambda: bus.online, "the hub's connection")
            for camera in cameras:
                camera.start()
            before = proxies[0].up, proxies[1].down
            bus.out = 0
            for camera in cameras:
                camera.bus.into = 0
            parts = Parts(one.parts["backbone"], one.parts["head"], one.parts["golden"], one.probabilities, SIZE)
            registry.release(1, parts)
            registry.plan(1)
            for camera in cameras:
                wait_until(lambda camera=camera: camera.reload.state.state == "running", "the release", seconds=60)
            wait_until(lambda: not bus.unacked, "the broker's acknowledgements")
            line = proxies[0].up - before[0], proxies[1].down - before[1]
            told = bus.out, sum(camera.bus.into for camera in cameras)
        finally:
            for camera in cameras:
                camera.stop()
            bus.stop()
            for proxy in proxies:
                proxy.stop()
            broker.stop()
    return tuple(mine / real - 1 for mine, real in zip(told, line, strict=True))
