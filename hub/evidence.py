"""Evidence: what the cameras of a rollout have shown, from their reports and the images on which two models differ.

Counts are kept by camera and start of its program, so that a restart loses none that were reported. A frame on which
the models differ counts as open until its image is here and an operator has said what it is: what never comes counts
against the release.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import msgspec
from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from hub.gate import Pairs, judge
from hub.progress import Progress
from hub.seen import Evidence, TrialView
from hub.settings import RolloutSettings
from hub.split import share_of
from hub.tables import Camera, Image, Pair, Rollout, Trial
from shared.messages import TrialState


def note(session: Session, project: str, progress: Progress) -> None:
    """Keep what the shadow and canary cameras last reported of this rollout; in the caller's transaction."""
    wanted = {(progress.previous, progress.release), (progress.release, progress.previous)}
    for camera in _cameras(session, progress):
        told = camera.reported.get("trial")
        if told is None or (told.get("release"), told.get("other")) not in wanted:
            continue
        counts = msgspec.to_builtins(msgspec.convert(told, TrialState))
        key = (project, told["release"], told["other"], camera.name, str(camera.reported.get("boot", "")))
        row = session.get(Trial, key)
        if row is None:
            row = Trial(project=key[0], release=key[1], other=key[2], camera=key[3], boot=key[4])
        if row.counts != counts:
            row.counts = counts
            session.add(row)


def gather(session: Session, project: str, progress: Progress, settings: RolloutSettings) -> Evidence:
    """All that was noted of a rollout so far, with what the pairs of its canaries prove."""
    new, old = progress.release, progress.previous
    rows = session.exec(
        select(Trial).where(
            Trial.project == project, col(Trial.release).in_([new, old]), col(Trial.other).in_([new, old])
        )
    ).all()
    skips = {one.name: _skipped(one) for one in _cameras(session, progress)}
    shadow = _views([one for one in rows if one.release == old], skips, progress.shadows, candidate_beside=True)
    canary = _views([one for one in rows if one.release == new], skips, progress.canaries, candidate_beside=False)
    pairs = _pairs(session, project, progress, canary.values(), settings.settle)
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


def _cameras(session: Session, progress: Progress) -> list[Camera]:
    names = {*progress.shadows, *progress.canaries}
    return list(session.exec(select(Camera).where(col(Camera.name).in_(names)))) if names else []


def _skipped(camera: Camera) -> str:
    return str((camera.reported.get("trial") or {}).get("skipped", ""))


def _views(
    rows: list[Trial], skips: dict[str, str], names: Iterable[str], *, candidate_beside: bool
) -> dict[str, TrialView]:
    """By camera, all starts of its program together. candidate_beside: the new model is the one beside."""
    found = {}
    for name in names:
        states = [msgspec.convert(one.counts, TrialState) for one in rows if one.camera == name]
        low = sum(one.low for one in states), sum(one.other_low for one in states)
        last = max(states, key=lambda one: one.frames, default=None)
        times = (last.ms, last.other_ms) if last else (0.0, 0.0)
        found[name] = TrialView(
            skipped=skips.get(name, "") if not any(one.frames for one in states) else "",
            frames=sum(one.frames for one in states),
            differed=sum(one.differed for one in states),
            low_new=low[1] if candidate_beside else low[0],
            low_old=low[0] if candidate_beside else low[1],
            new_ms=times[1] if candidate_beside else times[0],
            old_ms=times[0] if candidate_beside else times[1],
        )
    return found


def _pairs(session: Session, project: str, progress: Progress, trials: Iterable[TrialView], settle: float) -> Pairs:
    """The differences of the canaries, each with what an operator says it is."""
    trials = list(trials)
    rows = session.exec(
        select(Pair, Image.decided, Image.label)
        .join(Image, (col(Pair.camera) == Image.camera) & (col(Pair.event_id) == Image.event_id))
        .where(Pair.project == project, Pair.release == progress.release, Pair.other == progress.previous)
    ).all()
    broken = mended = tied = waiting = 0
    for pair, decided, label in rows:
        if not drawn(pair.event_id, settle):
            continue
        if not decided:
            waiting += 1
        elif label == pair.label:
            mended += 1
        elif label == pair.other_label:
            broken += 1
        else:
            tied += 1
    coming = max(0, sum(one.differed for one in trials) - len(rows))
    frames = max(sum(one.frames for one in trials), len(rows))
    return Pairs(frames, broken, mended, tied, waiting + coming, settle)


def _finite(factor: float) -> float:
    """As JSON can hold it."""
    return min(factor, 1e300)
