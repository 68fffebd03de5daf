import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PartError
from shared.litert import Interpreter, Model, Part, Prediction
from shared.preprocess import Preprocess
from tests.fakes import models

SIZE = 8
HOW = Preprocess(size=SIZE)
CLASSES = ["crack", "good", "scratch"]


def model() -> Model:
    return Model(
        Part(models.mean_backbone(SIZE), name="backbone"), Part(models.softmax_head(), name="head"), CLASSES, HOW
    )


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\x00" * 1000, b"\x1c\x00\x00\x00TFL3", b"\x1c\x00\x00\x00TFL3" + b"\x00" * 300, b"\x89PNG\r\n\x1a\n"],
    ids=lambda data: repr(data[:10]),
)
def test_bytes_that_are_no_model(data: bytes) -> None:
    with pytest.raises(PartError, match=rf"^model part head of {len(data)} bytes: does not load") as caught:
        Part(data, name="head")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
@settings(max_examples=30)
def test_any_bytes_are_a_part_error(data: bytes) -> None:
    with pytest.raises(PartError):
        Part(data, name="x")


@pytest.mark.skipif(
    Interpreter.__module__.startswith("tflite_runtime"),
    reason="tflite-runtime 2.14 does not verify a file and dies in native code: hash and signature stand before it",
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_torn_model_does_not_load(share: float) -> None:
    whole = models.mean_backbone(SIZE)
    with pytest.raises(PartError):
        Part(whole[: int(len(whole) * share)], name="backbone")


def test_part_knows_its_shapes_and_computes() -> None:
    part = Part(models.mean_backbone(SIZE), name="backbone", threads=2)
    assert (part.input_shape, part.output_shape) == ((1, SIZE, SIZE, 3), (1, 3))
    x = np.arange(SIZE * SIZE * 3, dtype=np.float32).reshape(part.input_shape)
    np.testing.assert_allclose(part.run(x), x.mean(axis=(1, 2)), rtol=1e-5)


def test_the_result_is_a_copy() -> None:
    part = Part(models.softmax_head(), name="head")
    first = part.run(np.array([[5, 0, 0]], np.float32))
    before = first.copy()
    part.run(np.array([[0, 0, 5]], np.float32))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("shape", [(3,), (1, 4), (2, 3), (1, 3, 1), ()])
def test_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    part = Part(models.softmax_head(), name="head")
    with pytest.raises(PartError, match=r"^model part head: takes \(1, 3\), got"):
        part.run(np.zeros(shape, np.float32))


@pytest.mark.parametrize("data", [models.whole_number_input(), models.whole_number_output()], ids=["input", "output"])
def test_input_and_output_are_floats(data: bytes) -> None:
    with pytest.raises(PartError, match="float32"):
        Part(data, name="head")


def test_model_predicts() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[..., 1] = 255
    got = model().predict(pixels)
    assert got.best == 1
    assert got.probabilities.shape == got.embedding.shape == (3,)
    assert got.probabilities.sum() == pytest.approx(1)
    np.testing.assert_allclose(got.embedding, [-127 / 128, 1, -127 / 128], rtol=1e-5)
    assert got.score == pytest.approx(float(np.exp(1) / (np.exp(1) + 2 * np.exp(-127 / 128))), rel=1e-4)


def test_predict_is_embed_then_classify() -> None:
    one = model()
    pixels = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(one.classify(one.embed(pixels)), one.predict(pixels).probabilities)


def test_prediction_names_the_best() -> None:
    got = Prediction(np.array([0.2, 0.7, 0.1], np.float32), np.zeros(4, np.float32))
    assert (got.best, got.score) == (1, pytest.approx(0.7))


@pytest.mark.parametrize(
    ("backbone_size", "head_in", "classes", "says"),
    [
        (SIZE + 1, 3, 3, r"^backbone: takes \(1, 9, 9, 3\), preprocessing gives \(1, 8, 8, 3\)"),
        (SIZE, 4, 4, r"^head: takes \(1, 4\), the backbone gives \(1, 3\)"),
        (SIZE, 3, 2, r"^head: gives \[\(1, 3\)\] for 2 classes"),
    ],
)
def test_parts_that_do_not_fit(backbone_size: int, head_in: int, classes: int, says: str) -> None:
    backbone = Part(models.mean_backbone(backbone_size), name="backbone")
    head = Part(models.softmax_head(head_in), name="head")
    with pytest.raises(PartError, match=says):
        Model(backbone, head, ["c"] * classes, HOW)
