"""Evidence: what the cameras of a rollout have shown, from their reports and the images on which two models differ.

An operator settles differences at his own pace, cameras find them at theirs. What is open counts against a release, so
of too many no decision could come: once `rollout.batch` differences wait, a window of counting closes on every camera,
and the next one opens when all of them are settled. What lies between counts neither way. Whether a window is open
depends on what came before it alone, so what it holds is a random sample like any other.

A window is told by a camera's own counts, frames and differences, at its begin and end; an image says which difference
it is. So every difference of a window is known, also one whose image never came: it stays open.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class _Difference:
    """A frame that is evidence, and what has become of it. counted: its camera has reported that many."""

    pair: Pair
    image: int
    decided: bool
    label: str | None
    counted: bool


def look(
    session: Session, project: str, progress: Progress, settings: RolloutSettings, *, paused: bool
) -> tuple[Evidence, bool]:
    """Take in what the cameras last reported, in the caller's transaction, and judge by all there is.

    paused: whether counting was paused at the last look; returned is whether it is now.
    """
    _note(session, project, progress, paused=paused)
    session.flush()
    found = gather(session, project, progress, settings)
    trials = _trials(session, project, progress.release, progress.previous)
    here = [one for one in _differences(session, project, trials) if drawn(one.pair.event_id, settings.settle)]
    waiting = sum(not one.decided for one in here)
    pause = waiting >= settings.batch or (paused and waiting > 0)
    if pause and not paused:
        for row in trials:
            row.windows = _closed(row)
            session.add(row)
    return found, pause


def gather(session: Session, project: str, progress: Progress, settings: RolloutSettings) -> Evidence:
    """All that was noted of a rollout so far, with what the pairs of its canaries prove."""
    new, old = progress.release, progress.previous
    skips = {one.name: str((one.reported.get("trial") or {}).get("skipped", "")) for one in _cameras(session, progress)}
    trials = _trials(session, project, new, old)
    pairs = _pairs(trials, _differences(session, project, trials), settings.settle)
    return Evidence(
        shadow=_views(_trials(session, project, old, new), skips, progress.shadows, candidate_beside=True),
        canary=_views(trials, skips, progress.canaries, candidate_beside=False),
        pairs=pairs,
        judgement=judge(pairs, margin=settings.margin, error=settings.error),
    )


def to_row(evidence: Evidence, *, paused: bool) -> dict[str, Any]:
    """As a rollout's row keeps it, for pages and records. paused: no more is counted until what waits is settled."""
    pairs, judgement = evidence.pairs, evidence.judgement
    return {
        "shadow": {name: asdict(one) for name, one in evidence.shadow.items()},
        "canary": {name: asdict(one) for name, one in evidence.canary.items()},
        "pairs": asdict(pairs),
        "labels": pairs.settled,
        "paused": paused,
        "verdict": judgement.verdict,
        "harm": min(judgement.harm, 1e300),  # as JSON can hold it
        "safety": min(judgement.safety, 1e300),
    }


def drawn(event_id: str, settle: float) -> bool:
    """Whether an operator is asked about this difference: a share of them, by a hash, whatever it shows."""
    return share_of("pair", event_id) < settle


def urgent(session: Session, project: str, waits: Iterable[ColumnElement[bool] | bool], settle: float) -> list[int]:
    """Ids of images that wait for a label and that the rollout under way waits for, the oldest first.

    waits: the conditions under which an image waits.
    """
    way = session.exec(
        select(Rollout.release, Rollout.previous, Rollout.stage)
        .where(Rollout.project == project, Rollout.plan_number > 0)
        .order_by(col(Rollout.plan_number).desc())
    ).first()
    if way is None or way[2] in ("draft", "shadow", "done"):
        return []
    trials = _trials(session, project, way[0], way[1])
    return sorted(
        one.image
        for one in _differences(session, project, trials, *waits)
        if not one.decided and drawn(one.pair.event_id, settle)
    )


# -- below the surface


