"""A release as one file for people without Hone: .tflite with metadata, ONNX, or safetensors.

Every file is run on the release's golden images before it is given away, and must say what the release says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlmodel import col, select

from hub.annotate import About, metadata, with_files
from hub.card import Card
from hub.cards import card_of
from hub.cardtext import markdown
from hub.merge import merged
from hub.portable import network, run_onnx, run_safetensors, to_onnx, to_safetensors
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Release
from shared.errors import GoldenError, StoreError
from shared.golden import Golden, decode
from shared.litert import Model, Part
from shared.manifest import ModelSpec
from shared.preprocess import Preprocess, to_input
from shared.preprocess import decode as decode_image

Format = Literal["tflite", "onnx", "safetensors"]
Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]
"""float32 [1, size, size, 3], RGB from 0 to 255 -> probabilities [classes]"""
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Handout:
    """A file's bytes. difference: of any probability on any of `images` golden images to the release's, at most."""

    data: bytes
    difference: float
    images: int


@dataclass(frozen=True, slots=True)
class Parts:
    """What a release is made of."""

    number: int
    spec: ModelSpec
    backbone: bytes
    head: bytes
    golden: Golden
    card: Card


def parts_of(settings: HubSettings, store: Store, number: int | None = None) -> Parts:
    """The parts of a release, by default of the newest; StoreError when there is none such, or a part is missing."""
    rows = select(Release).where(Release.project == settings.project.name).order_by(col(Release.number).desc())
    with store.read() as session:
        release = session.exec(rows if number is None else rows.where(Release.number == number)).first()
    card = card_of(settings, store, release.number) if release is not None else None
    if release is None or card is None:
        subject = "a release" if number is None else f"release {number}"
        raise StoreError("does not exist", subject=subject, remedy="The page lists releases")
    spec = msgspec.convert(release.model, ModelSpec)
    backbone, head, golden = (store.blobs.read(one.sha256) for one in (spec.backbone, spec.head, spec.golden))
    return Parts(release.number, spec, backbone, head, decode(golden), card)


def handout(parts: Parts, kind: Format) -> Handout:
    """A release as one file. ModelError where it cannot be had so, ConfigError where a package is missing.

    GoldenError where the file does not say what the release says.
    """
    how, about = parts.spec.preprocess, _about(parts)
    if kind == "tflite":
        data = with_files(merged(parts.backbone, parts.head, how, metadata(about, how)), about)
        part = Part(data, name="export")
        return _checked(parts, data, lambda image: np.asarray(part.run(image)[0], np.float32))
    net = network(parts.backbone, parts.head, how)
    if kind == "onnx":
        data = to_onnx(net, how, _told(parts, about))
        return _checked(parts, data, lambda image: run_onnx(data, _first(image)))
    data = to_safetensors(net, _told(parts, about))
    return _checked(parts, data, lambda image: run_safetensors(data, net, _first(image)))


def _checked(parts: Parts, data: bytes, run: Run) -> Handout:
    """The file, once it was found to compute what the release's own parts compute."""
    how = parts.spec.preprocess
    model = Model(Part(parts.backbone, name="backbone"), Part(parts.head, name="head"), parts.spec.classes, how)
    differences = []
    for file in parts.golden.inputs:
        pixels = decode_image(file)
        image = to_input(pixels, Preprocess(size=how.size, mean=0, scale=1))
        differences.append(float(np.abs(run(image) - model.predict(pixels).probabilities).max()))
    worst = float(np.max(differences))  # keeps a NaN
    if not worst <= TOLERANCE:
        raise GoldenError(
            f"says something else than the release: probabilities differ by up to {worst:.6f}",
            subject=f"export of release {parts.number}",
            remedy="Nothing was written; export it in another format, and report this",
        )
    return Handout(data, worst, len(differences))


def _first(image: Floats) -> Floats:
    """Channels first."""
    return np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def _about(parts: Parts) -> About:
    card = parts.card
    label = "The label is the most probable class."
    if card.thresholds:
        each = ", ".join(f"{name} {value:.6g}" for name, value in card.thresholds.items())
        label = f"The label is the class whose probability is the largest multiple of its threshold: {each}."
    return About(
        name=f"{card.project}, release {card.release}",
        version=str(card.release),
        description=f"{card.model}. {label} {card.intended_use}",
        classes=card.classes,
        card=markdown(card),
    )


def _told(parts: Parts, about: About) -> dict[str, str]:
    """The metadata of formats that take names and text alone; what is a list is JSON."""

    def text(value: Any) -> str:
        return msgspec.json.encode(value).decode()

    return {
        "name": about.name,
        "version": about.version,
        "description": about.description,
        "classes": text(parts.spec.classes),
        "thresholds": text(parts.spec.thresholds),
        "input": f"image: float32 [n, 3, {parts.spec.preprocess.size}, {parts.spec.preprocess.size}], RGB, 0 to 255",
        "preprocess": text(parts.spec.preprocess),
        "backbone_sha256": parts.spec.backbone.sha256,
        "head_sha256": parts.spec.head.sha256,
        "card": about.card,
    }
