"""Rollout: the way of a release through the fleet, as a pure state machine. Views, evidence and time in, a state out.

    stage    | on                                                     | becomes
    ---------|--------------------------------------------------------|------------------------------------------
    draft    | no other rollout is under way, a camera is online      | shadow; canary, group or everyone where
             |                                                        | stages before are not set
    draft    | no release before                                      | everyone
    shadow   | each of its cameras has judged shadow_frames with both | canary
             | models, or says why it cannot                          |
    canary   | all canaries ran it for soak_s, and the pairs prove it | group, the first
             | safe on canary_frames or more (where quality is set)   |
    group    | all its cameras that are online ran it for soak_s, one | group, the next; after the last everyone
             | at the least; or no camera is in it                    |
    everyone | every camera that is online runs it                    | done

    state    | on                                                     | becomes
    ---------|--------------------------------------------------------|------------------------------------------
    running, | in use anywhere, and the pairs prove it worse, or more | reverted
    held     | than max_failed left it                                |
    running  | more than max_failed could not take it                 | held
    running  | lower scores, or less memory than allowed              | held
    running  | hold_s in a stage: silence never promotes              | held
    running  | an operator pauses                                     | held
    held     | an operator resumes                                    | running, the same stage anew
    any      | an operator promotes                                   | running, the next stage
    any      | an operator aborts before it is in use                 | aborted
    any      | an operator aborts later                               | reverted

No stage before everyone ends while frames take longer than allowed. Of shadow and canary cameras none may fail or leave
it. What is reverted is followed by a new release of the old model,
which goes to everyone at once (`back`), as does the first release of all: there is nothing to compare them with.
While a rollout is held, cameras keep what they run. `hub.gate` says what pairs are and prove.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from hub.criteria import excess, failure, harm, lacks, proven, slowness
from hub.progress import Kind, Progress, Stage, left_it, of_stage, refused
from hub.seen import CameraView, Evidence
from hub.settings import RolloutSettings
from hub.stages import Spec, named_by_size, read_spec
from shared.manifest import NOBODY, Group, Trial

# -- the way


def draft(release: int, previous: int, now: datetime, *, kind: Kind = "upgrade", held: bool = False) -> Progress:
    """A release that waits for its turn; held: until an operator resumes it."""
    why = "a draft: nothing happens until it is started" if held else "waits for its turn"
    return Progress(release, previous, "draft", now, kind=kind, state="held" if held else "running", reason=why)


def begin(progress: Progress, cameras: Sequence[CameraView], settings: RolloutSettings, now: datetime) -> Progress:
    """A draft whose turn has come, in its first stage; still a draft while no camera is online to show anything."""
    if progress.kind != "upgrade" or progress.previous == 0:
        kind: Kind = "back" if progress.kind == "back" else "first"
        why = "back to the model before" if kind == "back" else "the first release goes to everyone"
        return replace(progress, kind=kind, stage="everyone", since=now, reason=why)
    online = _volunteers(cameras)
    if not online and (settings.shadow or settings.canary):
        return replace(progress, reason="waits for a camera that is online")
    before = {one.name: one.infer_ms for one in cameras if one.online and one.infer_ms}
    progress = replace(
        progress,
        shadows=tuple(online[: settings.shadow]),
        canaries=tuple(online[: settings.canary]),
        specs=tuple(settings.groups),
        before_ms=before,
    )
    return _enter(progress, _next(progress), cameras, now, "")


def step(
    progress: Progress,
    cameras: Sequence[CameraView],
    evidence: Evidence,
    settings: RolloutSettings,
    now: datetime,
) -> Progress:
    """The state after looking at the fleet once more; the same state when nothing changed."""
    if progress.state not in ("running", "held") or progress.stage in ("draft", "done"):
        return progress
    concerned = [one for one in of_stage(progress, cameras) if one.name not in progress.forgiven]
    if why := harm(progress, concerned, evidence, settings):
        return replace(progress, state="reverted", since=now, reason=why)
    if progress.state == "held":
        return progress
    if why := failure(progress, concerned, settings) or excess(progress, concerned, cameras, evidence, settings):
        return replace(progress, state="held", reason=why)
    progress = _mark_health(progress, concerned, now)
    lacking = lacks(progress, concerned, evidence, settings, now)
    lacking = lacking or slowness(progress, concerned, cameras, evidence, settings)
    if not lacking:
        return _enter(progress, _next(progress), cameras, now, proven(progress, evidence))
    if (now - progress.since).total_seconds() >= settings.hold_s:
        why = f"not proven within {settings.hold_s:g} s: {lacking}; silence never promotes"
        return replace(progress, state="held", reason=why)
    return progress


def resume(progress: Progress, cameras: Sequence[CameraView], settings: RolloutSettings, now: datetime) -> Progress:
    """An operator lets a held rollout go on, from the same stage, with a fresh clock and today's failures accepted.

    Shadow cameras and canaries that failed, or are not there, are replaced by others that are online.
    """
    forgiven = _forgiven(progress, cameras)
    progress = replace(progress, state="running", since=now, healthy_since=None, forgiven=forgiven)
    if progress.stage == "draft":
        return replace(progress, reason="waits for its turn")
    others = [one for one in _volunteers(cameras) if one not in forgiven]
    away = {*progress.shadows, *progress.canaries} - {one.name for one in cameras if one.online}
    gone = {*forgiven, *away}
    if progress.stage == "shadow":
        progress = replace(progress, shadows=_refilled(progress.shadows, others, settings.shadow, gone))
    if progress.stage in ("shadow", "canary"):
        progress = replace(progress, canaries=_refilled(progress.canaries, others, settings.canary, gone))
    return replace(progress, reason="resumed by an operator")


def pause(progress: Progress) -> Progress:
    """An operator stops a rollout where it is."""
    return replace(progress, state="held", reason="paused by an operator")


def promote(progress: Progress, cameras: Sequence[CameraView], settings: RolloutSettings, now: datetime) -> Progress:
    """An operator lets a rollout into its next stage, whatever has been proven, with today's failures accepted."""
    progress = replace(progress, state="running", forgiven=_forgiven(progress, cameras))
    if progress.stage == "draft":
        return replace(progress, reason="waits for its turn")
    return _enter(progress, _next(progress), cameras, now, "promoted by an operator")


