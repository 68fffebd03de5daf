"""A hub with a past: a real store with drawn images, cameras, labels, runs, releases, and a daemon that only notes.

Run it to look around: `python -m tests.hub.web.seed` serves it and prints the address; `empty` or a function of
`tests.hub.web.rolling` as argument shows a hub that nothing has happened to, or a rollout on its way.
"""

import base64
import hashlib
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edge.thumbnail import thumbnail
from hub import drift, keys, previews
from hub.evaluate import compare, evaluate
from hub.keys import Keys
from hub.label import Desk
from hub.policies import Policies
from hub.registry import Registry
from hub.rollouts import Rollouts
from hub.settings import HubSettings, ProjectSettings, WebSettings
from hub.slices import Traits, slices
from hub.store import Store, open_store
from hub.tables import (
    Assignment,
    Camera,
    Embedding,
    HoldoutVersion,
    Image,
    Number,
    Preview,
    Release,
    Rollout,
    Run,
    Watch,
)
from hub.web.actions import HubState
from hub.web.app import create_app
from hub.web.serve import WebServer
from shared.clock import Clock, SystemClock
from shared.errors import BrokerError, TrainError
from shared.manifest import RELEASE_TYPE, Manifest, ModelSpec, PartSpec, seal
from shared.messages import Event, FrameState, Rates, ReloadState, Reported, SpoolState, TriageState, encode
from shared.preprocess import decode

CLASSES = ["good", "defect"]
DOUBT = "2 held-out images of version 1 and later turned out to be near-copies of 5: these scores may be too good"


@dataclass
class FakeActions:
    """`hub.web.actions.Actions` on the store alone: runs are queued as rows, releases only noted, rollouts real."""

    store: Store
    clock: Clock
    rollouts: Rollouts
    broker: bool = True
    fails: bool = False
    released: list[tuple[int, str, bool]] = field(default_factory=list)

    def state(self) -> HubState:
        return HubState(
            broker=self.broker,
            boot="b7",
            errors={"hash_mismatch": 2},
            up=48_300_112,
            down=912_445_003,
            version="0.1.0",
        )

    def start_run(self, why: str) -> int:
        with self.store.write() as session:
            if any(one.state in ("queued", "running") for one in session.exec(_all(Run))):
                raise TrainError("is under way already", subject="a run", remedy="Wait for it, or cancel it")
            run = Run(project="cells", why=why, created_at=self.clock.utc())
            session.add(run)
            session.flush()
            assert run.id is not None
            return run.id

    def cancel_run(self, run_id: int) -> None:
        with self.store.write() as session:
            run = session.get(Run, run_id)
            assert run is not None
            run.state, run.ended_at = "cancelled", self.clock.utc()
            session.add(run)

    def resume_run(self, run_id: int) -> None:
        with self.store.write() as session:
            run = session.get(Run, run_id)
            assert run is not None
            run.state, run.ended_at, run.error = "queued", None, ""
            session.add(run)

    def repeat_run(self, run_id: int) -> int:
        return self.start_run(f"run {run_id} again")

    def release_run(self, run_id: int, note: str, start: bool = True) -> int:
        if self.fails:
            raise BrokerError("is not there", subject="broker", remedy="Start it")
        self.released.append((run_id, note, start))
        return 5

    def ask_preview(self, preview_id: int) -> None:
        with self.store.write() as session:
            preview = session.get(Preview, preview_id)
            assert preview is not None
            previews.ask(session, preview.camera, preview.event_id, self.clock.utc())

    def resume_rollout(self) -> None:
        self.rollouts.resume()

    def pause_rollout(self) -> None:
        self.rollouts.pause()

    def promote_rollout(self) -> None:
        self.rollouts.promote()

    def abort_rollout(self, why: str) -> None:
        self.rollouts.abort(why)

    def exempt(self, camera: str, release: int, reason: str, operator: str) -> None:
        self.rollouts.exempt(camera, release, reason, operator)


@dataclass
class Seeded:
    """All parts of a hub for the page."""

    settings: HubSettings
    store: Store
    desk: Desk
    actions: FakeActions
    clock: Clock
    keys: Keys


def _all(table):
    from sqlmodel import select

    return select(table).order_by(table.id.desc())


