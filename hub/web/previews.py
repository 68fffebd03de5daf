"""Read models of previews: queries from the database to the structs of `hub.web.models`. Lists read no thumbnail."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

from sqlmodel import Session, col, func, select

from hub.store import Store
from hub.tables import Preview
from hub.web.fleet import PreviewCounts
from hub.web.models import PreviewPage, PreviewState, PreviewView
from shared.messages import Event, decode
from shared.policy import AUDIT, PAIR

Order = Literal["newest", "value"]


class Previews:
    """The previews of one project. `None` means: no such thing."""

    def __init__(self, project: str, store: Store) -> None:
        self._project = project
        self._store = store

    def page(
        self,
        *,
        limit: int,
        offset: int = 0,
        state: PreviewState | None = None,
        camera: str = "",
        order: Order = "newest",
    ) -> PreviewPage:
        """Previews, the newest or the most valuable first."""
        where: list[Any] = [Preview.project == self._project]
        if camera:
            where.append(Preview.camera == camera)
        if state is not None:
            where.append(col(Preview.gone).is_(state == "gone"))
        if state in ("waiting", "asked"):
            where.append(col(Preview.asked_at).is_(None) if state == "waiting" else col(Preview.asked_at).is_not(None))
        newest = col(Preview.id).desc()
        # First which ones, by the index alone: sorting whole rows would read every thumbnail.
        chosen = (
            select(Preview.id)
            .where(*where)
            .order_by(*([col(Preview.value).desc()] if order == "value" else []), newest)
            .limit(limit)
            .offset(offset)
        )
        with self._store.read() as session:
            total = session.exec(select(func.count()).select_from(Preview).where(*where)).one()
            ids = session.exec(chosen).all()
            rows = {one.id: one for one in session.exec(select(*_COLUMNS).where(col(Preview.id).in_(ids)))}
            items = [_view(rows[one]._mapping) for one in ids]
            return PreviewPage(total=total, limit=limit, offset=offset, items=items)

    def one(self, preview_id: int) -> PreviewView | None:
        """One preview."""
        with self._store.read() as session:
            row = session.exec(
                select(*_COLUMNS).where(Preview.id == preview_id, Preview.project == self._project)
            ).first()
            return None if row is None else _view(row._mapping)

    def thumbnail(self, preview_id: int) -> bytes | None:
        """The JPEG of a preview that has one."""
        with self._store.read() as session:
            return (
                session.exec(
                    select(Preview.thumbnail).where(Preview.id == preview_id, Preview.project == self._project)
                ).first()
                or None
            )

    def counts(self, session: Session) -> dict[str, PreviewCounts]:
        """Of each camera that has any, how many are in which state. Cheap."""
        asked = col(Preview.asked_at).is_not(None)
        rows = session.exec(
            select(Preview.camera, Preview.gone, asked, func.count())
            .where(Preview.project == self._project)
            .group_by(col(Preview.camera), col(Preview.gone), asked)
        )
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for camera, gone, was_asked, count in rows:
            state = _state(gone=gone, asked=was_asked)
            found[camera][state] = found[camera].get(state, 0) + count
        return {camera: PreviewCounts(**counts) for camera, counts in found.items()}

    def totals(self, session: Session) -> PreviewCounts:
        """How many of all cameras are in which state."""
        every = self.counts(session).values()
        return PreviewCounts(
            waiting=sum(one.waiting for one in every),
            asked=sum(one.asked for one in every),
            gone=sum(one.gone for one in every),
        )


_COLUMNS: Any = (
    Preview.id,
    Preview.camera,
    Preview.event_id,
    Preview.value,
    Preview.captured_at,
    Preview.received_at,
    Preview.asked_at,
    Preview.gone,
    Preview.event,
    (func.length(Preview.thumbnail) > 0).label("shown"),
)


def _state(*, gone: bool, asked: bool) -> PreviewState:
    return "gone" if gone else "asked" if asked else "waiting"


def _view(row: Mapping[Any, Any]) -> PreviewView:
    event = decode(row["event"], Event)
    blind = event.why in (AUDIT, PAIR)
    return PreviewView(
        id=row["id"],
        thumb=f"/api/previews/{row['id']}/thumbnail" if row["shown"] else "",
        state=_state(gone=row["gone"], asked=row["asked_at"] is not None),
        camera=row["camera"],
        event=row["event_id"],
        captured_at=row["captured_at"],
        received_at=row["received_at"],
        asked_at=row["asked_at"],
        release=event.release,
        guess="" if blind else event.label,
        score=None if blind else event.score,
        scores={} if blind else event.scores,
        blind=blind,
        why=event.why,
        probability=event.probability,
        value=row["value"],
        size=event.size,
    )
