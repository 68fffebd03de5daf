"""What the API answers and what the pages show: one set of frozen structs for both. Times are UTC, shares 0 to 1."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from hub import again
from hub.figures import Figures, Gain, Interval, SliceView, View


class RunView(View):
    """One training. release: number of the release made of it; against: the release it was compared with.

    loss, metric: while it runs, log-loss and AUC on images that the last step did not see; eta_s: seconds of the
    present step that are left, at most. holdout: the version that its scores were measured on, 0 for none. doubt: why
    they may be wrong, or "". left_out: labelled images on neither side of the split.
    """

    id: int
    state: str
    why: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    progress: float
    step: str
    loss: float | None = None
    metric: float | None = None
    eta_s: float | None = None
    labels: int
    train_images: int
    holdout_images: int
    holdout: int
    left_out: int
    doubt: str
    against: int
    release: int | None
    verdict: str
    reason: str
    error: str
    before: Figures | None
    evaluation: Figures | None
    comparison: Gain | None


class RunDetail(RunView):
    """One training with all that was kept of it. curve: the loss at each step. fixed, broken: ids of images."""

    attempts: int
    snapshot: str
    slices: list[SliceView]
    fixed: list[int]
    broken: list[int]
    curve: list[float]
    fit: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, Any]


class RolloutView(View):
    """The way of a release through the fleet, also in words. running: how many of `cameras_wanted` run it."""

    release: int
    previous: int
    stage: str
    state: str
    reason: str
    cameras: list[str]
    since: datetime
    running: int
    wanted: int
    words: str


class ReleaseView(View):
    """A signed release. cameras: how many say that they run it; before, after: on the same held-out images, those of
    version `holdout`. doubt: why they may be wrong, or "".
    """

    number: int
    created_at: datetime
    expires_at: datetime
    run: int | None
    note: str
    size: int
    new_bytes: int
    cameras: int
    holdout: int
    doubt: str
    verdict: str
    before: Figures | None
    after: Figures | None
    rollout: RolloutView | None


PreviewState = Literal["waiting", "asked", "gone"]


class PreviewView(View):
    """An event whose image waits on its camera. thumb: a small JPEG, "" where there is none. size: bytes of the image.

    state: waiting for somebody who wants the image, asked for since `asked_at`, or gone from its camera. blind: as of
    an image.
    """

    id: int
    thumb: str
    state: PreviewState
    camera: str
    event: str
    captured_at: datetime
    received_at: datetime
    asked_at: datetime | None
    release: int
    guess: str
    score: float | None
    scores: dict[str, float]
    blind: bool
    why: str
    probability: float
    value: float
    size: int


class PreviewPage(View):
    """Some of `total` previews."""

    total: int
    limit: int
    offset: int
    items: list[PreviewView]


class PreviewCounts(View):
    """How many previews are in which state."""

    waiting: int = 0
    asked: int = 0
    gone: int = 0


Follows = Literal["project", "own", "local", "waiting", "refused", "unknown"]
"""project: the project's; own, local: those of its edge.toml, as the project is silent or edge.toml goes first."""


class HoldoutView(View):
    """One version of the holdout. images: its members; deciding: those that came after version `base`, and so may still
    decide. verdicts: given by those; worn: as many as they are good for.
    """

    number: int
    base: int
    created_at: datetime
    why: str
    images: int
    deciding: int
    verdicts: int
    limit: int
    worn: bool


class MeasureView(View):
    """One measure of drift: distance from 0 (alike) to 1, p-value; shares before and now, where it compares any."""

    name: str
    distance: float
    p: float
    reference: float | None
    now: float | None


class DriftView(View):
    """The latest look at a camera. own: it was held to its own images, and not to the holdout. n: images looked at."""

    camera: str
    release: int
    at: datetime
    n: int
    own: bool
    drifted: bool
    level: float
    reason: str
    measures: list[MeasureView]


class FieldView(View):
    """Share of right answers in the field, estimated from the random audit. camera: "" for all of them.

    audits: audit images of the release; labelled: those it is estimated from; accuracy: None where they are too few.
    """

    release: int
    camera: str
    audits: int
    labelled: int
    accuracy: Interval | None


