"""Split: which labelled images teach, and which prove. Given once, kept in the table `Assignment`.

1. Near-copies (equal bytes, or a cosine of their embeddings above a threshold) and the near-copies of those are one
   group; it is named by the smallest sha256 that it had when it was first seen, and keeps that name.
2. Only random audit events extend the holdout, and images imported as holdout: what was chosen for being unsure is no
   sample of the field, and a holdout of such images lies. A hash of the group's name (or of the camera, or of the day)
   draws the share that does, so that chance decides, and decides the same again.
3. A group is on one side. Where it is held out, those of it that are no random sample, or that a model has learnt
   from, are "out": in neither.
4. An image that makes one group of a trained and a held-out one takes the trained images out of training. Scores of
   runs that had learnt from them may be too good: they are marked.
5. The holdout has numbered versions that only grow. Whoever chooses among models by one set of images again and again
   fits them to it (Dwork et al. 2015, "The reusable holdout", Science 349): after so many verdicts it is worn, and
   from the next version on only images that came later decide.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import sqlalchemy
from numpy.typing import NDArray
from sqlalchemy import update
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from hub.lost import LOST
from hub.settings import SplitSettings
from hub.store import Store
from hub.tables import Assignment, HoldoutVersion, Image, Run
from shared.clock import Clock
from shared.policy import AUDIT

Side = Literal["train", "holdout", "out"]
VERDICTS = ("better", "same", "worse")
_CELLS = 16_000_000
"""Cosines that are held at once: 64 MB."""


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled image. split, why, camera, at: `Image.split`, `why`, `camera` and `captured_at`.

    near, side, since: its assignment; "", None and 0 where there is none yet.
    """

    id: int
    sha256: str
    split: str
    why: str
    camera: str
    at: datetime
    near: str = ""
    side: Side | None = None
    since: int = 0

    @property
    def sample(self) -> bool:
        """Whether it came from the field by chance alone."""
        return self.split == "pool" and self.why == AUDIT


