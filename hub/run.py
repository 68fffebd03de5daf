"""One training run, as a process of its own: embed -> split -> snapshot -> train -> export -> evaluate -> compare.

The row in the database is the truth: the process holds a lease on it and renews it while it lives; a run whose lease
ran out is taken again by the daemon. Cancelling sets the state; the process sees it at its next step.
"""

import dataclasses
import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlmodel import col, delete, select

from hub import drift, embed, int8, split, suspects, watch
from hub.checkpoint import Checkpoint, path_of
from hub.dataset import Snapshot, recalled, snapshot
from hub.earlier import earlier_parts
from hub.export import check_backbone, convert, export_backbone, export_head, golden_part
from hub.head import place_of
from hub.references import references_part
from hub.settings import HubSettings, TrainSettings
from hub.split import Standing
from hub.store import Store
from hub.tables import Image, Run, Suspect
from hub.thresholds import Decision, decide
from hub.train import Trained, train_head
from hub.underway import Lease, Story
from hub.verdict import Holdout, judge, latest
from shared.clock import Clock
from shared.errors import HoneError, RunCancelledError, TrainError
from shared.golden import decode as decode_golden
from shared.golden import golden_outputs
from shared.litert import Floats, Model, Part
from shared.preprocess import Preprocess, decode

GOLDEN_IMAGES = 4
BASIS_IMAGES = 2000
"""Images that the reference's principal components are found with, at most."""
PACKAGES = ("hone", "torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "numpy", "scikit-learn")


def execute(settings: HubSettings, store: Store, run_id: int, clock: Clock) -> None:
    """Do a queued run to its end; its row tells the outcome. TrainError when it cannot be done, and the row says so."""
    try:
        with Lease(store, run_id, clock) as lease:
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


def _work(settings: HubSettings, store: Store, run_id: int, lease: Lease) -> dict[str, Any]:
    """The steps in their order; returns what the finished row says."""
    project, how = settings.project, settings.project.preprocess
    train_settings, earlier, standing = _given(settings, store, run_id)
    if earlier is None:
        with store.read() as session:
            to_embed = split.candidates(session, project.name, project.classes)
    else:
        to_embed = earlier.ids
    if not to_embed:
        raise TrainError(
            "there are no labelled images", subject=f"run {run_id}", remedy="Label some, or: hone-hub import FOLDER"
        )
    lease.write(
        step="preparing the backbone",
        settings={
            **msgspec.to_builtins(train_settings),
            "classes": project.classes,
            "preprocess": msgspec.to_builtins(how),
        },
        versions=_versions(train_settings),
    )
    backbone_bytes = export_backbone(settings.cache_folder, how, train_settings.backbone, train_settings.features)
    part = Part(backbone_bytes, name="backbone")
    if train_settings.backbone:
        whole = set(_all_images(store, project.name))
        check_backbone(part, embed.pictures(store, [one for one in to_embed if one in whole][:GOLDEN_IMAGES]), how)
    [backbone] = store.blobs.put([backbone_bytes])
    if _is_new(store, project.name, backbone):
        # What waits, too: the label queue and the drift of cameras go by the backbone that they will run.
        to_embed = sorted({*to_embed, *_all_images(store, project.name)})
    vectors = _embedded(store, (backbone, part), how, to_embed, lease, span=(0.05, 0.5))
    if earlier is None:
        lease.write(step="dividing the images")
        standing = split.divide(store, project.name, vectors, settings.split, lease.clock)
        data = snapshot(store, project.name, project.classes, train_settings)
        store.blobs.put([data.lines])
    else:
        data = earlier
    usable = np.array([one in vectors for one in data.ids], bool)
    if not (~data.holdout & usable).any():
        raise TrainError(
            "every labelled image is held out" if (data.holdout & usable).any() else "no labelled image can be decoded",
            subject=f"run {run_id}",
            remedy="Label more images" if (data.holdout & usable).any() else "Run: hone-hub fsck --deep",
        )
    x = np.stack([vectors[one] for one in data.ids if one in vectors])
    ids = [one for one in data.ids if one in vectors]
    y, holdout, since = data.labels[usable], data.holdout[usable], data.since[usable]
    train = ~holdout
    near = data.near[usable][train]
    lease.write(
        snapshot=data.sha256,
        labels=data.field_labels,
        train_images=int(train.sum()),
        holdout_images=int(holdout.sum()),
        holdout=standing.number,
        left_out=data.left_out,
    )

    lease.write(step="training", progress=0.5)
    story = Story(lease)
    checkpoint = _checkpoint(settings, run_id, train_settings, data)
    if train_settings.kind == "linear":
        result = train_head(x[train], y[train], len(project.classes), train_settings, story.told, near=near)
    elif train_settings.kind == "mlp":
        from hub.mlp import train_mlp

        result = train_mlp(
            *(x[train], y[train], len(project.classes), train_settings, story.told),
            checkpoint=checkpoint,
            check=lease.check,
            inside=story.inside,
            near=near,
        )
    else:
        from hub.finetune import finetune

        hashes = embed.hashes(store, ids)
        to_train = [one for one, trained in zip(ids, train, strict=True) if trained]
        tuned = finetune(
            lambda row: decode(store.blobs.read(hashes[to_train[row]])),
            *(x[train], y[train], len(project.classes), how),
            settings=train_settings,
            progress=story.told,
            checkpoint=checkpoint,
            check=lease.check,
            inside=story.inside,
            near=near,
        )
        lease.write(step="converting the backbone", progress=0.7)
        backbone_bytes = convert(tuned.net, how.size)
        [backbone] = store.blobs.put([backbone_bytes])
        part = Part(backbone_bytes, name="backbone")
        # All images: the label queue and the novelty of what comes need them by the backbone that cameras will run.
        every = sorted({*ids, *_all_images(store, project.name)})
        vectors = _embedded(store, (backbone, part), how, every, lease, span=(0.72, 0.82))
        x = np.stack([vectors[one] for one in ids])
        result = _placed(tuned.trained, x[train], train_settings)

    doubted = suspects.suspects(result.oof, y[train][result.oof_rows])
    _doubt(store, run_id, project.classes, np.array(ids)[train][result.oof_rows], doubted)

    lease.write(step="exporting", progress=0.82)
    head_bytes = export_head(result.head)
    golden_ids = _golden_ids(data, usable)
    # Cameras need not fetch others where these still serve.
    before = earlier_parts(store, settings, run_id, backbone)
    golden_bytes = before.golden or golden_part(embed.pictures(store, golden_ids), part, how)
    references = references_part(x[train], before.references)
    head, golden, *more = store.blobs.put([head_bytes, golden_bytes, *([references] if references else [])])
    decision = decide(result.oof, y[train][result.oof_rows], project.classes, train_settings)
    thresholds = list(decision.thresholds) if decision is not None else []
    model = Model(part, Part(head_bytes, name="head"), project.classes, how, thresholds)

    lease.write(step="evaluating", progress=0.9)
    fields: dict[str, Any] = {
        "curve": [round(one, 5) for one in result.losses],
        "fit": {
            **({"l2": result.l2} if result.tried else {"epochs": result.epochs}),
            "temperature": result.temperature,
            "oof_auc": result.oof_auc,
            "oof_log_loss": result.oof_log_loss,
            "folds": result.folds,
            "seconds": round(result.seconds, 3),
            **(_told(decision, project.classes) if decision is not None else {}),
        },
        "parts": {
            "backbone": backbone,
            "head": head,
            "golden": golden,
            "snapshot": data.sha256,
            **({"references": more[0]} if more else {}),
        },
        "golden_probabilities": golden_outputs(model, decode_golden(golden_bytes)),
    }
    held_ids = [one for one, held in zip(ids, holdout, strict=True) if held]
    held = Holdout(backbone, held_ids, x[holdout], y[holdout], since[holdout], standing)
    _leave_references(settings, store, run_id, model, held)
    fields |= judge(settings, store, model, thresholds, held)
    if train_settings.int8:
        lease.write(step="making the int8 variant", progress=0.93)
        variant = int8.make(
            settings,
            store,
            int8.Data(ids, y, holdout, train_settings, model, thresholds, held.x),
            backbone=backbone_bytes,
            golden=golden_bytes,
            refit=_refit(y[train], len(project.classes), train_settings, lease, near),
            earlier=before.int8,
            progress=lambda *_: lease.check(),
        )
        fields["parts"] |= variant.parts
        fields["fit"]["int8"] = variant.fit
        if variant.evaluation:
            fields["evaluation"]["int8"] = variant.evaluation
    checkpoint.drop()
    return fields


def _refit(
    y: NDArray[np.int64], classes: int, settings: TrainSettings, lease: Lease, near: NDArray[np.int64]
) -> Callable[[Floats], Trained]:
    """Trains a head of the same kind on other embeddings of the training images."""

    def checked(_: object) -> None:
        lease.check()

    if settings.kind != "mlp":
        return lambda x: train_head(x, y, classes, settings, checked, near=near)
    from hub.mlp import train_mlp

    return lambda x: train_mlp(x, y, classes, settings, checked, check=lease.check, near=near)


def _given(settings: HubSettings, store: Store, run_id: int) -> tuple[TrainSettings, Snapshot | None, Standing]:
    """Settings, data and holdout that the row names (it was interrupted, or repeats another); else the present
    settings, and no data yet.
    """
    project = settings.project
    with store.read() as session:
        run = session.get(Run, run_id)
    if run is not None and run.snapshot:
        data = recalled(store, project.name, project.classes, run.snapshot, run.left_out)
        if data is not None:
            known = {one.name for one in msgspec.structs.fields(TrainSettings)}
            kept = {name: value for name, value in run.settings.items() if name in known}
            with store.read() as session:
                standing = split.standing(session, project.name, settings.split.max_verdicts, run.holdout)
            return msgspec.convert(kept, TrainSettings), data, standing
    return settings.train, None, Standing()


def _versions(train: TrainSettings) -> dict[str, str]:
    """Of what a result may depend on, and the device that it is trained on."""
    if train.kind == "linear":
        device = "cpu"
    else:
        from hub.epochs import device_name

        device = device_name(train)
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "opencv": cv2.__version__,  # of whichever of its packages is installed
        "device": device,
    }


