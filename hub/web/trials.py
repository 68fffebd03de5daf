"""Trials and pairs as the page shows them: what cameras counted, what labels prove, who was right. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Literal

import msgspec

from hub.evidence import Difference
from hub.progress import Progress
from hub.seen import CameraView, Evidence
from hub.seen import TrialView as SeenTrial
from hub.settings import RolloutSettings
from hub.tables import Image, Trial
from hub.web.images import file_of, thumb_of
from hub.web.rollouts import DifferenceView, KeptView, ProofView, Right, TrialView
from shared.messages import TrialState


def trial_views(
    beside: Literal["new", "old"],
    cameras: Sequence[str],
    evidence: Mapping[str, SeenTrial],
    rows: Iterable[Trial],
    wanted: int,
) -> list[TrialView]:
    """By camera: the figures that the rules went by, and what else was counted. beside: the one that is `other`."""
    found = []
    counts = _by_camera(rows)
    for name in cameras:
        states = counts.get(name, [])
        using, other = (_mix(one.labels for one in states), _mix(one.other_labels for one in states))
        shown = evidence.get(name, SeenTrial())
        frames = max(1, shown.frames)
        found.append(
            TrialView(
                camera=name,
                beside=beside,
                skipped=shown.skipped,
                frames=shown.frames,
                wanted=wanted,
                differed=shown.differed,
                lost=sum(one.lost for one in states),
                missed=sum(one.missed for one in states),
                new_low=shown.low_new / frames,
                old_low=shown.low_old / frames,
                new_ms=shown.new_ms,
                old_ms=shown.old_ms,
                new_classes=other if beside == "new" else using,
                old_classes=using if beside == "new" else other,
            )
        )
    return found


def difference_view(found: Difference, image: Image) -> DifferenceView:
    """An image on which two releases differ; what they said of it stays hidden until it is decided."""
    assert image.id is not None
    right: Right = "neither"
    if not image.decided:
        right = "open"
    elif image.label == found.new:
        right = "new"
    elif image.label == found.old:
        right = "old"
    return DifferenceView(
        image=image.id,
        url=file_of(image),
        thumb=thumb_of(image),
        camera=image.camera,
        captured_at=image.captured_at,
        right=right,
        label=image.label,
        new="" if right == "open" else found.new,
        old="" if right == "open" else found.old,
    )


def proof_view(evidence: Evidence, waiting: int, settings: RolloutSettings, *, paused: bool) -> ProofView:
    """What the pairs prove. waiting: images that wait for a label; paused: no more is counted until they have one."""
    pairs = evidence.pairs
    needed = 1 / settings.error

    def progress(factor: float) -> float:
        return min(1.0, max(0.0, log(factor) / log(needed))) if factor > 0 else 0.0

    return ProofView(
        frames=pairs.frames,
        wanted=settings.canary_frames,
        broken=pairs.broken,
        mended=pairs.mended,
        tied=pairs.tied,
        waiting=waiting,
        coming=max(0, pairs.open - waiting),
        labels=pairs.settled,
        paused=paused,
        verdict=evidence.judgement.verdict,
        error=settings.error,
        margin=settings.margin,
        needed=needed,
        harm=evidence.judgement.harm,
        safety=evidence.judgement.safety,
        harm_progress=progress(evidence.judgement.harm),
        safety_progress=progress(evidence.judgement.safety),
    )


def keeping(progress: Progress, cameras: Sequence[CameraView]) -> list[KeptView]:
    """The cameras that still run the release before, with what they score low now."""
    keep = [one for one in cameras if one.online and one.release == progress.previous]
    return [KeptView(camera=one.name, low_score=one.low_score) for one in keep]


# -- below the surface


def _by_camera(rows: Iterable[Trial]) -> dict[str, list[TrialState]]:
    found: dict[str, list[TrialState]] = {}
    for one in rows:
        found.setdefault(one.camera, []).append(msgspec.convert(one.counts, TrialState))
    return found


def _mix(counts: Iterable[Mapping[str, int]]) -> dict[str, float]:
    """Class -> its share of all frames."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    every = sum(total.values())
    return {name: count / every for name, count in sorted(total.items())} if every else {}
