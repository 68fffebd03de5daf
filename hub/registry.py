"""Registry: the cameras that were heard of and what they report, and the numbers that only grow.

Reports come often and from many; they are kept in memory and written together by `flush`.
"""

import threading
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import Connection, bindparam, update
from sqlmodel import Session, col, func, select

from hub.decisions import news, undone
from hub.seen import CameraView
from hub.store import Store
from hub.tables import Camera, Image, Label, Number, Run, table_of
from shared.clock import Clock
from shared.errors import MessageError, StoreError
from shared.messages import Reported, Status

MAX_RELEASE = 999_999_999
"""No release has a higher number: a topic carries nine digits."""


_CAMERAS = table_of(Camera)
_FRESH = [one.name for one in _CAMERAS.c if one.name not in ("name", "first_seen")]
_BLIND = update(_CAMERAS).values(online=False)
_KNOWN = sqlalchemy.select(_CAMERAS).where(_CAMERAS.c.name.in_(bindparam("names", expanding=True)))

_VIEWS = (
    sqlalchemy.select(
        _CAMERAS.c.name, _CAMERAS.c.online, _CAMERAS.c.release, sqlalchemy.cast(_CAMERAS.c.reported, sqlalchemy.Text)
    )
    .where(_CAMERAS.c.project == bindparam("project"))
    .order_by(_CAMERAS.c.name)
)


class Registry:
    """Safe to use from several threads."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._status: dict[str, Status] = {}
        self._blind = False
        self._reported: dict[str, Reported] = {}
        self._upsert = store.upsert(Camera, by=["name"], fresh=_FRESH)

    def start(self) -> None:
        """Nobody is online until the broker says so."""
        with self._store.writing() as connection:
            connection.execute(_BLIND)

    def status(self, camera: str, status: Status) -> None:
        """A camera came or went."""
        with self._lock:
            self._status[camera] = status

    def reported(self, camera: str, reported: Reported) -> None:
        """A camera said how it is; MessageError for a release number that cannot be."""
        if max(reported.release, reported.floor) > MAX_RELEASE:
            raise MessageError(f"names a release above {MAX_RELEASE}", subject=f"report of {camera}")
        with self._lock:
            self._reported[camera] = reported

    def lost_sight(self) -> None:
        """The broker is gone: no camera counts as online until it is heard of again."""
        with self._lock:
            self._blind = True
            self._status.clear()

    def flush(self) -> None:
        """Write what came since the last time, in one transaction."""
        with self._lock:
            status, self._status = self._status, {}
            reported, self._reported = self._reported, {}
            blind, self._blind = self._blind, False
        if not status and not reported and not blind:
            return
        try:
            self._write(status, reported, blind)
        except StoreError:
            with self._lock:  # written the next time, unless there is newer by then
                self._blind |= blind
                self._status = status | self._status
                self._reported = reported | self._reported
            raise

    def _write(self, status: dict[str, Status], reported: dict[str, Reported], blind: bool) -> None:
        """One statement for all: a whole fleet comes at once, and images wait for the database meanwhile."""
        now = self._clock.utc()
        names = status.keys() | reported.keys()
        with self._store.writing() as connection:
            if blind:
                connection.execute(_BLIND)
            known = {row.name: row._asdict() for row in connection.execute(_KNOWN, {"names": list(names)})}
            rows = [
                _row(known.get(name) or _new(name, now), status.get(name), reported.get(name), now) for name in names
            ]
            if rows:
                connection.execute(self._upsert, rows)

    def cameras(self, project: str) -> list[CameraView]:
        """The cameras of a project, by name."""
        with self._store.reading() as connection:
            return views(connection, project)


class _Reload(msgspec.Struct, frozen=True):
    state: str = "idle"
    release: int = 0
    reason: str = ""


class _Rates(msgspec.Struct, frozen=True):
    infer_ms: float = 0.0
    low_score: float = 0.0
    free_mb: int | None = None


class _Said(msgspec.Struct, frozen=True):
    """Of a report what is asked of a thousand cameras twice a second; an agent that knows nothing of it left it out."""

    reload: _Reload = _Reload()
    rates: _Rates = _Rates()
    labels: dict[str, str] = {}


def views(connection: Connection, project: str) -> list[CameraView]:
    """The cameras of a project, by name."""
    return [_view(*row) for row in connection.execute(_VIEWS, {"project": project})]


def _view(name: str, online: bool, release: int, reported: bytes | str) -> CameraView:
    """What a camera reported last. reported: as JSON."""
    said = msgspec.json.decode(reported, type=_Said)
    return CameraView(
        name=name,
        online=online,
        release=release,
        reload=said.reload.state,
        reload_release=said.reload.release,
        reason=said.reload.reason,
        labels=said.labels,
        infer_ms=said.rates.infer_ms,
        low_score=said.rates.low_score,
        free_mb=said.rates.free_mb,
    )


def _new(name: str, now: datetime) -> dict[str, Any]:
    """The row of a camera that has said nothing yet; `Camera(name=…)` would take a hundred times as long."""
    told: dict[str, Any] = {"project": "", "release": 0, "floor": 0, "plan_floor": 0, "reported": {}}
    return {"name": name, "first_seen": now, "last_seen": now, "online": False, "boot": "", **told}


def _row(row: dict[str, Any], status: Status | None, report: Reported | None, now: datetime) -> dict[str, Any]:
    """The row of a camera after what it said of itself."""
    if status is not None:
        row |= {"online": status.online, "boot": status.boot or row["boot"], "last_seen": now}
    if report is not None:
        row |= {
            "project": report.project,
            "release": report.release,
            "floor": report.floor,
            "plan_floor": report.plan_floor,
            "reported": msgspec.to_builtins(report),
            # A retained report of a camera that is gone tells when it was there, if its clock is right.
            "last_seen": now if row["online"] else min(report.time, now),
        }
    return row


def labels_since_run(session: Session, project: str, name: str | None = None) -> int:
    """How many images were labelled since the newest run was asked for; what an operator cancelled counts as one.

    The same label once more, where one was asked for again, does not count.
    name: only those that have this label now.
    """
    last = session.exec(select(func.max(Run.created_at)).where(Run.project == project)).one()
    fresh = (
        select(func.count(func.distinct(Label.image_id)))
        .join(Image, col(Image.id) == col(Label.image_id))
        .where(Image.project == project, Image.split == "pool", Label.kind == "label", col(Label.id).not_in(undone()))
        .where(news())
    )
    if name is not None:
        fresh = fresh.where(Image.label == name)
    return session.exec(fresh.where(Label.at > last) if last else fresh).one()


def next_number(session: Session, name: str, *, above: int = 0) -> int:
    """The next number under a name, higher than every one before and than `above`; part of the caller's transaction."""
    row = session.get(Number, name) or Number(name=name)
    row.value = max(row.value, above) + 1
    session.add(row)
    session.flush()
    return row.value
