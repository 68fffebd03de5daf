"""The JSON messages of the protocol as msgspec structs. Readers ignore fields that they do not know.

Times are RFC 3339 in UTC. Sizes are bytes, durations seconds unless a name says `_ms`. `v` is the version of
the struct; a reader refuses only a version above the one it knows.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from shared.errors import MessageError

MAX_JSON = 256 * 1024
"""No JSON message is longer (bytes)."""

MAX_GONE = 1000
"""Most ids in one `Gone`."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")]
EventId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Serial = Annotated[int, Meta(ge=0, le=999_999_999)]
"""A release or plan number, or 0 for none: nine digits fit a topic, and all databases."""
Positive = Annotated[int, Meta(ge=1, le=2**53)]
Share = Annotated[float, Meta(ge=0, le=1)]
UtcTime = Annotated[datetime, Meta(tz=True)]
ClockQuality = Literal["synchronised", "unsynchronised", "unknown"]
Range = tuple[Count, Count]
"""First and last index, both included."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What every message has."""

    v: Literal[1] = 1


class Status(Message, frozen=True, kw_only=True):
    """`C/status`: a camera is there or gone. boot: fresh id of this start, empty in the last will."""

    online: bool
    boot: str = ""


class HubStatus(Message, frozen=True, kw_only=True, omit_defaults=True):
    """`hone/hub/{name}/status` and, more rarely, `pulse`: the hub is there; `beat` grows every `beat_s` seconds.

    sites: those that this hub serves, empty means all. epoch: id of the history of the hub's data, another one after a
    restore from a backup. accepts: false while the hub's disk is nearly full and nothing shall be sent. attach: bytes
    of the largest first chunk that an event may carry behind its JSON and a zero byte; 0: none. credit: bytes of images
    that a camera may have on their way before the first reply that names its own.
    """

    online: bool
    boot: str = ""
    beat: Count = 0
    beat_s: Annotated[float, Meta(gt=0)] = 2.0
    sites: list[str] = []
    epoch: Annotated[str, Meta(max_length=64)] = ""
    accepts: bool = True
    attach: Count = 0
    credit: Count | None = None


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """What the other model of a trial said of a frame. release: its number.

    trial: id of the trial, see `TrialState`. number: of this frame among those of the trial on which the two differ,
    from 1.
    """

    release: Serial
    label: Annotated[str, Meta(max_length=200)]
    score: Share
    trial: Annotated[str, Meta(max_length=64)]
    number: Positive


class Event(Message, frozen=True, kw_only=True, omit_defaults=True):
    """`C/event`: one frame that triage chose is offered to the hub.

    release: number in use when the frame was seen. label: the model's class; score: its confidence; scores: all
    classes' probabilities by name. why: the rule that chose the frame; probability: with what chance it was chosen.
    value: priority in the spool, higher first. size, sha256: of the image file; ext: its kind. chunk_size: bytes of
    each chunk but the last. follows: true when the chunks follow unasked, false when the camera waits for `resend`.
    held: the camera keeps the image until the hub asks for it by `resend`; the hub keeps this message as a preview.
    thumbnail: small JPEG, base64; only with `held`. embedding: float16, little-endian, base64, and backbone: sha256 of
    what made it; with `held`, and of the random sample where the link is not thin. rival: of a trial's random frame,
    where the other model gives another label.
    """

    id: EventId
    project: Name
    release: Count
    time: UtcTime
    clock: ClockQuality = "unknown"
    label: Annotated[str, Meta(max_length=200)]
    score: Share
    scores: Annotated[dict[str, Share], Meta(max_length=1000)]
    why: Annotated[str, Meta(max_length=64)]
    probability: Share
    value: float
    size: Positive
    sha256: Sha256
    ext: Annotated[str, Meta(pattern=r"^[a-z0-9]{1,8}\Z")]
    chunk_size: Annotated[int, Meta(ge=256, le=1 << 20)]
    follows: bool = True
    held: bool = False
    thumbnail: Annotated[str, Meta(max_length=65536)] | None = None
    embedding: Annotated[str, Meta(max_length=65536)] | None = None
    backbone: Sha256 | None = None
    rival: Rival | None = None


class Reply(Message, frozen=True, kw_only=True, omit_defaults=True):
    """`C/reply`: what the hub says of a camera's events.

    credit: bytes of images that may be on their way and not yet stored. stored: durable, delete your copy. resend:
    chunks that are missing, as ranges. refuse: never send again, with the reason. noted: the preview is kept, hold the
    image until it is asked for. pause_ms: send nothing for so long, an hour at most.
    """

    credit: Count | None = None
    stored: list[EventId] = []
    resend: dict[EventId, list[Range]] = {}
    refuse: dict[EventId, str] = {}
    noted: list[EventId] = []
    pause_ms: Annotated[int, Meta(ge=0, le=3_600_000)] | None = None


class Gone(Message, frozen=True, kw_only=True):
    """`C/gone`: held images that the camera had to let go, or never had: their previews are all there will be."""

    ids: Annotated[list[EventId], Meta(max_length=MAX_GONE)]


class Want(Message, frozen=True, kw_only=True):
    """`C/want`: retained messages that the broker no longer has: chunks of a part, or a release's manifest."""

    sha256: Sha256 | None = None
    ranges: list[Range] = []
    project: Name | None = None
    release: Positive | None = None


class Result(Message, frozen=True, kw_only=True):
    """`C/result`: what the model said of one frame, for SCADA. part: id of the work piece where the source knows it."""

    sequence: Count
    time: UtcTime
    clock: ClockQuality = "unknown"
    label: str
    score: Share
    release: Count
    part: str | None = None


