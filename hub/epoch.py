"""Epoch: a stretch of the hub's history. A restore begins a new one, since images that were stored are gone with it;
cameras that see another epoch in the hub's status offer the copies that they keep once more.
"""

from datetime import datetime

from sqlmodel import Session, col, select

from hub.store import Store
from hub.tables import Epoch
from shared.clock import Clock
from shared.ids import boot_id


def current(store: Store, clock: Clock) -> str:
    """The id of the present epoch; the first one begins here, when there is none yet."""
    with store.read() as session:
        found = _newest(session)
    if found is not None:
        return found
    with store.write() as session:
        # Another process may have begun it meanwhile.
        return _newest(session) or begin(session, "the first", clock.utc())


def begin(session: Session, why: str, now: datetime) -> str:
    """Begin a new epoch as part of the caller's transaction; returns its id."""
    epoch = Epoch(id=boot_id(), since=now, why=why)
    session.add(epoch)
    session.flush()
    return epoch.id


def _newest(session: Session) -> str | None:
    return session.exec(select(Epoch.id).order_by(col(Epoch.number).desc())).first()
