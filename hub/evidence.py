"""Evidence: what the cameras of a rollout have shown, from their reports and the images on which two models differ.

An operator settles differences at his own pace, cameras find them at theirs. What is open counts against a release, so
of too many no decision could come: once `rollout.batch` differences wait, a window of counting closes on every camera,
and the next one opens when all of them are settled. What lies between counts neither way. Whether a window is open
depends on what came before it alone, so what it holds is a random sample like any other.

A window is told by a camera's own counts, frames and differences, at its begin and end; an image says which difference
it is. So every difference of a window is known, also one whose image never came: it stays open.

Answers count in the order in which the images came: what an operator answers before an older one that waits is open
until that is answered, too. Else whoever answers all images of one class first, or many at once, would make an equal
model look worse, since the proof of harm may be looked at after every answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from hub.gate import Judgement, Pairs, judge
from hub.progress import Progress
from hub.seen import Evidence, TrialView
from hub.settings import RolloutSettings
from hub.split import share_of
from hub.tables import Camera, Image, Pair, Rollout, Trial, table_of
from shared.messages import TrialState


@dataclass(frozen=True, slots=True)
class Difference:
    """A frame that is evidence, and what has become of it. new, old: what the two models say.

    waits: an operator can still be asked. counted: its camera has reported that many.
    """

    trial: tuple[str, str]
    number: int
    event_id: str
    new: str
    old: str
    image: int
    waits: bool
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
    trials = _trials(session, project, progress.release, progress.previous)
    differences = _differences(session, project, trials)
    pairs = _pairs(trials, differences, settings.settle)
    judgement = judge(pairs, margin=settings.margin, error=settings.error)
    cameras, before = _cameras(session, progress), _trials(session, project, progress.previous, progress.release)
    skips = _skips(cameras, progress.previous, progress.release)
    shadow = _views(before, skips, progress.shadows, candidate_beside=True)
    skips = _skips(cameras, progress.release, progress.previous)
    canary = _views(trials, skips, progress.canaries, candidate_beside=False)
    waiting = sum(one.waits and drawn(one.event_id, settings.settle) for one in differences)
    pause = waiting >= settings.batch or (paused and waiting > 0)
    if pause and not paused:
        for row in trials:
            row.windows = _closed(row)
            session.add(row)
    return Evidence(shadow, canary, pairs, judgement), pause


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


def from_row(told: Mapping[str, Any]) -> Evidence:
    """What `to_row` wrote; a row that holds none has shown nothing."""
    if not told:
        return Evidence()
    judgement = Judgement(told["verdict"], told["harm"], told["safety"])
    return Evidence(
        msgspec.convert(told["shadow"], dict[str, TrialView]),
        msgspec.convert(told["canary"], dict[str, TrialView]),
        msgspec.convert(told["pairs"], Pairs),
        judgement,
    )


def asked(session: Session, project: str, progress: Progress, settle: float) -> list[Difference]:
    """The differences that are evidence and that an operator is asked about, as far as their images are here."""
    trials = _trials(session, project, progress.release, progress.previous)
    return [one for one in _differences(session, project, trials) if drawn(one.event_id, settle)]


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
        if not one.decided and drawn(one.event_id, settle)
    )


# -- below the surface


def _skips(cameras: Iterable[Camera], release: int, other: int) -> dict[str, str]:
    """Why cameras run no other model beside this one, as far as they say so of these very two."""
    told = {one.name: one.reported.get("trial") or {} for one in cameras}
    return {
        name: str(one.get("skipped", ""))
        for name, one in told.items()
        if (one.get("release"), one.get("other")) == (release, other)
    }


def _note(session: Session, project: str, progress: Progress, *, paused: bool) -> None:
    """Keep what the shadow and canary cameras last reported of this rollout, and open windows where none is.

    A report of fewer frames or differences than were noted of a trial is an older one that the broker had kept.
    """
    wanted = {(progress.previous, progress.release), (progress.release, progress.previous)}
    cameras = _cameras(session, progress)
    names = [one.name for one in cameras]
    rows = session.exec(select(Trial).where(Trial.project == project, col(Trial.camera).in_(names)))
    known = {(one.camera, one.trial): one for one in rows}
    for camera in cameras:
        told = camera.reported.get("trial")
        if told is None or (told.get("release"), told.get("other")) not in wanted or not told.get("id"):
            continue
        key = (camera.name, str(told["id"]))
        row = known.get(key)
        if row is None:
            row = Trial(project=project, camera=key[0], trial=key[1], release=told["release"], other=told["other"])
        if (row.release, row.other) != (told["release"], told["other"]):
            continue  # no camera of ours gives two trials the same id
        counts = msgspec.to_builtins(msgspec.convert(told, TrialState))
        if any(now < noted for now, noted in zip(_at(counts), _at(row.counts), strict=True)):
            counts = row.counts
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
) -> list[Difference]:
    """The differences in the windows of these trials whose images are here, in the order in which these came."""
    by_key = {(one.camera, one.trial): one for one in trials}
    if not by_key:
        return []
    pairs, images = table_of(Pair).c, table_of(Image).c
    conditions: list[Any] = list(waits)
    rows = session.connection().execute(  # without the mapper: it is asked twice a second
        sqlalchemy.select(
            pairs.camera, pairs.trial, pairs.number, pairs.event_id, pairs.label, pairs.other_label,
            images.id, images.state, images.decided, images.label,
        )
        .where(pairs.camera == images.camera, pairs.event_id == images.event_id, pairs.project == project)
        .where(pairs.release == trials[0].release, pairs.other == trials[0].other, *conditions)
    )  # fmt: skip
    found = []
    for camera, trial, number, event_id, new, old, image, state, decided, label in rows:
        told = by_key.get((camera, trial))
        if told is None:
            continue
        if any(one[1] < number and (len(one) == 2 or number <= one[3]) for one in told.windows):
            counted = number <= _at(told.counts)[1]
            open_ = not decided and state in ("new", "verified")
            key = (camera, trial)
            found.append(Difference(key, number, event_id, new, old, image, open_, decided, label, counted))
    return sorted(found, key=lambda one: one.image)


def _pairs(trials: Sequence[Trial], differences: Sequence[Difference], settle: float) -> Pairs:
    """What is known of the frames in the windows of these trials, each difference with what an operator says of it."""
    closed = [window for trial in trials for window in _closed(trial)]
    frames, differed = (sum(one[at + 2] - one[at] for one in closed) for at in (0, 1))
    broken = mended = tied = waiting = 0
    before = False  # one waits that came before
    came = set()  # a number that came twice does not stand for another one that did not
    for one in differences:
        if not one.counted or (place := (*one.trial, one.number)) in came:
            continue
        came.add(place)
        if not drawn(one.event_id, settle):
            continue
        before |= one.waits
        if before or not one.decided:
            waiting += 1
        elif one.label == one.new:
            mended += 1
        elif one.label == one.old:
            broken += 1
        else:
            tied += 1
    return Pairs(frames, broken, mended, tied, waiting + max(0, differed - len(came)), settle)
