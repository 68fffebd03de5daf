"""Criteria: what cameras and pairs say for and against a release, in words; "" where nothing does. Pure."""

from collections.abc import Sequence
from datetime import datetime
from statistics import median

from hub.progress import Progress, left_it, refused
from hub.seen import CameraView, Evidence, TrialView
from hub.settings import RolloutSettings


def _too_many(some: Sequence[CameraView], of: Sequence[CameraView], progress: Progress, most: float) -> bool:
    first = progress.stage in ("shadow", "canary") or any(one.name in progress.canaries for one in some)
    return bool(some) and (first or len(some) > most * len(of))


def harm(progress: Progress, concerned: Sequence[CameraView], evidence: Evidence, settings: RolloutSettings) -> str:
    """Why the release must go back; "" where nothing proves that."""
    if progress.kind != "upgrade" or not progress.in_use or not progress.previous:
        return ""
    pairs = evidence.pairs
    if settings.quality and evidence.judgement.verdict == "worse":
        return (
            f"it is worse: of {pairs.broken + pairs.mended} frames that only one of the two called right, release "
            f"{progress.previous} was right on {pairs.broken} and release {progress.release} on {pairs.mended}"
        )
    left = [one for one in concerned if left_it(one, progress)]
    if _too_many(left, concerned, progress, settings.max_failed):
        return f"{_names(left)} left it: {left[0].reason}"
    return ""


def failure(progress: Progress, concerned: Sequence[CameraView], settings: RolloutSettings) -> str:
    """Which cameras do not get on with the release, if they are more than may be."""
    failed = [one for one in concerned if refused(one, progress) or left_it(one, progress)]
    if _too_many(failed, concerned, progress, settings.max_failed):
        return f"{_names(failed)} could not take it: {failed[0].reason}"
    return ""


def excess(
    progress: Progress,
    concerned: Sequence[CameraView],
    cameras: Sequence[CameraView],
    evidence: Evidence,
    settings: RolloutSettings,
) -> str:
    """What cameras measure that is not as it may be; "" for nothing."""
    if progress.kind != "upgrade" or not progress.previous:
        return ""
    short = [one for one in concerned if one.free_mb is not None and one.free_mb < settings.min_free_mb]
    if short:
        return f"{short[0].free_mb} MiB of memory are left on {_names(short)}, {settings.min_free_mb} are needed"
    trials = [one for one in (evidence.canary if progress.in_use else evidence.shadow).values() if one.frames]
    frames = sum(one.frames for one in trials)
    if frames >= (settings.canary_frames if progress.in_use else settings.shadow_frames):
        new, old = sum(one.low_new for one in trials) / frames, sum(one.low_old for one in trials) / frames
        if new - old > settings.max_low_score:
            scores = f"it scores {new:.0%} of the same frames low, release {progress.previous} {old:.0%}"
            return scores + _scene(progress, cameras)
    return ""


def slowness(
    progress: Progress,
    concerned: Sequence[CameraView],
    cameras: Sequence[CameraView],
    evidence: Evidence,
    settings: RolloutSettings,
) -> str:
    """By how much frames take longer than they may; "" where they do not.

    It keeps a stage from its end and does not hold at once: a camera may be busy with something else for a while.
    """
    if progress.kind != "upgrade" or not progress.previous or progress.stage == "everyone":
        return ""
    if not progress.in_use:
        trials = [one for one in evidence.shadow.values() if one.frames]
        slow = [one for one in trials if one.new_ms > settings.max_slower * one.old_ms + 1.0]
        if slow:
            return f"it takes {slow[0].new_ms:.1f} ms a frame, release {progress.previous} {slow[0].old_ms:.1f}"
        return ""
    now = _slower(progress, [one for one in concerned if one.release == progress.release])
    if not now or now <= settings.max_slower:
        return ""
    others = _slower(progress, [one for one in cameras if one.release == progress.previous])
    if now > settings.max_slower * max(1.0, others or 1.0):
        return f"cameras take {now:.1f} times as long for a frame as before it"
    return ""