@dataclass(frozen=True, slots=True)
class Bridge:
    """A held-out group turned out to hold near-copies of trained images. since: the first version it is part of."""

    since: int
    trained: int
    held: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What changes: image id -> (group, side); and the bridges that were found."""

    changed: dict[int, tuple[str, Side]]
    bridges: list[Bridge]


@dataclass(frozen=True, slots=True)
class Standing:
    """The newest version of a holdout; number 0: there is none. verdicts: given since `base`; worn: no more count."""

    number: int = 0
    base: int = 0
    images: int = 0
    verdicts: int = 0
    worn: bool = False


def share_of(project: str, key: str) -> float:
    """A number in [0, 1) that a hash makes of a key: the same for ever, another one in each project."""
    return int.from_bytes(hashlib.sha256(f"{project} {key}".encode()).digest()[:8]) / 2**64


def links(vectors: Mapping[int, NDArray[np.float32]], new: Iterable[int], near: float) -> list[tuple[int, int]]:
    """Pairs of a new image and any other whose cosine is above `near`. vectors: id -> float32 [dims], all alike."""
    ids = sorted(vectors)
    rows = sorted(set(new) & vectors.keys())
    if not rows or near >= 1:
        return []
    units = np.stack([vectors[one] for one in ids])
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    place = {one: index for index, one in enumerate(ids)}
    block = max(1, _CELLS // len(ids))
    found = []
    for start in range(0, len(rows), block):
        some = rows[start : start + block]
        for row, other in np.argwhere(units[[place[one] for one in some]] @ units.T > near):
            if some[row] != ids[other]:
                found.append((some[row], ids[other]))
    return found


def assign(items: Sequence[Item], pairs: Iterable[tuple[int, int]], settings: SplitSettings, project: str) -> Plan:
    """Give every image without a group one, and a side. pairs: near-copies by embedding, see `links`."""
    changed: dict[int, tuple[str, Side]] = {}
    bridges: list[Bridge] = []
    for group in _components(items, pairs):
        if all(one.near for one in group) and len({one.near for one in group}) == 1:
            continue
        name, sides = _decide(group, settings, project)
        flipped = [one for one in group if one.side == "train" and sides[one.id] == "out"]
        held = [one for one in group if one.side == "holdout" and one.since]
        if flipped and held:
            bridges.append(Bridge(min(one.since for one in held), len(flipped), len(held)))
        changed.update(
            {one.id: (name, sides[one.id]) for one in group if (one.near, one.side) != (name, sides[one.id])}
        )
    return Plan(changed, bridges)


def _decide(group: Sequence[Item], settings: SplitSettings, project: str) -> tuple[str, dict[int, Side]]:
    """The name of a group, and the side of each of its images."""
    held = [one for one in group if one.side == "holdout" or (one.side is None and one.split == "holdout")]
    name = min({one.near for one in held if one.near} or {one.near for one in group if one.near} or _hashes(group))
    trained = any(one.side == "train" or (one.side is None and one.split == "train") for one in group)
    drawn = {one.id: _drawn(one, name, settings, project) for one in group}
    fresh = [one for one in group if one.side is None]
    holds = bool(held) or (not trained and any(one.sample and drawn[one.id] for one in fresh))
    sides: dict[int, Side] = {}
    for one in group:
        if one.side == "holdout" or (one.side is None and one.split == "holdout"):
            sides[one.id] = "holdout"
        elif holds:
            sides[one.id] = "holdout" if one.side is None and one.sample and not trained else "out"
        elif one.side is not None:
            sides[one.id] = one.side
        else:
            # A camera or a day that is held out teaches nothing, whatever was sent of it.
            apart = settings.by != "group" and one.split == "pool" and drawn[one.id]
            sides[one.id] = "out" if apart else "train"
    return name, sides


def _drawn(item: Item, group: str, settings: SplitSettings, project: str) -> bool:
    key = {"group": group, "camera": item.camera, "time": f"{item.at:%Y-%m-%d}"}[settings.by]
    return share_of(project, key) < settings.share


def _hashes(group: Iterable[Item]) -> set[str]:
    return {one.sha256 for one in group}


def _components(items: Sequence[Item], pairs: Iterable[tuple[int, int]]) -> list[list[Item]]:
    """Connected components by pairs, equal bytes and groups that exist (union-find), in order of their first image."""
    parent = {one.id: one.id for one in items}

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    first: dict[str, int] = {}
    joined = list(pairs)
    for item in items:
        for key in filter(None, (f"bytes {item.sha256}", item.near and f"group {item.near}")):
            joined.append((first.setdefault(key, item.id), item.id))
    for a, b in joined:
        if a in parent and b in parent:
            parent[root(a)] = root(b)
    found: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        found[root(item.id)].append(item)
    return list(found.values())


# -- the shell


def candidates(session: Session, project: str, classes: Sequence[str]) -> list[int]:
    """Ids of all images that `divide` must see: those with a label of the project, and those assigned before."""
    whole = col(Image.state).not_in(["unreadable", LOST])
    labelled = select(Image.id).where(Image.project == project, col(Image.label).in_(classes), whole)
    assigned = select(Assignment.image_id).where(Assignment.project == project)
    return sorted({one for query in (labelled, assigned) for one in session.exec(query) if one is not None})


def divide(
    store: Store, project: str, vectors: Mapping[int, NDArray[np.float32]], settings: SplitSettings, clock: Clock
) -> Standing:
    """Assign the images of `vectors` (id -> embedding float32 [dims]) that are not yet; returns where that leaves us.

    New members of the holdout make a new version. Runs whose scores a bridge casts doubt on are marked.
    """
    with store.read() as session:
        known = _items(session, project, vectors)
    pairs = links(vectors, [one.id for one in known if not one.near], settings.near)
    with store.write() as session:
        items = _items(session, project, vectors)
        plan = assign(items, pairs, settings, project)
        before = standing(session, project, settings.max_verdicts)
        rows = {one.image_id: one for one in session.exec(_assignments(project))}
        fresh = 0
        for image_id, (near, side) in plan.changed.items():
            row = rows.get(image_id) or Assignment(image_id=image_id, project=project, side=side)
            row.near, row.side = near, side
            if side == "holdout" and not row.since:
                row.since = before.number + 1
                fresh += 1
            session.add(row)
        if fresh:
            session.add(
                HoldoutVersion(
                    project=project,
                    number=before.number + 1,
                    base=before.number if before.worn else before.base,
                    created_at=clock.utc(),
                    images=before.images + fresh,
                    why=f"{fresh} new image{'' if fresh == 1 else 's'}"
                    + (f", and version {before.number} was worn" if before.worn else ""),
                )
            )
        for bridge in plan.bridges:
            _doubt(session, project, bridge)
        session.flush()
        return standing(session, project, settings.max_verdicts)


def standing(session: Session, project: str, max_verdicts: int, number: int | None = None) -> Standing:
    """One version of a project's holdout, by default the newest; number 0, where there is none such."""
    versions = select(HoldoutVersion).where(HoldoutVersion.project == project)
    if number is not None:
        versions = versions.where(HoldoutVersion.number == number)
    newest = session.exec(versions.order_by(col(HoldoutVersion.number).desc())).first()
    if newest is None:
        return Standing()
    verdicts = session.exec(
        select(func.count())
        .select_from(Run)
        .join(HoldoutVersion, (col(HoldoutVersion.number) == Run.holdout) & (HoldoutVersion.project == project))
        .where(Run.project == project, col(Run.verdict).in_(VERDICTS), HoldoutVersion.base == newest.base)
    ).one()
    return Standing(newest.number, newest.base, newest.images, verdicts, verdicts >= max_verdicts)


def _assignments(project: str) -> SelectOfScalar[Assignment]:
    return select(Assignment).where(Assignment.project == project)


def _items(session: Session, project: str, vectors: Mapping[int, object]) -> list[Item]:
    rows = session.execute(
        sqlalchemy.select(
            *(col(Image.id), col(Image.sha256), col(Image.split), col(Image.why), col(Image.camera)),
            *(col(Image.captured_at), Assignment),
        )
        .join(Assignment, col(Assignment.image_id) == col(Image.id), isouter=True)
        .where(col(Image.project) == project, (col(Image.label).is_not(None)) | (col(Assignment.image_id).is_not(None)))
        .order_by(col(Image.id))
    ).all()
    return [
        Item(
            id=image_id,
            sha256=sha256,
            split=split,
            why=why,
            camera=camera,
            at=at,
            near=given.near if given else "",
            side=given.side if given else None,
            since=given.since if given else 0,
        )
        for image_id, sha256, split, why, camera, at, given in rows
        if image_id in vectors
    ]


def _doubt(session: Session, project: str, bridge: Bridge) -> None:
    """Mark the runs that were judged on images whose near-copies they may have learnt."""
    words = (
        f"{bridge.held} held-out image{'s' * (bridge.held > 1)} of version {bridge.since} and later turned out to be "
        f"near-copies of {bridge.trained} that models were trained on: these scores may be too good"
    )
    session.execute(
        update(Run)
        .where(col(Run.project) == project, col(Run.state) == "done", col(Run.holdout) >= bridge.since)
        .values(doubt=words)
    )
