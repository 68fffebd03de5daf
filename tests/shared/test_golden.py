"""A model must compute on the camera what it computed on the hub, or not be used."""

import msgspec
import numpy as np
import pytest

from shared import golden as module
from shared.errors import GoldenError, PartError
from shared.golden import Golden, GoldenResult, Tolerances, check, decode, encode, golden_outputs
from shared.litert import Model
from shared.preprocess import Preprocess, encode_png, to_input

HOW = Preprocess(size=4)
DIMS = 6


class Numbers:
    """A part whose computing is plain to see: softmax or identity of x @ weights, with noise where asked."""

    def __init__(self, weights, inputs, *, softmax=False):
        self.weights = weights
        self.softmax = softmax
        self.input_shape = inputs
        self.output_shape = (1, weights.shape[1])
        self.output_shapes = [self.output_shape]
        self.runs = 0

    def run(self, x):
        assert x.shape == self.input_shape
        self.runs += 1
        y = x.reshape(1, -1) @ self.weights
        if self.softmax:
            y = np.exp(y - y.max())
            y /= y.sum()
        return y.astype(np.float32)

    def run_all(self, x):
        return [self.run(x)]


def make_model(seed=0):
    rng = np.random.default_rng(seed)
    backbone = Numbers(rng.normal(size=(48, DIMS)), (1, 4, 4, 3))
    head = Numbers(rng.normal(size=(DIMS, 3)) * 0.1, (1, DIMS), softmax=True)
    return Model(backbone, head, ["a", "b", "c"], HOW), backbone, head


def make_golden(backbone, count=3):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (5 + n, 7, 3), dtype=np.uint8) for n in range(count)]
    embeddings = [backbone.run(to_input(image, HOW))[0] for image in images]
    return Golden(dims=DIMS, inputs=[encode_png(i) for i in images], embeddings=[e.tobytes() for e in embeddings])


def test_it_pauses_before_each_input():
    model, backbone, _ = make_model()
    golden = make_golden(backbone)
    outputs, runs = golden_outputs(model, golden), []
    before = backbone.runs
    check(model, golden, outputs, Tolerances(), lambda: runs.append(backbone.runs - before))
    assert runs == [0, 1, 2]


def test_the_hub_itself_passes_without_any_tolerance_for_probabilities():
    model, backbone, _ = make_model()
    golden = decode(encode(make_golden(backbone)))
    outputs = golden_outputs(model, golden)
    assert np.shape(outputs) == (3, 3)
    result = check(model, golden, outputs, Tolerances(max_probability_difference=1e-6, min_cosine=0.999999))
    assert result.worst_cosine == pytest.approx(1.0)
    assert result.worst_difference <= 1e-6


def test_outputs_come_from_the_stored_embeddings_without_running_the_backbone():
    model, backbone, head = make_model()
    golden = make_golden(backbone)
    before = backbone.runs
    outputs = golden_outputs(model, golden)
    assert backbone.runs == before
    assert outputs[1] == pytest.approx(head.run(golden.embedding(1)[None])[0].tolist())


def test_the_worst_input_counts_and_is_measured_exactly():
    model, backbone, _ = make_model()
    golden = make_golden(backbone)
    outputs = golden_outputs(model, golden)
    outputs[1][2] += 0.015
    assert check(model, golden, outputs, Tolerances()).worst_difference == pytest.approx(0.015, abs=1e-5)
    outputs[2][0] -= 0.021
    with pytest.raises(GoldenError, match=r"worst probability difference 0\.0210\d\d \(at most 0\.02\), over 3 inputs"):
        check(model, golden, outputs, Tolerances())
    assert check(model, golden, outputs, Tolerances(max_probability_difference=0.03)) == GoldenResult(
        pytest.approx(1.0), pytest.approx(0.021, abs=1e-5)
    )


def test_another_backbone_is_refused_by_cosine_even_where_probabilities_are_tolerated():
    model, backbone, _ = make_model()
    golden = make_golden(backbone)
    outputs = golden_outputs(model, golden)
    backbone.weights = np.random.default_rng(9).normal(size=backbone.weights.shape)
    with pytest.raises(GoldenError, match=r"worst cosine -?0\.\d+ \(at least 0\.999\)"):
        check(model, golden, outputs, Tolerances(max_probability_difference=1))