def _slower(progress: Progress, cameras: Sequence[CameraView]) -> float | None:
    """How many times as long as at the beginning these cameras take for a frame; None where that is not known."""
    times = [
        one.infer_ms / before
        for one in cameras
        if one.online and one.infer_ms and (before := progress.before_ms.get(one.name))
    ]
    return median(times) if times else None


def _scene(progress: Progress, cameras: Sequence[CameraView]) -> str:
    """What the cameras that keep the release before say: whether the scene has changed, and not the model."""
    keep = [one.low_score for one in cameras if one.online and one.release == progress.previous]
    return f"; on cameras that keep that one {sum(keep) / len(keep):.0%} of all frames are low now" if keep else ""


def lacks(
    progress: Progress,
    concerned: Sequence[CameraView],
    evidence: Evidence,
    settings: RolloutSettings,
    now: datetime,
) -> str:
    """What the stage still waits for, in words; "" when it is over."""
    if progress.stage == "everyone":
        waiting = [one for one in concerned if one.online and one.release != progress.release]
        waiting = [one for one in waiting if not (refused(one, progress) or left_it(one, progress))]
        if waiting or not any(one.online for one in concerned):
            return f"it does not run on {_names(waiting)} yet" if waiting else "no camera is online"
        return ""
    if progress.stage == "shadow":
        few = [
            f"{name} has judged {one.frames} of {settings.shadow_frames} frames with both"
            for name in progress.shadows
            if name not in progress.forgiven
            for one in (evidence.shadow.get(name, TrialView()),)
            if not one.skipped and one.frames < settings.shadow_frames
        ]
        return "; ".join(few)
    if progress.stage == "group" and not concerned:
        return ""
    if progress.healthy_since is None:
        return "not all of its cameras run it"
    if (now - progress.healthy_since).total_seconds() < settings.soak_s:
        return f"its cameras have not run it for {settings.soak_s:g} s yet"
    return _unproven(evidence, settings) if progress.stage == "canary" and settings.quality else ""


def _unproven(evidence: Evidence, settings: RolloutSettings) -> str:
    """What the pairs still lack to prove the release safe."""
    pairs = evidence.pairs
    if not pairs.frames and (
        skipped := [f"{name}: {one.skipped}" for name, one in evidence.canary.items() if one.skipped]
    ):
        return f"no canary compares it with the release before ({'; '.join(skipped)})"
    if pairs.frames < settings.canary_frames:
        return f"the canaries have judged {pairs.frames} of {settings.canary_frames} frames with both"
    if evidence.judgement.verdict != "safe":
        return f"{pairs.frames} frames judged with both do not prove it safe, {pairs.open} differences are not settled"
    return ""


def proven(progress: Progress, evidence: Evidence) -> str:
    """Why a stage was left, in words."""
    if progress.stage == "shadow":
        skipped = [f"{name} could not: {one.skipped}" for name, one in evidence.shadow.items() if one.skipped]
        frames = sum(one.frames for one in evidence.shadow.values())
        differed = sum(one.differed for one in evidence.shadow.values())
        said = [f"{frames} frames in the shadow, {differed} called otherwise"] if frames else []
        return "; ".join([*said, *skipped])
    if progress.stage == "canary":
        pairs = evidence.pairs
        if not pairs.frames:
            return f"{', '.join(progress.canaries)} ran it without failure"
        return (
            f"of {pairs.frames} frames judged with both it mended {pairs.mended} and broke {pairs.broken}, "
            f"{pairs.settled} labels"
        )
    if progress.stage == "everyone":
        return "every camera that is online runs it"
    return f"group {progress.specs[progress.group]} runs it without failure"


def _names(cameras: Sequence[CameraView]) -> str:
    """One name, and how many more."""
    return cameras[0].name + (f" and {len(cameras) - 1} more" if len(cameras) > 1 else "")
