"""Where a model comes from and where it went, both ways: image -> label -> run -> release -> camera.

A run's snapshot names images by the hash of their bytes; these functions find their rows, and who labelled them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import sqlalchemy
from sqlmodel import Session, col, func, select

from hub.dataset import ROWS, Entry, entries, entries_of, paired
from hub.store import Store
from hub.tables import Assignment, Camera, Image, Label, Release, Run
from shared.errors import StoreError

T = TypeVar("T")


MOST_RUNS = 200
"""So many of the newest runs are searched for an image: of each the whole snapshot is read."""

MANY = 5000
"""From so many hashes on the whole project is read for them."""


class Member(NamedTuple):
    """An image of a snapshot. camera: "" for an imported one; side: where it stands now."""

    id: int
    sha256: str
    camera: str
    captured_at: datetime
    side: str


class Use(NamedTuple):
    """An image in the snapshot of a run that ended well: the label and the side that it had there."""

    run: Run
    label: str
    side: str


def snapshot_of(store: Store, snapshot: str) -> list[Entry] | None:
    """The lines of a snapshot by its name; None when they were not kept."""
    if not snapshot:
        return None
    try:
        return entries(store.blobs.read(snapshot))
    except StoreError:
        return None


def members(session: Session, project: str, wanted: Sequence[Entry]) -> list[Member | None]:
    """The image of each entry, None where its row is gone. Give all entries of a hash together."""
    there: dict[str, list[Member]] = {one.sha256: [] for one in wanted}
    every = (
        sqlalchemy.select(
            *(col(Image.id), col(Image.sha256), col(Image.camera), col(Image.captured_at)),
            func.coalesce(Assignment.side, ""),
        )
        .join(Assignment, col(Assignment.image_id) == col(Image.id), isouter=True)
        .where(col(Image.project) == project)
        .order_by(col(Image.id))
    )
    # Looking up one hash after the other takes ten times as long as reading on, for whom wants most of them.
    queries = (
        [every] if len(there) > MANY else [every.where(col(Image.sha256).in_(some)) for some in _blocks(sorted(there))]
    )
    for query in queries:
        for row in session.execute(query):
            if row[1] in there:
                there[row[1]].append(Member(*row))
    return paired(wanted, there)


def operators(session: Session, images: Collection[int], until: datetime | None) -> set[str]:
    """Who has labelled any of these images by then."""
    wanted = set(images)
    rows = sqlalchemy.select(col(Label.image_id), col(Label.operator)).where(col(Label.kind) == "label").distinct()
    said = session.execute(rows if until is None else rows.where(col(Label.at) <= until))
    return {operator for image, operator in said if operator and image in wanted}


def labellers(session: Session, images: Iterable[int], until: datetime | None) -> dict[tuple[int, str], Label]:
    """(image, class) -> the last decision for that class until then, for those of these images that have any.

    A label in a snapshot without one was imported.
    """
    found: dict[tuple[int, str], Label] = {}
    for some in _blocks(sorted(images)):
        rows = select(Label).where(col(Label.image_id).in_(some), Label.kind == "label").order_by(col(Label.id))
        for label in session.exec(rows if until is None else rows.where(Label.at <= until)):
            found[label.image_id, label.name] = label
    return found


def uses(store: Store, session: Session, image: Image) -> list[Use]:
    """The runs that learned from an image or held it out, the newest first, among the last `MOST_RUNS`.

    One without its snapshot is not among them: what it used is not known.
    """
    runs = session.exec(
        select(Run)
        .where(Run.project == image.project, Run.state == "done", Run.snapshot != "")
        .order_by(col(Run.id).desc())
        .limit(MOST_RUNS)
    )
    found: dict[str, Entry | None] = {}
    kept = []
    for run in runs:
        if run.ended_at is not None and run.ended_at < image.received_at:
            continue
        if run.snapshot not in found:
            found[run.snapshot] = _entry(store, session, run.snapshot, image)
        if (entry := found[run.snapshot]) is not None:
            kept.append(Use(run, entry.label, entry.side))
    return kept


def releases_of(session: Session, project: str, runs: Iterable[int]) -> dict[int, list[int]]:
    """Run -> numbers of the releases of its model; only runs that have any."""
    found: dict[int, list[int]] = defaultdict(list)
    rows = select(Release.run_id, Release.number).where(
        Release.project == project, col(Release.run_id).in_(sorted(set(runs)))
    )
    for run, number in session.exec(rows.order_by(col(Release.number))):
        if run is not None:
            found[run].append(number)
    return dict(found)


def run_of(session: Session, release: Release) -> Run | None:
    """The run that made the model of a release."""
    return session.get(Run, release.run_id) if release.run_id is not None else None


def cameras_on(session: Session, project: str, numbers: Iterable[int]) -> dict[int, list[str]]:
    """Release -> names of the cameras that say they run it; only those of these releases that any runs."""
    found: dict[int, list[str]] = defaultdict(list)
    rows = select(Camera.release, Camera.name).where(
        Camera.project == project, col(Camera.release).in_(sorted(set(numbers)))
    )
    for number, name in session.exec(rows.order_by(Camera.name)):
        found[number].append(name)
    return dict(found)


def _entry(store: Store, session: Session, snapshot: str, image: Image) -> Entry | None:
    """The line of a snapshot that means this image, and not another one with the same bytes."""
    try:
        wanted = entries_of(store.blobs.read(snapshot), image.sha256)
    except StoreError:
        return None
    found = members(session, image.project, wanted)
    return next((entry for entry, one in zip(wanted, found, strict=True) if one and one.id == image.id), None)


def _blocks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    yield from (items[start : start + ROWS] for start in range(0, len(items), ROWS))