class SkewView(View):
    """Cosine distances between a camera's and the hub's embeddings of the same n images. far: look at this camera."""

    n: int
    median: float
    largest: float
    far: bool


CameraStatus = Literal["offline", "silent", "failed", "updating", "waiting", "current"]


class CameraView(View):
    """A camera. target: the release it should run now; status and words: how it stands; None: it has not said.

    previews: of images that it holds until somebody wants them. follows: whether it goes by the project's triage
    settings, triage: the ones it goes by, where they are not the defaults; triage_words: both in words. skew: how
    far its embeddings are from the hub's. audit_left, audit_dropped: of the random sample, those that wait and those
    that it had to let go, ever since its spool exists; audit_unspooled: those it could not keep, since its agent's
    start; audit_words: what that means for the sample, or "" where it is whole.
    """

    name: str
    online: bool
    first_seen: datetime
    last_seen: datetime
    release: int
    target: int
    status: CameraStatus
    words: str
    previews: PreviewCounts = PreviewCounts()
    skew: SkewView | None = None
    agent: str | None = None
    clock: str | None = None
    reported_at: datetime | None = None
    fps: float | None = None
    low_score: float | None = None
    infer_ms: float | None = None
    captured: int | None = None
    frames_dropped: int | None = None
    spool_left: int | None = None
    spool_bytes: int | None = None
    spool_limit: int | None = None
    spool_dropped: int | None = None
    spool_quarantined: int | None = None
    audit_left: int | None = None
    audit_dropped: int | None = None
    audit_unspooled: int | None = None
    audit_words: str = ""
    reload: str | None = None
    reload_percent: float | None = None
    swap_ms: float | None = None
    up: int | None = None
    down: int | None = None
    errors: dict[str, int] = Field(default_factory=dict)
    settings: dict[str, str | int | float | bool] = Field(default_factory=dict)
    follows: Follows = "unknown"
    triage: dict[str, Any] | None = None
    triage_words: str = ""


SettingKind = Literal["switch", "integer", "number", "text", "choice", "list", "json"]


class SettingView(View):
    """A setting of the project. value: in force, from `source`; file: what hub.toml says, or the default where it is
    silent. allowed: in words. kind: how to ask for it; choices, low, high: what it takes, where that is so simple.
    """

    key: str
    name: str
    kind: SettingKind
    value: Any
    source: Literal["default", "hub.toml", "project"]
    file: Any
    default: Any
    allowed: str
    choices: list[str]
    low: float | None
    high: float | None
    doc: str


class SectionView(View):
    """The settings of one section of hub.toml."""

    name: str
    doc: str
    settings: list[SettingView]


class SettingsView(View):
    """All that can be changed while the hub runs. version: grows with each change; 0: nothing was ever set here."""

    version: int
    changed_at: datetime | None
    operator: str
    sections: list[SectionView]


class SettingChange(View):
    """One change of a setting. cleared: hub.toml decides again. before: what was set here before, if anything was."""

    version: int
    key: str
    value: Any
    cleared: bool
    before: Any
    changed_at: datetime
    operator: str


class QueueItem(View):
    """An image that waits for a label. url: what a browser can show.

    blind: it is of the random sample and not decided yet: nobody shall know what the model said, or the sample would
    flatter the model. So guess is "", score None, scores empty. ask: "" for a new one; "second" and "repeat" (see
    `hub.again`) are blind as well. Send it back with the answer. urgent: the rollout under way waits for it, since two
    releases differ on it.
    """

    ask: again.Ask = ""
    urgent: bool = False

    id: int
    url: str
    camera: str
    captured_at: datetime
    release: int
    guess: str
    score: float | None
    scores: dict[str, float]
    blind: bool
    why: str
    flags: dict[str, float]
    width: int
    height: int


class QueueView(View):
    """The next images to label. waiting: how many there are in all."""

    waiting: int
    items: list[QueueItem]


class ImageView(QueueItem):
    """A stored image."""

    thumb: str
    event: str
    sha256: str
    size: int
    ext: str
    received_at: datetime
    split: str
    state: str
    probability: float
    label: str | None
    decided: bool


class LabelView(View):
    """A decision of an operator. undone: a later one took it back."""

    id: int
    image: int
    kind: str
    name: str
    operator: str
    at: datetime
    undoes: int | None
    seconds: float | None
    undone: bool = False
    ask: str = ""
    bulk: str = ""


