"""The hub's settings: one frozen object, read from hub.toml and passed in. Paths are relative to the file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hub.stages import read_spec
from shared.config import load
from shared.errors import ConfigError, SettingError
from shared.ids import check_camera, check_name
from shared.mqtt import MqttSettings
from shared.policy import TriageSettings, check
from shared.preprocess import Preprocess

PLACES = ("hub.toml", ".hone/hub.toml", "/etc/hone/hub.toml")
"""Where a configuration is looked for, when neither --config nor HONE_HUB_CONFIG names one."""

BACKBONES = (".tflite", ".pt2")
"""Endings of what `train.backbone` may name."""

Strengths = Annotated[tuple[Annotated[float, Meta(gt=0)], ...], Meta(min_length=1, max_length=100)]

TimeOfDay = Annotated[
    str,
    Meta(pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?\Z", description='a time of day such as "06:30", or nothing'),
]
GroupText = Annotated[str, Meta(description='"25%", "line=3", or a number of cameras')]


class ProjectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The label set. classes: names in the order of the head's outputs; the second of two is "positive".

    intended_use: what the models are for and what not, in words, for their cards; blank lines part paragraphs.
    """

    name: str
    classes: Annotated[list[str], Meta(min_length=2, max_length=200)]
    intended_use: Annotated[str, Meta(max_length=10_000)] = ""
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


Cost = Annotated[float, Meta(ge=0, le=1e9)]
Augment = Literal["flip_horizontal", "flip_vertical", "rotate", "gain"]


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model is trained.

    kind: "linear" and "mlp" (one hidden layer) train a head on stored embeddings; "blocks" (the last `blocks` of Lite0)
    and "full" (all of it) make a new backbone with its head. backbone: one's own instead of Lite0, for both heads: a
    .tflite, or an exported torch program (.pt2); "": Lite0. features: what of Lite0 a head sees: "pooled" is its last
    map alone, "stages" the ends of the stages before too: more is learned from few labels, embeddings are 2.2 times as
    long. int8: make an int8 variant of every model too, for cameras that float is too slow on; a run takes longer by
    one more embedding of its images. images: train on so many at most, 0: all. replay: share of the images that the
    last run knew already to train on, next to all new ones. class_balanced: every class weighs the same, however many
    labels it has. seed: of folds, samples, first weights and the order of images. threads: of the processor. folds: for
    out-of-fold predictions; fewer are used where a class has fewer labels, never less than 2.

    l2: strengths of "linear" to choose from, in any order. max_iterations: of L-BFGS for one fit of "linear".
    shrinkage: of the standardisation, see `hub.train`. epochs: at most; not of "linear", nor are the next five.
    patience: epochs without a lower out-of-fold loss before the end. batch_size: images in a step. learning_rate: of
    AdamW. dropout: share of a layer's inputs that is left out at random while training. device: "auto" takes a GPU
    where there is one, "cuda" insists; not of "linear". precision: "mixed" computes in bfloat16 where that is safe; not
    of "linear". hidden: units of the hidden layer of "mlp". blocks: the last ones of Lite0 that "blocks" trains.
    augment: random changes of images for "blocks" and "full"; name only what leaves the label true.

    costs: of calling an image of one class another: {class: cost of missing it}, or {class: {called: cost}}.
    recall: {class: the share of its images that shall be found}. One of both; it decides which label a camera gives.
    """

    kind: Literal["linear", "mlp", "blocks", "full"] = "linear"
    backbone: str = ""
    features: Literal["pooled", "stages"] = "pooled"
    int8: bool = False
    l2: Strengths = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003)
    folds: Annotated[int, Meta(ge=2, le=100)] = 5
    max_iterations: Annotated[int, Meta(ge=1, le=100_000)] = 200
    class_balanced: bool = True
    shrinkage: Annotated[float, Meta(ge=0, le=1000)] = 0.3
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    images: Annotated[int, Meta(ge=0)] = 0
    replay: Annotated[float, Meta(ge=0, le=1)] = 1.0
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 30
    patience: Annotated[int, Meta(ge=1, le=10_000)] = 5
    batch_size: Annotated[int, Meta(ge=1, le=4096)] = 32
    learning_rate: Annotated[float, Meta(gt=0, le=1)] = 0.0003
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    hidden: Annotated[int, Meta(ge=1, le=4096)] = 128
    blocks: Annotated[int, Meta(ge=1, le=16)] = 3
    augment: tuple[Augment, ...] = ()
    precision: Literal["float32", "mixed"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    costs: dict[str, Cost | dict[str, Cost]] = {}
    recall: dict[str, Annotated[float, Meta(gt=0, le=1)]] = {}


class SplitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which labelled images prove instead of teaching, see `hub.split`; what is assigned already stays where it is.

    share: of the groups whose audit images extend the holdout. by: what is held out together: "group", near-copies;
    "camera", whole cameras; "time", whole days in UTC. near: cosine above which two images are near-copies; from 1 on
    only equal bytes are. max_verdicts: after so many the holdout is worn. min_per_class: held-out images of every class
    that a verdict needs. min_per_slice: images below which a slice has too few for a figure.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 0.5
    by: Literal["group", "camera", "time"] = "group"
    near: Annotated[float, Meta(gt=0, le=1.01)] = 0.995
    max_verdicts: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    min_per_class: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    min_per_slice: Annotated[int, Meta(ge=1, le=1_000_000)] = 20


class DriftSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a camera counts as drifted, see `hub.drift`.

    block: audit images that are tested together, and the fewest that a reference needs. false_alarm: chance that a
    block of a camera where nothing changed raises an alarm; 0: nothing is tested.
    """

    block: Annotated[int, Meta(ge=20, le=1000)] = 50
    false_alarm: Annotated[float, Meta(ge=0, le=0.2)] = 0.01


class RetrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run starts by itself, and what becomes of it. Any rule that is on starts one; see `hub.retrain`.

    every_labels: after so many new labels; 0: not by labels. every_positives: after so many new labels of the class of
    interest; 0: not by these. positive: name of that class; empty: the second of two. new_share: once the new labels
    are so large a share of what the last run learned from; 0: not by share. on_drift: once a camera drifts from
    what its release was proven on. every_hours: hours after the last run was asked for; 0: not by time. daily_at:
    time of day as "HH:MM" where the hub stands; empty: at none. at_least: new labels that a run by share, drift or time
    needs, and that any needs after a run that failed, twice as many after each further one. auto_release: release what
    is proven better.
    """

    every_labels: Annotated[int, Meta(ge=0, le=1_000_000)] = 50
    every_positives: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    positive: Annotated[str, Meta(max_length=200)] = ""
    new_share: Annotated[float, Meta(ge=0, le=100)] = 0.0
    on_drift: bool = False
    every_hours: Annotated[float, Meta(ge=0, le=87600)] = 0.0
    daily_at: TimeOfDay = ""
    at_least: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    auto_release: bool = True


class LabelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images an operator is asked about.

    order: one of the strategies of `hub.choose`; "mix" teaches the most per label. batch: images that are chosen at
    once. shortlist: of "halves", the unsure half is chosen among so many times the batch of the least sure images, a
    third of all at most. audit: share of all decisions that are about random audit images, while some wait: which of
    them get a label does not depend on a model. repeat: share of all labels that ask again, blind, about an image that
    was labelled before, to see whether operators agree; second_look: share that asks about images whose label the last
    run doubts, see `hub.again`.
    """

    order: Literal["mix", "halves", "uncertainty", "cluster", "camera", "random"] = "mix"
    batch: Annotated[int, Meta(ge=1, le=1000)] = 25
    shortlist: Annotated[int, Meta(ge=1, le=100)] = 4
    audit: Annotated[float, Meta(ge=0, le=1)] = 0.1
    repeat: Annotated[float, Meta(ge=0, le=0.5)] = 0.02
    second_look: Annotated[float, Meta(ge=0, le=0.5)] = 0.05


class RolloutSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The way of a release through the fleet, see `hub.rollout`.

    shadow: how many cameras first run it beside their own, where it can do no harm; 0 skips the stage. shadow_frames:
    that each of them must have judged with both. canary: how many cameras run it first; 0 skips the stage. share: of
    the frames of these cameras that both releases judge. quality: canaries compare it with the release before, and an
    operator settles what the two differ on. canary_frames: that canaries must have judged with both, at the least.
    margin: so much more of all frames may it get wrong, as far as is proven. error: the chance that an equal release
    is sent back, and that one that is worse by the margin is let through. settle: share of the differences that an
    operator is asked about. batch: once so many differences wait for him, no more are counted until they are settled.
    groups: which cameras follow, each a "25%" of the fleet, a label such as "line=3", or so many more cameras; everyone
    comes after the last.

    max_slower: so many times as long may it take for a frame. max_low_score: so much more of the same frames may it
    score low. max_failed: share of a group's cameras that may fail to take it; of the first ones none may. min_free_mb:
    memory that a camera must have left (MiB).
    soak_s: how long a stage's cameras must run it without failure. hold_s: after so long without success the rollout
    holds and asks. days: how long a signature is good for; it is renewed at half time.
    """

    shadow: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    shadow_frames: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    canary: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    share: Annotated[float, Meta(gt=0, le=1)] = 0.2
    quality: bool = True
    canary_frames: Annotated[int, Meta(ge=1, le=1_000_000)] = 50
    margin: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    error: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    settle: Annotated[float, Meta(gt=0, le=1)] = 1.0
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 20
    groups: Annotated[tuple[GroupText, ...], Meta(max_length=20)] = ("10%", "50%")
    max_slower: Annotated[float, Meta(ge=1, le=1000)] = 1.5
    max_low_score: Annotated[float, Meta(ge=0, le=1)] = 0.2
    max_failed: Annotated[float, Meta(ge=0, le=1)] = 0.02
    min_free_mb: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    soak_s: Annotated[float, Meta(ge=0, le=86400 * 365)] = 30.0
    hold_s: Annotated[float, Meta(gt=0, le=86400 * 365)] = 86400.0
    days: Annotated[int, Meta(ge=1, le=3650)] = 90


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the page listens. There is no login: keep it on loopback or behind a proxy that has one."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080


class HubSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. state: folder for database, blobs and keys. cache: folder for converted backbones.

    folder: where relative files and folders are looked for; once read, that of hub.toml unless it names another.
    database: SQLAlchemy URL; empty means SQLite in the state folder. beat_s: seconds between two beats of the hub's
    liveness counter. triage: what the project's cameras follow; None: each its own edge.toml. What `hub.policies` lists
    can be changed while the hub runs: ask it for what is in force.
    """

    project: ProjectSettings
    name: str = "hub"
    folder: str = ""
    state: str = "hub"
    cache: str = "cache"
    database: str = ""
    beat_s: Annotated[float, Meta(gt=0, le=60)] = 2.0
    mqtt: MqttSettings = MqttSettings()
    web: WebSettings = WebSettings()
    collect: CollectSettings = CollectSettings()
    train: TrainSettings = TrainSettings()
    split: SplitSettings = SplitSettings()
    drift: DriftSettings = DriftSettings()
    retrain: RetrainSettings = RetrainSettings()
    label: LabelSettings = LabelSettings()
    rollout: RolloutSettings = RolloutSettings()
    triage: TriageSettings | None = None

    def place(self, name: str) -> str:
        """Where a file or folder is that settings name; "" stays."""
        return str(Path(self.folder) / name) if name else ""

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
    if trouble := crossed(settings):
        key, text = next(iter(trouble.items()))
        raise ConfigError(f"{key} {text}", subject=str(path))
    for camera in settings.collect.cameras:
        check_camera(camera)
    for site in settings.collect.sites:
        check_name(site, "site")
    settings = msgspec.structs.replace(settings, folder=str(path.resolve().parent / settings.folder))
    place = settings.place
    mqtt = msgspec.structs.replace(
        settings.mqtt,
        username=settings.mqtt.username or "hub",
        **{key: place(getattr(settings.mqtt, key)) for key in ("password_file", "ca", "cert", "key")},
    )
    train = msgspec.structs.replace(settings.train, backbone=place(settings.train.backbone))
    return msgspec.structs.replace(
        settings, state=place(settings.state), cache=place(settings.cache), mqtt=mqtt, train=train
    )