class ReloadState(msgspec.Struct, frozen=True, kw_only=True):
    """Where a camera is on its way to another release, which may be one that it shall only try beside its own.

    shadowing: `release` runs beside the one in use. reverted: `release` was left after it had run, with the reason.
    last_ms: from the plan to the swap, fetch and checks included; swap_ms: the time between two frames that the swap
    itself took. cosine, difference: the worst of the golden check.
    """

    state: Literal["idle", "fetching", "verifying", "shadowing", "running", "failed", "reverted"]
    release: Count = 0
    percent: Annotated[float, Meta(ge=0, le=100)] = 0.0
    reason: str = ""
    last_ms: float | None = None
    swap_ms: float | None = None
    cosine: float | None = None
    difference: float | None = None


class SpoolState(msgspec.Struct, frozen=True, kw_only=True):
    """The camera's disk queue. spooled = stored + left + quarantined + dropped, ever since the spool exists.

    left, bytes: what waits. dropped: least valuable events evicted when full, or damaged, each journalled. Since the
    agent started: unspooled, chosen events that could not be written (disk error or writer behind); torn, damaged
    events set aside. audit_left, audit_dropped, audit_unspooled: those of them that were of the random sample.
    """

    spooled: Count
    stored: Count
    left: Count
    quarantined: Count
    dropped: Count
    unspooled: Count
    torn: Count
    bytes: Count
    limit: Count
    audit_left: Count = 0
    audit_dropped: Count = 0
    audit_unspooled: Count = 0


class FrameState(msgspec.Struct, frozen=True, kw_only=True):
    """captured: frames the source gave. inferred: frames the model saw. dropped: frames that came too fast.
    unreadable: files or frames of the source that could not be decoded. ended: the source has no more.
    """

    captured: Count
    inferred: Count
    dropped: Count
    unreadable: Count = 0
    ended: bool = False


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """fps: frames a second, lately. low_score: share of the last frames under the threshold. infer_ms: median.

    free_mb: memory of the machine that is there for the taking (MiB); None: not known.
    """

    fps: Annotated[float, Meta(ge=0)]
    low_score: Share
    infer_ms: Annotated[float, Meta(ge=0)]
    free_mb: Count | None = None


class TrialState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How two models did on the same random frames, since the agent started or the plan named them.

    release: of the model in use; other: of the one beside it. id: another one each time that counting begins anew.
    skipped: why the other does not run here; empty: it does,
    or is on its way. frames: that both have judged; differed: those of them with two labels; lost: those of these that
    could not become events. missed: random frames that the other had no time for. low, other_low: frames whose score
    was under the threshold. ms, other_ms: median time of an inference; for models with one backbone that of the whole
    and of the head alone. labels, other_labels: frames by label.
    """

    release: Serial
    other: Serial
    id: Annotated[str, Meta(max_length=64)] = ""
    skipped: str = ""
    frames: Count = 0
    differed: Count = 0
    lost: Count = 0
    missed: Count = 0
    low: Count = 0
    other_low: Count = 0
    ms: Annotated[float, Meta(ge=0)] = 0.0
    other_ms: Annotated[float, Meta(ge=0)] = 0.0
    labels: dict[str, Count] = {}
    other_labels: dict[str, Count] = {}


class TriageState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which triage settings are in force, as `shared.policy.to_wire` writes them.

    source: "project": those of the plan; "edge": the camera's own, since the plan says nothing; "local": its own, since
    edge.toml goes first. refused: why those of the last plan are not followed; empty: there is nothing against them.
    """

    source: Literal["project", "edge", "local"]
    settings: dict[str, Any] = {}
    refused: str = ""


class Reported(Message, frozen=True, kw_only=True):
    """`C/reported`: what a camera runs and how it is.

    up, down: bytes of MQTT payload since start. errors: counts by code since start. settings: those in force that
    the hub may care for. floor, plan_floor: highest release
    and plan number ever accepted. triage: None from an agent that knows nothing of it. labels: the camera's own, by
    which a plan may group it. trial: None where the plan names none, or the agent knows nothing of trials. variant: of
    the release that runs, "float" or "int8"; None: nothing runs, or the agent knows of float alone.
    """

    time: UtcTime
    agent: str
    boot: str
    project: Name
    release: Serial
    floor: Serial
    plan_floor: Serial = 0
    reload: ReloadState
    spool: SpoolState
    frames: FrameState
    rates: Rates
    clock: ClockQuality
    up: Count
    down: Count
    errors: dict[str, int] = {}
    settings: dict[str, str | int | float | bool] = {}
    triage: TriageState | None = None
    labels: dict[str, str] = {}
    trial: TrialState | None = None
    variant: Name | None = None


M = TypeVar("M", bound=msgspec.Struct)


def encode(message: msgspec.Struct) -> bytes:
    """JSON bytes of a message."""
    return msgspec.json.encode(message)


def encode_attached(event: Event, first: bytes | memoryview) -> bytes:
    """An event that carries its first chunk: JSON, a zero byte (which JSON never holds), the chunk's bytes."""
    return msgspec.json.encode(event) + b"\0" + first


def split_attached(payload: bytes) -> tuple[bytes, memoryview | None]:
    """The JSON of an event, and the first chunk behind it, not copied; None where there is none."""
    end = payload.find(b"\0", 0, MAX_JSON + 1)
    return (payload, None) if end < 0 else (payload[:end], memoryview(payload)[end + 1 :])


def decode(data: bytes, kind: type[M], *, subject: str = "", limit: int = MAX_JSON) -> M:
    """Read JSON bytes as `kind`; MessageError names the field, and says which message by `subject`."""
    if len(data) > limit:
        raise MessageError(f"has {len(data)} bytes, {limit} are allowed", subject=subject or kind.__name__)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(str(error), subject=subject or kind.__name__) from error
