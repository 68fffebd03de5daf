"""Bench: nothing is lost and nothing stored twice, whatever dies, is cut off or fills up.

    python -m tests.bench.chaos --seconds 60 --seed 1

A plant of real processes on this machine: mosquitto with Hone's configuration, `hub serve`, and three cameras, each
`edge run` on a folder into which numbered pictures are dropped; nearly every one becomes an event. For SECONDS, in an
order that the seed alone decides:

  kill    SIGKILL of a random one of the five every few seconds, sometimes of broker and hub, any two, or all;
          each is started again after a short pause. Once the hub is away for eight seconds.
  cut     all connections of the cameras, of the hub, or of both, to the broker are reset in the middle of whatever
          they say (both sides go through a proxy); half the times after a silence, in which what the cameras say
          gets through and what the hub answers does not.
  fill    the hub's disk, a small tmpfs, is full for some seconds. Mounting takes root, or user namespaces; where
          there are none this part is left out, and the answer says so.
  small   the third camera's spool has room for some 25 pictures, and overflows while the hub is away.

Most faults wait, some seconds at most, until images are being stored, to hit them on their way.

A ledger beside all this, which is never killed, writes down each event that the kernel saw come to be in a spool, and
the number in its picture's pixels. In the end everything is healed, the spools drain, all processes end, and the disks
alone are counted: rows of the database, pixels of the blobs, files in the spools, lines of the journals.

The last line is one JSON object. Each event of the ledger is counted once: spooled = stored + left + quarantined +
dropped_counted + lost.

  kills, cuts, disk_full       processes killed, connections reset, times the disk was full
  restarts                     times a process ended by itself and was started again
  hung                         processes that did not end within 20 s when asked to, at the very end
  fed                          pictures dropped into the folders, also while a camera was down
  overflowed                   whether a camera dropped events for want of room in its spool
  lost                         spooled, and nowhere to be found
  duplicated                   pictures stored under more rows than times they were spooled
  acked_not_on_disk            a camera's journal says stored, and the hub has no row with the right blob
  bad_rows                     rows whose blob is missing or has other bytes
  unwitnessed                  events that the ledger should have seen: then the bench failed, not the plant
  captured_twice, torn         pictures spooled as two events; events that a camera found damaged
  tracebacks                   in the logs of the five
  drained, drain_s             whether all spools were empty in the end, seconds it took

Exit status: 0 when all is well; 1 when lost, duplicated, acked_not_on_disk or bad_rows is not 0; 2 when the bench
itself failed. Whenever it is not 0 the plant's folder is kept, and what the ledger knows of each event is printed.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path

from hub import broker
from tests.bench.plant import faults, ledger, pictures, tally
from tests.bench.plant.disk import SmallDisk
from tests.bench.plant.faults import BROKER, CAMERAS, EVERYONE, HUB
from tests.bench.plant.layout import Layout
from tests.bench.plant.processes import Program
from tests.bench.plant.proxy import Proxy

TICK_S = 0.01
SAY_EVERY_S = 5.0
RESTART_S = 1.0
"""Pause before a process that ended by itself is started again."""
PICTURE = 45_000
"""Bytes of a picture, about."""
PATIENCE_S, BUSY_S = 4.0, 0.1
"""So long a fault waits for images to be stored; they are while the last journal line is no older than that."""
FORGET_S = 60.0
"""After so long a picture that was fed is deleted from the watched folder."""


class Feeder:
    """Drops numbered pictures into the watched folders, so many a second into each."""

    def __init__(self, layout: Layout, fps: float) -> None:
        self._layout = layout
        self._period = 1.0 / fps
        self._due = time.monotonic()
        self._serial = 0
        self._old: deque[tuple[float, Path]] = deque()
        self.fed = 0

    def step(self) -> None:
        """Feed what is due."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = max(self._due + self._period, now - 1.0)  # after a stall, no more than a second's worth
        self._serial += 1
        for number, (camera, folder) in enumerate(self._layout.frames.items()):
            aside = self._layout.feed / f"{camera.replace('/', '-')}-{self._serial:06}.png"
            aside.write_bytes(pictures.draw(number, self._serial))
            os.replace(aside, folder / aside.name)
            self._old.append((now, folder / aside.name))
            self.fed += 1
        while self._old and now - self._old[0][0] > FORGET_S:
            self._old.popleft()[1].unlink()


class _Stream:
    """Gives faults one after the other, each at its time."""

    def __init__(self, faults_: Iterator[faults.Fault]) -> None:
        self._faults = faults_
        self._next = next(faults_)
        self._last = time.monotonic()

    def due(self, now: float, *, busy: bool) -> faults.Fault | None:
        """The fault to do now, if there is one. busy: images are being stored."""
        late = now - self._last - self._next.after
        if late < 0 or (self._next.busy and not busy and late < PATIENCE_S):
            return None
        fault, self._next, self._last = self._next, next(self._faults), now
        return fault


