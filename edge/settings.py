"""The camera's settings: one frozen object, read from edge.toml and passed in. Paths are relative to the file."""

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge.variant import Setting
from shared.config import load
from shared.errors import ConfigError
from shared.ids import check_camera, check_name
from shared.mqtt import MqttSettings
from shared.policy import TriageSettings, check

DAY_S = 24 * 3600
THIN_KEEPALIVE = 60
"""Seconds between two pings on a thin link, where nothing else is set."""


Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,63}\Z")]


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where frames come from.

    source: a folder of images, read once in order of name; a folder with `watch = true`, into which another program
    drops files; a device number such as "0"; or a URL or video file that OpenCV opens. fps: pace of a folder or video
    file. queue: frames that may wait for the model before the oldest is dropped. raw: how frames without a file of
    their own are kept. jpeg_quality: for raw = "jpeg".
    """

    source: str
    watch: bool = False
    fps: Annotated[float, Meta(gt=0, le=1000)] = 10.0
    queue: Annotated[int, Meta(ge=1, le=1000)] = 4
    raw: Literal["png", "jpeg"] = "png"
    jpeg_quality: Annotated[int, Meta(ge=1, le=100)] = 92


class SpoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The disk queue. limit_mb: hard limit of files that wait or are kept (MiB). keep_hours: that the files of a stored
    event are kept, room permitting. audit_share: of limit_mb, for events of the random sample alone. quarantine_mb: for
    refused files (MiB). chunk_kb: size of a chunk.
    """

    limit_mb: Annotated[int, Meta(ge=1)] = 512
    keep_hours: Annotated[float, Meta(ge=0)] = 24.0
    audit_share: Annotated[float, Meta(ge=0, le=0.9)] = 0.1
    quarantine_mb: Annotated[int, Meta(ge=0)] = 32
    chunk_kb: Annotated[int, Meta(ge=1, le=1024)] = 64


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the uploads may take of the link to the broker; see `edge.budget`.

    bytes_per_s: on average; 0: no limit. mb_per_day: MiB in a local day; 0: no limit. quiet: "HH:MM-HH:MM" in local
    time, may cross midnight: no images then. thin: a link of some kbit/s; the agent sends and subscribes to as little
    as it can, no embeddings of the random sample either. previews: the hub gets a small picture of each event, and the
    image when it asks for it. results: publish `C/result` for each frame; never on a thin link.
    """

    bytes_per_s: Annotated[int, Meta(ge=0)] = 0
    mb_per_day: Annotated[float, Meta(ge=0)] = 0.0
    quiet: list[str] = []
    thin: bool = False
    previews: bool = False
    results: bool = True


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. camera: `site/camera`. root_key: public root key of the hub, hex (`hone-hub keys` prints it).

    hub: name of the hub that collects from this camera; empty: whichever serves its site. state: folder for spool and
    models. threads: of the model. report_s: seconds between two reports. clock: "trusted" when the system clock is
    known to be right, "auto" to ask the system. triage_local: this file's `triage` goes before what the plan says.
    packs: folder into which releases are carried by hand (`hone-hub pack`); empty: none. packs_unsigned: also take
    packs that nobody signed; for laboratories alone.
    variant: of releases that have an int8 one, from the next release on; "auto": int8 where float takes more than half
    of the time between two frames, see `edge.variant`.
    labels: the camera's own, such as line = "3", by which a rollout may go. trial: "off" to run no second model beside
    the one in use, whatever the plan says. trial_memory_mb: memory that must be free (MiB) before a second backbone.
    """

    camera: str
    project: str
    root_key: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    capture: CaptureSettings
    hub: str = ""
    state: str = "state"
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    report_s: Annotated[float, Meta(gt=0, le=3600)] = 2.0
    clock: Literal["auto", "trusted"] = "auto"
    labels: Annotated[dict[Label, Label], Meta(max_length=32)] = {}
    trial: Literal["auto", "off"] = "auto"
    trial_memory_mb: Annotated[int, Meta(ge=0)] = 128
    mqtt: MqttSettings = MqttSettings()
    triage: TriageSettings = TriageSettings()
    triage_local: bool = False
    packs: str = ""
    packs_unsigned: bool = False
    variant: Setting = "auto"
    spool: SpoolSettings = SpoolSettings()
    link: LinkSettings = LinkSettings()

    @property
    def state_folder(self) -> Path:
        """Folder of spool and models."""
        return Path(self.state)


def quiet_hours(text: str) -> tuple[int, int]:
    """Begin and end of "HH:MM-HH:MM" in seconds of the day; the end is the smaller one where midnight lies between.

    >>> quiet_hours("22:00-06:30")
    (79200, 23400)
    """
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", text)
    if found is None or text[:5] == text[6:]:
        raise ConfigError(f"{text!r} are no quiet hours", remedy='Write two different times: "22:00-06:00"')
    begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups())
    return begin_hour * 3600 + begin_minute * 60, end_hour * 3600 + end_minute * 60


def read(path: Path) -> EdgeSettings:
    """Read and check edge.toml; relative folders and files are taken from the file's own folder. ConfigError."""
    settings = load(path, EdgeSettings)
    check_camera(settings.camera)
    check_name(settings.project, "project name")
    if settings.hub:
        check_name(settings.hub, "hub name")
    for one in settings.link.quiet:
        quiet_hours(one)
    check(settings.triage)
    base = path.resolve().parent
    capture = settings.capture
    if "://" not in capture.source and not capture.source.isdigit():
        source = base / capture.source
        if not source.exists():
            raise ConfigError(
                "capture.source does not exist", subject=str(source), remedy="Give a folder, a device number or a URL"
            )
        capture = msgspec.structs.replace(capture, source=str(source))
    if capture.watch and not Path(capture.source).is_dir():
        raise ConfigError("capture.watch needs a folder as source", subject=str(path))

    def place(name: str) -> str:
        return str(base / name) if name else ""

    # The user name is the camera's name: the broker's access list goes by it.
    names = {key: place(getattr(settings.mqtt, key)) for key in ("password_file", "ca", "cert", "key")}
    mqtt = msgspec.structs.replace(settings.mqtt, username=settings.mqtt.username or settings.camera, **names)
    if settings.link.thin and mqtt.keepalive == MqttSettings().keepalive:
        mqtt = msgspec.structs.replace(mqtt, keepalive=THIN_KEEPALIVE)
    return msgspec.structs.replace(
        settings, capture=capture, state=place(settings.state), packs=place(settings.packs), mqtt=mqtt
    )
