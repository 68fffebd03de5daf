"""Commit: the thread that makes complete images, and previews, durable. One round serves all that came during the round
before it.

A round: the bytes into a segment (one sync), the rows in one transaction (another), and only then `stored`. Without
load an image waits for nobody. Under load, that is right after a round, it waits up to GATHER_S for company: a round of
one costs as much as one of thirty.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Table,
    bindparam,
    false,
    literal,
    literal_column,
    null,
    union_all,
)
from sqlmodel import Session

from hub import lost, previews
from hub.segments import Place
from hub.store import Store
from hub.tables import Blob, Image, Pair, Preview, Release, Skew, Tombstone, table_of
from shared.clock import Clock
from shared.errors import MessageError, StoreError
from shared.transfer import Complete, Held

log = logging.getLogger(__name__)
GATHER_S = 0.01
"""Seconds that the first image of a round waits for others, when a round has just ended."""
GATHER_BYTES = 4 << 20
"""A round that has so much waits no longer."""
BATCH_BYTES = 16 << 20
"""A round takes no more than this, so that the first of a burst does not wait for the last."""


Key = tuple[str, str]
"""camera, event id"""
_IMAGES = sqlalchemy.insert(table_of(Image)).values(
    # What every new image has in common; as words of the statement they cost nothing for each row.
    split=literal_column("'pool'"),
    state=literal_column("'new'"),
    width=literal_column("0"),
    height=literal_column("0"),
    flags=literal_column("'{}'"),
    label=null(),
    decided=false(),
)
_PAIRS = sqlalchemy.insert(table_of(Pair))
_SKEWS = sqlalchemy.insert(table_of(Skew)).from_select(
    ["camera", "event_id", "vector"],
    sqlalchemy.select(table_of(Preview).c.camera, table_of(Preview).c.event_id, table_of(Preview).c.embedding).where(
        table_of(Preview).c.camera == bindparam("one"),
        table_of(Preview).c.event_id == bindparam("event"),
        table_of(Preview).c.embedding != b"",
    ),
)
_MODELS = sqlalchemy.select(table_of(Release).c.project, table_of(Release).c.number, table_of(Release).c.model).where(
    table_of(Release).c.number.in_(bindparam("numbers", expanding=True))
)
_PREVIEWS = sqlalchemy.delete(table_of(Preview)).where(
    table_of(Preview).c.camera == bindparam("one"), table_of(Preview).c.event_id == bindparam("event")
)


_GONE = (
    sqlalchemy.update(table_of(Preview))
    .where(table_of(Preview).c.camera == bindparam("one"), table_of(Preview).c.event_id == bindparam("of"))
    .values(gone=True)
)


@dataclass(frozen=True, slots=True)
class LetGo:
    """A camera does not have these images (any more): their previews are all there will be."""

    camera: str
    event_ids: Sequence[str]


Item = Complete | Held | LetGo


@dataclass(frozen=True, slots=True)
class Round:
    """What became of a batch. known: those that were stored before, with the sha256 they are stored under. noted:
    previews that are kept. gone: previews that are marked.
    """

    stored: list[Complete]
    known: list[tuple[Complete | Held, str]]
    failed: list[Complete | Held]
    error: StoreError | None = None
    noted: list[Held] = field(default_factory=list)
    gone: list[LetGo] = field(default_factory=list)


def _by_ids(table: Table, state: ColumnElement[str]) -> Select[tuple[str, str, str, str]]:
    ids: BindParameter[str] = bindparam("ids", expanding=True)
    return sqlalchemy.select(table.c.camera, table.c.event_id, table.c.sha256, state).where(table.c.event_id.in_(ids))


_STORED = union_all(_by_ids(table_of(Image), table_of(Image).c.state), _by_ids(table_of(Tombstone), literal("purged")))


def stored_hashes(connection: Connection, keys: Sequence[Key]) -> tuple[dict[Key, str], dict[Key, str]]:
    """(camera, event id) -> sha256: of those that are stored, or were and have been purged; and of those whose row
    is there, but whose bytes were lost.
    """
    wanted = set(keys)
    stored: dict[Key, str] = {}
    bereft: dict[Key, str] = {}
    rows: Iterable[Any] = connection.execute(_STORED, {"ids": [event_id for _, event_id in keys]})
    for row in rows:
        camera, event_id, sha256, state = row
        if (camera, event_id) in wanted:
            (bereft if state == lost.LOST else stored)[camera, event_id] = sha256
    return stored, bereft


class Committer:
    """Takes complete images and previews and tells `done` what became of each round, in its own thread."""

    def __init__(self, store: Store, clock: Clock, done: Callable[[Round], None], *, batch: int) -> None:
        self._store = store
        self._clock = clock
        self._done = done
        self._batch = batch
        # The newest place counts: what an older one held may have been lost.
        self._blobs = store.upsert(Blob, by=["sha256"], fresh=["segment", "offset", "size"])
        # One that is offered again is there; who asked for its image still waits for it.
        fresh = ["value", "received_at", "event", "thumbnail", "embedding", "gone"]
        self._previews = store.upsert(Preview, by=["camera", "event_id"], fresh=fresh)
        self._skews = store.upsert(Skew, by=["camera", "event_id"], fresh=["vector"])
        self._waiting: list[Item] = []
        self._bytes = 0  # of the images among those
        self._changed = threading.Condition()
        self._stopping = False
        self._since: float | None = None  # when the round under way began
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)

    def start(self) -> None:
        """Begin to commit."""
        self._thread.start()

    def put(self, item: Item) -> None:
        """Have an image or a preview made durable, or previews marked; returns at once."""
        with self._changed:
            self._waiting.append(item)
            self._bytes += _size(item)
            if len(self._waiting) == 1 or self._enough():
                self._changed.notify()

    def stop(self) -> None:
        """Commit what waits and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(10)

    def busy(self) -> float:
        """Seconds that the round under way has taken so far."""
        since = self._since
        return 0.0 if since is None else self._clock.monotonic() - since

    def _run(self) -> None:
        while batch := self._next():
            self._since = self._clock.monotonic()
            result = self._commit(batch)
            self._since = None
            self._done(result)

    def _next(self) -> list[Item]:
        """The next batch, as soon as there is one; empty at the end."""
        with self._changed:
            busy = bool(self._waiting) or self._changed.wait_for(lambda: self._waiting or self._stopping, GATHER_S)
            if not busy:
                self._changed.wait_for(lambda: self._waiting or self._stopping)
            elif not self._stopping:
                self._changed.wait_for(lambda: self._enough() or self._stopping, GATHER_S)
            count, size = 0, 0
            for one in self._waiting[: self._batch]:
                size += _size(one)
                if count and size > BATCH_BYTES:
                    break
                count += 1
            batch = self._waiting[:count]
            del self._waiting[:count]
            self._bytes -= sum(map(_size, batch))
        return batch

    def _enough(self) -> bool:
        return self._bytes >= GATHER_BYTES or len(self._waiting) >= self._batch

    def _commit(self, batch: list[Item]) -> Round:
        offered = [one for one in batch if not isinstance(one, LetGo)]
        let_go = [one for one in batch if isinstance(one, LetGo)]
        try:
            # The database's lock is held while the bytes are written, so nobody stores the same event meanwhile.
            with self._store.writing() as connection:
                before, bereft = stored_hashes(connection, [_key(one) for one in offered])
                for one in offered:
                    if bereft.get(_key(one), one.event.sha256) != one.event.sha256:  # lost, and this is not it
                        before[_key(one)] = bereft.pop(_key(one))
                fresh = [one for one in offered if isinstance(one, Complete) and _key(one) not in before]
                held = [one for one in offered if isinstance(one, Held) and _key(one) not in before]
                if held:
                    self._keep(connection, held, bereft)
                if fresh:
                    places = self._store.blobs.append([(one.event.sha256, one.data) for one in fresh])
                    self._insert(connection, fresh, places, {_key(one) for one in fresh} & bereft.keys())
                if gone := [{"one": one.camera, "of": event} for one in let_go for event in one.event_ids]:
                    connection.execute(_GONE, gone)
        except StoreError as error:
            return Round([], [], offered, error)
        known = [(one, sha256) for one in offered if (sha256 := before.get(_key(one)))]
        return Round(fresh, known, [], noted=held, gone=let_go)

    def _keep(self, connection: Connection, batch: Sequence[Held], bereft: Collection[Key]) -> None:
        """The previews' rows. Wanted are images whose bytes were lost, and those on which two releases differ."""
        received = self._clock.utc()
        others = _others(connection, batch)

        def wanted(one: Held) -> bool:
            return _key(one) in bereft or one.event.rival is not None

        rows = [
            {
                **previews.row(one.camera, one.event, received, received if wanted(one) else None),
                **({"embedding": b""} if _key(one) in others else {}),
            }
            for one in batch
        ]
        connection.execute(self._previews, rows)

    def _insert(
        self, connection: Connection, batch: Sequence[Complete], places: Sequence[Place], bereft: Collection[Key]
    ) -> None:
        """All rows: where the bytes are, and what the camera said of them; a preview has had its day."""
        received = self._clock.utc()
        blobs = [
            {"sha256": one.event.sha256, "segment": at.segment, "offset": at.offset, "size": at.size}
            for one, at in zip(batch, places, strict=True)
        ]
        # In the same order everywhere: on PostgreSQL rounds of two collectors with the same bytes would wait for one
        # another in a circle.
        connection.execute(self._blobs, sorted(blobs, key=lambda row: str(row["sha256"])))
        if rows := [_row(one, received) for one in batch if _key(one) not in bereft]:
            connection.execute(_IMAGES, rows)
        keys = [{"one": one.camera, "event": one.event.id} for one in batch]
        # An image whose bytes were lost comes again: what its camera saw then is compared already.
        if came := [key for key in keys if (key["one"], key["event"]) not in bereft]:
            connection.execute(_SKEWS, came)
        told = [one for one in batch if one.event.embedding and _key(one) not in bereft]
        others = _others(connection, told)
        if said := [row for one in told if _key(one) not in others for row in _skew(one)]:
            connection.execute(self._skews, said)
        if pairs := [row for one in batch if _key(one) not in bereft for row in _pair(one)]:
            connection.execute(_PAIRS, pairs)
        connection.execute(_PREVIEWS, keys)
        if bereft:
            with Session(connection) as session:
                lost.heal(session, [one.event.sha256 for one in batch if _key(one) in bereft])


