"""The data of a run: which labelled images, with which label, on which side; kept so that a run can be repeated.

A snapshot is named by the sha256 of its lines (image hash, label, side, and the name of its group where near-copies are
trained on); the lines are a blob under that name. Sides and groups are given by `hub.split`.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import sqlalchemy
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from hub.decisions import news
from hub.lost import LOST
from hub.settings import TrainSettings
from hub.store import Store
from hub.tables import Assignment, Image, Label, Run
from shared.errors import StoreError, TrainError

ROWS = 500  # hashes in one query: databases bound the number of parameters
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Entry(NamedTuple):
    """One line of a snapshot: the sha256 of an image, its label, side and group on that day. near: "" for no group."""

    sha256: str
    label: str
    side: str
    near: str = ""


class Sided(Protocol):
    """An image that stands on a side of the split."""

    @property
    def side(self) -> str:
        """As in `Assignment`."""


S = TypeVar("S", bound=Sided)


class Row(NamedTuple):
    """A labelled image. split: `Image.split`; side, since, near: its `Assignment`, "", 0 and "" where there is none."""

    id: int
    sha256: str
    label: str
    split: str
    side: str
    since: int
    near: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data of a run. ids: of images; labels: int [n]; holdout: bool [n]; sha256: over (image, label, side) lines.

    since: int [n], the first holdout version with an image, 0 for those to train on. near: int [n], the same number for
    near-copies among those to train on, and another one for each image that has none. left_out: labelled images on
    neither side. field_labels: how many to train on came from cameras, and so were labelled by operators. lines: the
    blob.
    """

    ids: list[int]
    labels: Labels
    holdout: Flags
    since: Labels
    near: Labels
    sha256: str
    field_labels: int
    left_out: int
    lines: bytes


def snapshot(store: Store, project: str, classes: list[str], settings: TrainSettings | None = None) -> Snapshot:
    """All labelled images on the side that `hub.split` gave them; what has none yet is not among them.

    settings: `images` and `replay` leave out some of those to train on; the last run that ended well says what is old.
    """
    with store.read() as session:
        rows = [
            Row(*row)
            for row in session.execute(
                sqlalchemy.select(
                    *(col(Image.id), col(Image.sha256), col(Image.label), col(Image.split)),
                    *(col(Assignment.side), col(Assignment.since), col(Assignment.near)),
                )
                .join(Assignment, col(Assignment.image_id) == col(Image.id))
                .where(
                    col(Image.project) == project,
                    col(Image.label).in_(classes),
                    col(Image.state).not_in(["unreadable", LOST]),
                    col(Assignment.near) != "",
                )
                .order_by(col(Image.id))
            )
        ]
        fresh = _fresh(session, project) if settings is not None and settings.replay < 1 else None
    kept = [row for row in rows if row.side != "out"]
    left_out = len(rows) - len(kept)
    if settings is not None and (settings.images or settings.replay < 1):
        train = [row for row in kept if row.side != "holdout"]
        labels = np.array([classes.index(row.label) for row in train], np.int64)
        old = np.array([fresh is not None and row.id not in fresh for row in train], bool)
        spared = {train[one].id for one in np.flatnonzero(~chosen(labels, old, settings))}
        kept = [row for row in kept if row.id not in spared]
    return _made(kept, classes, left_out)


def chosen(labels: Labels, old: Flags, settings: TrainSettings) -> Flags:
    """Which images to train on, bool [n]: all new ones and a share `replay` of the old, `images` of them at most.

    Old data beside the new keeps a model from forgetting (experience replay: Rolnick et al. 2019, arXiv:1811.11682).
    Random, with the classes in their proportions; where there is no room for all, old images go first.
    """
    rng = np.random.default_rng([settings.seed, 1])
    first, second = _shuffled(labels, ~old, rng), _shuffled(labels, old, rng)
    order = np.concatenate([first, second[: int(np.ceil(settings.replay * len(second) - 1e-9))]])
    keep = np.zeros(len(labels), bool)
    keep[order[: settings.images] if settings.images else order] = True
    return keep


def _shuffled(labels: Labels, which: Flags, rng: np.random.Generator) -> Labels:
    """Indices of `which` in random order, so that each beginning has the classes in their proportions."""
    places = []
    for label in np.unique(labels[which]):
        members = rng.permutation(np.flatnonzero(which & (labels == label)))
        places += [(rank / len(members), int(label), int(one)) for rank, one in enumerate(members)]
    return np.array([one for *_, one in sorted(places)], np.int64)


