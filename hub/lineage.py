"""Where a model comes from and where it went, both ways: image -> label -> run -> release -> camera.

A run's snapshot names images by the hash of their bytes; these functions find their rows, and who labelled them.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import sqlalchemy
from sqlmodel import Session, col, func, select

from hub.dataset import ROWS, Entry, entries, paired
from hub.store import Store
from hub.tables import Assignment, Camera, Image, Label, Release, Run
from shared.errors import StoreError

T = TypeVar("T")


class Member(NamedTuple):
    """An image of a snapshot. camera: "" for an imported one; side: where it stands now."""

    id: int
    sha256: str
    camera: str
    captured_at: datetime
    side: str


def entries_of(store: Store, snapshot: str) -> list[Entry] | None:
    """The lines of a snapshot by its name; None when they were not kept."""
    if not snapshot:
        return None
    try:
        return entries(store.blobs.read(snapshot))
    except StoreError:
        return None


def members(session: Session, project: str, wanted: Sequence[Entry]) -> list[Member | None]:
    """The image of each entry, None where its row is gone. Give all entries of a hash together."""
    there: dict[str, list[Member]] = defaultdict(list)
    for some in _blocks(sorted({one.sha256 for one in wanted})):
        rows = session.execute(
            sqlalchemy.select(
                *(col(Image.id), col(Image.sha256), col(Image.camera), col(Image.captured_at)),
                func.coalesce(Assignment.side, ""),
            )
            .join(Assignment, col(Assignment.image_id) == col(Image.id), isouter=True)
            .where(col(Image.project) == project, col(Image.sha256).in_(some))
            .order_by(col(Image.id))
        )
        for row in rows:
            there[row[1]].append(Member(*row))
    return paired(wanted, there)


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


def _blocks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    yield from (items[start : start + ROWS] for start in range(0, len(items), ROWS))
