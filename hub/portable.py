"""A released model as a torch network again, and so as ONNX or safetensors.

Parts are .tflite, and only of Lite0 it is known which weight belongs where; Hone has no torch program of other
backbones. Batch norms come with their scale folded into the convolution before them, as the conversion left them.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.export import embedding, lite0
from hub.tflite import unpack
from shared.errors import ConfigError, ModelError
from shared.preprocess import Preprocess

Floats = NDArray[np.float32]
INPUT, OUTPUT = "image", "probabilities"
_OPSET = 18
_DIMS = {1280: "pooled", 2768: "stages"}
_HEAD = ("weights", "bias", "hidden weights", "hidden bias", "center", "gain")


def network(backbone: bytes, head: bytes, how: Preprocess) -> Any:
    """A torch module in eval mode: float32 [n, 3, size, size], RGB from 0 to 255 -> probabilities [n, classes].

    backbone, head: parts of a release. ModelError where the backbone is no Lite0 in float32, or the head not ours.
    """
    import torch

    numbers = head_of(head)
    features = _DIMS.get(numbers["center"].size, "")
    if not features:
        raise _foreign(f"gives embeddings of length {numbers['center'].size}")
    net = lite0(how.size)
    net._fc = torch.nn.Identity()  # the classifier of ImageNet, which nothing uses
    _fill(net, list(_convolutions(backbone)))

    def linear(weights: Floats, bias: Floats) -> Any:
        made = torch.nn.Linear(weights.shape[1], weights.shape[0])
        made.load_state_dict({"weight": torch.from_numpy(weights), "bias": torch.from_numpy(bias)})
        return made

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = net
            hidden = linear(numbers["hidden weights"], numbers["hidden bias"]) if "hidden weights" in numbers else None
            self.head = linear(numbers["weights"], numbers["bias"])
            self.hidden = torch.nn.Sequential(hidden, torch.nn.ReLU()) if hidden is not None else torch.nn.Identity()

        def forward(self, image: torch.Tensor) -> Any:
            x = embedding(self.backbone, (image - how.mean) / how.scale, features)
            return torch.softmax(self.head(self.hidden(x)), 1)

    return Network().eval()


def head_of(data: bytes) -> dict[str, Floats]:
    """The numbers of a head that `hub.export` wrote, by name; ModelError for another one."""
    model = unpack(data)
    graph = model.subgraphs[0]
    found = {
        name: _values(model, one)
        for one in graph.tensors
        if (name := bytes(one.name).decode()) in _HEAD and model.buffers[one.buffer].data is not None
    }
    if not {"weights", "bias", "center"} <= found.keys():
        raise ModelError("was not written by Hone", subject="head", remedy="Export it as .tflite: --out FILE.tflite")
    return found


def to_onnx(net: Any, how: Preprocess, about: Mapping[str, str]) -> bytes:
    """A network as one ONNX file, with `about` as its metadata. ConfigError where the extra is missing."""
    import torch

    try:
        import onnx
        import onnxscript  # noqa: F401  # torch asks for it in the middle of its work
    except ImportError as error:
        raise ConfigError(
            "is not installed", subject=error.name or "onnx", remedy="pip install 'hone[onnx]'"
        ) from error
    with _quiet():
        program = torch.onnx.export(
            net,
            (torch.zeros(2, 3, how.size, how.size),),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("n")}},
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "hone"
    for node in (*model.graph.node, *model.graph.value_info):  # where on this machine torch found the code
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def to_safetensors(net: Any, about: Mapping[str, str]) -> bytes:
    """The weights of a network as safetensors: `backbone.*` as efficientnet-lite-pytorch names them, head, hidden.

    about: metadata of the file.
    """
    from safetensors.torch import save

    return save({name: one.contiguous() for name, one in net.state_dict().items()}, dict(about))


def run_onnx(data: bytes, image: Floats) -> Floats:
    """What an ONNX file gives for float32 [1, 3, size, size], [classes]: by onnxruntime, or else by ONNX itself."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        session: Any = ReferenceEvaluator(data)
    else:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: image})[0][0], np.float32)


def run_safetensors(data: bytes, net: Any, image: Floats) -> Floats:
    """What a network gives with the weights of a file, as `run_onnx`; the weights stay in it."""
    import torch
    from safetensors.torch import load

    net.load_state_dict(load(data))
    with torch.no_grad():
        return np.asarray(net(torch.from_numpy(image))[0].numpy(), np.float32)


def _fill(net: Any, found: list[tuple[Floats, Floats]]) -> None:
    """Give Lite0 the weights of its convolutions, [out, in, h, w] and bias each, in their order."""
    import torch

    pairs = list(_layers(net))
    if len(found) != len(pairs):
        raise _foreign(f"has {len(found)} convolutions, {len(pairs)} are expected")
    for (convolution, norm), (weights, bias) in zip(pairs, found, strict=True):
        if tuple(convolution.weight.shape) != weights.shape:
            raise _foreign(f"has a convolution of shape {weights.shape}, not {tuple(convolution.weight.shape)}")
        convolution.weight.data = torch.from_numpy(weights)
        norm.bias.data = torch.from_numpy(bias)
        torch.nn.init.ones_(norm.weight)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)


def _layers(net: Any) -> Iterator[tuple[Any, Any]]:
    """The convolutions of Lite0 with the norm after each, in the order in which they run."""
    yield net._conv_stem, net._bn0
    for block in net._blocks:
        if hasattr(block, "_expand_conv"):
            yield block._expand_conv, block._bn0
        yield block._depthwise_conv, block._bn1
        yield block._project_conv, block._bn2
    yield net._conv_head, net._bn1


def _convolutions(data: bytes) -> Iterator[tuple[Floats, Floats]]:
    """Weights as torch has them, [out, in, h, w], and bias of each convolution of a .tflite, in their order."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(data)
    graph = model.subgraphs[0]
    whole, each = schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind not in (whole, each):
            continue
        tensors = [graph.tensors[int(one)] for one in operator.inputs[1:] if int(one) >= 0]
        if len(tensors) != 2 or any(one.type != schema.TensorType.FLOAT32 for one in tensors):
            raise _foreign("has convolutions that are not float32")
        weights, bias = (_values(model, one) for one in tensors)
        # TFLite: [out, h, w, in]; depthwise [1, h, w, out]
        order = (0, 3, 1, 2) if kind == whole else (3, 0, 1, 2)
        yield np.ascontiguousarray(weights.transpose(order)), bias


def _values(model: Any, tensor: Any) -> Floats:
    data = model.buffers[tensor.buffer].data
    if data is None:
        raise _foreign("has weights that are not in the file")
    return np.asarray(data, np.uint8).view("<f4").reshape([int(one) for one in tensor.shape]).astype(np.float32)


def _foreign(what: str) -> ModelError:
    return ModelError(
        f"{what}: it is not EfficientNet-Lite0 in float32, and of others Hone has no more than the .tflite",
        subject="backbone",
        remedy="Export it as .tflite (--out FILE.tflite), or convert your own program with your own tools",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch tells a lot while it exports."""
    logs = [logging.getLogger(one) for one in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in logs]
    for one in logs:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(logs, levels, strict=True):
            one.setLevel(level)
