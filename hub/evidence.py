"""Evidence: what the cameras of a rollout have shown, from their reports and the images on which two models differ.

Counts are kept by camera and start of its program, so that a restart loses none that were reported. A frame on which
the models differ counts as open until its image is here and an operator has said what it is: what never comes counts
against the release.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import ColumnElement, bindparam
from sqlmodel import Session, col, select

from hub.gate import Pairs, judge
from hub.progress import Progress
from hub.seen import Evidence, TrialView
from hub.settings import RolloutSettings
from hub.split import share_of
from hub.tables import Camera, Image, Pair, Rollout, Trial, table_of
from shared.messages import TrialState

_PAIR, _IMAGE = table_of(Pair).c, table_of(Image).c
_DECIDED = (  # without the mapper: it is asked twice a second
    sqlalchemy.select(_PAIR.camera, _PAIR.event_id, _PAIR.label, _PAIR.other_label, _IMAGE.decided, _IMAGE.label)
    .where(_PAIR.camera == _IMAGE.camera, _PAIR.event_id == _IMAGE.event_id)
    .where(
        _PAIR.project == bindparam("project"),
        _PAIR.release == bindparam("release"),
        _PAIR.other == bindparam("other"),
    )
)


def note(session: Session, project: str, progress: Progress) -> None:
    """Keep what the shadow and canary cameras last reported of this rollout; in the caller's transaction.

    A report of fewer frames than were noted of the same start is an older one that the broker had kept.
    """
    wanted = {(progress.previous, progress.release), (progress.release, progress.previous)}
    known = {(one.release, one.other, one.camera, one.boot): one for one in _noted(session, project, progress)}
    for camera in _cameras(session, progress):
        told = camera.reported.get("trial")
        if told is None or (told.get("release"), told.get("other")) not in wanted:
            continue
        counts = msgspec.to_builtins(msgspec.convert(told, TrialState))
        key = (told["release"], told["other"], camera.name, str(camera.reported.get("boot", "")))
        row = known.get(key) or Trial(project=project, release=key[0], other=key[1], camera=key[2], boot=key[3])
        if row.counts != counts and counts.get("frames", 0) >= row.counts.get("frames", 0):
            row.counts = counts
            session.add(row)


def gather(session: Session, project: str, progress: Progress, settings: RolloutSettings) -> Evidence:
    """All that was noted of a rollout so far, with what the pairs of its canaries prove."""
    new, old = progress.release, progress.previous
    rows = _noted(session, project, progress)
    cameras = _cameras(session, progress)
    before = _states([one for one in rows if one.release == old])
    first = _states([one for one in rows if one.release == new])
    skips, others = _skips(cameras, old, new), _skips(cameras, new, old)
    shadow = {one: _view(before.get(one, []), skips.get(one, ""), beside=True) for one in progress.shadows}
    canary = {one: _view(first.get(one, []), others.get(one, ""), beside=False) for one in progress.canaries}
    pairs = _pairs(session, project, progress, first, settings.settle)
    return Evidence(shadow, canary, pairs, judge(pairs, margin=settings.margin, error=settings.error))


def to_row(evidence: Evidence) -> dict[str, Any]:
    """As a rollout's row keeps it, for pages and records."""
    pairs, judgement = evidence.pairs, evidence.judgement
    return {
        "shadow": {name: asdict(one) for name, one in evidence.shadow.items()},
        "canary": {name: asdict(one) for name, one in evidence.canary.items()},
        "pairs": asdict(pairs),
        "labels": pairs.settled,
        "verdict": judgement.verdict,
        "harm": _finite(judgement.harm),
        "safety": _finite(judgement.safety),
    }


def drawn(event_id: str, settle: float) -> bool:
    """Whether an operator is asked about this difference: a share of them, by a hash, whatever it shows."""
    return share_of("pair", event_id) < settle