def abort(progress: Progress, why: str, now: datetime) -> Progress:
    """An operator ends a rollout; one that is in use somewhere is to be followed by a release of the old model."""
    gone = progress.in_use and progress.previous
    return replace(
        progress, state="reverted" if gone else "aborted", since=now, reason=f"aborted by an operator: {why}"
    )


def groups(progress: Progress, settings: RolloutSettings) -> list[Group]:
    """The plan's groups in this state: those that run or try it first, then everyone else."""
    release, previous = progress.release, progress.previous
    rest = [Group(name="rest", release=previous)] if previous else []
    if progress.stage == "draft" or progress.state in ("aborted", "reverted", "superseded"):
        return rest
    if progress.stage == "done" or not previous or progress.kind == "back":
        return [Group(name="all", release=release)]
    if progress.stage == "shadow":
        beside = Trial(release=release, share=settings.share)
        return [Group(name="shadow", release=previous, cameras=list(progress.shadows), trial=beside), *rest]
    beside = Trial(release=previous, share=settings.share, ask=settings.quality)
    first = [Group(name="canary", release=release, cameras=list(progress.canaries), trial=beside)]
    if progress.stage == "everyone":
        return [*(first if progress.canaries else []), Group(name="all", release=release)]
    if progress.stage == "group":
        for number in range(progress.group + 1):
            first.append(_plan_group(read_spec(progress.specs[number]), release, number, progress.named[number]))
    return [*(one for one in first if one.cameras or one.labels or one.percent is not None), *rest]


