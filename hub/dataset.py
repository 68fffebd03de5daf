"""The data of a run: which labelled images, with which label, on which side; kept so that a run can be repeated.

A snapshot is named by the sha256 of its lines (image hash, label, split); the lines are a blob under that name.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, col, func, select

from hub.lost import LOST
from hub.settings import TrainSettings
from hub.store import Store
from hub.tables import Image, Label, Run
from shared.errors import StoreError, TrainError

ROWS = 500  # hashes in one query: databases bound the number of parameters
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]
Row = tuple[int, str, str, str]
"""id, sha256, label, split"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data of a run. images: ids; labels: int [n]; holdout: bool [n]; sha256: over (image, label, split) lines.

    field_labels: how many of the images came from cameras, and so were labelled by operators. lines: the blob.
    """

    ids: list[int]
    labels: Labels
    holdout: Flags
    sha256: str
    field_labels: int
    lines: bytes


def snapshot(store: Store, project: str, classes: list[str], settings: TrainSettings | None = None) -> Snapshot:
    """All labelled images: imported ones in their split, the field's for training. Holdout is never trained on.

    settings: `images` and `replay` leave out some of those to train on; the last run that ended well says what is old.
    """
    with store.read() as session:
        rows = session.exec(
            select(Image.id, Image.sha256, Image.label, Image.split)
            .where(
                Image.project == project, col(Image.label).in_(classes), col(Image.state).not_in(["unreadable", LOST])
            )
            .order_by(col(Image.id))
        ).all()
        fresh = _fresh(session, project) if settings is not None and settings.replay < 1 else None
    held_out = {sha256 for _, sha256, _, split in rows if split == "holdout"}
    # The same bytes may come again from the field: what is held out stays out of training.
    kept = [
        (number, sha256, label, split)
        for number, sha256, label, split in rows
        if number is not None and label is not None and (split == "holdout" or sha256 not in held_out)
    ]
    if settings is not None and (settings.images or settings.replay < 1):
        train = [row for row in kept if row[3] != "holdout"]
        labels = np.array([classes.index(row[2]) for row in train], np.int64)
        old = np.array([fresh is not None and row[0] not in fresh for row in train], bool)
        left_out = {train[one][0] for one in np.flatnonzero(~chosen(labels, old, settings))}
        kept = [row for row in kept if row[0] not in left_out]
    return _made(kept, classes)


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


def recalled(store: Store, project: str, classes: list[str], sha256: str) -> Snapshot | None:
    """A snapshot by its name; None when its lines were not kept. TrainError when images of it are gone."""
    try:
        lines = store.blobs.read(sha256).decode()
    except StoreError:
        return None
    wanted = [(line[:64], *line[65:].rsplit(" ", 1)) for line in lines.splitlines()]
    there = _images(store, project, sorted({one for one, *_ in wanted}))
    rows: list[Row] = []
    missing = 0
    for one, label, split in wanted:
        same = next((place for place, (_, side) in enumerate(there[one]) if side == split), 0)
        if label not in classes or not there[one]:
            missing += 1
            continue
        rows.append((there[one].pop(same)[0], one, label, split))
    if missing:
        raise TrainError(
            f"{missing} of its {len(wanted)} images are gone, or of a class that the project no longer has",
            subject=f"snapshot {sha256[:12]}",
            remedy="Start a new run",
        )
    return _made(sorted(rows), classes)


def _images(store: Store, project: str, hashes: list[str]) -> dict[str, list[tuple[int, str]]]:
    """sha256 -> (id, split) of the images that can be read, by id."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    with store.read() as session:
        for start in range(0, len(hashes), ROWS):
            some = hashes[start : start + ROWS]
            rows = session.exec(
                select(Image.id, Image.sha256, Image.split)
                .where(
                    Image.project == project,
                    col(Image.sha256).in_(some),
                    col(Image.state).not_in(["unreadable", LOST]),
                )
                .order_by(col(Image.id))
            )
            for number, sha256, split in rows:
                if number is not None:
                    found[sha256].append((number, split))
    return found


def _fresh(session: Session, project: str) -> set[int] | None:
    """Images that were labelled since the last run that ended well was asked for; None when there was none."""
    last: datetime | None = session.exec(
        select(func.max(Run.created_at)).where(Run.project == project, Run.state == "done")
    ).one()
    if last is None:
        return None
    return set(session.exec(select(Label.image_id).where(Label.kind == "label", Label.at > last).distinct()))


def _made(rows: list[Row], classes: list[str]) -> Snapshot:
    lines = "".join(f"{sha256} {label} {split}\n" for _, sha256, label, split in sorted(rows, key=lambda row: row[1:]))
    return Snapshot(
        ids=[number for number, *_ in rows],
        labels=np.array([classes.index(label) for _, _, label, _ in rows], np.int64),
        holdout=np.array([split == "holdout" for *_, split in rows], bool),
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        field_labels=sum(split == "pool" for *_, split in rows),
        lines=lines.encode(),
    )
