"""Seen: what the hub has heard of cameras, as values that the rules of a rollout decide on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hub.gate import Judgement, Pairs


@dataclass(frozen=True, slots=True)
class TrialView:
    """How two models did on the same random frames of a camera: of the candidate (new) and of the release before (old).

    skipped: why it compares nothing. differed: frames with two labels. low_*: frames under the threshold. *_ms: medians
    of an inference; where both share a backbone that of the model beside is of its head alone.
    """

    skipped: str = ""
    frames: int = 0
    differed: int = 0
    low_new: int = 0
    low_old: int = 0
    new_ms: float = 0.0
    old_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class CameraView:
    """What a rollout needs to know of a camera. reload, reason: state of its last reload and why it failed.

    infer_ms: median of an inference, 0 where not known. low_score: share of its last frames under the threshold.
    free_mb: memory that is there for the taking, MiB; None where not known.
    """

    name: str
    online: bool
    release: int
    reload: str
    reload_release: int
    reason: str
    labels: Mapping[str, str] = field(default_factory=dict)
    infer_ms: float = 0.0
    low_score: float = 0.0
    free_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the cameras of a rollout have shown. shadow, canary: by camera. pairs: of canaries; judgement: on them."""

    shadow: Mapping[str, TrialView] = field(default_factory=dict)
    canary: Mapping[str, TrialView] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=Pairs)
    judgement: Judgement = field(default_factory=lambda: Judgement("open", 1.0, 1.0))
