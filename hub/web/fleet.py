"""What the API answers and the pages show of cameras. Times are UTC, shares 0 to 1."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from hub.figures import View
from hub.web.rollouts import ExemptionView

CameraStatus = Literal["offline", "silent", "failed", "updating", "waiting", "current"]

Follows = Literal["project", "own", "local", "waiting", "refused", "unknown"]
"""project: the project's; own, local: those of its edge.toml, as the project is silent or edge.toml goes first."""


class PreviewCounts(View):
    """How many previews are in which state."""

    waiting: int = 0
    asked: int = 0
    gone: int = 0


class SkewView(View):
    """Cosine distances between a camera's and the hub's embeddings of the same n images. far: look at this camera."""

    n: int
    median: float
    largest: float
    far: bool


class CameraTrial(View):
    """A second model that a camera has beside its own, on the same random frames. beside: its release.

    skipped: why it does not run here. low, beside_low: share of the frames under the threshold. ms, beside_ms: median
    time of an inference, of the model beside that of its head alone where both share a backbone.
    """

    beside: int
    skipped: str
    frames: int
    differed: int
    low: float
    beside_low: float
    ms: float
    beside_ms: float


class CameraView(View):
    """A camera. target: the release it should run now; status and words: how it stands; None: it has not said.

    floor: the highest release that it ever took; it takes none below. labels: its own, by which rollouts may group it.
    trial: the model beside its own, exemption: the release that it runs whatever the plan says; None: there is none.

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
    floor: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    trial: CameraTrial | None = None
    exemption: ExemptionView | None = None
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
