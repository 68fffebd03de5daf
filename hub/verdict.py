"""Verdict: how good an exported model is on the held-out images, and whether it is better than the release in use."""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlmodel import col, select

from hub import embed
from hub.evaluate import Evaluation, compare, evaluate
from hub.settings import HubSettings
from hub.slices import Traits, slices
from hub.split import Standing
from hub.store import Store
from hub.tables import Image, Look, Release, Rollout
from shared.calling import called
from shared.litert import Floats, Model, Part
from shared.manifest import ModelSpec


@dataclass(frozen=True, slots=True)
class Holdout:
    """The held-out images: ids, embeddings float32 [n, dims] by one backbone, labels int [n], and since which version
    each is one, int [n].
    """

    backbone: str
    ids: list[int]
    x: Floats
    y: NDArray[np.int64]
    since: NDArray[np.int64]
    standing: Standing


@dataclass(frozen=True, slots=True)
class _Said:
    """What a model says of the held-out images: probabilities float32 [n, classes], called by its thresholds."""

    probabilities: Floats
    thresholds: list[float]

    def right(self, y: NDArray[np.int64]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = called(self.probabilities, self.thresholds) == y
        return found

    def evaluated(self, y: NDArray[np.int64]) -> Evaluation:
        return evaluate(self.probabilities, y, thresholds=self.thresholds)


def judge(
    settings: HubSettings, store: Store, model: Model, thresholds: list[float], holdout: Holdout
) -> dict[str, Any]:
    """Evaluate the exported model on the holdout, and against the released one on the same images."""
    if not len(holdout.y):
        return {"verdict": "not enough data", "reason": "there is no holdout; import one with --split holdout"}
    new = _Said(np.stack([model.classify(one) for one in holdout.x]), thresholds)
    fields: dict[str, Any] = {"evaluation": msgspec.to_builtins(new.evaluated(holdout.y))}
    release = latest(store, settings.project.name)
    if release is None or release.model["classes"] != settings.project.classes:
        fields["slices"] = _slices(settings, store, holdout, new, None)
        if release is None:
            reason = f"there is no release to compare with; measured on holdout version {holdout.standing.number}"
            return {**fields, "verdict": "first", "reason": reason}
        reason = f"release {release.number} tells other classes apart ({', '.join(release.model['classes'])})"
        return {**fields, "verdict": "not enough data", "reason": f"{reason}; look at the figures and release by hand"}
    old = _Said(_old_probabilities(store, release, holdout), release.model.get("thresholds", []))
    return {
        **fields,
        "before": msgspec.to_builtins(old.evaluated(holdout.y)),
        "slices": _slices(settings, store, holdout, new, old),
        "against": release.number,
        **_verdict(settings, holdout, old, new),
    }


def _verdict(settings: HubSettings, holdout: Holdout, old: _Said, new: _Said) -> dict[str, Any]:
    """What the images say that may still decide: all, or those that came after the last worn version."""
    standing = holdout.standing
    fresh = holdout.since > standing.base
    kind = (
        f"fresh images of holdout version {standing.number}"
        if standing.base
        else (f"images of holdout version {standing.number}")
    )
    if not fresh.any():  # those that may decide have lost their labels, or their bytes
        return {"verdict": "not enough data", "reason": f"there are no {kind}; label audit images"}
    comparison = compare(
        old.probabilities[fresh],
        new.probabilities[fresh],
        holdout.y[fresh],
        old_thresholds=old.thresholds,
        new_thresholds=new.thresholds,
        min_per_class=settings.split.min_per_class,
        names=settings.project.classes,
        on=kind,
    )
    ids = np.array(holdout.ids)[fresh]
    verdict: str = comparison.verdict
    reason = comparison.reason
    if standing.worn:
        verdict = "not enough data"
        reason = (
            f"holdout version {standing.number} is worn after {standing.verdicts} verdicts; "
            f"label audit images, so that fresh ones decide ({reason})"
        )
    told = msgspec.structs.replace(
        comparison, fixed=ids[comparison.fixed].tolist(), broken=ids[comparison.broken].tolist()
    )
    return {
        "comparison": {**msgspec.to_builtins(told), "verdict": verdict, "reason": reason},
        "verdict": verdict,
        "reason": reason,
    }


def _slices(
    settings: HubSettings, store: Store, holdout: Holdout, new: _Said, old: _Said | None
) -> list[dict[str, Any]]:
    """By camera, condition and time."""
    traits: dict[int | None, Traits] = {}
    with store.read() as session:
        for start in range(0, len(holdout.ids), embed.ROWS):
            some = holdout.ids[start : start + embed.ROWS]
            rows = session.exec(
                select(Image.id, Image.camera, Image.flags, Image.captured_at).where(col(Image.id).in_(some))
            )
            looked = set(session.exec(select(Look.image_id).where(col(Look.image_id).in_(some))))
            for one, camera, flags, at in rows:
                traits[one] = Traits(camera, list(flags) if one in looked else None, at)
    found = slices(
        new.right(holdout.y),
        [traits[one] for one in holdout.ids],
        before=None if old is None else old.right(holdout.y),
        minimum=settings.split.min_per_slice,
    )
    return [msgspec.to_builtins(one) for one in found]


def latest(store: Store, project: str) -> Release | None:
    """The newest release of a project that cameras run, or are on their way to.

    One that was stopped before everyone ran it is none to be better than: it may have been stopped for being bad.
    """
    stopped = select(Rollout.release).where(
        Rollout.project == project,
        col(Rollout.state).in_(["aborted", "superseded", "reverted"]),
        col(Rollout.stage).not_in(["everyone", "done"]),
    )
    with store.read() as session:
        return session.exec(
            select(Release)
            .where(Release.project == project, col(Release.number).not_in(stopped))
            .order_by(col(Release.number).desc())
        ).first()


def _old_probabilities(store: Store, release: Release, holdout: Holdout) -> Floats:
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
