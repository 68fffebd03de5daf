"""What the API answers and the pages show of rollouts, see `hub.rollout`. Times are UTC, shares 0 to 1."""

from datetime import datetime
from typing import Literal

from hub.figures import View
from hub.progress import Kind, Stage, State

Place = Literal["past", "now", "stopped", "next"]
"""Where a rollout stands to a stage; stopped: it ended there."""
Act = Literal["pause", "resume", "promote", "abort"]
Right = Literal["new", "old", "neither", "open"]


class RolloutView(View):
    """The way of a release through the fleet, in short. cameras: the canaries. group: what the present one is.

    running: how many of the `wanted` cameras of the present stage run it. words: all of it in a sentence or two.
    reverts: the release that this one goes back from, 0 for none; gone: why that was taken back, in a sentence.
    """

    release: int
    previous: int
    kind: Kind
    stage: Stage
    group: str
    state: State
    reason: str
    cameras: list[str]
    since: datetime
    running: int
    wanted: int
    reverts: int
    gone: str
    words: str


class StageView(View):
    """One stage of a rollout. group: as `rollout.groups` says it. cameras: those that it is about, as known by now.

    running: how many of them run the release. goal: what it is there for.
    """

    stage: Stage
    group: str
    title: str
    place: Place
    cameras: list[str]
    running: int
    goal: str


class EntryView(View):
    """A rollout came into a stage or a state."""

    at: datetime
    stage: Stage
    group: str
    state: State
    reason: str


class TrialView(View):
    """Two models on the same random frames of a camera: new, the release; old, the one before.

    beside: which of them ran beside. skipped: why it compares nothing. wanted: frames that the stage asks for. *_low:
    share of the frames under the threshold. *_ms: median time of an inference; where both share a backbone that of the
    model beside is of its head alone. lost: differences that could not become images; missed: frames that the model
    beside had no time for. new_classes, old_classes: share of the frames that it called so.
    """

    camera: str
    beside: Literal["new", "old"]
    skipped: str
    frames: int
    wanted: int
    differed: int
    lost: int
    missed: int
    new_low: float
    old_low: float
    new_ms: float
    old_ms: float
    new_classes: dict[str, float]
    old_classes: dict[str, float]


class ProofView(View):
    """What the canaries' pairs prove, see `hub.gate`. frames: judged with both, of `wanted` at the least.

    broken, mended, tied: differences that a label settled: for the old release, for the new one, for neither. waiting:
    images that wait for a label; coming: differences whose images are not here yet. paused: so
    many wait that no further frames count until they are settled. error, margin: as they are set.
    harm, safety: as factors, proven from `needed` on; harm_progress, safety_progress: how far that is, in logarithms.
    """

    frames: int
    wanted: int
    broken: int
    mended: int
    tied: int
    waiting: int
    coming: int
    labels: int
    paused: bool
    verdict: Literal["worse", "safe", "open"]
    error: float
    margin: float
    needed: float
    harm: float
    safety: float
    harm_progress: float
    safety_progress: float


class KeptView(View):
    """A camera that keeps the release before: its low-score share now tells whether the scene has changed."""

    camera: str
    low_score: float


class DifferenceView(View):
    """An image on which the two releases differ. right: who was, by its label.

    new, old: what they called it; "" as long as nobody has decided, or the label would not be blind any more.
    """

    image: int
    url: str
    thumb: str
    camera: str
    captured_at: datetime
    right: Right
    label: str | None
    new: str
    old: str


class DifferencePage(View):
    """Some of `total` images on which two releases differ, the newest first."""

    total: int
    limit: int
    offset: int
    items: list[DifferenceView]


class ExemptionView(View):
    """A release for one camera, whatever the plan says. taken: the camera runs it."""

    camera: str
    release: int
    reason: str
    operator: str
    at: datetime
    taken: bool


class RolloutDetail(RolloutView):
    """A rollout with everything. proving: what the stage proves; waits_for: what it lacks, "" for nothing; next: what
    comes then. can: what an operator may do. proof: None where labels decide nothing. skipping: camera -> why it
    compares nothing. differences: the last settled ones.
    """

    proving: str
    waits_for: str
    next: str
    can: list[Act]
    stages: list[StageView]
    history: list[EntryView]
    shadow: list[TrialView]
    canary: list[TrialView]
    proof: ProofView | None
    keeping: list[KeptView]
    skipping: dict[str, str]
    exemptions: list[ExemptionView]
    differences: list[DifferenceView]


class RolloutPage(View):
    """Some of `total` rollouts, the newest first."""

    total: int
    limit: int
    offset: int
    items: list[RolloutView]
