"""The database's tables. Times are UTC; JSON columns hold what messages carried.

An image's bytes are not here but in the blob store, under their sha256. Labels are appended and never changed;
`Image.label` repeats the decision in force, so that queues and snapshots need no search through the history.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Index, LargeBinary, Table, TypeDecorator, UniqueConstraint, text
from sqlmodel import Field, SQLModel


class UtcDateTime(TypeDecorator[datetime]):
    """Timezone-aware UTC in Python, naive UTC in the database (SQLite has no time zones)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        try:
            return value.astimezone(UTC).replace(tzinfo=None)
        except OverflowError:  # the first or last day that there is, in another time zone
            return value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        return None if value is None else value.replace(tzinfo=UTC)


def table_of(model: type[SQLModel]) -> Table:
    """The table of a model, for statements past the mapper: thousands of rows a second cost less so."""
    return SQLModel.metadata.tables[str(model.__tablename__)]


class Camera(SQLModel, table=True):
    """A camera that was heard of. reported: its last `C/reported` as JSON. release: what it says it runs."""

    name: str = Field(primary_key=True)
    project: str = ""
    first_seen: datetime = Field(sa_type=UtcDateTime)
    last_seen: datetime = Field(sa_type=UtcDateTime)
    online: bool = False
    boot: str = ""
    release: int = 0
    floor: int = 0
    plan_floor: int = 0
    reported: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


class Image(SQLModel, table=True):
    """One stored image. Identity is (camera, event_id, sha256); camera is "" for imported ones.

    split: "pool" (from the field), "train" or "holdout" (imported so). state: "new", "verified", "unreadable",
    "lost" (see `hub.lost`). guess, score, scores: what the camera's model said. flags: findings of verify, name ->
    score. label: class name in force. decided: an operator labelled or skipped it. Which side of the holdout an image
    is on stands in `Assignment`.
    """

    __table_args__ = (
        UniqueConstraint("camera", "event_id"),
        # Audit events are few; whoever looks for them must not read through all images, nor shall others pay.
        Index(
            "ix_image_audit",
            "project",
            "camera",
            "release",
            sqlite_where=text("why = 'audit'"),
            postgresql_where=text("why = 'audit'"),
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    camera: str = Field(default="", index=True)
    event_id: str
    project: str = Field(index=True)
    sha256: str = Field(index=True)
    size: int
    ext: str
    captured_at: datetime = Field(sa_type=UtcDateTime)
    received_at: datetime = Field(sa_type=UtcDateTime)
    split: str = Field(default="pool", index=True)
    state: str = Field(default="new", index=True)
    release: int = 0
    guess: str = ""
    score: float = 0.0
    scores: dict[str, float] = Field(default_factory=dict, sa_type=JSON)
    why: str = ""
    probability: float = 1.0
    width: int = 0
    height: int = 0
    flags: dict[str, float] = Field(default_factory=dict, sa_type=JSON)
    label: str | None = Field(default=None, index=True)
    decided: bool = Field(default=False, index=True)


class Assignment(SQLModel, table=True):
    """Where a labelled image stands in the split, see `hub.split`; given once, and changed only by a bridge.

    near: name of its group of near-copies, "" while it has not been compared with the others. side: "train", "holdout",
    or "out" of both. since: the first holdout version that it is a member of, 0 for none.
    """

    image_id: int = Field(primary_key=True, foreign_key="image.id")
    project: str = Field(index=True)
    near: str = Field(default="", index=True)
    side: str
    since: int = 0


class HoldoutVersion(SQLModel, table=True):
    """One state of a project's holdout: all images with side "holdout" and `since` from 1 to this number.

    base: only images that came after this version decide verdicts; 0: all do. images: how many members it has.
    """

    __table_args__ = (UniqueConstraint("project", "number"),)

    id: int | None = Field(default=None, primary_key=True)
    project: str = Field(index=True)
    number: int
    base: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)
    images: int = 0
    why: str = ""


class Reference(SQLModel, table=True):
    """What a run's model said of the images of one camera, or of all ("") when it was made: `hub.drift.Reference`."""

    run_id: int = Field(primary_key=True, foreign_key="run.id")
    camera: str = Field(primary_key=True)
    data: bytes = Field(sa_type=LargeBinary)


class Watch(SQLModel, table=True):
    """The newest look at a camera's drift. release: that it ran; block: how many blocks of audit images that had given.

    data: `hub.drift.Drift` as JSON.
    """

    camera: str = Field(primary_key=True)
    project: str = Field(index=True)
    release: int
    block: int
    at: datetime = Field(sa_type=UtcDateTime)
    data: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)


INT8 = "int8:"
"""Stands before the hash of an int8 backbone in `Embedding.backbone`: only heads for cameras are trained on these."""


class Embedding(SQLModel, table=True):
    """Embedding of an image by one backbone: float32, little-endian. backbone: sha256, see INT8."""

    image_id: int = Field(primary_key=True, foreign_key="image.id")
    backbone: str = Field(primary_key=True)
    vector: bytes = Field(sa_type=LargeBinary)


