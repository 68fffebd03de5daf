"""Queue: the order in which an operator is asked about images. Reads what waits, asks `hub.choose`, puts it together.

1. The share `label.audit` of all questions is about random audit images, in an order that a hash makes: which of them
   get a label must not depend on what a model says, or the accuracy in the field would not be an estimate of it.
2. The others come as the setting `label.order` says. Images without an embedding by the newest backbone, and copies of
   other images, come when there is nothing else.
3. Images that are asked about again (`hub.again`) are spread among them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from hub import again
from hub.choose import MOST as MOST_KNOWN
from hub.choose import ORDERS, Waiting
from hub.settings import LabelSettings
from hub.split import share_of
from hub.tables import INT8, Embedding, Image, Look, Release
from shared.policy import AUDIT

MOST_WAITING = 5000
"""Of more images that wait, the newest are looked at: their embeddings are read at once, 25 MB."""
_ROWS = 500  # ids in one query: databases bound the number of parameters

Floats = NDArray[np.float32]


def waits(project: str) -> tuple[ColumnElement[bool] | bool, ...]:
    """Of an image: it is from the field, was verified, and nobody has decided about it."""
    return Image.project == project, Image.split == "pool", Image.state == "verified", col(Image.decided).is_(False)


@dataclass(frozen=True, slots=True)
class Plan:
    """Ids of images to ask about, the first one first, and which of them again, and why."""

    order: list[int]
    again: dict[int, again.Ask]


class Planner:
    """Plans of one project. read: the bytes of a model part by its SHA-256. Not safe to share by threads."""

    def __init__(self, project: str, read: Callable[[str], bytes]) -> None:
        self._project = project
        self._read = read
        self._head = ""  # which said what follows
        self._said: dict[int, float] = {}

    def plan(self, session: Session, count: int, exclude: set[int], settings: LabelSettings) -> Plan:
        """What to ask about next: at least `count` images and those of a batch, none of `exclude`."""
        count = max(settings.batch, count)
        newest = select(Image).where(*waits(self._project)).order_by(col(Image.id).desc()).limit(MOST_WAITING)
        images = [one for one in session.exec(newest) if one.id not in exclude][::-1]
        known = {one: ask for one, ask in again.due(session, self._project, settings).items() if one not in exclude}
        if not images:
            return Plan(again.mixed([], list(known)), known)
        audits = sorted((one for one in images if one.why == AUDIT), key=lambda one: share_of("audit", one.event_id))
        wanted = self._audits(session, count, settings.audit) if audits else 0
        chosen = self._ordered(session, [one for one in images if one.why != AUDIT], count, settings)
        fresh = again.mixed(_ids(chosen[: count - min(wanted, len(audits))]), _ids(audits[:wanted]))
        # What is left over comes when there is nothing else.
        rest = [one for one in [*_ids(chosen), *_ids(audits)] if one not in set(fresh)]
        return Plan(again.mixed([*fresh, *rest][:count], list(known)), known)

    def _audits(self, session: Session, count: int, share: float) -> int:
        """How many of the next `count` questions are about audits, so that their share of all decisions is that."""
        if not share:
            return 0
        decided = select(func.count()).where(
            Image.project == self._project, Image.split == "pool", col(Image.decided).is_(True)
        )
        done = session.exec(decided.where(Image.why == AUDIT)).one()
        owed = int(np.ceil(share * (session.exec(decided).one() + count))) - done
        return max(0, min(owed, int(np.ceil(2 * share * count))))  # after a time without any, not all at once

    def _ordered(self, session: Session, images: Sequence[Image], count: int, settings: LabelSettings) -> list[Image]:
        """Up to `count` images as the setting says, those last that have no say in it."""
        backbone = self._backbone(session)
        copies = set(_in(session, select(Look.image_id).where(col(Look.copy_of).is_not(None)), Look.image_id, images))
        vectors = _vectors(session, backbone, [one.id or 0 for one in images if one.id not in copies])
        usable = [one for one in images if one.id in vectors]
        others = sorted((one for one in images if one.id not in vectors), key=lambda one: (one.id in copies, one.score))
        if not usable:
            return others[:count]
        rows = np.stack([vectors[one.id] for one in usable if one.id is not None])
        decided = self._decided(session)
        known = _vectors(session, backbone, decided)
        found = Waiting(
            scores=self._scores(session, backbone, usable, rows),
            embeddings=rows,
            cameras=[one.camera for one in usable],
            known=np.stack(list(known.values())) if known else np.zeros((0, 0), np.float32),
        )
        order = ORDERS[settings.order](found, count, shortlist=settings.shortlist, seed=len(decided))
        return [*(usable[one] for one in order), *others][:count]

    def _backbone(self, session: Session) -> str:
        """Distances mean something within one backbone only: the newest image's; "" for none."""
        return (
            session.exec(
                select(Embedding.backbone)
                .join(Image, col(Image.id) == col(Embedding.image_id))
                .where(Image.project == self._project, Image.split == "pool")
                .where(col(Embedding.backbone).not_like(f"{INT8}%"))
                .order_by(col(Embedding.image_id).desc())
            ).first()
            or ""
        )

    def _decided(self, session: Session) -> list[int]:
        """Images of which the model knows, a spread over time of them: imported to train on, or decided."""
        ids = session.exec(
            select(Image.id)
            .where(
                Image.project == self._project,
                (col(Image.split) == "train") | ((col(Image.split) == "pool") & col(Image.decided).is_(True)),
            )
            .order_by(col(Image.id))
        ).all()
        some = np.linspace(0, len(ids) - 1, min(len(ids), MOST_KNOWN)).round().astype(int)
        return [one for one in (ids[number] for number in some) if one is not None]

    def _scores(self, session: Session, backbone: str, images: Sequence[Image], rows: Floats) -> Floats:
        """What the newest release says of these images, float32 [n]: a camera may have known less.

        What the camera said, where there is no release for these embeddings, or its head gives no confidence score.
        """
        release = session.exec(
            select(Release).where(Release.project == self._project).order_by(col(Release.number).desc())
        ).first()
        said = np.array([one.score for one in images], np.float32)
        if release is None or release.model["backbone"]["sha256"] != backbone:
            return said
        from shared.litert import Part  # the page starts without LiteRT

        name = release.model["head"]["sha256"]
        if name != self._head:
            self._head, self._said = name, {}
        lacking = [number for number, one in enumerate(images) if one.id not in self._said]
        if lacking:
            head = Part(self._read(name), name="head")
            if len(head.output_shapes) == 1 or head.input_shape != (1, rows.shape[-1]):
                return said
            for number in lacking:
                self._said[images[number].id or 0] = float(head.run_all(rows[number][np.newaxis])[1][0, 0])
        self._said = {one.id or 0: self._said[one.id or 0] for one in images}  # no more than those that wait
        return np.array(list(self._said.values()), np.float32)


def _ids(images: Sequence[Image]) -> list[int]:
    return [one.id for one in images if one.id is not None]


def _in(session: Session, rows: SelectOfScalar[int], column: int, images: Sequence[Image]) -> list[int]:
    """What a query of ids finds among these images."""
    ids, found = _ids(images), list[int]()
    for start in range(0, len(ids), _ROWS):
        found += session.exec(rows.where(col(column).in_(ids[start : start + _ROWS])))
    return found


def _vectors(session: Session, backbone: str, ids: Sequence[int]) -> dict[int, Floats]:
    """Embeddings by this backbone, as far as there are any: id -> float32 [dims], in the order of the ids."""
    found: dict[int, Floats] = {}
    for start in range(0, len(ids), _ROWS):
        rows = session.exec(
            select(Embedding.image_id, Embedding.vector).where(
                Embedding.backbone == backbone, col(Embedding.image_id).in_(ids[start : start + _ROWS])
            )
        )
        found.update({one: np.frombuffer(vector, "<f4") for one, vector in rows})
    return {one: found[one] for one in ids if one in found}