class Run:
    """One run of the bench from the first start to the last stop; `did` counts what was done to the plant."""

    def __init__(self, layout: Layout, disk: SmallDisk, fps: float) -> None:
        self.layout = layout
        self.disk = disk
        self.did: Counter[str] = Counter()
        self.programs: dict[str, Program] = {}
        self.proxy: Proxy | None = None
        self.feeder = Feeder(layout, fps)
        self._began = time.monotonic()
        self._said = 0.0
        self._free_at: float | None = None
        self._cut_at: dict[str, float] = {}
        self._acked, self._acked_at = 0, 0.0
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._seen = context.Array("L", 2, lock=False)
        self._ledger = context.Process(
            target=ledger.keep, args=(layout.spools, layout.ledger, theirs, self._seen), daemon=True
        )

    def start(self) -> None:
        """Everything up, a release on every camera, and proven, so that no kill speaks against it."""
        self._ledger.start()
        self._pipe.recv()
        self.programs, self.proxy = self.layout.configure()
        for name in EVERYONE:
            self.programs[name].start()
        self._until(lambda: all(self._has_sent(one) for one in CAMERAS), "each camera to have an event stored", 60)
        # Who is asked to stop was not killed by its model: three kills before that, and a camera drops its release.
        for name in CAMERAS:
            self.programs[name].ask_to_end()
        for name in CAMERAS:
            self.programs[name].wait_end(15)
            self.programs[name].start()

    def torment(self, seed: int, seconds: float) -> None:
        """Do what the seed says while pictures come."""
        end = time.monotonic() + seconds
        streams = [_Stream(faults.hits(seed)), _Stream(faults.fills(seed))]
        while (now := time.monotonic()) < end:
            for one in streams:
                if (fault := one.due(now, busy=now - self._acked_at < BUSY_S)) is not None:
                    self._do(fault)
            self._step("chaos")

    def heal(self, limit: float) -> tuple[bool, float]:
        """Give everything back, feed no more, and wait until the spools are empty: whether, and after how long."""
        began = time.monotonic()
        self.disk.free()
        self._free_at = None
        self._cut_at = dict.fromkeys(self._cut_at, began)
        for one in self.programs.values():
            if one.due is not None:
                one.due = began
        empty_since: float | None = None
        while (now := time.monotonic()) - began < limit:
            self._step("drain", feed=False)
            waits = any(tally.left_in(one) for one in self.layout.spools.values())
            empty_since = None if waits else empty_since or now
            if empty_since is not None and now - empty_since > 2:  # frames may be on their way to the spool
                return True, empty_since - began
            time.sleep(0.25)
        return False, limit

    def stop(self) -> None:
        """End all processes, in good order where they still can."""
        for some in (CAMERAS, (HUB,), (BROKER,)):
            there = [self.programs[one] for one in some if one in self.programs]
            for one in there:
                one.ask_to_end()
            for one in there:
                if not one.wait_end(20):
                    self.did["hung"] += 1
                    self._say(f"{one.name} did not end within 20 s and was killed")
        if self._ledger.is_alive():
            self._pipe.send(True)
            self._ledger.join(20)
        if self.proxy is not None:
            self.proxy.stop()
            self.proxy = None

    # -- one step

    def _step(self, what: str, *, feed: bool = True) -> None:
        if feed:
            self.feeder.step()
        now = time.monotonic()
        if self._free_at is not None and now >= self._free_at:
            self.disk.free()
            self._free_at = None
        if self._seen[1] != self._acked:
            self._acked, self._acked_at = self._seen[1], now
        for side in [one for one, at in self._cut_at.items() if now >= at]:
            del self._cut_at[side]
            self.did["cuts"] += self.proxy.cut(side) if self.proxy is not None else 0
        for one in self.programs.values():
            if one.due is None and one.pid is None:
                self.did["restarts"] += 1
                self._say(f"{one.name} ended by itself with status {one.status}")
                one.due = now + RESTART_S
            if one.due is not None and now >= one.due:
                one.start()
        if now - self._said > SAY_EVERY_S:
            self._said = now
            left = ", ".join(str(len(tally.left_in(one))) for one in self.layout.spools.values())
            done = ", ".join(f"{self.did[one]} {one}" for one in ("kills", "cuts", "disk_full"))
            room = f", {self.disk.room >> 20} MiB free at the hub" if self.disk.mounted else ""
            self._say(f"{what}: {done}; {self._seen[0]} spooled of {self.feeder.fed} fed, left {left}{room}")
        time.sleep(TICK_S)

    def _do(self, fault: faults.Fault) -> None:
        now = time.monotonic()
        targets = fault.targets
        if fault.kind == "kill":
            targets = tuple(one for one in targets if self.programs[one].pid is not None)
            for one in targets:
                self.programs[one].kill()
                self.programs[one].due = now + fault.seconds
                self.did["kills"] += 1
        elif fault.kind == "cut" and self.proxy is not None:
            for side in targets:
                self._cut_at.setdefault(side, now + fault.seconds)
                if fault.seconds:
                    self.proxy.mute(side)
        elif fault.kind == "fill" and self.disk.mounted:
            self.disk.fill(fault.room)
            self._free_at = now + fault.seconds
            self.did["disk_full"] += 1
        self._say(
            " ".join(
                (
                    fault.kind,
                    *(targets or ("nobody, they are down",)),
                    f"for {fault.seconds} s" if fault.seconds else "",
                )
            )
        )

    def _has_sent(self, camera: str) -> bool:
        return any(ledger.journal_lines(self.layout.spools[camera] / ledger.JOURNAL))

    def _until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}; logs are in {self.layout.logs}")
            self._step(f"waiting for {what}")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)


