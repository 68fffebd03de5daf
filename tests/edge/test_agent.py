"""The agent from end to end: a real mosquitto, real models and images, and a hub made of the real `Receiver`."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edge.agent import Agent
from edge.backlog import embedding_of
from edge.settings import read
from shared import topics
from shared.clock import SystemClock
from shared.errors import SpoolError
from shared.files import sha256_hex
from shared.manifest import Trial
from shared.messages import HubStatus, Reported, Result, Status, decode, encode
from shared.mqtt import PahoBus
from shared.preprocess import encode_png
from tests.fakes.hub import FakeHub, Registry, parts
from tests.fakes.listener import Recorder, wait_until
from tests.fakes.mosquitto import Mosquitto

ROOT = Path(__file__).parents[2]
CAMERA = "site/cam-1"
PICTURES = 12
_numbers = itertools.count()
MODEL, STEEP = parts(beta=1.0), parts(beta=30.0)


EVERY_FRAME = 'strategy = "low_score"\nlow_score = 1.0\nwindow = 1\ntop = 1\naudit = 0.0\nduplicate = 1.01\n'


def pictures(folder: Path, count: int = PICTURES) -> dict[str, bytes]:
    """Noisy pictures, each of a colour of its own, so that none is a near-copy; name -> bytes."""
    folder.mkdir(exist_ok=True)
    made = {}
    for n in range(count):
        pixels = np.random.default_rng(n).integers(0, 60, (24, 32, 3), np.uint8)
        pixels[..., n % 3] += np.uint8(60 + 10 * (n % 12))
        made[f"piece-{n:03}"] = encode_png(pixels)
        (folder / f"piece-{n:03}.png").write_bytes(made[f"piece-{n:03}"])
    return made


@dataclass
class Plant:
    """A broker, a hub with models, somebody who listens to results, and the folder of a camera."""

    broker: Mosquitto
    hub: FakeHub
    registry: Registry
    scada: Recorder
    folder: Path
    buses: list[PahoBus]

    def connect(self, user: str, listener: Recorder, *filters: str) -> PahoBus:
        bus = PahoBus(self.broker.settings_for(user), client_id=f"agent-{next(_numbers)}", max_delay=1)
        bus.subscribe(filters)
        bus.start(listener)
        self.buses.append(bus)
        return bus

    def configure(
        self,
        *,
        source: str = "pictures",
        capture: str = "fps = 200\nqueue = 1000",
        more: str = "",
        triage: str = EVERY_FRAME,
    ) -> Path:
        settings = self.broker.settings_for(CAMERA)
        path = self.folder / "edge.toml"
        path.write_text(
            f'camera = "{CAMERA}"\nproject = "cells"\nroot_key = "{self.registry.root}"\nreport_s = 0.2\n'
            f'clock = "trusted"\n{more}\n[capture]\nsource = "{source}"\n{capture}\n'
            f'[mqtt]\nport = {settings.port}\npassword_file = "{settings.password_file}"\n'
            f"[triage]\n{triage}[spool]\nchunk_kb = 1\nkeep_hours = 0\n"
        )
        return path

    @property
    def reported(self) -> Reported | None:
        return self.hub.reported.get(CAMERA)

    def results(self) -> list[Result]:
        return [decode(one.payload, Result) for one in self.scada.messages if one.topic == topics.result(CAMERA)]

    def retained(self, topic: str) -> bytes:
        """What somebody who comes now finds on a topic."""
        late = Recorder()
        bus = self.connect("hub", late, topic)
        data = late.wait_message(topic).payload
        bus.stop()
        return data


@pytest.fixture
def plant(make_broker: Callable[[], Mosquitto], tmp_path: Path, key_folder: Path) -> Iterator[Plant]:
    broker = make_broker()
    broker.start()
    bus = PahoBus(broker.settings_for("hub"), client_id="the-hub", max_delay=1)
    hub = FakeHub(bus, SystemClock())
    scada = Recorder()
    folder = tmp_path / "camera"
    folder.mkdir()
    one = Plant(broker, hub, Registry(key_folder, bus, SystemClock()), scada, folder, [])
    one.connect("scada", scada, topics.result(CAMERA)).publish("x", b"")
    scada.wait_connected()
    hub.start()
    wait_until(lambda: bus.online, "the hub to be connected")
    yield one
    for other in one.buses:
        other.stop()
    hub.stop()


@pytest.fixture
def run(plant: Plant) -> Iterator[Callable[..., Agent]]:
    """Start agents in threads; `stop` them, they are joined at the end."""
    running: list[tuple[Agent, threading.Thread]] = []

    def start(path: Path) -> Agent:
        agent = Agent(read(path), SystemClock())
        thread = threading.Thread(target=agent.run)
        thread.start()
        running.append((agent, thread))
        return agent

    def stop() -> None:
        for agent, thread in running:
            agent.stop()
            thread.join(20)
            assert not thread.is_alive()
        running.clear()

    start.stop = stop  # type: ignore[attr-defined]
    yield start
    stop()


@pytest.fixture
def spawn() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start `python -m edge run` as a process; killed at the end if it still runs."""
    made: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        made.append(
            subprocess.Popen(
                [sys.executable, "-m", "edge", "run", "--config", str(path)],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return made[-1]

    yield start
    for one in made:
        one.kill()
        one.communicate()


def test_every_event_is_stored_and_everything_is_told(plant: Plant, run: Callable[..., Agent]) -> None:
    made = pictures(plant.folder / "pictures")
    (plant.folder / "pictures" / "piece-005x.png").write_bytes(b"not a picture")
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    run(plant.configure())
    wait_until(lambda: len(plant.hub.disk) == PICTURES, "all events", seconds=20)
    wait_until(lambda: plant.reported and plant.reported.spool.stored == PICTURES, "the last report")
    wait_until(lambda: len(plant.results()) == PICTURES, "all results")

    kept = plant.hub.disk.values()
    assert sorted(data for _, data in kept) == sorted(made.values())
    for event, data in kept:
        assert (event.release, event.project, event.why, event.probability) == (7, "cells", "low_score", 1.0)
        assert (event.size, event.sha256, event.ext, event.clock) == (
            len(data),
            sha256_hex(data),
            "png",
            "synchronised",
        )
        assert event.score == pytest.approx(max(event.scores.values()), abs=1e-6)
        assert event.value == pytest.approx(1 - event.score / 2, abs=1e-4), "of the scale from 0.5 to 1"
        assert event.scores[event.label] == max(event.scores.values())
    assert plant.hub.problems == []
    assert plant.hub.bad == []

    results = plant.results()
    assert [one.sequence for one in results] == list(range(PICTURES))
    assert [one.part for one in results] == sorted(made)
    assert {one.release for one in results} == {7}
    by_data = {data: event for event, data in kept}
    assert [one.label for one in results] == [by_data[made[name]].label for name in sorted(made)]

    said = plant.reported
    assert said is not None
    assert (said.release, said.floor, said.reload.state, said.project) == (7, 7, "running", "cells")
    assert (said.spool.spooled, said.spool.left, said.spool.bytes, said.spool.unspooled) == (PICTURES, 0, 0, 0)
    assert (said.frames.captured, said.frames.inferred, said.frames.dropped, said.frames.unreadable) == (
        PICTURES, PICTURES, 0, 1
    )  # fmt: skip
    wait_until(lambda: plant.reported and plant.reported.frames.ended, "the word that the source has ended")
    assert said.errors == {}
    assert said.rates.low_score == 1.0
    assert said.up > sum(map(len, made.values()))
    assert decode(plant.retained(topics.reported(CAMERA)), Reported).boot == said.boot
    status = decode(plant.retained(topics.status(CAMERA)), Status)
    assert (status.online, status.boot) == (True, said.boot)
    wait_until(lambda: not list((plant.folder / "state" / "spool").glob("*_*")), "the copies to go")

    # The source has ended; another release is taken all the same.
    plant.registry.release(8, STEEP)
    plant.registry.plan(8)
    wait_until(lambda: plant.reported and plant.reported.release == 8, "the next release")

    run.stop()  # type: ignore[attr-defined]
    wait_until(lambda: not plant.hub.status[CAMERA].online, "goodbye")
    assert plant.hub.status[CAMERA].boot == said.boot, "last words, not the last will"


def test_sigterm_ends_it_well_and_what_is_left_is_sent_next_time(
    plant: Plant, spawn: Callable[[Path], subprocess.Popen[str]]
) -> None:
    made = pictures(plant.folder / "pictures")
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    plant.hub.deaf = True
    wait_until(lambda: len(plant.hub.offers) == 0, "silence")
    path = plant.configure()
    first = spawn(path)
    spool = plant.folder / "state" / "spool"
    wait_until(lambda: len(list(spool.glob("*_MD.json"))) == PICTURES, "a full spool", seconds=20)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=20)
    assert first.returncode == 0, err
    assert f"{PICTURES} events wait in the spool" in err
    assert "Traceback" not in err
    status = decode(plant.retained(topics.status(CAMERA)), Status)
    assert not status.online
    assert status.boot
    assert decode(plant.retained(topics.reported(CAMERA)), Reported).spool.left == PICTURES

    plant.hub.deaf = False
    for name in made:
        os.unlink(plant.folder / "pictures" / f"{name}.png")
    second = spawn(plant.configure(capture="watch = true"))
    wait_until(lambda: len(plant.hub.disk) == PICTURES, "what was left", seconds=20)
    wait_until(lambda: plant.reported and plant.reported.spool.stored == PICTURES, "the books")
    assert sorted(data for _, data in plant.hub.disk.values()) == sorted(made.values())

    second.kill()
    wait_until(lambda: not plant.hub.status[CAMERA].online, "the last will")
    assert plant.hub.status[CAMERA].boot == ""


def test_a_broker_that_is_not_there_at_start(plant: Plant, run: Callable[..., Agent]) -> None:
    """With a model on disk frames are seen and events wait; the broker comes later."""
    pictures(plant.folder / "pictures", 1)
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    run(plant.configure())
    wait_until(lambda: len(plant.hub.disk) == 1, "a model")
    wait_until(lambda: plant.reported and plant.reported.spool.left == 0, "an empty spool")
    spool = plant.folder / "state" / "spool"
    wait_until(lambda: not list(spool.glob("*_*")), "the copy to go")
    run.stop()  # type: ignore[attr-defined]
    plant.broker.stop()
    pictures(plant.folder / "pictures", 4)
    agent = run(plant.configure())
    wait_until(lambda: len(list(spool.glob("*_MD.json"))) == 4, "events in the spool")
    assert agent._engine.inferred == 4
    plant.broker.start()
    wait_until(lambda: len(plant.hub.disk) == 5, "all events", seconds=25)
    wait_until(lambda: agent._spool.state().left == 0, "an empty spool")


def test_the_broker_is_killed_in_the_middle(plant: Plant, run: Callable[..., Agent]) -> None:
    made = pictures(plant.folder / "pictures", 40)
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    agent = run(plant.configure(capture="fps = 60\nqueue = 1000"))
    wait_until(lambda: len(plant.hub.disk) > 5, "some events", seconds=20)
    plant.broker.kill()
    wait_until(lambda: not agent._bus.online, "the camera to notice")
    plant.broker.start()
    wait_until(lambda: len(plant.hub.disk) == 40, "all events", seconds=30)
    wait_until(lambda: agent._spool.state().left == 0, "an empty spool")
    assert sorted(data for _, data in plant.hub.disk.values()) == sorted(made.values())
    state = agent._spool.state()
    assert (state.spooled, state.stored, state.dropped) == (40, 40, 0)


GARBAGE = [b"", b"\x00\xff", b"{}", b"[]", b"null", b'{"v":2}', b"[" * 20_000, b'{"stored":["x"]}', b'{"credit":-1}']


def test_garbage_on_every_topic_is_counted_and_it_lives(plant: Plant, run: Callable[..., Agent]) -> None:
    folder = plant.folder / "in"
    folder.mkdir()
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    run(plant.configure(source="in", capture="watch = true"))
    wait_until(lambda: plant.reported and plant.reported.release == 7, "a model", seconds=20)
    bus = plant.registry.bus
    every = [topics.reply(CAMERA), topics.desired(CAMERA), topics.plan("cells"), topics.hub_status("hub")]
    every += [topics.release("cells", 7), topics.blob(sha256_hex(MODEL.head), 0)]
    for topic in every:
        for data in GARBAGE:
            bus.publish(topic, data)

    def counted() -> bool:
        errors = plant.reported.errors if plant.reported else {}
        return errors.get("message", 0) >= 10 and errors.get("manifest", 0) >= 10

    wait_until(counted, f"the counts, {plant.reported and plant.reported.errors}")
    # It lives: frames are seen, events stored, and a release is taken.
    wait_until(lambda: _drop(folder) and plant.hub.disk, "an event")
    plant.registry.release(9, STEEP)
    plant.registry.plan(9)
    wait_until(lambda: plant.reported and plant.reported.release == 9, "the next release")


def test_the_random_sample_brings_its_embeddings(plant: Plant, run: Callable[..., Agent]) -> None:
    pictures(plant.folder / "pictures")
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    run(plant.configure(triage="audit = 1.0\n"))
    wait_until(lambda: len(plant.hub.disk) == PICTURES, "all events", seconds=20)
    for event, _ in plant.hub.disk.values():
        sent = embedding_of(event)
        assert (event.why, event.backbone, event.thumbnail) == ("audit", sha256_hex(MODEL.backbone), None)
        assert sent is not None
        assert np.linalg.norm(sent.astype(np.float32)) > 0


def test_a_thin_link_is_left_alone(plant: Plant, run: Callable[..., Agent]) -> None:
    """The pulse in place of the status, no results, and reports only for the reload."""
    pictures(plant.folder / "pictures")
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    beats = Recorder()
    plant.connect("hub", beats, topics.hub_status("hub"))
    path = plant.configure(triage="audit = 1.0\n")
    path.write_text(path.read_text().replace("report_s = 0.2", "report_s = 3600") + "[link]\nthin = true\n")
    run(path)
    spool = plant.folder / "state" / "spool"
    wait_until(lambda: len(list(spool.glob("*_MD.json"))) == PICTURES, "a full spool", seconds=20)
    seen = len(beats.messages)
    wait_until(lambda: len(beats.messages) > seen + 5, "beats of the status")
    assert plant.hub.offers == [], "the status was not subscribed to"
    assert (plant.reported and plant.reported.release) == 7, "told at once"

    bus = plant.registry.bus
    numbers = itertools.count(1)

    def pulse() -> bool:
        status = HubStatus(online=True, boot="b", beat=next(numbers), beat_s=30.0)
        bus.publish(topics.hub_pulse("hub"), encode(status), retain=True)
        return len(plant.hub.disk) == PICTURES

    wait_until(pulse, "all events", seconds=20)
    wait_until(lambda: list(spool.glob("*_MD.json")) == [], "an empty spool")
    assert all(event.embedding is None for event, _ in plant.hub.disk.values())
    run.stop()  # type: ignore[attr-defined]
    wait_until(lambda: plant.reported and plant.reported.spool.stored == PICTURES, "the last report")
    assert plant.results() == []


def _drop(folder: Path) -> bool:
    number = next(_numbers)
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
    (folder / f"drop-{number}.png").write_bytes(encode_png(pixels))
    return True


def test_raw_frames_are_kept_without_loss(plant: Plant, run: Callable[..., Agent]) -> None:
    """Frames of a device have no file of their own: PNG."""
    path = plant.folder / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    if not writer.isOpened():
        pytest.skip("no MJPG here")
    for n in range(6):
        writer.write(np.full((24, 32, 3), 40 * n, np.uint8))
    writer.release()
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    run(plant.configure(source="film.avi", capture="queue = 1000"))
    wait_until(lambda: len(plant.hub.disk) == 6, "all frames", seconds=20)
    film = cv2.VideoCapture(str(path))
    frames = [film.read()[1][:, :, ::-1] for _ in range(6)]
    film.release()
    kept = [data for _, (_, data) in sorted(plant.hub.disk.items(), key=lambda one: one[1][0].time)]
    assert {event.ext for event, _ in plant.hub.disk.values()} == {"png"}
    assert [encode_png(one) for one in frames] == kept


def test_settings_that_agree_with_the_brokers_password_only(plant: Plant, run: Callable[..., Agent]) -> None:
    """A wrong password: said once, tried on, and the frames are seen from the model on disk all the same."""
    pictures(plant.folder / "pictures", 1)
    path = plant.configure()
    settings = read(path)
    wrong = plant.folder / "wrong"
    wrong.write_text("wrong\n")
    path.write_text(path.read_text().replace(settings.mqtt.password_file, str(wrong)))
    agent = run(path)
    wait_until(lambda: "not authorised" in plant.broker.log, "a refusal")
    assert not agent._bus.online
    assert msgspec.structs.asdict(agent._spool.state())["spooled"] == 0


def test_the_best_of_each_window_are_events_and_the_last_window_ends_with_the_source(
    plant: Plant, run: Callable[..., Agent]
) -> None:
    made = pictures(plant.folder / "pictures")
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    triage = 'strategy = "margin"\nmargin = 1.0\nwindow = 5\ntop = 2\nwindow_s = 3600\naudit = 0.0\nduplicate = 1.01\n'
    run(plant.configure(triage=triage))
    wait_until(lambda: len(plant.hub.disk) == 6, "two of each window", seconds=20)
    wait_until(lambda: plant.reported and plant.reported.frames.ended, "the end of the source")
    assert {event.why for event, _ in plant.hub.disk.values()} == {"margin"}
    places = sorted(list(made.values()).index(data) // 5 for _, data in plant.hub.disk.values())
    assert places == [0, 0, 1, 1, 2, 2]
    assert plant.reported is not None
    assert (plant.reported.settings["strategy"], plant.reported.settings["skipped"]) == ("margin", "")
    assert plant.reported.spool.unspooled == 0


def test_what_waits_is_valued_by_the_next_head(plant: Plant, run: Callable[..., Agent]) -> None:
    """Eleven events wait in the spool of a camera whose hub is silent; a steeper head comes."""
    pictures(plant.folder / "pictures")
    plant.hub.accepts = False
    plant.registry.release(7, MODEL)
    plant.registry.plan(7)
    agent = run(plant.configure())
    wait_until(lambda: plant.reported and plant.reported.spool.left == PICTURES, "all events", seconds=20)
    before = {one.id: one.value for one in agent._spool.offers()}
    plant.registry.release(8, STEEP)
    plant.registry.plan(8)
    wait_until(lambda: all(one.value < before[one.id] for one in agent._spool.offers()), "other values", seconds=20)
    plant.hub.accepts = True
    wait_until(lambda: len(plant.hub.disk) == PICTURES, "all events", seconds=20)
    assert all(event.value < before[event.id] for event, _ in plant.hub.disk.values())
    assert {event.release for event, _ in plant.hub.disk.values()} == {7}, "what the camera saw is as it was"


def test_after_a_swap_nobody_keeps_the_old_model(plant: Plant, run: Callable[..., Agent]) -> None:
    """45 MB: not the backlog that was valued by it, nor frames that it judged."""
    pictures(plant.folder / "pictures")
    plant.registry.release(1, MODEL)
    plant.registry.plan(1)
    agent = run(plant.configure(capture="fps = 20\nqueue = 1000"))
    wait_until(lambda: len(plant.hub.disk) > 1, "events")
    assert agent._engine.running is not None
    old = weakref.ref(agent._engine.running.model)
    plant.registry.release(2, MODEL)
    plant.registry.plan(2)
    wait_until(lambda: old() is None, "the end of the old model")
    assert agent._engine.running.release == 2


AGAINST = {name: parts(size=size, beta=-6.0) for name, size in (("another head", 16), ("another backbone", 12))}
"""Of the colours they name the one of which there is least: MODEL names another one of every picture."""


@pytest.mark.parametrize("audit", [0.0, 1.0])
@pytest.mark.parametrize("other", AGAINST)
def test_a_trial_from_shadow_to_pairs(plant: Plant, run: Callable[..., Agent], other: str, audit: float) -> None:
    """In the shadow only counts are told; in the canary what the two call by two labels comes as one event each."""
    folder = plant.folder / "in"
    folder.mkdir()
    plant.registry.release(7, MODEL)
    plant.registry.release(8, AGAINST[other])
    plant.registry.plan(7, trial=Trial(release=8, share=1.0))
    none = f'strategy = "low_score"\nlow_score = 0.0\naudit = {audit}\n'
    agent = run(plant.configure(source="in", capture="watch = true", more='labels = { line = "3" }', triage=none))

    def shown(state: str, frames: int) -> bool:
        _drop(folder)
        said = plant.reported
        there = said is not None and (said.reload.state, said.reload.release) == (state, 8)
        return there and said is not None and said.trial is not None and said.trial.frames >= frames

    wait_until(lambda: shown("shadowing", 5), "a shadow", seconds=30)
    said = plant.reported
    assert said is not None
    assert said.trial is not None
    assert (said.release, said.labels, said.trial.release, said.trial.other) == (7, {"line": "3"}, 7, 8)
    assert said.trial.differed == said.trial.frames
    assert said.rates.free_mb is not None
    before = set(plant.hub.stored)
    assert all(event.rival is None for event, _ in plant.hub.disk.values()), "it does not ask"

    plant.registry.plan(8, trial=Trial(release=7, share=1.0, ask=True))
    wait_until(lambda: shown("running", 5) and plant.reported.trial.release == 8, "pairs", seconds=30)  # type: ignore[union-attr]
    run.stop()  # type: ignore[attr-defined]
    told = agent._trial._counts
    left = [agent._spool.event(one.id) for one in agent._spool.offers()]
    every = [*(event for event, _ in plant.hub.disk.values()), *(one for one in left if one is not None)]
    pairs = {event.id: event for event in every if event.rival is not None}
    assert len(pairs) == told.differed - told.lost > 0
    for event in pairs.values():
        assert event.id not in before
        assert event.rival is not None
        assert (event.release, event.rival.release) == (8, 7)
        assert event.label != event.rival.label
        why = ("audit", 1.0, 1.0) if audit else ("pair", 1.0, 1.0)
        assert (event.why, event.probability, event.value) == why
    events = Counter(data for _, data in plant.hub.disk.values())
    assert set(events.values()) == {1}, "one event of a frame at most"
    if not audit:
        assert {event.why for event, _ in plant.hub.disk.values()} == {"pair"}


def test_a_pair_that_cannot_be_kept_is_told_as_lost(plant: Plant, run: Callable[..., Agent]) -> None:
    folder = plant.folder / "in"
    folder.mkdir()
    plant.registry.release(7, MODEL)
    plant.registry.release(8, AGAINST["another head"])
    plant.registry.plan(7, trial=Trial(release=8, share=1.0, ask=True))
    none = 'strategy = "low_score"\nlow_score = 0.0\naudit = 0.0\n'
    agent = run(plant.configure(source="in", capture="watch = true", triage=none))

    def full(*_: object) -> None:
        raise SpoolError("is full")

    agent._spool.add = full  # type: ignore[method-assign]

    def lost() -> bool:
        _drop(folder)
        return bool(plant.reported and plant.reported.trial and plant.reported.trial.lost >= 3)

    wait_until(lost, "losses", seconds=30)
    assert plant.hub.disk == {}


def test_sums_of_products_take_no_threads_of_their_own() -> None:
    """NumPy's would spin on all cores, at normal priority, long after a product is done."""
    code = (
        "import os, edge, numpy as np; one = np.ones((600, 600)); one @ one; print(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS", "OMP"))}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert int(done.stdout) == 1
