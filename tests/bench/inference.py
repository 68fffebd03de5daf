"""Bench: what the agent costs beyond the model: its whole loop against bare LiteRT on the same frames.

    python -m tests.bench.inference

Ours: the real agent with settings by default, connected to mosquitto and a hub that stores events: capture, inference,
results for SCADA, triage, spool, upload, reports. Frames are elpv cells in a folder; the source gives the next one as
soon as the agent has taken the last, so nothing is dropped and nothing waits for a beat. Bare: the same files one after
another: `shared.preprocess.decode` and `to_input`, then `set_tensor`, `invoke`, `get_tensor` of backbone and head, on
interpreters of their own. Both take turns, frame set by frame set, in one process; broker and hub are in another one.

Two cores: the frame loop's time a frame, from having it until it is ready for the next, while all other threads do
their work beside it. Capture has decoded it by then, so of bare only resizing is taken off:
overhead = (loop - resize - invoke) / invoke. One core, which broker and hub do not use: the time a frame in all, so
that whatever any thread does counts: one_core_overhead = (frame - decode - resize - invoke) / invoke.

The same differences in CPU time say what is work and what is waiting, and hold on a machine that others use, too:
cpu_overhead of the loop's thread on two cores, one_core_cpu_overhead of all threads, each over invoke's CPU time.

The last line is one JSON object: both overheads in the median round, the lowest and highest of a round, milliseconds a
frame (medians), and how many frames became events: the rest of the one-core overhead goes mostly into these.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import threading
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from edge.agent import Agent
from edge.capture import read_file
from edge.settings import read
from hub.demo import cells
from shared import heap
from shared.clock import SystemClock
from shared.mqtt import PahoBus
from shared.preprocess import Preprocess, decode, to_input
from tests.bench.swap import CHUNK, CONFIG
from tests.fakes.camera import CAMERA
from tests.fakes.hub import FakeHub, Registry
from tests.fakes.listener import wait_until
from tests.fakes.lite0 import releases
from tests.fakes.mosquitto import Mosquitto

NAMES = ("loop", "frame", "loop_cpu", "all_cpu", "decode", "resize", "invoke", "decode_cpu", "resize_cpu", "invoke_cpu")
"""Of what is measured: of ours, then of bare."""
AHEAD = 2
"""Frames that are read while the agent has one."""


class Gate:
    """A source that gives the files it is handed, each as soon as the agent asks for a frame."""

    def __init__(self):
        self.files = []
        self.room = threading.Semaphore(0)
        self.more = threading.Event()

    def shots(self, stop):
        while not stop.is_set():
            if not self.more.wait(0.2):
                continue
            self.more.clear()
            for path in self.files:
                self.room.acquire()
                if stop.is_set():
                    return
                yield read_file(path)


class Ours:
    """The agent in a thread of this process; `run` has it see some files."""

    def __init__(self, config):
        self.agent = Agent(read(config), SystemClock())
        self.gate = self.agent._capture._source = Gate()
        self.goal, self.ended, self.done = -1, 0.0, threading.Event()
        self.got = self.busy = 0.0
        self.take, self.agent._capture.take = self.agent._capture.take, self._taking
        self.thread = threading.Thread(target=self.agent.run)
        self.thread.start()

    def _taking(self, timeout):
        now = time.perf_counter()
        if self.got:
            self.busy += now - self.got
        if self.agent._engine.inferred == self.goal and not self.done.is_set():
            self.ended = now
            self.done.set()
        frame = self.take(timeout)
        if frame is not None:
            self.gate.room.release()
        self.got = time.perf_counter() if frame is not None else 0.0
        return frame

    def run(self, files):
        """Milliseconds a frame: of the loop, and in all from the first file until the loop is done with the last; then
        the CPU time of the loop's thread, and of all threads.

        The hub has what was chosen when this returns, so that the other side's turn is undisturbed.
        """
        self.goal, self.busy = self.agent._engine.inferred + len(files), 0.0
        self.done.clear()
        clock = time.pthread_getcpuclockid(self.thread.ident)
        loop, whole, begin = time.clock_gettime(clock), time.process_time(), time.perf_counter()
        self.gate.files, self.gate.room = files, threading.Semaphore(AHEAD)
        self.gate.more.set()
        self.done.wait()
        loop, whole = time.clock_gettime(clock) - loop, time.process_time() - whole
        wait_until(lambda: self.agent._to_write.empty() and not self.agent._spool.state().left, "the hub", seconds=30)
        return [1000 * one / len(files) for one in (self.busy, self.ended - begin, loop, whole)]

    def stop(self):
        self.agent.stop()
        self.thread.join()


class Bare:
    """Backbone and head on bare interpreters."""

    def __init__(self, model):
        from ai_edge_litert.interpreter import Interpreter  # it loads NumPy: `edge` goes first, as on a camera

        self.parts = []
        for data in (model.backbone, model.head):
            one = Interpreter(model_content=data, num_threads=1)
            one.allocate_tensors()
            inputs, outputs = one.get_input_details(), one.get_output_details()
            self.parts.append((one, inputs[0]["index"], [output["index"] for output in outputs]))

    def run(self, files):
        """Milliseconds a frame: of reading and decoding, of resizing, and of the model; and the CPU time of each."""
        took, how = [0.0] * 6, Preprocess()
        for path in files:
            times = [(time.perf_counter(), time.thread_time())]
            pixels = decode(path.read_bytes())
            times.append((time.perf_counter(), time.thread_time()))
            x = to_input(pixels, how)
            times.append((time.perf_counter(), time.thread_time()))
            for one, first, outputs in self.parts:
                one.set_tensor(first, x)
                one.invoke()
                x, *_ = [one.get_tensor(output) for output in outputs]
            times.append((time.perf_counter(), time.thread_time()))
            steps = [after - before for clock in zip(*times, strict=True) for before, after in pairwise(clock)]
            took = [sum_ + step for sum_, step in zip(took, steps, strict=True)]
        return [1000 * one / len(files) for one in took]


def plant(place, cores, model, pipe):
    """Broker and hub, in a process of their own, until the other end of the pipe says something."""
    os.sched_setaffinity(0, cores)
    broker = Mosquitto(Path(place))
    broker.start()
    bus = PahoBus(broker.settings_for("hub"), client_id="hub", max_delay=1)
    hub = FakeHub(bus, SystemClock()).start()
    wait_until(lambda: bus.online, "the hub to be connected")
    registry = Registry(Path(place) / "keys", bus, SystemClock(), chunk_size=CHUNK)
    registry.release(1, model)
    registry.plan(1)
    settings = broker.settings_for(CAMERA)
    pipe.send((registry.root, settings.port, settings.password_file))
    pipe.recv()
    pipe.send(len(hub.disk))
    hub.stop()
    broker.stop()


def measure(arguments, files, cores, others):
    """Rounds of both: a dict of ms a frame by NAMES each; and how many events there were."""
    context = multiprocessing.get_context("spawn")
    model = releases(arguments.cache, 1)[0]
    pipe, theirs = context.Pipe()
    with TemporaryDirectory() as place:
        process = context.Process(target=plant, args=(place, others, model, theirs))
        process.start()
        root, port, password = pipe.recv()
        folder = Path(place) / "camera"
        (folder / "frames").mkdir(parents=True)
        (folder / "frames" / files[0].name).symlink_to(files[0])
        text = CONFIG.format(camera=CAMERA, root=root, fps=1000, port=port, password=password)
        (folder / "edge.toml").write_text(text)
        os.sched_setaffinity(0, cores)
        ours, bare = Ours(folder / "edge.toml"), Bare(model)
        wait_until(lambda: ours.agent._engine.running, "the release", seconds=60)
        heap.settle()
        rows = []
        for number in range(-1, arguments.rounds):
            some = [files[(number * arguments.frames + one) % len(files)] for one in range(arguments.frames)]
            if number % 2:
                theirs_first = bare.run(some)
                row = [*ours.run(some), *theirs_first]
            else:
                row = [*ours.run(some), *bare.run(some)]
            if number >= 0:  # the first one warms up
                rows.append(dict(zip(NAMES, row, strict=True)))
                print(f"{len(cores)} core(s), ms:", *(f"{name} {ms:.2f}" for name, ms in rows[-1].items()), flush=True)
        ours.stop()
        pipe.send("end")
        events = pipe.recv()
        process.join()
    return rows, events


def overhead(row):
    """Of the loop, over invoke."""
    return (row["loop"] - row["resize"] - row["invoke"]) / row["invoke"]


def overhead_in_all(row):
    """Of a frame in all, over invoke."""
    return (row["frame"] - row["decode"] - row["resize"] - row["invoke"]) / row["invoke"]


def cpu_overhead(row):
    """The loop's thread, over invoke's CPU time."""
    return (row["loop_cpu"] - row["resize_cpu"] - row["invoke_cpu"]) / row["invoke_cpu"]


def cpu_overhead_in_all(row):
    """All threads, over invoke's CPU time."""
    return (row["all_cpu"] - row["decode_cpu"] - row["resize_cpu"] - row["invoke_cpu"]) / row["invoke_cpu"]


