"""Rollouts on a seeded hub, by the hub's own rules: cameras report, pairs come, operators decide."""

import hashlib
from datetime import timedelta

import msgspec
import numpy as np
from sqlmodel import col, select

from hub import rollout, rollouts
from hub.tables import Camera, Image, Number, Pair, Release, Rollout
from shared.messages import ReloadState, TrialState
from tests.hub.web.seed import Seeded, cell, signed

FIRST = "line-1/top"
"""The camera that volunteers to go first."""


def _report(made: Seeded, name: str, *, release: int | None = None, **fields: object) -> None:
    """A camera says something new of itself."""
    with made.store.write() as session:
        camera = session.get(Camera, name)
        assert camera is not None
        told = {key: msgspec.to_builtins(value) for key, value in fields.items()}
        camera.reported = {**camera.reported, **told}
        if release is not None:
            camera.release, camera.floor = release, release
            camera.reported |= {"release": release, "floor": release}
        session.add(camera)


def look(made: Seeded) -> None:
    """What the daemon does twice a second."""
    made.actions.rollouts.look(restored=False)


def trial(
    made: Seeded, camera: str, using: int, beside: int, frames: int, *, differed: int = 0, **fields: object
) -> None:
    """A camera has judged frames with two models."""
    half = frames // 2
    told = {"low": frames // 9, "other_low": frames // 12, "ms": 7.6, "other_ms": 0.4, **fields}
    labels = {"good": frames - half // 2, "defect": half // 2}
    others = {"good": frames - half // 2 - differed, "defect": half // 2 + differed}
    state = TrialState(
        release=using,
        other=beside,
        id=f"{using}-{beside}",
        frames=frames,
        differed=differed,
        labels=labels,
        other_labels=others,
        **told,
    )
    _report(made, camera, trial=state)
    look(made)


def pairs(made: Seeded, count: int, *, new: str = "defect", old: str = "good") -> list[int]:
    """Images on which release 5 and the one before differ came from the first camera; their ids."""
    rng, now, ids = np.random.default_rng(23), made.clock.utc(), []
    blobs = [cell(rng, number % 2 == 0) for number in range(count)]
    made.store.blobs.put(blobs)
    with made.store.write() as session:
        start = len(session.exec(select(Pair)).all())
        for number, blob in enumerate(blobs, start):
            event = f"01960000-0000-7000-8000-{number:012x}"
            image = Image(
                camera=FIRST,
                event_id=event,
                project="cells",
                sha256=hashlib.sha256(blob).hexdigest(),
                size=len(blob),
                ext="png",
                captured_at=now - timedelta(minutes=count - number),
                received_at=now,
                state="verified",
                release=5,
                guess=new,
                score=0.7,
                scores={new: 0.7, old: 0.3},
                why="pair",
                probability=0.2,
                width=300,
                height=300,
            )
            session.add(image)
            names = {"release": 5, "label": new, "other": 4, "other_label": old}
            session.add(Pair(camera=FIRST, event_id=event, project="cells", trial="5-4", number=number + 1, **names))
            session.flush()
            assert image.id is not None
            ids.append(image.id)
    return ids


def draft(made: Seeded) -> None:
    """Release 4 is rolled out; release 5 is a draft that an operator has to start."""
    done = ReloadState(state="running", release=4, percent=100, swap_ms=0.05)
    with made.store.read() as session:
        known = [one.name for one in session.exec(select(Camera).where(Camera.project == "cells"))]
    for name in known:
        _report(made, name, release=4, reload=done)
    _report(made, FIRST, labels={"canary": "yes", "line": "1"})
    _report(made, "line-2/top", labels={"line": "2", "canary": "no"})
    now = made.clock.utc()
    with made.store.write() as session:
        last = session.exec(select(Rollout).order_by(col(Rollout.id).desc())).first()
        assert last is not None
        last.stage, last.state, last.reason = "done", "running", "every camera that is online runs it"
        row = Rollout(project="cells", release=5, since=now)
        rollouts.save(row, rollout.draft(5, 0, now, held=True))
        before = session.exec(select(Release).where(Release.number == 4)).one()
        before.run_id = 3  # what an operator released, so that there is a way back to it
        session.add(before)
        numbers = session.get(Number, "release/cells")
        assert numbers is not None
        numbers.value = 5
        session.add_all([last, numbers, signed(made, 5, now, run_id=4, note="by hand"), row])


def shadow(made: Seeded) -> None:
    """Release 5 runs in the shadow of release 4."""
    draft(made)
    made.actions.resume_rollout()
    trial(made, FIRST, 4, 5, 31, differed=4)


def canary(made: Seeded) -> None:
    """Release 5 is in use on the first camera; two of its differences are settled, three wait, one is on its way."""
    shadow(made)
    trial(made, FIRST, 4, 5, 64, differed=6)
    _report(made, FIRST, release=5, reload=ReloadState(state="running", release=5, percent=100, swap_ms=0.05))
    found = pairs(made, 5)
    for image, name in zip(found, ("defect", "good"), strict=False):
        made.desk.decide(image, name, operator="Mira", seconds=1.0)
    trial(made, FIRST, 5, 4, 212, differed=6)


def group(made: Seeded) -> None:
    """An operator has let release 5 go on to the first group, which is two cameras."""
    canary(made)
    made.actions.promote_rollout()


def held(made: Seeded) -> None:
    """An operator has stopped release 5 on its canary, and keeps one camera on the release before."""
    canary(made)
    made.actions.pause_rollout()
    made.actions.exempt("line-2/top", 4, "its oven is measured until Friday", "Mira")


def reverted(made: Seeded) -> None:
    """Release 5 has proved to be worse on its canary, and release 6 takes everybody back."""
    canary(made)
    pairs(made, 9)
    with made.store.read() as session:  # answers count in the order in which the images came
        waiting = session.exec(select(Image.id).where(Image.why == "pair", col(Image.decided).is_(False))).all()
    for image in sorted(one for one in waiting if one is not None):
        made.desk.decide(image, "good", operator="Mira", seconds=1.0)
    trial(made, FIRST, 5, 4, 390, differed=15)
