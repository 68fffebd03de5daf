"""Rollout: the way of a release through the fleet, as a pure state machine. Views and time in, the next state out.

    stage    | on                                               | becomes
    ---------|--------------------------------------------------|-------------------------------------------
    (new)    | no release before, or no canaries set            | everyone
    (new)    | otherwise                                        | canary, with the first cameras that are online
    canary   | every canary has run it for soak_s               | everyone
    canary   | a canary failed to take it                       | held, with the camera's reason
    canary   | hold_s without that                              | held: silence never promotes
    everyone | every camera that is online runs it              | done
    everyone | a camera failed to take it                       | held, with the camera's reason
    held     | an operator resumes                              | running again, from the same stage
    any      | another release is made                          | superseded

While held, cameras keep what they run: the plan goes on naming the previous release to everyone but the canaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from hub.registry import CameraView
from hub.settings import RolloutSettings
from shared.manifest import Group

Stage = Literal["canary", "everyone", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a rollout is. previous: the release everyone else runs meanwhile, 0 for none. since: of the stage.

    healthy_since: since when all canaries run it without a break. forgiven: cameras whose failure an operator accepted.
    """

    release: int
    previous: int
    stage: Stage
    since: datetime
    canaries: tuple[str, ...] = ()
    held: bool = False
    reason: str = ""
    healthy_since: datetime | None = None
    forgiven: tuple[str, ...] = ()


def begin(
    release: int, previous: int, cameras: Sequence[CameraView], settings: RolloutSettings, now: datetime
) -> Progress:
    """The first stage of a new release."""
    online = [one.name for one in cameras if one.online]
    if previous == 0 or settings.canary == 0 or not online:
        why = "the first release goes to everyone" if previous == 0 else "no canary stage: none is set or online"
        return Progress(release, previous, "everyone", now, reason=why)
    canaries = tuple(online[: settings.canary])
    return Progress(release, previous, "canary", now, canaries, reason=f"{', '.join(canaries)} run it first")


def step(progress: Progress, cameras: Sequence[CameraView], settings: RolloutSettings, now: datetime) -> Progress:
    """The state after looking at the fleet once more; the same state when nothing changed."""
    if progress.held or progress.stage == "done":
        return progress
    concerned = [
        one
        for one in cameras
        if one.name not in progress.forgiven and (progress.stage == "everyone" or one.name in progress.canaries)
    ]
    if failed := [one for one in concerned if _failed(one, progress)]:
        return replace(progress, held=True, reason=f"{failed[0].name} could not take it: {failed[0].reason}")
    if progress.stage == "canary":
        return _canary(progress, concerned, settings, now)
    waiting = [one.name for one in concerned if one.online and one.release != progress.release]
    if concerned and not waiting and any(one.online for one in concerned):
        return replace(progress, stage="done", since=now, reason="every camera that is online runs it")
    return progress


def _failed(camera: CameraView, progress: Progress) -> bool:
    return camera.reload == "failed" and camera.reload_release == progress.release


def _canary(progress: Progress, canaries: Sequence[CameraView], settings: RolloutSettings, now: datetime) -> Progress:
    running = {one.name for one in canaries if one.online and one.release == progress.release}
    expected = set(progress.canaries) - set(progress.forgiven)  # also one that is not heard of any more
    healthy = bool(expected) and expected <= running
    if healthy and progress.healthy_since is None:
        progress = replace(progress, healthy_since=now, reason="the canaries run it; watching them for a while")
    elif not healthy and progress.healthy_since is not None:
        progress = replace(progress, healthy_since=None, reason="a canary went offline or left the release")
    if progress.healthy_since is not None and (now - progress.healthy_since).total_seconds() >= settings.soak_s:
        why = f"{', '.join(progress.canaries)} ran it for {settings.soak_s:g} s without failure"
        return replace(progress, stage="everyone", since=now, reason=why)
    if (now - progress.since).total_seconds() >= settings.hold_s:
        why = f"the canaries did not run it well within {settings.hold_s:g} s; silence never promotes"
        return replace(progress, held=True, reason=why)
    return progress


def resume(progress: Progress, cameras: Sequence[CameraView], settings: RolloutSettings, now: datetime) -> Progress:
    """An operator lets a held rollout go on, from the same stage, with a fresh clock and today's failures accepted.

    Canaries that failed are replaced by other cameras that are online.
    """
    failed = {*progress.forgiven, *(one.name for one in cameras if _failed(one, progress))}
    if progress.stage == "canary":
        good = [one for one in progress.canaries if one not in failed]
        others = [one.name for one in cameras if one.online and one.name not in {*failed, *good}]
        good += others[: max(0, settings.canary - len(good))]
        progress = replace(progress, canaries=tuple(good) or progress.canaries)
    return replace(
        progress,
        held=False,
        since=now,
        healthy_since=None,
        reason="resumed by an operator",
        forgiven=tuple(sorted(failed)),
    )


def groups(progress: Progress) -> list[Group]:
    """The plan's groups in this state: canaries first, then everyone else."""
    if progress.stage == "canary":
        rest = [Group(name="rest", release=progress.previous)] if progress.previous else []
        return [Group(name="canary", release=progress.release, cameras=list(progress.canaries)), *rest]
    return [Group(name="all", release=progress.release)]