def recalled(store: Store, project: str, classes: list[str], sha256: str, left_out: int = 0) -> Snapshot | None:
    """A snapshot by its name; None when its lines were not kept. TrainError when images of it are gone.

    Sides and groups are those of its day, whatever became of the split since. left_out: what the snapshot said of that.
    """
    try:
        wanted = entries(store.blobs.read(sha256))
    except StoreError:
        return None
    found = paired(wanted, _images(store, project, sorted({one.sha256 for one in wanted})))
    rows = [
        row._replace(label=entry.label, side=entry.side, near=entry.near)
        for entry, row in zip(wanted, found, strict=True)
        if row is not None and entry.label in classes
    ]
    missing = len(wanted) - len(rows)
    if missing:
        raise TrainError(
            f"{missing} of its {len(wanted)} images are gone, or of a class that the project no longer has",
            subject=f"snapshot {sha256[:12]}",
            remedy="Start a new run",
        )
    return _made(sorted(rows), classes, left_out)


def entries(lines: bytes) -> list[Entry]:
    """The lines of a snapshot, by hash."""
    return [_entry(line) for line in lines.decode().split("\n")[:-1]]


def _entry(line: str) -> Entry:
    rest, last = line[65:].rsplit(" ", 1)
    if len(last) < 64:  # a side, and no group
        return Entry(line[:64], rest, last)
    label, side = rest.rsplit(" ", 1)
    return Entry(line[:64], label, side, last)


def entries_of(lines: bytes, sha256: str) -> list[Entry]:
    """Those lines of a snapshot that name one hash; a million others are not parsed for it."""
    lines = b"\n" + lines
    key = b"\n" + sha256.encode()  # at the begin of a line: a group may be named by the same hash
    begin, last = lines.find(key), lines.rfind(key)  # lines are in order: those of one hash follow each other
    return entries(lines[begin + 1 : lines.find(b"\n", last + 1) + 1]) if begin >= 0 else []


def paired(wanted: Sequence[Entry], there: Mapping[str, Sequence[S]]) -> list[S | None]:
    """The image of each entry, None where it is gone. there: sha256 -> all images with these bytes, by id.

    Of several that are the same bytes each is given once, those first that stand on the same side still.
    """
    left = {sha256: list(images) for sha256, images in there.items()}
    found: list[S | None] = []
    for entry in wanted:
        images = left.get(entry.sha256, [])
        same = next((place for place, one in enumerate(images) if one.side == entry.side), 0)
        found.append(images.pop(same) if images else None)
    return found


def _images(store: Store, project: str, hashes: list[str]) -> dict[str, list[Row]]:
    """sha256 -> the images that can be read, by id, as they stand now."""
    found: dict[str, list[Row]] = defaultdict(list)
    with store.read() as session:
        for start in range(0, len(hashes), ROWS):
            some = hashes[start : start + ROWS]
            rows = session.execute(
                sqlalchemy.select(
                    *(col(Image.id), col(Image.sha256), col(Image.label), col(Image.split)),
                    *(func.coalesce(Assignment.side, ""), func.coalesce(Assignment.since, 0)),
                )
                .join(Assignment, col(Assignment.image_id) == col(Image.id), isouter=True)
                .where(
                    col(Image.project) == project,
                    col(Image.sha256).in_(some),
                    col(Image.state).not_in(["unreadable", LOST]),
                )
                .order_by(col(Image.id))
            )
            for row in rows:
                found[row[1]].append(Row(*row))
    return found


def _fresh(session: Session, project: str) -> set[int] | None:
    """Images that were labelled since the last run that ended well was asked for; None when there was none."""
    last: datetime | None = session.exec(
        select(func.max(Run.created_at)).where(Run.project == project, Run.state == "done")
    ).one()
    if last is None:
        return None
    new = select(Label.image_id).where(Label.kind == "label", Label.at > last, news())
    return set(session.exec(new.distinct()))


def _made(rows: list[Row], classes: list[str], left_out: int) -> Snapshot:
    members = Counter(row.near for row in rows if row.near and row.side == "train")
    groups = [row.near if row.side == "train" and members[row.near] > 1 else "" for row in rows]
    lines = "".join(
        sorted(
            f"{row.sha256} {row.label} {row.side}{group and f' {group}'}\n"
            for row, group in zip(rows, groups, strict=True)
        )
    ).encode()
    keys = [group or f"image {row.id}" for row, group in zip(rows, groups, strict=True)]
    return Snapshot(
        ids=[row.id for row in rows],
        labels=np.array([classes.index(row.label) for row in rows], np.int64),
        holdout=np.array([row.side == "holdout" for row in rows], bool),
        since=np.array([row.since if row.side == "holdout" else 0 for row in rows], np.int64),
        near=np.unique(keys, return_inverse=True)[1].astype(np.int64).reshape(len(rows)),
        sha256=hashlib.sha256(lines).hexdigest(),
        field_labels=sum(row.split == "pool" and row.side == "train" for row in rows),
        left_out=left_out,
        lines=lines,
    )