def _note(session: Session, project: str, progress: Progress, *, paused: bool) -> None:
    """Keep what the shadow and canary cameras last reported of this rollout, and open windows where none is."""
    wanted = {(progress.previous, progress.release), (progress.release, progress.previous)}
    for camera in _cameras(session, progress):
        told = camera.reported.get("trial")
        if told is None or (told.get("release"), told.get("other")) not in wanted or not told.get("id"):
            continue
        key = (project, camera.name, str(told["id"]))
        row = session.get(Trial, key)
        if row is None:
            row = Trial(project=key[0], camera=key[1], trial=key[2], release=told["release"], other=told["other"])
        counts = msgspec.to_builtins(msgspec.convert(told, TrialState))
        fresh = row.counts != counts
        if not paused and (not row.windows or len(row.windows[-1]) == 4):
            # A trial that begins counts from its beginning; later windows from what was reported last.
            row.windows = [*row.windows, _at(row.counts) if row.windows else [0, 0]]
            fresh = True
        if fresh:
            row.counts = counts
            session.add(row)


def _at(counts: dict[str, Any]) -> list[int]:
    return [int(counts.get("frames", 0)), int(counts.get("differed", 0))]


def _closed(row: Trial) -> list[list[int]]:
    """The windows of a trial, the last one with an end."""
    if not row.windows or len(row.windows[-1]) == 4:
        return row.windows
    return [*row.windows[:-1], [*row.windows[-1], *_at(row.counts)]]


def _cameras(session: Session, progress: Progress) -> list[Camera]:
    names = {*progress.shadows, *progress.canaries}
    return list(session.exec(select(Camera).where(col(Camera.name).in_(names)))) if names else []


def _trials(session: Session, project: str, release: int, other: int) -> list[Trial]:
    return list(
        session.exec(select(Trial).where(Trial.project == project, Trial.release == release, Trial.other == other))
    )


def _views(
    rows: Sequence[Trial], skips: dict[str, str], names: Iterable[str], *, candidate_beside: bool
) -> dict[str, TrialView]:
    """By camera, all its trials together. candidate_beside: the new model is the one beside."""
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


def _differences(
    session: Session, project: str, trials: Sequence[Trial], *waits: ColumnElement[bool] | bool
) -> list[_Difference]:
    """The differences in the windows of these trials whose images are here."""
    by_key = {(one.camera, one.trial): one for one in trials}
    if not by_key:
        return []
    rows = session.exec(
        select(Pair, Image.id, Image.decided, Image.label)
        .join(Image, (col(Pair.camera) == Image.camera) & (col(Pair.event_id) == Image.event_id))
        .where(Pair.project == project, Pair.release == trials[0].release, Pair.other == trials[0].other, *waits)
    )
    found = []
    for pair, image, decided, label in rows:
        trial = by_key.get((pair.camera, pair.trial))
        if trial is None or image is None:
            continue
        within = [one for one in trial.windows if one[1] < pair.number and (len(one) == 2 or pair.number <= one[3])]
        if within:
            counted = pair.number <= _at(trial.counts)[1]
            found.append(_Difference(pair, image, decided, label, counted))
    return found


def _pairs(trials: Sequence[Trial], differences: Sequence[_Difference], settle: float) -> Pairs:
    """What is known of the frames in the windows of these trials, each difference with what an operator says of it."""
    closed = [window for trial in trials for window in _closed(trial)]
    frames, differed = (sum(one[at + 2] - one[at] for one in closed) for at in (0, 1))
    broken = mended = tied = waiting = here = 0
    for one in differences:
        if not one.counted:
            continue
        here += 1
        if not drawn(one.pair.event_id, settle):
            continue
        if not one.decided:
            waiting += 1
        elif one.label == one.pair.label:
            mended += 1
        elif one.label == one.pair.other_label:
            broken += 1
        else:
            tied += 1
    return Pairs(frames, broken, mended, tied, waiting + max(0, differed - here), settle)
