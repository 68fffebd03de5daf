"""The story from top to bottom: set the stage, let the line run, label, retrain, release, and show what it gave."""

import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.live import Live
from sqlmodel import select

from hub import broker, keys
from hub.broker import free_port
from hub.demo import table
from hub.demo.cells import Split, lay_out, load, split
from hub.demo.children import Children
from hub.demo.configuration import EVERY, edge_toml, hub_toml
from hub.demo.figures import figures, problems
from hub.demo.judge import Judge
from hub.demo.operator import Operator
from hub.importer import import_folder
from hub.settings import HubSettings, read
from hub.store import Store, open_store
from hub.tables import Release
from shared.clock import SystemClock
from shared.errors import ConfigError, HoneError
from shared.files import sha256_hex, write_atomic
from shared.litert import Part
from shared.manifest import ModelSpec

CAMERAS = ("plant/line-1", "plant/line-2", "plant/line-3")
LABELS = 200
SECONDS_A_LABEL = 0.3
PATIENCE_S = 420.0
MARKER = ".hone-demo"


@dataclass(frozen=True, slots=True)
class Story:
    """What the command line asks for. frames: most a camera, 0 for all. port: of the page, 0 for a free one."""

    state: Path
    seed: int = 0
    once: bool = False
    label: str = "script"
    frames: int = 0
    port: int = 0


class StoryError(HoneError):
    """The story did not end as it should."""


class _EndError(Exception):
    """Somebody wants the story to end."""


def run(story: Story) -> int:
    """Tell the story; returns 0, or raises a HoneError that says what went wrong. Ctrl-C ends it within seconds."""
    # Looked at between two steps: an exception that comes out of nowhere, as KeyboardInterrupt does, leaves a
    # transaction or a lock half done, and SQLAlchemy's pool tells of it with a traceback.
    asked: list[object] = []
    for one in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job starts with it ignored
        signal.signal(one, lambda *_: asked.append(True))
    logging.getLogger().setLevel(logging.WARNING)  # the processes' logs are files; here is the story
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a log file has no width of its own
    state = story.state.resolve()
    _clear(state)
    children = Children(state / "logs")
    try:
        return _Stage(story, state, children, console, asked).play()
    except _EndError:
        console.print("\nended; everything that was started is being stopped")
        return 0 if not story.once else 130
    finally:
        for one in (signal.SIGINT, signal.SIGTERM):  # an impatient second Ctrl-C must not leave anything behind
            signal.signal(one, signal.SIG_IGN)
        children.stop()


def _clear(state: Path) -> None:
    """Make room for a fresh story: only in a folder that a demo made; converted backbones stay."""
    others = {one.name for one in state.iterdir()} - {"cache"} if state.exists() else set()
    if others and MARKER not in others:
        raise ConfigError(
            "is not empty and not of an earlier demo", subject=str(state), remedy="Give another one with --state"
        )
    state.mkdir(parents=True, exist_ok=True)
    (state / MARKER).touch()
    for one in state.iterdir():
        if one.name in ("cache", MARKER):
            continue
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()