def _key(one: Complete | Held) -> Key:
    return one.camera, one.event.id


def _others(connection: Connection, batch: Sequence[Complete | Held]) -> set[Key]:
    """Those whose embedding is not by the float backbone of their release, so that ours says nothing about it."""
    said = {_key(one): one.event for one in batch if one.event.embedding and one.event.backbone}
    if not said:
        return set()
    numbers = {event.release for event in said.values()}
    ours = {
        (project, number): model["backbone"]["sha256"]
        for project, number, model in connection.execute(_MODELS, {"numbers": list(numbers)})
    }
    return {
        key for key, event in said.items() if ours.get((event.project, event.release), event.backbone) != event.backbone
    }


def _size(item: Item) -> int:
    return len(item.data) if isinstance(item, Complete) else 0


def _skew(one: Complete) -> list[dict[str, object]]:
    """What the camera's own embedding is kept as until `verify` has ours; none when it cannot be read."""
    try:
        _, vector = previews.parts(one.event)
    except MessageError as error:
        log.warning("the embedding of event %s of %s is left out: %s", one.event.id, one.camera, error.what)
        return []
    return [{"camera": one.camera, "event_id": one.event.id, "vector": vector}]


def _pair(one: Complete) -> list[dict[str, object]]:
    """What the two models of a trial said of an image; none where there was one model, or both said the same."""
    event, rival = one.event, one.event.rival
    if rival is None or rival.label == event.label:
        return []
    said = {"release": event.release, "label": event.label, "other": rival.release, "other_label": rival.label}
    place = {"trial": rival.trial, "number": rival.number}
    return [{"camera": one.camera, "event_id": event.id, "project": event.project, **said, **place}]


def _row(one: Complete, received: datetime) -> dict[str, object]:
    event = one.event
    return {
        "camera": one.camera,
        "event_id": event.id,
        "project": event.project,
        "sha256": event.sha256,
        "size": event.size,
        "ext": event.ext,
        "captured_at": event.time,
        "received_at": received,
        "release": event.release,
        "guess": event.label,
        "score": event.score,
        "scores": dict(event.scores),
        "why": event.why,
        "probability": event.probability,
    }
