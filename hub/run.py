"""One training run, as a process of its own: snapshot -> embed -> train -> export -> evaluate -> compare.

The row in the database is the truth: the process holds a lease on it and renews it while it lives; a run whose lease
ran out is taken again by the daemon. Cancelling sets the state; the process sees it at its next step.
"""

import hashlib
import importlib.metadata
import logging
import os
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlmodel import col, select

from hub import embed
from hub.evaluate import compare, evaluate
from hub.export import export_backbone, export_head, golden_part
from hub.lost import LOST
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Image, Release, Run
from hub.train import Progress, train_head
from shared.clock import Clock
from shared.errors import HoneError, RunCancelledError, TrainError
from shared.golden import decode as decode_golden
from shared.golden import golden_outputs
from shared.litert import Floats, Model, Part
from shared.manifest import ModelSpec
from shared.preprocess import decode

log = logging.getLogger(__name__)
LEASE = timedelta(seconds=30)
GOLDEN_IMAGES = 4
PACKAGES = ("hone", "torch", "litert-torch", "ai-edge-litert", "numpy", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data of a run. images: ids; labels: int [n]; holdout: bool [n]; sha256: over (image, label, split) lines.

    field_labels: how many of the images came from cameras, and so were labelled by operators.
    """

    ids: list[int]
    labels: NDArray[np.int64]
    holdout: NDArray[np.bool_]
    sha256: str
    field_labels: int


def snapshot(store: Store, project: str, classes: list[str]) -> Snapshot:
    """All labelled images: imported ones in their split, the field's for training. Holdout is never trained on."""
    with store.read() as session:
        rows = session.exec(
            select(Image.id, Image.sha256, Image.label, Image.split)
            .where(
                Image.project == project, col(Image.label).in_(classes), col(Image.state).not_in(["unreadable", LOST])
            )
            .order_by(col(Image.id))
        ).all()
    held_out = {sha256 for _, sha256, _, split in rows if split == "holdout"}
    # The same bytes may come again from the field: what is held out stays out of training.
    kept = [row for row in rows if row[3] == "holdout" or row[1] not in held_out]
    lines = "".join(f"{sha256} {label} {split}\n" for _, sha256, label, split in sorted(kept, key=lambda row: row[1:]))
    return Snapshot(
        ids=[image_id for image_id, *_ in kept if image_id is not None],
        labels=np.array([classes.index(label or "") for _, _, label, _ in kept], np.int64),
        holdout=np.array([split == "holdout" for *_, split in kept], bool),
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        field_labels=sum(split == "pool" for *_, split in kept),
    )


class _Lease:
    """Renews the run's lease in the background and writes its progress; `check` raises once the run was cancelled."""

    def __init__(self, store: Store, run_id: int, clock: Clock) -> None:
        self._store = store
        self._run_id = run_id
        self._clock = clock
        self._cancelled = threading.Event()
        self._stop = threading.Event()
        self._ours = False
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "_Lease":
        self.write(
            state="running", pid=os.getpid(), started_at=self._clock.utc(), progress=0.0, step="starting", error=""
        )
        self._ours = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)

    def write(self, **fields: Any) -> None:
        """Set fields of the run; RunCancelledError when it is no longer ours."""
        with self._store.write() as session:
            run = session.get(Run, self._run_id)
            if run is None:
                raise TrainError("does not exist", subject=f"run {self._run_id}")
            # A process that stood still for long may find its run taken by another one.
            if run.state not in ("queued", "running") or (self._ours and run.pid != os.getpid()):
                self._cancelled.set()
                raise RunCancelledError(f"is {run.state}", subject=f"run {self._run_id}")
            run.sqlmodel_update({"lease_until": self._clock.utc() + LEASE, **fields})
            session.add(run)

    def check(self) -> None:
        """RunCancelledError, if the run was cancelled."""
        if self._cancelled.is_set():
            raise RunCancelledError("was cancelled", subject=f"run {self._run_id}")

    def _renew(self) -> None:
        while not self._stop.wait(3.0):
            try:
                self.write()
            except HoneError as error:
                log.warning("lease: %s", error)


