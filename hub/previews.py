"""Previews: events whose images wait on their cameras, until somebody wants them. Rows of the table `Preview`.

    state     | asked_at | gone  | means
    ----------|----------|-------|-------------------------------------------------------------
    waiting   | none     | no    | nobody wants the image so far
    asked     | a time   | no    | somebody does: the camera is asked until the image is stored
    gone      |          | yes   | the camera has let the image go

When the image is stored, the row goes. So it does a set time after the camera offered it last, unless somebody waits
for the image; a camera that still holds it and offers it again makes a new one.
"""

import base64
import binascii
from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement
from sqlmodel import Session, col, delete, or_, select, update

from hub.tables import Preview
from shared.errors import MessageError
from shared.messages import Event, decode, encode

JPEG = b"\xff\xd8\xff"
HOUR_S = 3600.0
EXPIRE_BATCH = 500
"""Rows that go in one transaction: commits of images wait for it."""


def bare(event: Event) -> Event:
    """The event as its image will come: without thumbnail and embedding, and not held any more."""
    return msgspec.structs.replace(event, held=False, follows=False, thumbnail=None, embedding=None)


def parts(event: Event) -> tuple[bytes, bytes]:
    """Thumbnail (JPEG) and embedding (float16, little-endian) of a preview, empty where there is none; MessageError."""
    subject = f"preview {event.id}"
    try:
        thumbnail = base64.b64decode(event.thumbnail or "", validate=True)
        embedding = base64.b64decode(event.embedding or "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"is not base64 ({error})", subject=subject) from error
    if thumbnail and not thumbnail.startswith(JPEG):
        raise MessageError("has a thumbnail that is no JPEG", subject=subject)
    if len(embedding) % 2:
        raise MessageError("has half a number in its embedding", subject=subject)
    return thumbnail, embedding


def row(camera: str, event: Event, received: datetime, asked: datetime | None) -> dict[str, object]:
    """The columns of a preview; MessageError as `parts`. asked: since when its image is wanted."""
    thumbnail, embedding = parts(event)
    return {
        "camera": camera,
        "event_id": event.id,
        "project": event.project,
        "value": event.value,
        "captured_at": event.time,
        "received_at": received,
        "event": encode(bare(event)),
        "thumbnail": thumbnail,
        "embedding": embedding,
        "asked_at": asked,
        "gone": False,
    }


def ask(session: Session, camera: str, event_id: str, now: datetime) -> None:
    """The image is wanted from now on. Nothing where it was before, is gone, or there is no such preview."""
    session.exec(
        update(Preview)
        .where(
            col(Preview.camera) == camera,
            col(Preview.event_id) == event_id,
            col(Preview.asked_at).is_(None),
            col(Preview.gone).is_(False),
        )
        .values(asked_at=now)
    )


def wanted(session: Session, project: str, online: Collection[str], each: int) -> list[tuple[str, Event]]:
    """What cameras that are online shall be asked for: `each` images of each at most, longest wanted first."""
    found: list[tuple[str, Event]] = []
    for camera in sorted(_busy(session, project) & set(online)):
        events = session.exec(
            select(Preview.event)
            .where(*_asked(project), Preview.camera == camera)
            .order_by(col(Preview.asked_at), col(Preview.id))
            .limit(each)
        )
        found += [(camera, decode(one, Event)) for one in events]
    return found


def best(session: Session, project: str, online: Collection[str]) -> tuple[str, str] | None:
    """(camera, event id) of the most valuable image that waits, the newest of equals; None: there is none to ask for.

    Only of cameras that are online and have been asked for nothing that is still to come: what a thin line carries
    bounds what is asked of it.
    """
    free = sorted(set(online) - _busy(session, project))
    return session.exec(
        select(Preview.camera, Preview.event_id)
        .where(
            col(Preview.project) == project,
            col(Preview.gone).is_(False),
            col(Preview.asked_at).is_(None),
            col(Preview.camera).in_(free),
        )
        .order_by(col(Preview.value).desc(), col(Preview.id).desc())
        .limit(1)
    ).first()


def expired(session: Session, project: str, before: datetime) -> list[int]:
    """Ids of previews that were offered last before then and can go, EXPIRE_BATCH at most; reads no thumbnail."""
    return [one for one in session.exec(select(Preview.id).where(*_old(project, before)).limit(EXPIRE_BATCH)) if one]


def drop(session: Session, project: str, before: datetime, ids: Collection[int]) -> int:
    """Delete those of `expired` that can still go; returns how many. Part of the caller's transaction."""
    return session.exec(delete(Preview).where(col(Preview.id).in_(ids), *_old(project, before))).rowcount


def _old(project: str, before: datetime) -> tuple[ColumnElement[bool], ...]:
    unwanted = or_(col(Preview.gone).is_(True), col(Preview.asked_at).is_(None))
    return col(Preview.project) == project, unwanted, col(Preview.received_at) < before


def _asked(project: str) -> tuple[ColumnElement[bool], ...]:
    return col(Preview.project) == project, col(Preview.gone).is_(False), col(Preview.asked_at).is_not(None)


def _busy(session: Session, project: str) -> set[str]:
    """The cameras of which something is wanted."""
    return set(session.exec(select(Preview.camera).where(*_asked(project)).distinct()))


class Pace:
    """When the hub may ask for an image by itself: `per_hour` times, evenly. Pure; the clock is passed in, in s."""

    def __init__(self, per_hour: int) -> None:
        self._every = HOUR_S / per_hour if per_hour else float("inf")
        self._next = float("-inf") if per_hour else float("inf")

    def due(self, now: float) -> bool:
        """Whether it is time. What was not used is not saved up."""
        return now >= self._next

    def spend(self, now: float) -> None:
        """One was asked for."""
        self._next = now + self._every