def cell(rng: np.random.Generator, defect: bool) -> bytes:
    """A drawn electroluminescence image of a solar cell, PNG 300x300; dark cracks when it has a defect."""
    high = np.linspace(0, 1, 300)
    light = 118 + 52 * np.outer(np.sin(np.pi * (0.12 + 0.76 * high)), np.sin(np.pi * (0.12 + 0.76 * high)))
    grain = cv2.GaussianBlur(rng.normal(0, 1, (300, 300)), (0, 0), 9) * 55 + rng.normal(0, 4, (300, 300))
    picture = np.clip(light + grain, 0, 255).astype(np.uint8)
    for at in (75, 150, 225):
        cv2.line(picture, (0, at), (299, at), 40, 5)
    for at in range(6, 300, 9):
        picture[:, at] = (picture[:, at] * 0.86).astype(np.uint8)
    if defect:
        for _ in range(int(rng.integers(1, 4))):
            points = np.cumsum(np.vstack([rng.integers(40, 260, 2), rng.integers(-38, 38, (5, 2))]), axis=0)
            cv2.polylines(picture, [points.astype(np.int32)], False, 18, int(rng.integers(2, 4)), cv2.LINE_AA)
        if rng.random() < 0.5:
            x, y = (int(one) for one in rng.integers(40, 220, 2))
            picture[y : y + 60, x : x + 70] = (picture[y : y + 60, x : x + 70] * 0.35).astype(np.uint8)
    done, data = cv2.imencode(".png", picture)
    assert done
    return data.tobytes()


def reopen(folder: Path, classes: list[str] | None = None) -> Seeded:
    """The parts of a hub whose state is in `folder`; a fresh one where there is none."""
    clock = SystemClock()
    settings = HubSettings(
        project=ProjectSettings(name="cells", classes=classes or CLASSES), state=str(folder), web=WebSettings(port=0)
    )
    store = open_store(settings)
    desk = Desk(store, "cells", settings.project.classes, clock)
    if not (folder / "keys").exists():
        keys.make(folder / "keys", clock)
    held, policies = keys.load(folder / "keys"), Policies(settings, store, clock)
    rollouts = Rollouts(
        store, "cells", held, Registry(store, clock), clock, settings=policies.now, changed=lambda: None
    )
    return Seeded(settings, store, desk, FakeActions(store, clock, rollouts), clock, held)


def seed(folder: Path, *, images: int = 60, empty: bool = False, classes: list[str] | None = None) -> Seeded:
    """Fill a fresh store in `folder`; empty: a hub that nothing has happened to yet."""
    made = reopen(folder, classes)
    if not empty:
        _cameras(made)
        _images(made, images)
        _previews(made)
        _runs(made)
        _proofs(made)
    return made


def _reported(
    clock: Clock, release: int, *, low: float, left: int, reload: ReloadState, dropped: int, triage: TriageState | None
) -> dict:
    said = Reported(
        time=clock.utc(),
        agent="0.1.0",
        boot="c1",
        project="cells",
        release=release,
        floor=release,
        reload=reload,
        spool=SpoolState(
            spooled=left + 412 + dropped,
            stored=412,
            left=left,
            quarantined=0,
            dropped=dropped,
            unspooled=0,
            torn=0,
            bytes=left * 61_300,
            limit=500_000_000,
        ),
        frames=FrameState(captured=183_411, inferred=183_400, dropped=11),
        rates=Rates(fps=9.8 + 4 * low, low_score=low, infer_ms=7.4 + low),
        clock="synchronised",
        up=25_300_000,
        down=13_900_000,
        triage=triage,
    )
    return msgspec.json.decode(encode(said))


def _cameras(made: Seeded) -> None:
    now = made.clock.utc()
    idle = ReloadState(state="idle", swap_ms=0.04, last_ms=58.0)
    rows = [
        ("line-1/top", True, 4, 0.06, 0, idle, 0, 2),
        ("line-1/side", True, 4, 0.11, 3, idle, 0, 1),
        ("line-2/top", True, 3, 0.38, 57, ReloadState(state="fetching", release=4, percent=62), 0, 3),
        (
            "line-2/side",
            True,
            3,
            0.29,
            12,
            ReloadState(state="failed", release=4, reason="golden check: cosine 0.91"),
            0,
            4,
        ),
        ("line-3/oven-exit", False, 2, 0.2, 840, idle, 129, 5400),
    ]
    own = TriageState(source="edge")
    states = {
        "line-1/top": own,
        "line-1/side": own,
        "line-2/top": TriageState(source="local", settings={"low_score": 0.9}),
        "line-2/side": TriageState(source="edge", refused="the settings cannot be followed by this version"),
    }  # line-3: agents that know nothing of it
    with made.store.write() as session:
        for name, online, release, low, left, reload, dropped, ago in rows:
            session.add(
                Camera(
                    name=name,
                    project="cells",
                    first_seen=now - timedelta(days=31),
                    boot="c1" if online else "",
                    last_seen=now - timedelta(seconds=ago),
                    online=online,
                    release=release,
                    floor=release,
                    reported=_reported(
                        made.clock, release, low=low, left=left, reload=reload, dropped=dropped, triage=states.get(name)
                    ),
                )
            )
        session.add(
            Camera(name="line-3/rework", first_seen=now, last_seen=now - timedelta(seconds=9), online=True, boot="c9")
        )