def execute(settings: HubSettings, store: Store, run_id: int, clock: Clock) -> None:
    """Do a queued run to its end; its row tells the outcome. TrainError when it cannot be done, and the row says so."""
    try:
        with _Lease(store, run_id, clock) as lease:
            fields = _work(settings, store, run_id, lease)
            lease.write(**fields, state="done", progress=1.0, step="done", ended_at=clock.utc(), lease_until=None)
    except RunCancelledError:
        raise
    except HoneError as error:
        with store.write() as session:
            run = session.get(Run, run_id)
            if run is not None and run.state in ("queued", "running"):
                run.sqlmodel_update({"state": "failed", "error": str(error), "ended_at": clock.utc()})
                session.add(run)
        raise


def _work(settings: HubSettings, store: Store, run_id: int, lease: _Lease) -> dict[str, Any]:
    """The steps in their order; returns what the finished row says."""
    project, how = settings.project, settings.project.preprocess
    data = snapshot(store, project.name, project.classes)
    train, holdout = ~data.holdout, data.holdout
    if not train.any():
        raise TrainError(
            "there are no labelled images", subject=f"run {run_id}", remedy="Label some, or: hone-hub import FOLDER"
        )
    lease.write(
        step="preparing the backbone",
        snapshot=data.sha256,
        labels=data.field_labels,
        train_images=int(train.sum()),
        holdout_images=int(holdout.sum()),
        settings={
            **msgspec.to_builtins(settings.train),
            "classes": project.classes,
            "preprocess": msgspec.to_builtins(how),
        },
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )
    backbone_bytes = export_backbone(settings.cache_folder, how, settings.train.features)
    [backbone] = store.blobs.put([backbone_bytes])
    part = Part(backbone_bytes, name="backbone")

    def embedded(done: int, total: int) -> None:
        lease.check()
        if done % 16 == 0 or done == total:
            lease.write(step=f"embedding images ({done} of {total})", progress=0.05 + 0.45 * done / total)

    vectors = embed.complete(store, backbone, part, how, data.ids, progress=embedded)
    usable = np.array([one in vectors for one in data.ids], bool)
    if not (train & usable).any():
        raise TrainError(
            "no labelled image can be decoded", subject=f"run {run_id}", remedy="Run: hone-hub fsck --deep"
        )
    x = np.stack([vectors[one] for one in data.ids if one in vectors])
    y, train, holdout = data.labels[usable], train[usable], holdout[usable]

    curve: list[float] = []

    def trained(progress: Progress) -> None:
        lease.check()
        curve.append(round(progress.loss, 5))
        share = progress.step / max(1, progress.steps)
        lease.write(step=f"training ({progress.step} of {progress.steps})", progress=0.5 + 0.3 * share, curve=curve)

    lease.write(step="training", progress=0.5)
    result = train_head(x[train], y[train], len(project.classes), settings.train, trained)

    lease.write(step="exporting", progress=0.82)
    head_bytes = export_head(result.head)
    golden_ids = _golden_ids(data, usable)
    golden_bytes = _golden(store, backbone, part, settings, golden_ids)
    head, golden = store.blobs.put([head_bytes, golden_bytes])
    model = Model(part, Part(head_bytes, name="head"), project.classes, how)

    lease.write(step="evaluating", progress=0.9)
    fields: dict[str, Any] = {
        "curve": [round(one, 5) for one in result.losses],
        "fit": {
            "l2": result.l2,
            "temperature": result.temperature,
            "oof_auc": result.oof_auc,
            "oof_log_loss": result.oof_log_loss,
            "folds": result.folds,
            "seconds": round(result.seconds, 3),
        },
        "parts": {"backbone": backbone, "head": head, "golden": golden},
        "golden_probabilities": golden_outputs(model, decode_golden(golden_bytes)),
    }
    held_ids = [one for one, ok, held in zip(data.ids, usable, data.holdout, strict=True) if ok and held]
    return {**fields, **_judge(settings, store, model, _Holdout(backbone, held_ids, x[holdout], y[holdout]))}


