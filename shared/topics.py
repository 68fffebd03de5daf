"""Every topic that Hone uses, built and parsed here alone. Depths are fixed, so one wildcard covers the fleet.

>>> event("berlin/press-1")
'hone/camera/berlin/press-1/event'
>>> parse("hone/camera/berlin/press-1/event")
CameraTopic(camera='berlin/press-1', leaf='event')
>>> parse("hone/blob/" + "0" * 64 + "/7").index
7
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import TopicError
from shared.ids import EVENT_ID, NAME, SHA256

CAMERA_LEAVES = ("status", "reported", "event", "gone", "reply", "want", "desired", "result")
"""The leaves under `hone/camera/{site}/{camera}/` that carry JSON."""


@dataclass(frozen=True, slots=True)
class CameraTopic:
    """`hone/camera/{site}/{camera}/{leaf}`; camera is `site/camera`, leaf one of CAMERA_LEAVES."""

    camera: str
    leaf: str


@dataclass(frozen=True, slots=True)
class ChunkTopic:
    """`hone/camera/{site}/{camera}/chunk/{event}/{index}`."""

    camera: str
    event: str
    index: int


@dataclass(frozen=True, slots=True)
class HubTopic:
    """`hone/hub/{name}/{leaf}`; leaf is `status` or `pulse`."""

    name: str
    leaf: str = "status"


@dataclass(frozen=True, slots=True)
class ReleaseTopic:
    """`hone/release/{project}/{number}`."""

    project: str
    number: int


@dataclass(frozen=True, slots=True)
class PlanTopic:
    """`hone/plan/{project}`."""

    project: str


@dataclass(frozen=True, slots=True)
class BlobTopic:
    """`hone/blob/{sha256}/{index}`."""

    sha256: str
    index: int


Topic = CameraTopic | ChunkTopic | HubTopic | ReleaseTopic | PlanTopic | BlobTopic


def status(camera: str) -> str:
    """Retained, from the camera and its last will: online or offline."""
    return f"hone/camera/{camera}/status"


def reported(camera: str) -> str:
    """Retained, from the camera: what it runs and how it is."""
    return f"hone/camera/{camera}/reported"


def event(camera: str) -> str:
    """From the camera: one chosen frame is offered."""
    return f"hone/camera/{camera}/event"


def chunk(camera: str, event_id: str, index: int) -> str:
    """From the camera: raw bytes of one chunk of an event's image."""
    return f"hone/camera/{camera}/chunk/{event_id}/{index}"


def gone(camera: str) -> str:
    """From the camera: held images that it had to let go."""
    return f"hone/camera/{camera}/gone"


def reply(camera: str) -> str:
    """From the hub: credit, stored, resend, refuse, pause."""
    return f"hone/camera/{camera}/reply"


def want(camera: str) -> str:
    """From the camera: retained parts that the broker no longer has."""
    return f"hone/camera/{camera}/want"


def desired(camera: str) -> str:
    """Retained, from the hub: a signed exception for this camera."""
    return f"hone/camera/{camera}/desired"


def result(camera: str) -> str:
    """From the camera at QoS 0: the result of each frame, for SCADA."""
    return f"hone/camera/{camera}/result"


def hub_status(name: str) -> str:
    """Retained, from the hub and its last will: online, boot id and a counter that beats."""
    return f"hone/hub/{name}/status"


def hub_pulse(name: str) -> str:
    """Retained, from the hub: the same as its status, but rarely, for cameras behind a thin link."""
    return f"hone/hub/{name}/pulse"


def release(project: str, number: int) -> str:
    """Retained, from the hub: the signed manifest of a release."""
    return f"hone/release/{project}/{number}"


def plan(project: str) -> str:
    """Retained, from the hub: the signed plan."""
    return f"hone/plan/{project}"


def blob(sha256: str, index: int) -> str:
    """Retained, from the hub: raw bytes of one chunk of a model part."""
    return f"hone/blob/{sha256}/{index}"


UPLOAD_LEAVES = ("status", "event", "chunk/+/+", "gone")
"""What a collector takes of each camera, as ends of filters."""


def uploads(sites: Sequence[str] = ()) -> list[str]:
    """Filters for the uploads of some sites; of none given, of all."""
    return [f"hone/camera/{site}/+/{leaf}" for site in sites or ("+",) for leaf in UPLOAD_LEAVES]


def states() -> list[str]:
    """Filters for what a hub reads of every camera besides uploads."""
    return [f"hone/camera/+/+/{leaf}" for leaf in ("status", "reported", "want")]


def _number(text: str, topic: str) -> int:
    # One spelling a number: 007 would be a second retained topic for chunk 7.
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or (text[0] == "0" and text != "0"):
        raise TopicError("has no number where one belongs", subject=topic)
    return int(text)


def _camera(site: str, name: str, topic: str) -> str:
    if not (NAME.fullmatch(site) and NAME.fullmatch(name)):
        raise TopicError("names no valid site/camera", subject=topic)
    return f"{site}/{name}"


def parse(topic: str) -> Topic:
    """Take a topic apart; TopicError when it is not one of ours."""
    match topic.split("/"):
        case ["hone", "camera", site, name, leaf] if leaf in CAMERA_LEAVES:
            return CameraTopic(_camera(site, name, topic), leaf)
        case ["hone", "camera", site, name, "chunk", event_id, index]:
            if not EVENT_ID.fullmatch(event_id):
                raise TopicError("names no valid event id (UUIDv7)", subject=topic)
            return ChunkTopic(_camera(site, name, topic), event_id, _number(index, topic))
        case ["hone", "hub", name, ("status" | "pulse") as leaf] if NAME.fullmatch(name):
            return HubTopic(name, leaf)
        case ["hone", "release", project, number] if NAME.fullmatch(project):
            return ReleaseTopic(project, _number(number, topic))
        case ["hone", "plan", project] if NAME.fullmatch(project):
            return PlanTopic(project)
        case ["hone", "blob", sha256, index] if SHA256.fullmatch(sha256):
            return BlobTopic(sha256, _number(index, topic))
    raise TopicError("is not a topic of Hone", subject=topic, remedy="docs/protocol.md lists them")
