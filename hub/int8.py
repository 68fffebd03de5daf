"""Int8: the variant of a model whose backbone computes with whole numbers; for cameras that float is too slow on.

1. Quantize the float backbone, weights and activations, by what some training images make of it (Jacob et al. 2018,
   arXiv:1712.05877). Once for each float backbone and project: a new head ships no new backbone. Input, output and the
   pooling at the end stay float: finer steps in the embedding for no time.
2. Embed all labelled images by it, and fit the head anew on these embeddings: the float one would lose accuracy.
3. Judge it on the same held-out images as the float model. Proven worse than that, it is left out.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hub import embed
from hub.evaluate import compare, evaluate
from hub.export import cached, export_head, golden_part
from hub.references import references_part
from hub.settings import HubSettings, TrainSettings
from hub.store import Store
from hub.tables import INT8
from hub.thresholds import decide
from hub.train import Trained
from shared.errors import ConfigError, ModelError, TrainError
from shared.golden import decode as decode_golden
from shared.golden import golden_outputs
from shared.litert import Floats, Model, Part
from shared.preprocess import decode, to_input

CALIBRATION = 100
"""Training images that show the quantizer what goes through a backbone; three times as many made nothing better."""
_RECIPE = 1  # raise when the recipe below changes: old cache files are then not used any more
_FLOAT = ("INPUT", "OUTPUT", "MEAN")
_SILENCED = (
    (r".*experimental_preserve_all_tensors", UserWarning),  # LiteRT, of how the quantizer looks inside
    (r"invalid value encountered in cast", RuntimeWarning),  # biases of channels that are dead; what they gave was 0
)


@dataclass(frozen=True, slots=True)
class Data:
    """The labelled images of a run: ids, labels int [n], which are held out bool [n]; how the run trains; the float
    model, its thresholds, and its embeddings of the held-out images, float32 [m, dims].
    """

    ids: list[int]
    y: NDArray[np.int64]
    holdout: NDArray[np.bool_]
    settings: TrainSettings
    model: Model
    thresholds: list[float]
    held: Floats


@dataclass(frozen=True, slots=True)
class Kept:
    """Parts that the variant of a model by the same float backbone had; None where there are none to go on with."""

    backbone: bytes | None = None
    golden: bytes | None = None
    references: bytes | None = None


@dataclass(frozen=True, slots=True)
class Int8:
    """parts: name -> sha256, as a run's row has them; none where the variant is left out. fit: what the row tells of
    it. evaluation: on the holdout, as `hub.evaluate` has it; {} without one.
    """

    parts: dict[str, str] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)


def make(
    settings: HubSettings,
    store: Store,
    data: Data,
    *,
    backbone: bytes,
    golden: bytes,
    refit: Callable[[Floats], Trained],
    earlier: Kept,
    progress: Callable[[int, int], None],
) -> Int8:
    """The int8 variant of a model, its parts in the store.

    backbone, golden: parts of the float model. refit: trains a head on embeddings of the training images, float32
    [n, dims], in their order. progress: is told (done, to do) of the images that have to be embedded. ModelError where
    the backbone cannot be quantized.
    """
    project, how = settings.project, settings.project.preprocess
    train = ~data.holdout
    shown = [one for one, taught in zip(data.ids, train, strict=True) if taught]
    shown = [shown[at] for at in np.linspace(0, len(shown) - 1, min(CALIBRATION, len(shown))).round().astype(int)]
    made = earlier.backbone or quantized(
        settings.cache_folder,
        project.name,
        backbone,
        lambda: [to_input(one, how) for one in embed.pictures(store, shown)],
    )
    part = Part(made, name="int8 backbone")
    [sha256] = store.blobs.put([made])
    vectors = embed.complete(store, INT8 + sha256, part, how, data.ids, progress=progress)
    if lost := [one for one in data.ids if one not in vectors]:
        raise TrainError("can no longer be read", subject=f"image {lost[0]}", remedy="Run: hone-hub fsck --deep")
    x = np.stack([vectors[one] for one in data.ids])
    result = refit(x[train])
    head = export_head(result.head)
    inside = earlier.golden or golden_part([decode(one) for one in decode_golden(golden).inputs], part, how)
    decision = decide(result.oof, data.y[train][result.oof_rows], project.classes, data.settings)
    thresholds = list(decision.thresholds) if decision is not None else []
    model = Model(part, Part(head, name="int8 head"), project.classes, how, thresholds)
    fit = {
        "thresholds": thresholds,
        "golden_probabilities": golden_outputs(model, decode_golden(inside)),
        "temperature": result.temperature,
        "oof_auc": result.oof_auc,
        "oof_log_loss": result.oof_log_loss,
        "left_out": "",
    }
    evaluation = {}
    if data.holdout.any():
        said = np.stack([model.classify(one) for one in x[data.holdout]])
        evaluation = msgspec.to_builtins(evaluate(said, data.y[data.holdout], thresholds=thresholds))
        found = compare(
            np.stack([data.model.classify(one) for one in data.held]),
            said,
            data.y[data.holdout],
            old_thresholds=data.thresholds,
            new_thresholds=thresholds,
            min_per_class=settings.split.min_per_class,
            names=project.classes,
            on="the holdout, int8 against float",
        )
        if found.verdict == "worse":
            return Int8(fit={**fit, "left_out": found.reason}, evaluation=evaluation)
    references = references_part(x[train], earlier.references)
    blobs = {"head": head, "golden": inside, **({"references": references} if references else {})}
    names = dict(zip(blobs, store.blobs.put(list(blobs.values())), strict=True))
    return Int8({f"int8 {name}": one for name, one in {"backbone": sha256, **names}.items()}, fit, evaluation)


def quantized(cache: Path, project: str, backbone: bytes, inputs: Callable[[], Sequence[Floats]]) -> bytes:
    """The int8 form of a float backbone, with float32 input and output.

    It takes some seconds the first time, then it is read from the folder `cache`. inputs: what a project's images are
    to the backbone, float32 [1, size, size, 3] each; other images would make another one, so it is kept by project.
    ConfigError where the quantizer is missing, ModelError where it cannot do it.
    """
    try:
        version = importlib.metadata.version("ai-edge-quantizer")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("is not installed", subject="ai-edge-quantizer", remedy="pip install 'hone[hub]'") from error
    made_of = f"{hashlib.sha256(backbone).hexdigest()} {project} {version} {_RECIPE}"
    return cached(cache, "int8", made_of, lambda: _quantize(backbone, inputs()))


def _quantize(backbone: bytes, inputs: Sequence[Floats]) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    signatures = Interpreter(model_content=backbone).get_signature_list()
    if len(signatures) != 1:
        raise _unfit(f"has {len(signatures)} signatures, must have 1")
    [(signature, ends)] = signatures.items()
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(
        regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
    )
    for name in _FLOAT:
        recipe.add_quantization_config(".*", qtyping.TFLOperationName(name), algorithm_key=AlgorithmName.NO_QUANTIZE)
    samples = [{ends["inputs"][0]: one} for one in inputs]
    try:
        with _quiet():
            work = quantizer.Quantizer(backbone, recipe.get_quantization_recipe())
            seen = work.calibrate({signature: samples}, num_threads=1)
            made = work.quantize(seen, enable_progress_bar=False, enable_progress_report=False).quantized_model
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
        raise _unfit(f"cannot be quantized ({error})") from error
    found = bytes(made)
    if not all(np.isfinite(Part(found, name="int8 backbone").run(one)).all() for one in inputs[:1]):
        raise _unfit("gives numbers that are not finite once it is quantized")
    return found


def _unfit(what: str) -> ModelError:
    return ModelError(what, subject="the backbone", remedy="Set train.int8 = false")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's progress bars and the warnings that say nothing about us."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        for text, kind in _SILENCED:
            warnings.filterwarnings("ignore", message=text, category=kind)
        yield