def crossed(settings: HubSettings) -> dict[str, str]:
    """What is wrong with settings that are good each by itself: key -> what, and what is allowed. Empty: nothing."""
    retrain, classes = settings.retrain, settings.project.classes
    if retrain.positive and retrain.positive not in classes:
        return {"retrain.positive": f"is {retrain.positive!r}; allowed: one of {', '.join(classes)}"}
    if retrain.every_positives and not retrain.positive and len(classes) > 2:
        return {"retrain.positive": f"must name the class of interest; allowed: one of {', '.join(classes)}"}
    if retrain.on_drift and not settings.drift.false_alarm:
        return {
            "retrain.on_drift": "needs tests for drift; allowed with drift.false_alarm 0: false",
            "drift.false_alarm": "is 0; allowed with retrain.on_drift: above 0",
        }
    for one in settings.rollout.groups:
        try:
            read_spec(one)
        except SettingError as error:
            return {"rollout.groups": f"holds {error.what}. {error.remedy}"}
    if trouble := _crossed_triage(settings.triage, classes):
        return trouble
    return _crossed_train(settings.train, classes)


def _crossed_triage(triage: TriageSettings | None, classes: Sequence[str]) -> dict[str, str]:
    try:
        check(triage or TriageSettings(), classes)
    except ConfigError as error:
        return {error.subject: f"{error.what}. {error.remedy}"}
    if triage and triage.rare and triage.rare not in classes:
        return {"triage.rare": f"is {triage.rare!r}; allowed: one of {', '.join(classes)}"}
    return {}


def _crossed_train(train: TrainSettings, classes: Sequence[str]) -> dict[str, str]:
    if train.backbone and Path(train.backbone).suffix not in BACKBONES:
        return {"train.backbone": f"is {train.backbone!r}; allowed: a file with the ending {' or '.join(BACKBONES)}"}
    if train.backbone and train.kind in ("blocks", "full"):
        return {"train.backbone": f"cannot be fine-tuned, only Lite0 can; allowed with train.kind {train.kind}: none"}
    if train.features != "pooled" and train.kind in ("blocks", "full"):
        return {"train.features": f"is for heads on Lite0 as it is; allowed with train.kind {train.kind}: pooled"}
    if train.features != "pooled" and train.backbone:
        return {"train.features": "is for Lite0 only; allowed with a train.backbone: pooled"}
    if train.augment and train.kind in ("linear", "mlp"):
        return {"train.augment": f"changes images, and {train.kind} trains on stored embeddings; allowed: none"}
    if train.device == "cuda" and train.kind == "linear":
        return {"train.device": "is for what torch trains; allowed with train.kind linear: auto or cpu"}
    if train.precision != "float32" and train.kind == "linear":
        return {"train.precision": "is for what torch trains; allowed with train.kind linear: float32"}
    if train.costs and train.recall:
        return {"train.recall": "cannot be combined with train.costs; allowed: one of them"}
    allowed = f"allowed: {', '.join(classes)}"
    for name, cost in train.costs.items():
        called = cost if isinstance(cost, dict) else {}
        for one in (name, *called):
            if one not in classes:
                return {"train.costs": f"names {one!r}, which is no class; {allowed}"}
        if called.get(name):
            return {"train.costs": f"says that {name!r} called {name!r} costs {called[name]:g}; allowed: 0"}
    for name in train.recall:
        if name not in classes:
            return {"train.recall": f"names {name!r}, which is no class; {allowed}"}
    return {}
