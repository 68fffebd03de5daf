"""Backbone and head merged into one .tflite compute under real LiteRT what they compute one after the other."""

import numpy as np
import pytest

from hub.export import export_backbone, export_head
from hub.head import Head, Layer
from hub.merge import merged
from hub.tflite import new, pack, unpack
from shared.errors import ModelError
from shared.litert import Model, Part
from shared.preprocess import Preprocess, to_input
from tests.fakes.models import mean_backbone, softmax_head
from tests.hub.conftest import CACHE
from tests.hub.test_export import images, make_head

HOW = Preprocess(size=32, mean=100.0, scale=50.0)


def difference(backbone, head, how, classes):
    """Between the merged file and the two parts, on drawn pictures."""
    part = Part(merged(backbone, head, how), name="merged")
    model = Model(Part(backbone, name="backbone"), Part(head, name="head"), ["c"] * classes, how)
    assert part.input_shape == (1, how.size, how.size, 3)
    assert part.output_shapes == [(1, classes)]
    pixels = Preprocess(size=how.size, mean=0, scale=1)
    return max(
        float(np.abs(part.run(to_input(one, pixels))[0] - model.predict(one).probabilities).max()) for one in images(3)
    )


@pytest.mark.parametrize("head", [softmax_head(), export_head(make_head(4, 3))], ids=["softmax", "ours"])
def test_any_backbone_and_head_are_merged(head):
    classes = Part(head, name="head").output_shape[1]
    assert difference(mean_backbone(32), head, HOW, classes) == 0


def test_lite0_is_merged():
    how = Preprocess()
    assert difference(export_backbone(CACHE, how), export_head(make_head(3)), how, 3) == 0


def test_a_head_with_a_hidden_layer_is_merged():
    rng = np.random.default_rng(4)
    hidden = Layer(rng.normal(size=(5, 3)).astype(np.float32), np.ones(5, np.float32))
    weights = rng.normal(size=(2, 5)).astype(np.float32)
    head = Head(weights, np.zeros(2, np.float32), 1.3, np.zeros(3, np.float32), np.ones(3, np.float32), hidden)
    assert difference(mean_backbone(32), export_head(head), HOW, 2) == 0


def test_what_probabilities_do_not_need_is_left_out():
    backbone, head = export_backbone(CACHE, Preprocess()), export_head(make_head(2, 1280))
    added = len(merged(backbone, head, Preprocess())) - len(backbone)
    assert added < len(head) - 2 * 4 * 1280 + 2000  # neither center nor gain


def test_the_file_names_what_goes_in_and_out_and_is_the_same_each_time():
    data = merged(mean_backbone(32), softmax_head(), HOW)
    assert data == merged(mean_backbone(32), softmax_head(), HOW)
    [signature] = unpack(data).signatureDefs
    assert (signature.inputs[0].name, signature.outputs[0].name) == (b"image", b"probabilities")


def test_metadata_is_kept_once_beside_what_was_there():
    model = unpack(mean_backbone(32))
    model.buffers.append(new("Buffer", data=np.frombuffer(b"old", np.uint8)))
    place = len(model.buffers) - 1
    model.metadata = [new("Metadata", name=name, buffer=place) for name in ("TFLITE_METADATA", "other")]
    made = unpack(merged(pack(model), softmax_head(), HOW, b"fresh"))
    found = {one.name: bytes(made.buffers[one.buffer].data) for one in made.metadata}
    assert found == {b"other": b"old", b"TFLITE_METADATA": b"fresh"}
    assert len(made.metadata) == 2


def behind(data):
    """The same file with all its constants behind the flatbuffer, as ai-edge-quantizer writes them."""
    model = unpack(data)
    values = [(one, bytes(one.data)) for one in model.buffers if one.data is not None]
    for one, value in values:
        one.data, one.offset, one.size = None, 2, len(value)  # 0 and 1 mean that there is none
    at = len(pack(model))
    for one, value in values:
        one.offset, at = at, at + len(value)
    return pack(model) + b"".join(value for _, value in values)


def test_weights_behind_the_flatbuffer_come_along():
    head = export_head(make_head(2, 3))
    assert behind(head) != head
    assert Part(behind(head), name="head").run(np.ones((1, 3), np.float32)).sum() == pytest.approx(1)
    assert difference(behind(mean_backbone(32)), behind(head), HOW, 2) == 0


def test_what_cannot_be_merged_is_a_clear_error(monkeypatch):
    model = unpack(mean_backbone(32))
    model.subgraphs[0].operators[0].largeCustomOptionsSize = 8
    with pytest.raises(ModelError, match="custom operators with options behind its flatbuffer"):
        merged(pack(model), softmax_head(), HOW)
    monkeypatch.setattr("hub.merge.MOST_BYTES", 100)
    with pytest.raises(ModelError, match="a flatbuffer cannot have more than 100"):
        merged(mean_backbone(32), softmax_head(), HOW)