def _checkpoint(settings: HubSettings, run_id: int, train: TrainSettings, data: Snapshot) -> Checkpoint:
    """Named by all that decides the training, so that nothing else is ever resumed from it."""
    decides = [run_id, data.sha256, msgspec.to_builtins(train), settings.project.classes, _versions(train)]
    name = hashlib.sha256(
        msgspec.json.encode([*decides, str(settings.state_folder), msgspec.to_builtins(settings.project.preprocess)])
    ).hexdigest()
    return Checkpoint(path_of(settings.cache_folder, name), name)


def _embedded(
    store: Store,
    backbone: tuple[str, Part],
    how: Preprocess,
    ids: list[int],
    lease: Lease,
    *,
    span: tuple[float, float],
) -> dict[int, Floats]:
    """The embeddings of these images; the row tells how far that is, within this span of the whole run."""
    begun = time.monotonic()

    def told(done: int, total: int) -> None:
        lease.check()
        if done % 16 == 0 or done == total:
            left = (time.monotonic() - begun) / done * (total - done)
            step = f"embedding images ({done} of {total})"
            lease.write(step=step, progress=span[0] + (span[1] - span[0]) * done / total, fit={"eta_s": round(left, 1)})

    return embed.complete(store, *backbone, how, ids, progress=told)