def answer(run: Run, counted: tally.Tally) -> dict[str, object]:
    """The figures of the last line."""
    return {
        **{name: run.did[name] for name in ("kills", "cuts", "disk_full", "restarts", "hung")},
        "fed": run.feeder.fed,
        "spooled": counted.spooled,
        "stored": len(counted.stored),
        "left": len(counted.left),
        "dropped_counted": len(counted.dropped),
        "quarantined": len(counted.quarantined),
        "lost": len(counted.lost),
        "duplicated": len(counted.duplicated),
        "acked_not_on_disk": len(counted.acked_not_on_disk),
        "bad_rows": len(counted.bad_rows),
        "unwitnessed": len(counted.unwitnessed),
        "captured_twice": len(counted.captured_twice),
        "torn": counted.torn,
        "overflowed": bool(counted.overflowed),
    }


def bench(folder: Path, arguments: argparse.Namespace) -> int:
    """Run it in `folder`; prints the answer and returns the exit status."""
    began = time.monotonic()
    total = (arguments.seconds + 30) * arguments.fps * len(CAMERAS) * PICTURE
    disk = SmallDisk(folder / "hub", int(1.5 * total) + (32 << 20))
    if not disk.mounted:
        print(f"the disk that fills up is left out: it cannot be mounted here ({disk.why})", flush=True)
    run = Run(Layout(folder), disk, arguments.fps)
    try:
        run.start()
        run.torment(arguments.seed, arguments.seconds)
        drained, drain_s = run.heal(arguments.drain)
        if not drained:
            print(f"the spools did not drain within {arguments.drain:.0f} s", flush=True)
        run.stop()
        counted = tally.count(run.layout.ledger, run.layout.hub, run.layout.spools)
        for line in tally.describe(counted, run.layout.ledger):
            print(line, flush=True)
    finally:
        run.stop()
        if disk.mounted:
            shutil.copytree(disk.folder, folder / "hub-at-the-end")
            disk.unmount()
    result = answer(run, counted) | {
        "drained": drained,
        "drain_s": round(drain_s, 1),
        "tracebacks": sum(one.read_text(errors="replace").count("Traceback") for one in run.layout.logs.iterdir()),
        "disk": "tmpfs" if run.did["disk_full"] else f"left out: {disk.why or 'too short a run'}",
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result), flush=True)
    if counted.lost or counted.duplicated or counted.acked_not_on_disk or counted.bad_rows:
        return 1
    return 2 if counted.unwitnessed else 0


def alone() -> None:
    """Go on in a mount namespace of our own, so that no mount outlives us; as it is where that is not allowed."""
    how = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    tried = subprocess.run([*how, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if tried is not None and tried.returncode == 0:
        os.environ.update(LOGNAME="root", USER="root")  # the broker becomes who we are there
        os.execvp(how[0], [*how, sys.executable, "-m", "tests.bench.chaos", "--alone", *sys.argv[1:]])


def main() -> int:
    """Read the options and run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="which faults, in which order (default: 1)")
    parser.add_argument("--fps", type=float, default=5.0, help="pictures a second for each camera (default: 5)")
    parser.add_argument("--drain", type=float, default=120.0, help="longest wait for empty spools, s (default: 120)")
    parser.add_argument("--keep", type=Path, help="a new folder for the plant, kept (default: a temporary one)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.alone:
        alone()
    broker.find_program("mosquitto")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="hone-chaos-"))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    status = 2
    try:
        status = bench(folder, arguments)
    finally:
        if status == 0 and not arguments.keep:
            shutil.rmtree(folder)
        else:
            print(f"the plant's folder is kept: {folder}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
