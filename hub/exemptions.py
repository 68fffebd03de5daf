"""Exemptions: one release for one camera, whatever the plan says, signed and with a reason.

An exemption that was ended stays on its topic as release 0, since a camera remembers the last one that it saw.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from hub.keys import Keys
from hub.tables import Camera, Exemption, Release
from shared.errors import RolloutError
from shared.manifest import DESIRED_TYPE, Desired, seal


@dataclass(frozen=True, slots=True)
class Wish:
    """That a camera runs a release, and why; release 0: what the plan says again."""

    camera: str
    release: int
    reason: str
    operator: str


def make(session: Session, project: str, keys: Keys, wish: Wish, *, now: datetime, days: int) -> None:
    """Sign an exemption, in the caller's transaction; RolloutError for an unknown camera or release, or no reason."""
    camera = session.get(Camera, wish.camera)
    if camera is None or camera.project != project:
        raise RolloutError("is not a camera of this project", subject=f"camera {wish.camera}")
    if not wish.reason.strip():
        raise RolloutError("needs a reason", subject=f"an exemption of {wish.camera}", remedy="Say why")
    known = select(Release).where(Release.project == project, Release.number == wish.release)
    if wish.release and session.exec(known).first() is None:
        raise RolloutError("does not exist", subject=f"release {wish.release}")
    row = session.get(Exemption, wish.camera)
    if row is None:
        if not wish.release:
            raise RolloutError("has no exemption", subject=f"camera {wish.camera}")
        row = Exemption(
            camera=wish.camera, project=project, number=0, release=0, reason="", at=now, expires_at=now, envelope=b""
        )
    row.release, row.reason, row.operator, row.at = wish.release, wish.reason.strip(), wish.operator, now
    _sign(row, keys, now, days)
    session.add(row)


def keep(session: Session, project: str, keys: Keys, *, now: datetime, days: int, restored: bool) -> bool:
    """Sign anew, at half time, after a restore and under another delegation; whether there was any to sign.

    In the caller's transaction.
    """
    rows = session.exec(select(Exemption).where(Exemption.project == project)).all()
    half = now + timedelta(days=days) / 2
    stale = [one for one in rows if restored or one.expires_at < half or not keys.cover(one.envelope)]
    for one in stale:
        _sign(one, keys, now, days)
        session.add(one)
    return bool(stale)


def numbers(session: Session, project: str) -> list[int]:
    """The releases that exemptions name."""
    rows = select(Exemption.release).where(Exemption.project == project, col(Exemption.release) > 0)
    return list(session.exec(rows))


def _sign(row: Exemption, keys: Keys, now: datetime, days: int) -> None:
    # Seconds since 1970: a hub restored from a backup numbers above what cameras have accepted, which it cannot know.
    row.number = max(row.number + 1, int(now.timestamp()))
    row.expires_at = now + timedelta(days=days)
    desired = Desired(
        number=row.number,
        created=now,
        expires=row.expires_at,
        project=row.project,
        camera=row.camera,
        release=row.release,
        reason=row.reason,
    )
    row.envelope = seal(desired, DESIRED_TYPE, keys.signer, keys.delegation)