def _images(made: Seeded, count: int) -> None:
    rng = np.random.default_rng(7)
    now = made.clock.utc()
    cameras = ["line-1/top", "line-2/top", "line-2/side", "line-1/side"]
    truth = [bool(one) for one in rng.random(count) < 0.4]
    names = made.settings.project.classes
    blobs = [cell(rng, one) for one in truth]
    blobs[3] = b"not an image"
    made.store.blobs.put(blobs)
    ids = []
    with made.store.write() as session:
        for number, (blob, defect) in enumerate(zip(blobs, truth, strict=True)):
            sure = float(rng.uniform(0.34, 0.66)) if number % 3 else float(rng.uniform(0.08, 0.92))
            scores = {names[0]: 1 - sure, names[1]: sure} | dict.fromkeys(names[2:], 0.0)
            split = "holdout" if number % 11 == 5 else "train" if number % 11 == 7 else "pool"
            image = Image(
                camera=cameras[number % 4] if split == "pool" else "",
                event_id=f"01950000-0000-7000-8000-{number:012x}",
                project="cells",
                sha256=hashlib.sha256(blob).hexdigest(),
                size=len(blob),
                ext="png",
                captured_at=now - timedelta(seconds=40 * (count - number)),
                received_at=now - timedelta(seconds=40 * (count - number) - 1),
                split=split,
                state="unreadable" if number == 3 else "new" if number == count - 1 else "verified",
                release=3,
                guess=max(scores, key=lambda one: scores[one]),
                score=max(scores.values()),
                scores=scores,
                why="low_score" if number % 6 else "audit",
                probability=1.0 if number % 6 else 0.01,
                width=0 if number == 3 else 300,
                height=0 if number == 3 else 300,
                flags={"blurred": 0.81} if number % 17 == 4 else {},
                label=(names[1] if defect else names[0]) if split != "pool" else None,
            )
            session.add(image)
            session.flush()
            assert image.id is not None
            ids.append(image.id)
            if image.state == "verified":
                vector = rng.normal(size=16).astype("<f4").tobytes()
                session.add(Embedding(image_id=image.id, backbone="lite0", vector=vector))
    for image in made.desk.next(count // 4):
        assert image.id is not None
        if image.id % 9 == 0:
            made.desk.skip(image.id, operator="Mira")
        else:
            made.desk.decide(image.id, names[1] if truth[image.id - 1] else names[0], operator="Mira", seconds=1.4)


def _previews(made: Seeded) -> None:
    """Nine previews of two cameras: three states, one without a picture."""
    rng = np.random.default_rng(11)
    now = made.clock.utc()
    with made.store.write() as session:
        for number in range(9):
            at = now - timedelta(minutes=7 * (9 - number))
            sure = round(float(rng.uniform(0.34, 0.66)), 3)
            scores = {made.settings.project.classes[0]: 1 - sure, made.settings.project.classes[1]: sure}
            small = thumbnail(decode(cell(rng, number % 2 == 1)))
            event = Event(
                id=f"01950000-0000-7000-8000-{0xF00 + number:012x}",
                project="cells",
                release=3,
                time=at,
                label=max(scores, key=lambda one: scores[one]),
                score=max(scores.values()),
                scores=scores,
                why="audit" if number == 4 else "low_score",
                probability=0.01 if number == 4 else 1.0,
                value=1.0 if number == 4 else 1 - max(scores.values()),
                size=61_300 + 997 * number,
                sha256=f"{number:064x}",
                ext="png",
                chunk_size=8192,
                held=True,
                thumbnail=None if number == 2 else base64.b64encode(small).decode(),
            )
            camera = "line-3/oven-exit" if number % 3 == 0 else "line-2/top"
            asked = at + timedelta(minutes=3) if number in (0, 5) else None
            row = previews.row(camera, event, at + timedelta(seconds=9), asked)
            session.add(Preview(**{**row, "gone": number == 7}))


def _figures(rng: np.random.Generator, old: float, new: float, classes: int) -> tuple[dict, dict, dict]:
    """Evaluations before and after and their comparison, by the hub's own code."""
    labels = (rng.random(260) < 0.4).astype(np.int64) if classes == 2 else rng.integers(0, classes, 260)

    def model(strength: float) -> np.ndarray:
        logits = rng.normal(size=(260, classes)) + strength * np.eye(classes)[labels]
        chances = np.exp(logits)
        return chances / chances.sum(axis=1, keepdims=True)

    before, after = model(old), model(new)
    built = evaluate(before, labels, 300), evaluate(after, labels, 300), compare(before, after, labels, bootstrap=300)
    return tuple(msgspec.to_builtins(one) for one in built)


def _slices(rng: np.random.Generator) -> list[dict]:
    """260 images of three cameras on two days, some of them dark."""
    now, before = rng.random(260) < 0.9, rng.random(260) < 0.8
    marks = [
        Traits(
            camera=["", "line-1/top", "line-2/top", "line-2/side"][min(number // 80, 3)],
            conditions=["dark"] if number % 9 == 0 else [],
            at=datetime(2026, 3, 1 + number % 2, tzinfo=UTC),
        )
        for number in range(260)
    ]
    return [msgspec.to_builtins(one) for one in slices(now, marks, before=before, minimum=25)]


def _proofs(made: Seeded) -> None:
    """Two versions of a holdout, three labelled rounds of audit, and two cameras that were looked at for drift."""
    rng = np.random.default_rng(5)
    now = made.clock.utc()
    axes = drift.basis("lite0", rng.normal(size=(60, 16)).astype(np.float32))

    def seen(n: int, low: float) -> drift.Sample:
        scores = np.where(rng.random(n) < low, 0.6, 0.95)
        points = rng.normal(size=(n, 16)) + 4 * low
        return drift.sample(scores.tolist(), ["good"] * n, axes.project(points.astype(np.float32)))

    with made.store.write() as session:
        for number, base, images in ((1, 0, 248), (2, 0, 260)):
            session.add(
                HoldoutVersion(
                    project="cells", number=number, base=base, images=images, created_at=now,
                    why=f"{12 if number == 2 else 248} new images",
                )
            )  # fmt: skip
        for image, side, since in ((6, "holdout", 1), (8, "train", 0), (9, "out", 0)):
            session.add(Assignment(image_id=image, project="cells", near="9f", side=side, since=since))
        for camera, release, low in (("line-1/top", 4, 0.1), ("line-2/top", 3, 0.5)):
            found = drift.compare(
                seen(120, 0.1), seen(50, low), camera=camera, release=release, own=True, low_score=0.8, level=0.01
            )
            session.add(
                Watch(
                    camera=camera, project="cells", release=release, block=3, at=now - timedelta(minutes=40),
                    data=msgspec.to_builtins(found),
                )
            )  # fmt: skip


def _snapshot(made: Seeded) -> str:
    """What is labelled by now, as `hub.dataset` keeps it."""
    with made.store.read() as session:
        rows = session.exec(_all(Image).where(Image.label != None)).all()  # noqa: E711
    lines = sorted(f"{one.sha256} {one.label} {'holdout' if one.split == 'holdout' else 'train'}\n" for one in rows)
    [name] = made.store.blobs.put(["".join(lines).encode()])
    return name


def _runs(made: Seeded) -> None:
    rng = np.random.default_rng(3)
    now = made.clock.utc()
    classes = len(made.settings.project.classes)
    curve = [float(0.24 + 0.62 * np.exp(-step / 11) + 0.012 * abs(np.sin(step))) for step in range(64)]
    releases = []
    data = _snapshot(made)
    with made.store.write() as session:
        for number, (old, new, labels) in enumerate(
            [(0.6, 0.9, 150), (0.9, 1.3, 204), (1.3, 1.35, 251), (1.3, 2.0, 302)]
        ):
            before, evaluation, comparison = _figures(rng, old, new, classes)
            comparison |= {"fixed": [1, 2, 6, 8, 9], "broken": [7, 12]}
            at = now - timedelta(hours=20 - 6 * number)
            run = Run(
                project="cells",
                state="done",
                why=f"{52 if number else 150} new labels",
                created_at=at,
                started_at=at + timedelta(seconds=2),
                ended_at=at + timedelta(seconds=44),
                progress=1.0,
                step="done",
                settings={"l2": [0.03, 0.01, 0.003], "folds": 5, "class_balanced": True, "seed": 0},
                attempts=1,
                versions={"hone": "0.1.0", "torch": "2.13.0"},
                snapshot=data if number else "9f" * 32,  # the first was not kept
                labels=labels,
                train_images=labels - 20,
                holdout_images=260,
                holdout=2 if number == 3 else 1,
                left_out=3 if number == 3 else 0,
                doubt="" if number else DOUBT,
                slices=_slices(rng) if number else [],
                curve=curve,
                evaluation=evaluation,
                before=before if number else {},
                comparison=comparison if number else {},
                against=number,
                fit={"l2": 0.003, "temperature": 1.31, "oof_auc": 0.912, "seconds": 3.8},
                verdict=comparison["verdict"] if number else "better",
                reason=comparison["reason"] if number else "the first model",
            )
            session.add(run)
            session.flush()
            if run.verdict == "better":
                releases.append((run.id, at + timedelta(seconds=50)))
        session.add(
            Run(
                project="cells",
                state="failed",
                why="asked for on the page",
                created_at=now - timedelta(hours=1),
                started_at=now - timedelta(hours=1),
                ended_at=now - timedelta(minutes=59),
                progress=0.2,
                labels=302,
                error="TrainError: every class needs at least 2 labelled images: class 1 has 1",
            )
        )
        session.add(
            Run(
                project="cells",
                state="running",
                why="50 new labels",
                created_at=now - timedelta(minutes=1),
                started_at=now - timedelta(seconds=50),
                progress=0.62,
                step="training (22 of 36)",
                fit={"loss": 0.311, "metric": 0.92, "eta_s": 75.2},
                labels=352,
                train_images=330,
                holdout_images=260,
                curve=curve[:22],
                against=4,
                lease_until=now,
            )
        )
        for index, (run_id, at) in enumerate([*releases, (None, now - timedelta(minutes=14))][-4:]):
            note = "" if run_id else "Back to the model of release 2"
            session.add(signed(made, index + 1, at, run_id=run_id, note=note))
        count = len([*releases, None][-4:])
        session.add(
            Rollout(
                project="cells",
                release=count,
                previous=count - 1,
                stage="everyone",
                state="held",
                reason="line-2/side could not take it: golden check: cosine 0.91",
                cameras=["line-1/top"],
                since=now - timedelta(minutes=14),
                plan_number=1,
            )
        )
        session.add_all([Number(name="release/cells", value=count), Number(name="plan/cells", value=1)])


def signed(made: Seeded, number: int, at: datetime, *, run_id: int | None, note: str = "") -> Release:
    """A release with a real signature, of a model that nobody can run."""
    part = PartSpec(sha256=hashlib.sha256(b"part").hexdigest(), size=4)
    model = ModelSpec(backbone=part, head=part, golden=part, classes=["good", "defect"])
    manifest = Manifest(
        number=number, created=at, expires=at + timedelta(days=90), project="cells", model=model, note=note
    )
    return Release(
        project="cells",
        number=number,
        run_id=run_id,
        holdout=1 if run_id else 0,
        created_at=at,
        expires_at=manifest.expires,
        envelope=seal(manifest, RELEASE_TYPE, made.keys.signer, made.keys.delegation),
        model=msgspec.to_builtins(model),
        size=13_941_120,
        new_bytes=13_941_120 if number == 1 else 22_512,
        note=note,
    )


def serve(made: Seeded) -> WebServer:
    """The page of a seeded hub, on a free port."""
    app = create_app(made.settings, made.store, made.desk, made.actions, made.clock)
    server = WebServer(app, made.settings.web.host, made.settings.web.port)
    server.start()
    return server


if __name__ == "__main__":
    from tests.hub.web import rolling

    with tempfile.TemporaryDirectory() as place:
        hub = seed(Path(place), empty="empty" in sys.argv)
        for one in sys.argv[1:]:
            if one != "empty":
                getattr(rolling, one)(hub)
        print(serve(hub).url, flush=True)
        threading.Event().wait()
