"""The hub's settings: one frozen object, read from hub.toml and passed in. Paths are relative to the file."""

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.config import load
from shared.errors import ConfigError
from shared.ids import check_camera, check_name
from shared.mqtt import MqttSettings
from shared.preprocess import Preprocess

PLACES = ("hub.toml", ".hone/hub.toml", "/etc/hone/hub.toml")
"""Where a configuration is looked for, when neither --config nor HONE_HUB_CONFIG names one."""


class ProjectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The label set. classes: names in the order of the head's outputs; the second of two is "positive"."""

    name: str
    classes: Annotated[list[str], Meta(min_length=2, max_length=200)]
    preprocess: Preprocess = Preprocess()


class CollectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is taken from cameras. cameras: the accepted ones as `site/camera`; empty accepts all that
    the broker lets in.

    enabled: whether the serving hub collects at all; sites: from which sites, empty means all. What it leaves out,
    collectors beside it serve (`hone-hub collect`); with sites it is one among them.
    image_mb: largest image (MiB). partial_mb: memory for unfinished images (MiB). free_mb: below so much free disk
    (MiB) the cameras wait. quota_mb_per_day: what one camera may have stored on a day in UTC (MiB); 0: no limit.
    batch: most images in one commit. fetch_per_hour: images that the hub asks for by itself, the most valuable of all
    previews; 0: only those that an operator opens. preview_days: so long after it was offered last a preview goes that
    nobody asked for, or whose image is gone; 0: never.
    """

    enabled: bool = True
    sites: list[str] = []
    cameras: list[str] = []
    image_mb: Annotated[int, Meta(ge=1, le=1024)] = 16
    partial_mb: Annotated[int, Meta(ge=1)] = 256
    free_mb: Annotated[int, Meta(ge=0)] = 512
    quota_mb_per_day: Annotated[int, Meta(ge=0)] = 0
    batch: Annotated[int, Meta(ge=1, le=1000)] = 256
    fetch_per_hour: Annotated[int, Meta(ge=0, le=3600)] = 0
    preview_days: Annotated[int, Meta(ge=0, le=3650)] = 30


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a head is trained.

    l2: strengths to choose from, any order, each > 0. folds: for out-of-fold predictions; fewer are used where
    a class has fewer labels, never less than 2. max_iterations: of L-BFGS for one fit. class_balanced: every
    class weighs the same, however many labels it has. shrinkage: of the standardisation, see `hub.train`. seed: of the
    folds. threads: that torch may use. features: what of Lite0 the head sees: "pooled" is its last map alone, "stages"
    the ends of the stages before too: more is learned from few labels, embeddings are 2.2 times as long.
    """

    l2: tuple[float, ...] = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)
    folds: int = 5
    max_iterations: int = 200
    class_balanced: bool = True
    shrinkage: float = 0.3
    seed: int = 0
    threads: int = 1
    features: Literal["pooled", "stages"] = "pooled"


class RetrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run starts by itself, and what becomes of it.

    every_labels: start after so many new labels; 0 means only on demand. auto_release: release what is proven better.
    """

    every_labels: Annotated[int, Meta(ge=0)] = 50
    auto_release: bool = True


class LabelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images an operator is asked about.

    order: one of the strategies of `hub.choose`; "mix" teaches the most per label. batch: images that are chosen at
    once. shortlist: of "halves", the unsure half is chosen among so many times the batch of the least sure images.
    """

    order: Literal["mix", "halves", "uncertainty", "cluster", "camera", "random"] = "mix"
    batch: Annotated[int, Meta(ge=1, le=1000)] = 25
    shortlist: Annotated[int, Meta(ge=1, le=100)] = 4


class RolloutSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way of a release through the fleet. canary: how many cameras run it first; 0 skips the stage.

    soak_s: how long the canaries must run it without failure. hold_s: after so long without success the rollout
    holds and asks. days: how long a signature is good for; it is renewed at half time.
    """

    canary: Annotated[int, Meta(ge=0)] = 1
    soak_s: Annotated[float, Meta(ge=0)] = 30.0
    hold_s: Annotated[float, Meta(gt=0)] = 3600.0
    days: Annotated[int, Meta(ge=1, le=3650)] = 90


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the page listens. There is no login: keep it on loopback or behind a proxy that has one."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. state: folder for database, blobs and keys. cache: folder for converted backbones.

    database: SQLAlchemy URL; empty means SQLite in the state folder. beat_s: seconds between two beats of the hub's
    liveness counter.
    """

    project: ProjectSettings
    name: str = "hub"
    state: str = "hub"
    cache: str = "cache"
    database: str = ""
    beat_s: Annotated[float, Meta(gt=0, le=60)] = 2.0
    mqtt: MqttSettings = MqttSettings()
    web: WebSettings = WebSettings()
    collect: CollectSettings = CollectSettings()
    train: TrainSettings = TrainSettings()
    retrain: RetrainSettings = RetrainSettings()
    label: LabelSettings = LabelSettings()
    rollout: RolloutSettings = RolloutSettings()

    @property
    def state_folder(self) -> Path:
        """Folder of database, blobs and keys."""
        return Path(self.state)

    @property
    def cache_folder(self) -> Path:
        """Folder of converted backbones; safe to delete."""
        return Path(self.cache)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.state_folder / 'hone.db'}"


def find_config(given: Path | None) -> Path:
    """The configuration to use: --config, HONE_HUB_CONFIG, or the first of PLACES; ConfigError when there is none."""
    if given is not None:
        return given
    if named := os.environ.get("HONE_HUB_CONFIG"):
        return Path(named)
    for place in PLACES:
        if Path(place).is_file():
            return Path(place)
    raise ConfigError(
        f"no configuration found in {', '.join(PLACES)}", remedy="Give one with --config, or try: hone-hub demo"
    )


def read(path: Path) -> HubSettings:
    """Read and check hub.toml; relative folders and files are taken from the file's own folder. ConfigError."""
    settings = load(path, HubSettings)
    check_name(settings.name, "hub name")
    check_name(settings.project.name, "project name")
    classes = settings.project.classes
    if len(set(classes)) != len(classes) or not all(one and len(one) <= 200 for one in classes):
        raise ConfigError("project.classes must be different, non-empty names", subject=str(path))
    if settings.collect.partial_mb < settings.collect.image_mb:
        raise ConfigError("collect.partial_mb must be at least collect.image_mb", subject=str(path))
    for camera in settings.collect.cameras:
        check_camera(camera)
    for site in settings.collect.sites:
        check_name(site, "site")
    base = path.resolve().parent

    def place(name: str) -> str:
        return str(base / name) if name else ""

    mqtt = msgspec.structs.replace(
        settings.mqtt,
        username=settings.mqtt.username or "hub",
        **{key: place(getattr(settings.mqtt, key)) for key in ("password_file", "ca", "cert", "key")},
    )
    return msgspec.structs.replace(settings, state=place(settings.state), cache=place(settings.cache), mqtt=mqtt)