class Tombstone(SQLModel, table=True):
    """An event whose image was purged: a repeat is still answered `stored`."""

    camera: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)
    sha256: str
    purged_at: datetime = Field(sa_type=UtcDateTime)


class Look(SQLModel, table=True):
    """What verify measured on an image, to compare later ones with: `hub.looks.Look`. Arrays are little-endian.

    bits: perceptual hash, 8 bytes. up, down: `quality.Light`. view: uint8. sharp, soft: float32. copy_of: image id.
    """

    image_id: int = Field(primary_key=True, foreign_key="image.id")
    bits: bytes = Field(sa_type=LargeBinary)
    up: float
    down: float
    view: bytes = Field(sa_type=LargeBinary)
    sharp: bytes = Field(sa_type=LargeBinary)
    soft: bytes = Field(sa_type=LargeBinary)
    copy_of: int | None = None


class Skew(SQLModel, table=True):
    """An embedding that a camera computed of an image that came later. vector: float16, little-endian.

    distance: cosine distance to the hub's own of the same image, None while that is not known.
    """

    camera: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)
    vector: bytes = Field(sa_type=LargeBinary)
    distance: float | None = None


class Suspect(SQLModel, table=True):
    """A label that a run does not believe, see `hub.suspects`. label, guess: class names; confidence: in the label."""

    run_id: int = Field(primary_key=True, foreign_key="run.id")
    image_id: int = Field(primary_key=True, foreign_key="image.id")
    label: str
    guess: str
    confidence: float


class Label(SQLModel, table=True):
    """One decision of an operator: kind "label" with a class name, "skip", or "undo" of an earlier one.

    ask: why the image was shown: "" for the queue, "second" (a model doubts the label before), "repeat" (do operators
    agree?). bulk: id that the decisions have which were made at once, "" for single ones.
    """

    id: int | None = Field(default=None, primary_key=True)
    image_id: int = Field(foreign_key="image.id", index=True)
    kind: str = "label"
    name: str = ""
    operator: str = ""
    at: datetime = Field(sa_type=UtcDateTime)
    undoes: int | None = Field(default=None, foreign_key="label.id")
    seconds: float | None = None
    ask: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    bulk: str = Field(default="", index=True, sa_column_kwargs={"server_default": text("''")})


class Run(SQLModel, table=True):
    """One training. state: queued, running, done, failed, cancelled. progress: 0..1.

    snapshot: sha256 over the (image hash, label, side) lines it used. evaluation, comparison: `hub.evaluate` results
    on `holdout`, a version's number; comparison is with the release in `against`. slices: `hub.slices` on the same
    images. doubt: why these scores may be wrong, "" for no reason. left_out: labelled images on neither side of the
    split. parts: name -> sha256 of the exported parts.
    lease_until, beat: a running process renews its lease; after it the run counts as lost and may be taken again.
    """

    id: int | None = Field(default=None, primary_key=True)
    project: str = Field(index=True)
    state: str = Field(default="queued", index=True)
    why: str = ""
    created_at: datetime = Field(sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    pid: int | None = None
    attempts: int = 0
    progress: float = 0.0
    step: str = ""
    settings: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    versions: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    snapshot: str = ""
    labels: int = 0
    train_images: int = 0
    holdout_images: int = 0
    holdout: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    left_out: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    doubt: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    curve: list[float] = Field(default_factory=list, sa_type=JSON)
    fit: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    evaluation: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    before: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    comparison: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    against: int = 0
    slices: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON, sa_column_kwargs={"server_default": "[]"})
    parts: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    golden_probabilities: list[list[float]] = Field(default_factory=list, sa_type=JSON)
    verdict: str = ""
    reason: str = ""
    error: str = ""


class Release(SQLModel, table=True):
    """A signed release. envelope: the bytes on `hone/release/{project}/{number}`. model: its ModelSpec as JSON.

    holdout: the version that its run was judged on.
    """

    __table_args__ = (UniqueConstraint("project", "number"),)

    id: int | None = Field(default=None, primary_key=True)
    project: str = Field(index=True)
    number: int
    run_id: int | None = Field(default=None, foreign_key="run.id")
    created_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    model: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    envelope: bytes = Field(sa_type=LargeBinary)
    note: str = ""
    holdout: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    size: int = 0
    new_bytes: int = 0


class Rollout(SQLModel, table=True):
    """The way of one release through the fleet: a `hub.progress.Progress`. The plan in force is the one of the newest
    row that is no draft.

    cameras: the canaries. forgiven: cameras that may fail, by an operator's word. since: when the stage began. details:
    what of the progress has no column. evidence: what spoke for and against it when it was looked at last
    (`hub.evidence`). history: the stages that it has been in, see `hub.rollouts`. reverts: the release that this one
    goes back from, 0 for none. plan: the bytes on `hone/plan/{project}`.
    """

    id: int | None = Field(default=None, primary_key=True)
    project: str = Field(index=True)
    release: int
    previous: int = 0
    stage: str = "canary"
    state: str = "running"
    reason: str = ""
    cameras: list[str] = Field(default_factory=list, sa_type=JSON)
    forgiven: list[str] = Field(default_factory=list, sa_type=JSON)
    since: datetime = Field(sa_type=UtcDateTime)
    healthy_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    kind: str = Field(default="upgrade", sa_column_kwargs={"server_default": text("'upgrade'")})
    details: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, sa_column_kwargs={"server_default": "{}"})
    evidence: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, sa_column_kwargs={"server_default": "{}"})
    history: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON, sa_column_kwargs={"server_default": "[]"})
    reverts: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    plan_number: int = 0
    plan_expires: datetime | None = Field(default=None, sa_type=UtcDateTime)
    plan: bytes = Field(default=b"", sa_type=LargeBinary)


