"""The demo's stage: broker, hub and cameras as real processes, what is asked of the hub's page, and the waiting."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live

from hub import broker, keys
from hub.broker import free_port
from hub.demo import table
from hub.demo.cells import Cell, lay_out
from hub.demo.children import Children
from hub.demo.configuration import PROJECT, WINDOW_S, edge_toml, hub_toml
from hub.demo.feed import Feed, Stand
from hub.demo.operator import Operator
from hub.importer import import_folder
from hub.rollouts import busy
from hub.settings import HubSettings, read
from hub.store import Store
from shared.clock import SystemClock
from shared.errors import HoneError
from shared.files import write_atomic

CAMERAS = ("plant/line-1", "plant/line-2", "plant/line-3")
SECONDS_A_LABEL = 0.3


@dataclass(frozen=True, slots=True)
class Story:
    """What the command line asks for. frames: most that are shown for the first time before a camera, 0 for all.

    port: of the page, 0 for a free one.
    """

    state: Path
    name: str = "better"
    seed: int = 0
    once: bool = False
    label: str = "script"
    frames: int = 0
    port: int = 0


class StoryError(HoneError):
    """The story did not end as it should."""


class EndError(Exception):
    """Somebody wants the story to end."""


class Stage:
    """Everything that a story needs and that is not its plot. asked: grows when the story is to end."""

    def __init__(
        self, story: Story, state: Path, children: Children, console: Console, asked: Sequence[object]
    ) -> None:
        self.story = story
        self.state = state
        self.clock = SystemClock()
        self.truth: dict[str, str] = {}
        self.operator: Operator | None = None
        self.feed: Feed | None = None
        self._asked = asked
        self._children = children
        self._console = console
        if story.port:
            broker.check_port_free("127.0.0.1", story.port)
        self._web_port = story.port or free_port()
        self._mqtt_port = free_port()
        self.url = f"http://127.0.0.1:{self._web_port}"
        self._client = httpx.Client(base_url=self.url, timeout=10)
        self._began = time.monotonic()
        self._step = "setting the stage"
        self._said = 0.0
        self._screen: Live | None = None
        self._quiet_since = 0.0

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return time.monotonic() - self._began

    def screen(self) -> Live:
        """What the acts are shown on."""
        live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._screen = live if self._console.is_terminal else None
        return live

    # -- the set

    def hub(self, more: str) -> HubSettings:
        """Configuration, keys, broker and hub; returns the hub's settings. more: lines at the end of hub.toml."""
        folder = self.state / "hub"
        passwords = broker.new_passwords([broker.HUB_USER, broker.SCADA_USER, *CAMERAS])
        configuration = broker.write_configuration(self.state / "broker", port=self._mqtt_port, passwords=passwords)
        keys.make(folder / "keys", self.clock)
        config = self.state / "hub.toml"
        write_atomic(config, hub_toml(self._mqtt_port, self._web_port, self.story.seed, more).encode())
        settings = read(config)
        self._children.start("broker", broker.command(configuration))
        broker.wait_ready(self._mqtt_port)
        self._children.start("hub", [sys.executable, "-m", "hub", "serve", "--config", str(config)])
        self.wait("the hub to answer", lambda: self.overview() is not None, 60)
        return settings

    def cameras(self, fps: float) -> None:
        """Start the cameras; they wait for the first release. fps: that the line will show them."""
        root = keys.load(self.state / "hub" / "keys").root_public
        for camera in CAMERAS:
            self.go_on()
            folder = self._folder(camera)
            (folder / "frames").mkdir(parents=True)
            password = self.state / "broker" / "clear" / camera.replace("/", "__")
            write_atomic(folder / "edge.toml", edge_toml(camera, root, self._mqtt_port, password, fps).encode())
            command = [sys.executable, "-m", "edge", "run", "--config", str(folder / "edge.toml")]
            self._children.start(camera.replace("/", "-"), command)

    def bring(self, settings: HubSettings, store: Store, name: str, cells: Sequence[Cell], split: str) -> None:
        """Import labelled cells. name: of the folder that they are laid out in."""
        folder = self.state / "import" / name
        lay_out(cells, folder)
        import_folder(settings, store, folder, split, self.clock, progress=lambda *_: self.show())

    def start_line(self, first: Sequence[Sequence[Cell]], again: Sequence[Sequence[Cell]], fps: float) -> Feed:
        """The line starts once every camera runs a model; what it shows is known in `truth`."""
        self.wait("the cameras to run the first model", self._all_run, 120)
        stands = [
            Stand(camera, self._folder(camera) / "frames", one, two)
            for camera, one, two in zip(CAMERAS, first, again, strict=True)
        ]
        record = self.state / "shown.csv"
        self.feed = Feed(stands, fps=fps, seed=self.story.seed, truth=self.truth, record=record)
        self.feed.start()
        return self.feed

    def sit_down(self, budget: int) -> Operator:
        """The scripted operator begins to label."""
        self.operator = Operator(self.url, self.truth, budget=budget, seconds_each=SECONDS_A_LABEL)
        self.operator.start()
        return self.operator

    def stop_line(self) -> None:
        """The line stops, and all that was shown is judged and all that was chosen is stored."""
        if self.feed is not None:
            self.feed.stop()
            self._quiet_since = time.monotonic()
            self.act("the line has stopped; the last images are stored")
            self.wait("all frames to be judged and all images to be stored", self._all_stored, 90)

    def close(self) -> None:
        """End what runs in threads of this process."""
        for one in (self.feed, self.operator):
            if one is not None:
                one.stop()

    def settled(self, store: Store) -> bool:
        """Whether no rollout is under way, none waits, and nothing trains."""
        view = self.overview()
        with store.read() as session:
            under_way = busy(session, PROJECT)
        if under_way == "held" and view is not None and view["rollout"] is not None:
            raise StoryError(f"is held: {view['rollout']['reason']}", subject="the rollout")
        return view is not None and view["current"] is None and not under_way

    # -- small things

    def go_on(self) -> None:
        """EndError when the story is to end."""
        if self._asked:
            raise EndError

    def act(self, step: str) -> None:
        """Say what happens now."""
        self._step = step
        if self._screen is None:
            self._console.print(f"{self.seconds:6.1f} s  {step}")
        self.show()

    def say(self, what: Any) -> None:
        """Print below the live view."""
        self._console.print(what)

    def overview(self) -> dict[str, Any] | None:
        """What the page's first screen shows; None while the hub does not answer."""
        try:
            view: dict[str, Any] = self._client.get("/api/overview").raise_for_status().json()
        except httpx.HTTPError:
            return None  # not up yet; a hub that died is noticed by `check`
        return view

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the hub to do something; StoryError when it does not."""
        try:
            answer = self._client.post(path, json=dict(body))
        except httpx.HTTPError as error:
            self._children.check()
            raise StoryError(f"the hub does not answer ({error})", subject=path) from error
        if answer.is_error:
            raise StoryError(f"the hub refused ({answer.text})", subject=path)
        got: dict[str, Any] = answer.json()
        return got

    def show(self) -> None:
        """Draw the live view, or say a line every five seconds; EndError."""
        self.go_on()
        view = self.overview()
        labels = self.operator.labels if self.operator else 0
        if self._screen is not None:
            self._screen.update(table.live(view, url=self.url, labels=labels, step=self._step))
        elif view is not None and time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            self._console.print(f"{self.seconds:6.1f} s  {table.line(view, self._step, labels)}")

    def wait(self, what: str, done: Callable[[], bool], seconds: float) -> None:
        """Look twice a second until `done`; every process must live, and the first failed run ends the story."""
        deadline = time.monotonic() + seconds
        while True:
            self.go_on()
            self._children.check()
            if done():
                return
            if self.operator is not None and self.operator.error:
                raise StoryError(self.operator.error, subject="the demo")
            view = self.overview()
            if view and (failed := [one for one in view["runs"] if one["state"] == "failed"]):
                raise StoryError(failed[0]["error"], subject=f"run {failed[0]['id']}")
            if time.monotonic() > deadline:
                raise StoryError(
                    f"waited {seconds:.0f} s for {what}",
                    subject="the demo",
                    remedy=f"Logs are in {self.state / 'logs'}",
                )
            self.show()
            time.sleep(0.5)

    def linger(self) -> None:
        """Keep everything running until somebody ends it."""
        self._console.print(f"the page stays open at {self.url}; Ctrl-C ends everything")
        while True:
            self.go_on()
            self._children.check()
            time.sleep(0.5)

    def write(self, result: Mapping[str, Any]) -> None:
        """The figures, for programs."""
        write_atomic(self.state / "demo.json", json.dumps(result, indent=1).encode() + b"\n")
        self._console.print(f"figures in {self.state / 'demo.json'}")

    def _folder(self, camera: str) -> Path:
        return self.state / "cameras" / camera.replace("/", "-")

    def _views(self) -> list[dict[str, Any]]:
        view = self.overview()
        return view["cameras"] if view is not None and len(view["cameras"]) == len(CAMERAS) else []

    def _all_run(self) -> bool:
        views = self._views()
        return bool(views) and all(one["release"] for one in views)

    def _all_stored(self) -> bool:
        views, shown = self._views(), self.feed.shown if self.feed is not None else 0
        frames = sum(one["captured"] or 0 for one in views)
        empty = bool(views) and all(one["spool_left"] == 0 for one in views)
        if frames != shown or not empty:
            self._quiet_since = time.monotonic()
        return time.monotonic() - self._quiet_since > WINDOW_S + 1  # the cameras' last windows have ended, too
