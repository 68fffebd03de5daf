"""Watch: the references that runs leave behind, and the looks at the cameras' drift. The rules are in `hub.drift`."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from sqlmodel import Session, col, func, select

from hub.drift import Basis, Drift, Sample, compare, sample
from hub.settings import DriftSettings
from hub.store import Store
from hub.tables import Assignment, Camera, Embedding, Image, Reference, Release, Watch
from shared.clock import Clock
from shared.policy import AUDIT

MOST = 200
"""Images of a reference, at most; the newest."""
LOW_SCORE = 0.8
"""The threshold of a camera that has not told its own."""
BASIS = "basis"
"""Where a run's basis stands beside its samples: no camera has such a name."""


def audits(session: Session, project: str, backbone: str, fewest: int) -> dict[str, list[int]]:
    """Camera -> ids of its newest audit images that are embedded and that no model was trained on, MOST at most.

    Cameras with less than `fewest` are left out.
    """
    rows = session.exec(
        select(Image.camera, Image.id)
        .join(Embedding, col(Embedding.image_id) == col(Image.id))
        .join(Assignment, col(Assignment.image_id) == col(Image.id), isouter=True)
        .where(
            Image.project == project,
            Image.why == AUDIT,
            Embedding.backbone == backbone,
            (col(Assignment.side).is_(None)) | (Assignment.side == "holdout"),
        )
        .order_by(col(Image.id).desc())
    )
    found: dict[str, list[int]] = defaultdict(list)
    for camera, image_id in rows:
        if image_id is not None and len(found[camera]) < MOST:
            found[camera].append(image_id)
    return {camera: ids for camera, ids in found.items() if len(ids) >= fewest}


def remember(session: Session, run_id: int, axes: Basis, samples: Mapping[str, Sample]) -> None:
    """Keep a run's references: camera -> what its model says of that one's images, "" for all that it was proven on."""
    rows = {BASIS: msgspec.msgpack.encode(axes)}
    rows |= {camera: msgspec.msgpack.encode(one) for camera, one in samples.items()}
    for camera, data in rows.items():
        session.merge(Reference(run_id=run_id, camera=camera, data=data))


def load(session: Session, project: str) -> list[Drift]:
    """The newest look at each camera of a project, by name."""
    rows = session.exec(select(Watch).where(Watch.project == project).order_by(Watch.camera))
    return [msgspec.convert(one.data, Drift) for one in rows]


@dataclass(frozen=True, slots=True)
class Due:
    """A camera that filled another block of audit images with the release that it runs. low_score: its threshold."""

    camera: str
    release: int
    block: int
    low_score: float


def look(store: Store, project: str, settings: DriftSettings, clock: Clock, most: int = 1000) -> list[Drift]:
    """Test cameras that have filled another block since the last look, `most` at once (some 60 ms each); returns these
    looks, and keeps them.
    """
    if not settings.false_alarm:
        return []
    done = []
    for due in _due(store, project, settings.block):
        found = _look(store, project, due, settings)
        if found is None:
            continue
        done.append(found)
        row = Watch(
            camera=due.camera,
            project=project,
            release=due.release,
            block=due.block,
            at=clock.utc(),
            data=msgspec.to_builtins(found),
        )
        with store.write() as session:
            session.merge(row)
        if len(done) == most:
            break
    return done


def _due(store: Store, project: str, size: int) -> list[Due]:
    with store.read() as session:
        cameras = session.exec(select(Camera).where(Camera.project == project, Camera.release > 0)).all()
        counts = {
            (camera, release): count
            for camera, release, count in session.exec(
                select(Image.camera, Image.release, func.count())
                .where(Image.project == project, Image.why == AUDIT, Image.state == "verified")
                .group_by(Image.camera, col(Image.release))
            )
        }
        seen = {one.camera: (one.release, one.block) for one in session.exec(select(Watch))}
    due = []
    for one in cameras:
        block = counts.get((one.name, one.release), 0) // size
        if block and seen.get(one.name) != (one.release, block):
            told = one.reported.get("settings", {}).get("low_score")
            due.append(Due(one.name, one.release, block, told if isinstance(told, float) else LOW_SCORE))
    return due


def _look(store: Store, project: str, due: Due, settings: DriftSettings) -> Drift | None:
    """Test the newest full block; None where the release has no reference."""
    with store.read() as session:
        run = session.exec(
            select(Release.run_id).where(Release.project == project, Release.number == due.release)
        ).first()
        rows = {
            one.camera: one.data
            for one in session.exec(
                select(Reference).where(Reference.run_id == run, col(Reference.camera).in_(["", BASIS, due.camera]))
            )
        }
        against = rows.get(due.camera) or rows.get("")
        if against is None:
            return None
        images = session.exec(
            select(Image.id, Image.score, Image.guess)
            .where(
                Image.project == project,
                Image.why == AUDIT,
                Image.camera == due.camera,
                Image.release == due.release,
                Image.state == "verified",
            )
            .order_by(col(Image.id))
            .offset((due.block - 1) * settings.block)
            .limit(settings.block)
        ).all()
        axes = msgspec.msgpack.decode(rows[BASIS], type=Basis)
        vectors = session.exec(
            select(Embedding.vector).where(
                Embedding.backbone == axes.backbone, col(Embedding.image_id).in_([one for one, *_ in images])
            )
        ).all()
    found = np.stack([np.frombuffer(one, "<f4") for one in vectors]) if vectors else np.zeros((0, axes.dims), "<f4")
    return compare(
        msgspec.msgpack.decode(against, type=Sample),
        sample([one for _, one, _ in images], [one for *_, one in images], axes.project(found)),
        camera=due.camera,
        release=due.release,
        own=due.camera in rows,
        low_score=due.low_score,
        level=settings.false_alarm,
        seed=due.block,
    )
