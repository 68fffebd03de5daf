"""Read models of images and their labels: queries from the database to the structs of `hub.web.models`."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from sqlmodel import col, func, select

from hub import again
from hub.again import Ask
from hub.label import Desk
from hub.looks import Flag
from hub.store import Store
from hub.tables import Assignment, Image, Label, Look
from hub.web.models import ImageDetail, ImagePage, ImageView, LabelView, QueueItem, QueueView
from shared.policy import AUDIT, PAIR

State = Literal["new", "verified", "unreadable", "lost", "waiting", "labelled", "skipped"]
SHOWN = {"png", "jpg", "jpeg", "webp", "bmp", "gif"}
"""Kinds of image files that a browser shows as they are."""


class Images:
    """The images of one project. `None` means: no such thing."""

    def __init__(self, project: str, store: Store, desk: Desk) -> None:
        self._project = project
        self._store = store
        self._desk = desk

    def page(
        self,
        *,
        limit: int,
        offset: int = 0,
        state: State | None = None,
        label: str = "",
        split: str = "",
        camera: str = "",
        flag: Flag | None = None,
        suspect: bool = False,
    ) -> ImagePage:
        """Images, the newest first. state: of the file, or where it stands in the label queue. flag: a finding that
        they have. suspect: only those whose label is in doubt, see `hub.again`.
        """
        where: list[Any] = [Image.project == self._project]
        if state in ("new", "verified", "unreadable", "lost"):
            where.append(Image.state == state)
        elif state == "waiting":
            where += [Image.split == "pool", Image.state == "verified", col(Image.decided).is_(False)]
        elif state is not None:
            where += [col(Image.decided).is_(True), (col(Image.label) != None) == (state == "labelled")]  # noqa: E711
        for column, value in ((Image.label, label), (Image.split, split), (Image.camera, camera)):
            if value:
                where.append(column == value)
        if flag is not None:
            where.append(col(Image.flags)[flag].as_float().is_not(None))
        if suspect:
            where.append(col(Image.id).in_(again.doubted(self._project)))
        with self._store.read() as session:
            total = session.exec(select(func.count()).select_from(Image).where(*where)).one()
            rows = session.exec(
                select(Image).where(*where).order_by(col(Image.id).desc()).limit(limit).offset(offset)
            ).all()
            return ImagePage(total=total, limit=limit, offset=offset, items=[_image(one) for one in rows])

    def one(self, image_id: int) -> ImageDetail | None:
        """One image and its decisions."""
        with self._store.read() as session:
            image = session.get(Image, image_id)
            if image is None or image.project != self._project:
                return None
            rows = session.exec(select(Label).where(Label.image_id == image_id).order_by(col(Label.id).desc())).all()
            undone = {one.undoes for one in rows}
            given = session.get(Assignment, image_id)
            look = session.get(Look, image_id)
            return ImageDetail(
                **_image(image).model_dump(),
                side=given.side if given else "",
                since=given.since if given else 0,
                history=[label_view(one, undone) for one in rows],
                copy_of=look.copy_of if look is not None else None,
            )

    def queue(self, count: int, exclude: Sequence[int], operator: str = "") -> QueueView:
        """The next images to label."""
        asked = self._desk.questions(count, exclude=exclude, operator=operator)
        items = [queue_item(one.image, one.ask, urgent=one.urgent) for one in asked]
        return QueueView(waiting=self._desk.counts().waiting, items=items)

    def labels(self, limit: int) -> list[LabelView]:
        """The last decisions, the newest first."""
        with self._store.read() as session:
            rows = session.exec(
                select(Label)
                .join(Image, col(Image.id) == col(Label.image_id))
                .where(Image.project == self._project)
                .order_by(col(Label.id).desc())
                .limit(limit)
            ).all()
            ids = [one.id for one in rows]
            undone = set(session.exec(select(Label.undoes).where(col(Label.undoes).in_(ids))))
            return [label_view(one, undone) for one in rows]

    def standing(self, image_id: int) -> LabelView | None:
        """The decision in force on an image: the last one that was not undone."""
        found = self.one(image_id)
        return next((one for one in found.history if one.kind != "undo" and not one.undone), None) if found else None

    def undone_by(self, label_id: int) -> LabelView | None:
        """The decision that took back another one."""
        with self._store.read() as session:
            row = session.exec(select(Label).where(Label.undoes == label_id)).first()
            return None if row is None else label_view(row, ())


def queue_item(row: Image, ask: Ask = "", *, urgent: bool = False) -> QueueItem:
    """An image as a question; what was said of it before is left out where it is asked about again."""
    item = QueueItem(
        **{name: value for name, value in _image(row) if name in QueueItem.model_fields}
        | {"ask": ask, "urgent": urgent}
    )
    return item.model_copy(update={"guess": "", "scores": {}, "score": None, "why": "", "blind": True}) if ask else item


def _image(row: Image) -> ImageView:
    assert row.id is not None
    blind = row.why in (AUDIT, PAIR) and not row.decided
    url = f"/api/images/{row.id}/file"
    return ImageView(
        id=row.id,
        url=url if row.ext in SHOWN else f"{url}?width=1600",
        thumb=f"{url}?width=320",
        camera=row.camera,
        event=row.event_id,
        sha256=row.sha256,
        size=row.size,
        ext=row.ext,
        captured_at=row.captured_at,
        received_at=row.received_at,
        split=row.split,
        state=row.state,
        release=row.release,
        guess="" if blind else row.guess,
        score=None if blind else row.score,
        scores={} if blind else row.scores,
        blind=blind,
        why=row.why,
        probability=row.probability,
        width=row.width,
        height=row.height,
        flags=row.flags,
        label=row.label,
        decided=row.decided,
    )


def label_view(row: Label, undone: Collection[int | None]) -> LabelView:
    """A decision; undone: ids of those that were taken back."""
    assert row.id is not None
    return LabelView(
        id=row.id,
        image=row.image_id,
        kind=row.kind,
        name=row.name,
        operator=row.operator,
        at=row.at,
        undoes=row.undoes,
        seconds=row.seconds,
        undone=row.id in undone,
        ask=row.ask,
        bulk=row.bulk,
    )