class Pair(SQLModel, table=True):
    """A frame of a trial that two models call by different labels. release, label: of the one in use; other: beside it.

    The image is the one of this camera and event. trial, number: which trial of the camera, and which difference in it.
    """

    __table_args__ = (Index("ix_pair_releases", "project", "release", "other"),)

    camera: str = Field(primary_key=True)
    event_id: str = Field(primary_key=True)
    project: str
    release: int
    label: str
    other: int
    other_label: str
    trial: str
    number: int


class Trial(SQLModel, table=True):
    """What a camera counted in a trial of two releases since counting began: `TrialState` as JSON.

    windows: which part of it counts as evidence, as [frames, differences, frames, differences] at begin and end; the
    last one has no end while it is open. See `hub.evidence`.
    """

    project: str = Field(primary_key=True)
    camera: str = Field(primary_key=True)
    trial: str = Field(primary_key=True)
    release: int
    other: int
    counts: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    windows: list[list[int]] = Field(default_factory=list, sa_type=JSON)


class Exemption(SQLModel, table=True):
    """A release for one camera, whatever the plan says, with the reason. release: 0 where it was ended.

    number: of the signed `Desired`; only grows for a camera. envelope: the bytes on `C/desired`.
    """

    camera: str = Field(primary_key=True)
    project: str = Field(index=True)
    number: int
    release: int
    reason: str
    operator: str = ""
    at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)
    envelope: bytes = Field(sa_type=LargeBinary)


class Retained(SQLModel, table=True):
    """What the hub has put on retained topics and has to clear one day. name: of a part its SHA-256, of a release its
    number; count: of chunks, 0 for a release.
    """

    project: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    count: int = 0


class Blob(SQLModel, table=True):
    """Where the bytes of an image are, if a segment holds them: `hub.segments.Place`. Files need no row."""

    sha256: str = Field(primary_key=True)
    segment: str = Field(index=True)
    offset: int
    size: int


class Preview(SQLModel, table=True):
    """An event whose image waits on the camera until somebody wants it. event: the `C/event` message as the image will
    come. thumbnail: JPEG. embedding: by the camera's backbone, float16, little-endian.

    received_at: when the camera offered it last. asked_at: since when the image is wanted. gone: the camera has let the
    image go. The row goes when the image is stored, or see `hub.previews`; no other one ever gets its id, since pages
    show thumbnails by it.
    """

    __table_args__ = (
        UniqueConstraint("camera", "event_id"),
        # All that is asked of many rows at once is in it, so that nobody reads through the thumbnails.
        Index("ix_preview_state", "project", "gone", "asked_at", "value", "camera"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    camera: str
    event_id: str
    project: str
    value: float = 0.0
    captured_at: datetime = Field(sa_type=UtcDateTime)
    received_at: datetime = Field(sa_type=UtcDateTime)
    event: bytes = Field(sa_type=LargeBinary)
    thumbnail: bytes = Field(default=b"", sa_type=LargeBinary)
    embedding: bytes = Field(default=b"", sa_type=LargeBinary)
    asked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    gone: bool = False


class Epoch(SQLModel, table=True):
    """A stretch of the hub's history; a restore from a backup begins a new one, which cameras are told of."""

    number: int | None = Field(default=None, primary_key=True)
    id: str
    since: datetime = Field(sa_type=UtcDateTime)
    why: str = ""


class Lease(SQLModel, table=True):
    """Which collector serves a site, see `hub.lease`. owner: its name, empty when nobody does; boot: of its process.

    beat: grows while the owner lives. home: the owner was started for this site.
    """

    site: str = Field(primary_key=True)
    owner: str = ""
    boot: str = ""
    beat: int = 0
    home: bool = False


class Number(SQLModel, table=True):
    """Numbers that only grow, by name (`release/PROJECT`, `plan/PROJECT`): the highest ever used."""

    name: str = Field(primary_key=True)
    value: int = 0


class ProjectSetting(SQLModel, table=True):
    """One change of one setting of a project: appended, never changed. version: the same for all that changed at once.

    value: as JSON. cleared: no value any more, hub.toml decides again.
    """

    __table_args__ = (UniqueConstraint("project", "version", "key"),)

    id: int | None = Field(default=None, primary_key=True)
    project: str = Field(index=True)
    version: int
    key: str
    value: Any = Field(default=None, sa_type=JSON)
    cleared: bool = False
    changed_at: datetime = Field(sa_type=UtcDateTime)
    operator: str = ""