def urgent(session: Session, project: str, waits: Iterable[ColumnElement[bool] | bool], settle: float) -> list[int]:
    """Ids of images that wait for a label and that the rollout under way waits for, the oldest first.

    waits: the conditions under which an image waits.
    """
    way = session.exec(
        select(Rollout.release, Rollout.stage)
        .where(Rollout.project == project, Rollout.plan_number > 0)
        .order_by(col(Rollout.plan_number).desc())
    ).first()
    if way is None or way[1] in ("draft", "shadow", "done"):
        return []
    rows = session.exec(
        select(Image.id, Pair.event_id)
        .join(Pair, (col(Pair.camera) == Image.camera) & (col(Pair.event_id) == Image.event_id))
        .where(Pair.project == project, Pair.release == way[0], *waits)
        .order_by(col(Image.id))
    )
    return [one for one, event_id in rows if one is not None and drawn(event_id, settle)]


def _noted(session: Session, project: str, progress: Progress) -> list[Trial]:
    both = [progress.release, progress.previous]
    rows = select(Trial).where(Trial.project == project, col(Trial.release).in_(both), col(Trial.other).in_(both))
    return list(session.exec(rows))


def _cameras(session: Session, progress: Progress) -> list[Camera]:
    names = {*progress.shadows, *progress.canaries}
    return list(session.exec(select(Camera).where(col(Camera.name).in_(names)))) if names else []


def _skips(cameras: Iterable[Camera], release: int, other: int) -> dict[str, str]:
    """Why cameras run no other model beside this one, as far as they say so of these very two."""
    told = {one.name: one.reported.get("trial") or {} for one in cameras}
    return {
        name: str(one.get("skipped", ""))
        for name, one in told.items()
        if (one.get("release"), one.get("other")) == (release, other)
    }


def _states(rows: Iterable[Trial]) -> dict[str, list[TrialState]]:
    """By camera, one for each start of its program."""
    found: dict[str, list[TrialState]] = {}
    for one in rows:
        found.setdefault(one.camera, []).append(msgspec.convert(one.counts, TrialState))
    return found


def _view(states: Sequence[TrialState], skipped: str, *, beside: bool) -> TrialView:
    """All starts of a camera's program together. beside: the new model is the one beside."""
    low = sum(one.low for one in states), sum(one.other_low for one in states)
    last = max(states, key=lambda one: one.frames, default=None)
    times = (last.ms, last.other_ms) if last else (0.0, 0.0)
    return TrialView(
        skipped=skipped if not any(one.frames for one in states) else "",
        frames=sum(one.frames for one in states),
        differed=sum(one.differed for one in states),
        low_new=low[1] if beside else low[0],
        low_old=low[0] if beside else low[1],
        new_ms=times[1] if beside else times[0],
        old_ms=times[0] if beside else times[1],
    )


def _pairs(
    session: Session, project: str, progress: Progress, trials: Mapping[str, Sequence[TrialState]], settle: float
) -> Pairs:
    """The differences of all that have been canaries, each with what an operator says it is.

    What a camera sent and has not reported yet stands for nothing that another one did not send.
    """
    rows = session.connection().execute(
        _DECIDED, {"project": project, "release": progress.release, "other": progress.previous}
    )
    came: Counter[str] = Counter()
    broken = mended = tied = waiting = 0
    for camera, event_id, new, old, decided, label in rows:
        if camera not in trials:
            continue
        came[camera] += 1
        if not drawn(event_id, settle):
            continue
        if not decided:
            waiting += 1
        elif label == new:
            mended += 1
        elif label == old:
            broken += 1
        else:
            tied += 1
    frames = 0
    for camera, states in trials.items():
        differed = sum(one.differed for one in states)
        waiting += max(0, differed - came[camera])
        frames += max(sum(one.frames for one in states), differed, came[camera])
    return Pairs(frames, broken, mended, tied, waiting, settle)


def _finite(factor: float) -> float:
    """As JSON can hold it."""
    return min(factor, 1e300)