@dataclass(frozen=True, slots=True)
class _Holdout:
    """The held-out images: ids, embeddings float32 [n, dims] by one backbone, labels int [n]."""

    backbone: str
    ids: list[int]
    x: Floats
    y: NDArray[np.int64]


def _judge(settings: HubSettings, store: Store, model: Model, holdout: _Holdout) -> dict[str, Any]:
    """Evaluate the exported model on the holdout, and against the released one on the same images."""
    if not len(holdout.y):
        return {"verdict": "not enough data", "reason": "there is no holdout; import one with --split holdout"}
    new = np.stack([model.classify(one) for one in holdout.x])
    fields: dict[str, Any] = {"evaluation": msgspec.to_builtins(evaluate(new, holdout.y))}
    release = _latest(store, settings.project.name)
    if release is None:
        return {**fields, "verdict": "first", "reason": "there is no release to compare with"}
    if release.model["classes"] != settings.project.classes:
        reason = f"release {release.number} tells other classes apart ({', '.join(release.model['classes'])})"
        return {**fields, "verdict": "not enough data", "reason": f"{reason}; look at the figures and release by hand"}
    old = _old_probabilities(store, release, holdout)
    comparison = compare(old, new, holdout.y, names=settings.project.classes)
    return {
        **fields,
        "before": msgspec.to_builtins(evaluate(old, holdout.y)),
        "comparison": {
            **msgspec.to_builtins(comparison),
            "fixed": [holdout.ids[one] for one in comparison.fixed],
            "broken": [holdout.ids[one] for one in comparison.broken],
        },
        "against": release.number,
        "verdict": comparison.verdict,
        "reason": comparison.reason,
    }


def _latest(store: Store, project: str) -> Release | None:
    """The newest release of a project."""
    with store.read() as session:
        return session.exec(
            select(Release).where(Release.project == project).order_by(col(Release.number).desc())
        ).first()


def _old_probabilities(store: Store, release: Release, holdout: _Holdout) -> Floats:
    """What the released, exported model says of the same images."""
    spec = msgspec.convert(release.model, ModelSpec)
    part = Part(store.blobs.read(spec.backbone.sha256), name="backbone")
    model = Model(part, Part(store.blobs.read(spec.head.sha256), name="head"), spec.classes, spec.preprocess)
    x = holdout.x
    if spec.backbone.sha256 != holdout.backbone:
        ids = holdout.ids
        vectors = embed.complete(store, spec.backbone.sha256, part, spec.preprocess, ids, progress=lambda *_: None)
        x = np.stack([vectors[one] for one in ids])
    return np.stack([model.classify(one) for one in x])


def _golden_ids(data: Snapshot, usable: NDArray[np.bool_]) -> list[int]:
    """A few training images, spread over the classes."""
    ids: list[int] = []
    rows = list(zip(data.ids, data.labels.tolist(), usable & ~data.holdout, strict=True))
    for label in sorted({label for _, label, _ in rows}):
        ids += [one for one, y, fits in rows if fits and y == label][: max(1, GOLDEN_IMAGES // 2)]
    return sorted(ids)[:GOLDEN_IMAGES]


def _golden(store: Store, backbone: str, part: Part, settings: HubSettings, ids: list[int]) -> bytes:
    """The golden part: the released one where the backbone is the same, so that cameras need not fetch another."""
    release = _latest(store, settings.project.name)
    if release is not None:
        spec = msgspec.convert(release.model, ModelSpec)
        if spec.backbone.sha256 == backbone and spec.preprocess == settings.project.preprocess:
            return store.blobs.read(spec.golden.sha256)
    with store.read() as session:
        hashes = dict(session.exec(select(Image.id, Image.sha256).where(col(Image.id).in_(ids))).all())
    images = [decode(store.blobs.read(hashes[one])) for one in ids]
    return golden_part(images, part, settings.project.preprocess)