class _Stage:
    """One telling of the story."""

    def __init__(
        self, story: Story, state: Path, children: Children, console: Console, asked: Sequence[object]
    ) -> None:
        self._story = story
        self._asked = asked
        self._state = state
        self._children = children
        self._console = console
        self._clock = SystemClock()
        if story.port:
            broker.check_port_free("127.0.0.1", story.port)
        self._web_port = story.port or free_port()
        self._mqtt_port = free_port()
        self._url = f"http://127.0.0.1:{self._web_port}"
        self._client = httpx.Client(base_url=self._url, timeout=10)
        self._began = time.monotonic()
        self._step = "setting the stage"
        self._operator: Operator | None = None
        self._said = 0.0
        self._quiet = 0
        self._screen: Live | None = None

    def play(self) -> int:
        """All acts in their order."""
        self._console.print(f"[bold]Hone demo[/]  the page: [underline]{self._url}[/]")
        cells = split(load(), self._story.seed, len(CAMERAS), self._story.frames)
        settings = self._set_stage(cells)
        store = open_store(settings)
        try:
            with Live(console=self._console, refresh_per_second=4, transient=True) as screen:
                self._screen = screen if self._console.is_terminal else None
                self._first_release(cells, settings, store)
                judge = self._judge(cells, settings, store)
                try:
                    self._let_it_run(cells)
                    self._act("measuring what random labels would have given")
                    judge.join(self._go_on)
                    seconds = time.monotonic() - self._began
                    result = figures(
                        store,
                        judge,
                        settings.train,
                        cameras_total=len(CAMERAS),
                        seed=self._story.seed,
                        seconds=seconds,
                    )
                finally:
                    judge.stop()
                    if self._operator is not None:
                        self._operator.stop()
        finally:
            store.close()
        self._console.print(table.final(result))
        write_atomic(self._state / "demo.json", json.dumps(result, indent=1).encode() + b"\n")
        self._console.print(f"figures in {self._state / 'demo.json'}")
        found = problems(result)
        if self._story.once:
            if found:
                raise StoryError("; ".join(found), subject="the demo", remedy=f"Logs are in {self._state / 'logs'}")
            return 0
        for problem in found:
            self._console.print(f"[red]not as it should be: {problem}[/]")
        self._console.print(f"the page stays open at {self._url}; Ctrl-C ends everything")
        while True:
            self._go_on()
            self._children.check()
            time.sleep(0.5)

    # -- acts

    def _set_stage(self, cells: Split) -> HubSettings:
        """Configuration, keys, broker, hub, images; the cameras start at once and wait for the first release."""
        hub = self._state / "hub"
        passwords = broker.new_passwords([broker.HUB_USER, broker.SCADA_USER, *CAMERAS])
        configuration = broker.write_configuration(self._state / "broker", port=self._mqtt_port, passwords=passwords)
        keys.make(hub / "keys", self._clock)
        root = keys.load(hub / "keys").root_public
        config = self._state / "hub.toml"
        write_atomic(config, hub_toml(self._mqtt_port, self._web_port, self._story.seed).encode())
        settings = read(config)
        self._children.start("broker", broker.command(configuration))
        broker.wait_ready(self._mqtt_port)
        self._children.start("hub", [sys.executable, "-m", "hub", "serve", "--config", str(config)])
        self._wait("the hub to answer", lambda: self._overview() is not None, 60)
        for camera, stream in zip(CAMERAS, cells.streams, strict=True):
            self._go_on()
            folder = self._state / "cameras" / camera.replace("/", "-")
            lay_out(stream, folder / "frames", by_class=False)
            text = edge_toml(
                camera, root, self._mqtt_port, self._state / "broker" / "clear" / camera.replace("/", "__")
            )
            write_atomic(folder / "edge.toml", text.encode())
            command = [sys.executable, "-m", "edge", "run", "--config", str(folder / "edge.toml")]
            self._children.start(camera.replace("/", "-"), command)
        return settings

    def _first_release(self, cells: Split, settings: HubSettings, store: Store) -> None:
        """Import the start set and the holdout, train, evaluate, release."""
        self._act("importing 150 mono cells and the holdout")
        for name, some in (("train", cells.start), ("holdout", cells.holdout)):
            folder = self._state / "import" / name
            lay_out(some, folder, by_class=True)
            import_folder(settings, store, folder, name, self._clock, progress=lambda *_: self._show())
        self._act("training the first model")
        self._post("/api/runs", {"why": "the first model"})
        self._wait("the first release", lambda: self._now("latest") >= 1, 180)

    def _judge(self, cells: Split, settings: HubSettings, store: Store) -> Judge:
        with store.read() as session:
            model = session.exec(select(Release.model).where(Release.number == 1)).one()
        spec = msgspec.convert(model, ModelSpec)
        part = Part(store.blobs.read(spec.backbone.sha256), name="backbone")
        judge = Judge(cells, part, spec.preprocess, self._story.seed)
        judge.start()
        if self._story.label == "script":
            # Second looks ask about what was imported to train on, too.
            asked = chain(cells.start, *cells.streams)
            truth = {sha256_hex(cell.path.read_bytes()): cell.label for cell in asked}
            self._operator = Operator(self._url, truth, budget=LABELS, seconds_each=SECONDS_A_LABEL)
            self._operator.start()
        return judge

    def _let_it_run(self, cells: Split) -> None:
        """The line runs: mono cells, then poly; the operator labels; the hub retrains and releases."""
        self._act("the line runs mono cells, then poly")
        if self._story.label == "me":
            self._console.print(f"label at {self._url}/label; the story goes on until Ctrl-C, or {LABELS} labels")
        total = sum(len(stream) for stream in cells.streams)
        patience = PATIENCE_S if self._story.label == "script" else float("inf")

        def ended() -> bool:
            view = self._overview()
            if view is None or len(view["cameras"]) < len(CAMERAS):
                return False
            frames = sum((one["captured"] or 0) for one in view["cameras"])
            empty = all(one["spool_left"] == 0 for one in view["cameras"])
            if self._operator is None:
                desk = view["queue"]["labelled"] >= LABELS
            else:  # his budget holds second looks, too
                desk = self._operator.done or (view["queue"]["waiting"] == 0 and view["totals"]["unchecked"] == 0)
            settled = view["current"] is None and view["queue"]["since_run"] < EVERY
            rolled = view["rollout"] is not None and view["rollout"]["stage"] == "done"
            if frames >= total and not desk:
                self._step = "the line has stopped; the desk is still open"
            return frames >= total and empty and desk and settled and rolled and self._settled_twice()

        self._quiet = 0
        self._wait("the story to end", ended, patience)

    def _settled_twice(self) -> bool:
        """Between the end of a run and its release lies a moment; look a second later again."""
        self._quiet += 1
        return self._quiet >= 3

    # -- small things

    def _go_on(self) -> None:
        """_EndError when the story is to end."""
        if self._asked:
            raise _EndError

    def _act(self, step: str) -> None:
        self._step = step
        if self._screen is None:
            self._console.print(f"{time.monotonic() - self._began:6.1f} s  {step}")
        self._show()

    def _overview(self) -> dict[str, Any] | None:
        try:
            view: dict[str, Any] = self._client.get("/api/overview").raise_for_status().json()
        except httpx.HTTPError:
            return None  # not up yet; a hub that died is noticed by `check`
        return view

    def _now(self, key: str) -> Any:
        view = self._overview()
        return view[key] if view else 0

    def _post(self, path: str, body: dict[str, Any]) -> None:
        try:
            answer = self._client.post(path, json=body)
        except httpx.HTTPError as error:
            self._children.check()
            raise StoryError(f"the hub does not answer ({error})", subject=path) from error
        if answer.is_error:
            raise StoryError(f"the hub refused ({answer.text})", subject=path)

    def _show(self) -> None:
        """Draw the live view, or say a line every five seconds; _EndError."""
        self._go_on()
        view = self._overview()
        labels = self._operator.labels if self._operator else 0
        if self._screen is not None:
            self._screen.update(table.live(view, url=self._url, labels=labels, budget=LABELS, step=self._step))
        elif view is not None and time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            self._console.print(f"{self._said - self._began:6.1f} s  {table.line(view, self._step, labels)}")

    def _wait(self, what: str, done: Any, seconds: float) -> None:
        """Look twice a second until `done`; every process must live, and the first failed run ends the story."""
        deadline = time.monotonic() + seconds
        while True:
            self._go_on()
            self._children.check()
            if done():
                return
            if self._operator is not None and self._operator.error:
                raise StoryError(self._operator.error, subject="the demo")
            view = self._overview()
            if view and (failed := [one for one in view["runs"] if one["state"] == "failed"]):
                raise StoryError(failed[0]["error"], subject=f"run {failed[0]['id']}")
            if time.monotonic() > deadline:
                raise StoryError(
                    f"waited {seconds:.0f} s for {what}",
                    subject="the demo",
                    remedy=f"Logs are in {self._state / 'logs'}",
                )
            self._show()
            time.sleep(0.5)