# -- below the surface


def _volunteers(cameras: Sequence[CameraView]) -> list[str]:
    """Cameras that may go first, those that are labelled for it before all others."""
    able = [one for one in cameras if one.online and one.labels.get("canary") != "no"]
    return [one.name for one in sorted(able, key=lambda one: (one.labels.get("canary") != "yes", one.name))]


def _forgiven(progress: Progress, cameras: Sequence[CameraView]) -> tuple[str, ...]:
    """Cameras whose failure was accepted, with those that failed until now."""
    failed = {one.name for one in cameras if refused(one, progress) or left_it(one, progress)}
    return tuple(sorted({*progress.forgiven, *failed}))


def _refilled(names: Sequence[str], others: Sequence[str], count: int, gone: Collection[str]) -> tuple[str, ...]:
    good = [one for one in names if one not in gone]
    good += [one for one in others if one not in good][: max(0, count - len(good))]
    return tuple(good) or tuple(names)


def _plan_group(spec: Spec, release: int, number: int, named: Sequence[str]) -> Group:
    name = f"group-{number + 1}"
    if spec.count is not None:
        return Group(name=name, release=release, cameras=list(named) or [NOBODY])
    return Group(name=name, release=release, cameras=[NOBODY], labels=spec.labels, percent=spec.percent)


def _next(progress: Progress) -> tuple[Stage, int]:
    """The stage after this one, and which group. Settings that change under way add no stage, and skip none."""
    order: list[tuple[Stage, int]] = [("draft", 0)]
    if progress.shadows:
        order.append(("shadow", 0))
    if progress.canaries:
        order.append(("canary", 0))
    order += [("group", number) for number in range(len(progress.specs))]
    order += [("everyone", 0), ("done", 0)]
    ranks = ("draft", "shadow", "canary", "group", "everyone", "done")

    def rank(one: tuple[Stage, int]) -> tuple[int, int]:
        return ranks.index(one[0]), one[1]

    at = rank((progress.stage, progress.group if progress.stage == "group" else 0))
    return next((one for one in order if rank(one) > at), ("done", 0))


def _enter(
    progress: Progress, to: tuple[Stage, int], cameras: Sequence[CameraView], now: datetime, why: str
) -> Progress:
    """The rollout in its next stage, with the cameras of a group that is a number of them."""
    stage, number = to
    have = {*progress.canaries, *(one.name for one in of_stage(progress, cameras) if progress.stage == "group")}
    progress = replace(progress, stage=stage, since=now, healthy_since=None)
    reason = why
    if stage == "group":
        spec = read_spec(progress.specs[number])
        named = named_by_size(spec, progress.release, cameras, have)
        progress = replace(progress, group=number, named=(*progress.named[:number], named))
    elif stage in ("shadow", "canary"):
        names = progress.shadows if stage == "shadow" else progress.canaries
        how = "beside the release in use" if stage == "shadow" else "first"
        doing = f"it runs {how} on {', '.join(names)}"
        reason = f"{why}; {doing}" if why else doing
    return replace(progress, reason=reason)


def _mark_health(progress: Progress, concerned: Sequence[CameraView], now: datetime) -> Progress:
    """Note since when all cameras of a canary or group stage run it, and when that broke."""
    if progress.stage not in ("canary", "group"):
        return progress
    running = {one.name for one in concerned if one.online and one.release == progress.release}
    if progress.stage == "canary":  # also one that is not heard of any more
        expected = set(progress.canaries) - set(progress.forgiven)
        healthy = bool(expected) and expected <= running
    else:  # one that is offline takes it when it comes back; one that failed is among those that may
        healthy = bool(running) and all(
            one.name in running or refused(one, progress) or left_it(one, progress) for one in concerned if one.online
        )
    if healthy and progress.healthy_since is None:
        return replace(progress, healthy_since=now)
    if not healthy and progress.healthy_since is not None:
        return replace(progress, healthy_since=None)
    return progress