def test_a_small_turn_of_the_embedding_is_within_tolerance_and_a_larger_one_is_not():
    model, backbone, head = make_model()
    golden = make_golden(backbone, count=1)
    head.weights *= 0  # probabilities do not depend on the embedding any more
    outputs = golden_outputs(model, golden)
    stored = golden.embedding(0).astype(np.float64)
    across = np.random.default_rng(2).normal(size=DIMS)
    across -= stored * (across @ stored) / (stored @ stored)
    across *= np.linalg.norm(stored) / np.linalg.norm(across)
    for angle, passes in ((0.04, True), (0.05, False)):  # cosines .99920 and .99875
        turned = (np.cos(angle) * stored + np.sin(angle) * across).astype("<f4").tobytes()
        other = msgspec.structs.replace(golden, embeddings=[turned])
        if passes:
            assert check(model, other, outputs, Tolerances()).worst_cosine == pytest.approx(np.cos(angle), abs=1e-6)
        else:
            with pytest.raises(GoldenError, match=r"worst cosine 0\.99875"):
                check(model, other, outputs, Tolerances())


def test_one_input_that_is_off_is_not_averaged_away():
    model, backbone, _ = make_model()
    golden = make_golden(backbone, count=10)
    outputs = golden_outputs(model, golden)
    wrong = np.eye(1, DIMS, dtype="<f4").tobytes()
    for number in (0, 9):
        embeddings = [wrong if n == number else one for n, one in enumerate(golden.embeddings)]
        other = msgspec.structs.replace(golden, embeddings=embeddings)
        with pytest.raises(GoldenError, match="worst cosine"):
            check(model, other, outputs, Tolerances(min_cosine=0.85))


@pytest.mark.parametrize("part", ["backbone", "head"])
def test_not_a_number_never_passes(part):
    model, backbone, head = make_model()
    golden = make_golden(backbone)
    outputs = golden_outputs(model, golden)
    broken = {"backbone": backbone, "head": head}[part]
    broken.weights = np.full_like(broken.weights, np.nan)
    with pytest.raises(GoldenError, match="nan"):
        check(model, golden, outputs, Tolerances(min_cosine=-1, max_probability_difference=1))


def test_an_expected_value_that_is_not_a_number_never_passes():
    model, backbone, _ = make_model()
    golden = make_golden(backbone)
    outputs = golden_outputs(model, golden)
    outputs[0][0] = float("nan")
    with pytest.raises(GoldenError):
        check(model, golden, outputs, Tolerances(max_probability_difference=1))


def test_zero_embeddings_do_not_pass():
    model, backbone, _ = make_model()
    golden = make_golden(backbone)
    outputs = golden_outputs(model, golden)
    backbone.weights = backbone.weights * 0
    with pytest.raises(GoldenError, match=r"worst cosine 0\.000000"):
        check(model, golden, outputs, Tolerances(max_probability_difference=1))


@pytest.mark.parametrize("cut", [lambda rows: rows[:-1], lambda rows: [row[:-1] for row in rows], lambda rows: []])
def test_a_manifest_that_names_another_shape_is_refused(cut):
    model, backbone, _ = make_model()
    golden = make_golden(backbone)
    with pytest.raises(GoldenError, match="must name 3 x 3"):
        check(model, golden, cut(golden_outputs(model, golden)), Tolerances())


def test_a_golden_part_round_trips():
    _, backbone, _ = make_model()
    golden = make_golden(backbone)
    assert decode(encode(golden)) == golden
    assert golden.embedding(2).dtype == np.float32
    assert golden.embedding(2).shape == (DIMS,)


def test_damaged_bytes_are_a_part_error():
    _, backbone, _ = make_model()
    data = encode(make_golden(backbone))
    for cut in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(PartError, match="damaged"):
            decode(data[:cut])
    with pytest.raises(PartError, match="damaged"):
        decode(b"\xff" * 100)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embeddings": [b"\0" * 24] * 2}, "3 inputs and 2 embeddings"),
        ({"embeddings": [b"\0" * 24] * 2 + [b"\0" * 20]}, "embedding 2 has 20 bytes, not 4 x 6"),
        ({"embeddings": [np.full(6, np.inf, "<f4").tobytes()] * 3}, "embedding 0 is not finite"),
        ({"inputs": [], "embeddings": []}, "damaged"),
        ({"inputs": [b""] * 65, "embeddings": [b"\0" * 24] * 65}, "damaged"),
        ({"dims": 0}, "damaged"),
        ({"v": 2}, "damaged"),
    ],
)
def test_a_golden_part_that_contradicts_itself_is_refused(change, says):
    _, backbone, _ = make_model()
    golden = msgspec.structs.replace(make_golden(backbone), **change)
    with pytest.raises(PartError, match=says):
        decode(msgspec.msgpack.encode(golden))
    with pytest.raises(PartError):
        encode(golden)


def test_a_golden_part_is_bounded(monkeypatch):
    _, backbone, _ = make_model()
    golden = make_golden(backbone)
    size = len(encode(golden))
    monkeypatch.setattr(module, "MAX_GOLDEN", size - 1)
    with pytest.raises(PartError, match=f"longer than {size - 1} bytes"):
        encode(golden)