class ImageDetail(ImageView):
    """A stored image with all its decisions, the newest first. copy_of: the earlier image that it repeats.

    side: "train", "holdout", "out" of both, or "" as long as no run has divided it; since: the first holdout version.
    """

    side: str
    since: int
    history: list[LabelView]
    copy_of: int | None = None


class ReleaseUse(View):
    """A release, and the cameras that say they run it now."""

    number: int
    cameras: list[str]


class RunUse(View):
    """A run that learned from an image ("train") or was judged on it ("holdout"), under this label."""

    run: int
    at: datetime
    side: str
    label: str
    releases: list[ReleaseUse]


class ImageLineage(View):
    """Where an image went: decision in force -> runs, the newest first -> releases -> cameras.

    operator, decided_at: whose label it has; "" and None for an imported one. Runs whose snapshots were not kept are
    not told, nor those before the last 200.
    """

    image: int
    sha256: str
    camera: str
    label: str | None
    operator: str
    decided_at: datetime | None
    runs: list[RunUse]


class MemberView(View):
    """An image that a release's run used, with the label and side that it had there.

    image, camera: None where its row is gone; camera "" for an imported one. operator, at: who gave that label last
    before the run ended; "" and None where nobody did, as it was imported with it.
    """

    image: int | None
    sha256: str
    camera: str | None
    label: str
    side: str
    operator: str
    at: datetime | None


class ReleaseImages(View):
    """Some of the `total` images that a release comes from, by hash. kept: False where its snapshot is gone."""

    release: int
    run: int | None
    snapshot: str
    kept: bool
    total: int
    limit: int
    offset: int
    items: list[MemberView]


class ImagePage(View):
    """Some of `total` images, the newest first."""

    total: int
    limit: int
    offset: int
    items: list[ImageView]


class AgreementView(View):
    """How often two decisions on one image were the same: of n, the share, and Cohen's kappa where it is defined."""

    n: int
    share: float
    kappa: float | None


class AgainView(View):
    """What was asked again. repeats: all; own: of one operator with himself; second: of second looks; None: none yet.

    suspects: labels that the newest run doubts and that nobody has looked at again.
    """

    repeats: AgreementView | None
    own: AgreementView | None
    others: AgreementView | None
    second: AgreementView | None
    suspects: int


class ClusterView(View):
    """Images that look alike, the most typical first. size: how many wait; images: some of them."""

    size: int
    images: list[QueueItem]


class QueueCounts(View):
    """waiting: for a decision; labelled, skipped: decisions in force; since_run: new labels since the last run.

    every: after how many of them a run starts, 0: not by these; starts: all rules by which one does, in words.
    """

    waiting: int
    labelled: int
    skipped: int
    since_run: int
    every: int
    starts: list[str]


class Totals(View):
    """Images on the hub. lost: their bytes are gone, their rows and labels are kept."""

    stored: int
    unreadable: int
    lost: int
    unchecked: int
    by_split: dict[str, int]


class HubView(View):
    """The daemon beside the page. errors: counts by code since start; up, down: bytes of MQTT payload."""

    name: str
    version: str
    boot: str
    broker: bool
    errors: dict[str, int]
    up: int
    down: int


class Overview(View):
    """Everything that the front page shows. current: the run under way; latest: the highest release number, or 0."""

    project: str
    classes: list[str]
    now: datetime
    hub: HubView
    cameras: list[CameraView]
    queue: QueueCounts
    totals: Totals
    previews: PreviewCounts
    current: RunView | None
    runs: list[RunView]
    latest: int
    releases: list[ReleaseView]
    rollout: RolloutView | None
    again: AgainView


class Health(View):
    """Whether the hub does its work: database readable, broker connected."""

    ok: bool
    database: bool
    broker: bool
    version: str


class Fault(View):
    """Every answer that is not a success. error: a short, stable code. fields: what is wrong with each setting."""

    error: str
    message: str
    fields: dict[str, str] = Field(default_factory=dict)


class Number(View):
    """The id or number that a request made."""

    id: int


class Done(View):
    """It was done."""

    ok: bool = True