def told(rule, rows, events):
    """Of one arrangement."""
    return {
        "overhead_lowest": round(min(map(rule, rows)), 3),
        "overhead_highest": round(max(map(rule, rows)), 3),
        **{f"{name}_ms": round(statistics.median(row[name] for row in rows), 3) for name in NAMES},
        "events": events,
    }


def median_of(rule, rows):
    return round(statistics.median(map(rule, rows)), 3)


def main():
    """Rounds of both, on two cores and on one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of each (default: 15)")
    parser.add_argument("--frames", type=int, default=200, help="of a round (default: 200)")
    parser.add_argument("--cache", type=Path, default=Path(".hone/cache"), help="folder of converted backbones")
    arguments = parser.parse_args()
    first, second, *_ = sorted(os.sched_getaffinity(0))
    files = [one.path for one in cells.split(cells.load(), 1, 1).streams[0]]
    load = os.getloadavg()[0]
    two, two_events = measure(arguments, files, {first, second}, {first, second})
    one, one_events = measure(arguments, files, {first}, {second})
    result = {
        "overhead": median_of(overhead, two),
        "one_core_overhead": median_of(overhead_in_all, one),
        "cpu_overhead": median_of(cpu_overhead, two),
        "one_core_cpu_overhead": median_of(cpu_overhead_in_all, one),
        "two_cores": told(overhead, two, two_events),
        "one_core": told(overhead_in_all, one, one_events),
        "frames": arguments.rounds * arguments.frames,
        "load_before": round(load, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