def _is_new(store: Store, project: str, backbone: str) -> bool:
    """Whether cameras run another backbone now."""
    release = latest(store, project)
    return release is not None and release.model["backbone"]["sha256"] != backbone


def _all_images(store: Store, project: str) -> list[int]:
    with store.read() as session:
        found = session.exec(select(Image.id).where(Image.project == project, Image.state == "verified"))
        return [one for one in found if one is not None]


def _placed(trained: Trained, x: Floats, settings: TrainSettings) -> Trained:
    """The head, told where the training set lies."""
    place = place_of(x.astype(np.float64), settings.shrinkage)
    if place is None:
        raise TrainError("gives the same embedding for all images", subject="the new backbone", remedy="Train less")
    head = dataclasses.replace(trained.head, center=place.center, gain=place.gain)
    return dataclasses.replace(trained, head=head)


def _told(decision: Decision, classes: list[str]) -> dict[str, Any]:
    """What the row says of thresholds."""
    said: dict[str, Any] = {
        "thresholds": list(decision.thresholds),
        "oof_recall": dict(zip(classes, decision.recall, strict=True)),
    }
    return said if decision.cost is None else {**said, "oof_cost": decision.cost}


def _doubt(
    store: Store, run_id: int, classes: list[str], ids: NDArray[np.int64], found: Sequence[suspects.Suspect]
) -> None:
    """Keep the labels that the model does not believe, for a second look. A run that is taken up again has new ones."""
    with store.write() as session:
        session.exec(delete(Suspect).where(col(Suspect.run_id) == run_id))
        session.add_all(
            Suspect(
                run_id=run_id,
                image_id=int(ids[one.row]),
                label=classes[one.label],
                guess=classes[one.guess],
                confidence=one.confidence,
            )
            for one in found
        )


def _leave_references(settings: HubSettings, store: Store, run_id: int, model: Model, holdout: Holdout) -> None:
    """What cameras that run this model are held to: their own latest audit images, and else the holdout."""
    fewest = settings.drift.block
    with store.read() as session:
        audits = watch.audits(session, settings.project.name, holdout.backbone, fewest)
    some = np.random.default_rng(0).permutation(len(holdout.x))[: watch.MOST]
    embeddings = {"": holdout.x[some]} if len(some) >= fewest else {}
    seen = [holdout.x]
    for camera, ids in audits.items():
        found = embed.load(store, holdout.backbone, ids)
        embeddings[camera] = np.stack([found[one] for one in ids])
        if sum(map(len, seen)) < BASIS_IMAGES:
            seen.append(embeddings[camera])
    if not embeddings:
        return
    axes = drift.basis(holdout.backbone, np.concatenate(seen)[:BASIS_IMAGES])
    samples = {}
    for camera, rows in embeddings.items():
        said = [model.judge(one) for one in rows]
        classes = [model.classes[one.best] for one in said]
        samples[camera] = drift.sample([round(one.score, 4) for one in said], classes, axes.project(rows))
    with store.write() as session:
        watch.remember(session, run_id, axes, samples)


def _golden_ids(data: Snapshot, usable: NDArray[np.bool_]) -> list[int]:
    """A few training images, spread over the classes."""
    ids: list[int] = []
    rows = list(zip(data.ids, data.labels.tolist(), usable & ~data.holdout, strict=True))
    for label in sorted({label for _, label, _ in rows}):
        ids += [one for one, y, fits in rows if fits and y == label][: max(1, GOLDEN_IMAGES // 2)]
    return sorted(ids)[:GOLDEN_IMAGES]
