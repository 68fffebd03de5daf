"""Lite0 and its head, read back from the parts of a release: torch, ONNX and safetensors compute what LiteRT does."""

import json

import numpy as np
import pytest

from hub.export import convert, export_backbone, export_head, lite0
from hub.head import Head, Layer
from hub.portable import head_of, network, run_onnx, run_safetensors, to_onnx, to_safetensors
from hub.tflite import pack, unpack
from shared.errors import ConfigError, ModelError
from shared.litert import Model, Part
from shared.preprocess import Preprocess, to_input
from tests.fakes.models import mean_backbone, softmax_head
from tests.hub.conftest import CACHE
from tests.hub.test_export import images, make_head

HOW = Preprocess()
PIXELS = Preprocess(mean=0, scale=1)


def mlp(dims):
    rng = np.random.default_rng(4)
    hidden = Layer((rng.normal(size=(16, dims)) / 40).astype(np.float32), np.ones(16, np.float32))
    weights = rng.normal(size=(2, 16)).astype(np.float32)
    return Head(weights, np.zeros(2, np.float32), 1.3, np.zeros(dims, np.float32), np.ones(dims, np.float32), hidden)


def first(image):
    return np.ascontiguousarray(to_input(image, PIXELS).transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("features", "head"),
    [("pooled", make_head(3)), ("pooled", mlp(1280)), ("stages", make_head(2, 2768))],
    ids=["linear", "mlp", "stages"],
)
def test_the_network_is_what_the_release_computes(features, head):
    import torch

    backbone, part = export_backbone(CACHE, HOW, features=features), export_head(head)
    model = Model(Part(backbone, name="backbone"), Part(part, name="head"), ["c"] * head.classes, HOW)
    net = network(backbone, part, HOW)
    data = to_safetensors(net, {"classes": "[]"})
    for image in images(2):
        expected = model.predict(image).probabilities
        with torch.no_grad():
            np.testing.assert_allclose(net(torch.from_numpy(first(image)))[0], expected, atol=1e-5)
        np.testing.assert_allclose(run_safetensors(data, net, first(image)), expected, atol=1e-5)


def test_a_backbone_that_was_trained_along_is_read_back_as_well():
    import torch

    how = Preprocess(size=64)
    net = lite0(64)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in net.parameters():
            weights.mul_(1 + 0.05 * torch.randn_like(weights))
    backbone, head = convert(net, 64), export_head(make_head(2))
    model = Model(Part(backbone, name="backbone"), Part(head, name="head"), ["a", "b"], how)
    read = network(backbone, head, how)
    for image in images(2):
        x = to_input(image, Preprocess(size=64, mean=0, scale=1)).transpose(0, 3, 1, 2)
        with torch.no_grad():
            got = read(torch.from_numpy(np.ascontiguousarray(x)))[0]
        np.testing.assert_allclose(got, model.predict(image).probabilities, atol=1e-5)


def test_safetensors_are_what_efficientnet_lite_pytorch_reads():
    from safetensors.torch import load

    backbone, head = export_backbone(CACHE, HOW), export_head(make_head(3))
    data = to_safetensors(network(backbone, head, HOW), {"classes": '["a"]'})
    length = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + length])["__metadata__"] == {"classes": '["a"]'}
    weights = load(data)
    assert weights["head.weight"].shape == (3, 1280)
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0", image_size=224)
    inner = {one.removeprefix("backbone."): value for one, value in weights.items() if one.startswith("backbone.")}
    missing, unknown = net.load_state_dict(inner, strict=False)
    assert (set(missing), unknown) == ({"_fc.weight", "_fc.bias"}, [])


def test_onnx_computes_the_same_for_any_number_of_images():
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    backbone, head = export_backbone(CACHE, HOW), export_head(make_head(3))
    model = Model(Part(backbone, name="backbone"), Part(head, name="head"), list("abc"), HOW)
    data = to_onnx(network(backbone, head, HOW), HOW, {"classes": '["a"]'})
    expected = np.stack([model.predict(one).probabilities for one in images(3)])
    np.testing.assert_allclose(run_onnx(data, first(images(1)[0])), expected[0], atol=1e-5)
    session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    batch = np.concatenate([first(one) for one in images(3)])
    np.testing.assert_allclose(session.run(None, {"image": batch})[0], expected, atol=1e-5)
    read = onnx.load_model_from_string(data)
    assert {one.key: one.value for one in read.metadata_props} == {"classes": '["a"]'}
    assert b"site-packages" not in data


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"onnx.*is not installed.*hone\[onnx\]"):
        to_onnx(None, HOW, {})


def int8(data):
    """The same file, but its first weights say that they are int8."""
    from ai_edge_litert import schema_py_generated as schema

    model = unpack(data)
    graph = model.subgraphs[0]
    graph.tensors[int(graph.operators[0].inputs[1])].type = schema.TensorType.INT8
    return pack(model)


@pytest.mark.parametrize(
    ("backbone", "dims", "says"),
    [
        (lambda: mean_backbone(224), 3, "gives embeddings of length 3"),
        (lambda: mean_backbone(224), 1280, "has 0 convolutions, 49 are expected"),
        (lambda: int8(export_backbone(CACHE, HOW)), 1280, "has convolutions that are not float32"),
    ],
    ids=["dims", "count", "int8"],
)
def test_a_backbone_that_is_not_lite0_cannot_be_had_so(backbone, dims, says):
    with pytest.raises(ModelError, match=rf"{says}.*--out FILE\.tflite"):
        network(backbone(), export_head(make_head(2, dims)), HOW)


def test_a_foreign_head_cannot_either():
    with pytest.raises(ModelError, match="was not written by Hone"):
        head_of(softmax_head())


def test_the_numbers_of_a_head_are_read_back():
    head = make_head(3, 7)
    found = head_of(export_head(head))
    np.testing.assert_allclose(found["weights"] * head.temperature, head.weights, rtol=1e-6)
    np.testing.assert_array_equal(found["center"][0], head.center)
