"""The metadata in a .tflite, read back field by field, with the numbers of tflite-support's schema."""

import io
import zipfile

import flatbuffers
import numpy as np
import pytest
from flatbuffers.table import Table

from hub.annotate import About, metadata, with_files
from hub.merge import merged
from hub.tflite import unpack
from shared.litert import Part
from shared.preprocess import Preprocess
from tests.fakes.models import mean_backbone, softmax_head

HOW = Preprocess(size=32)
ABOUT = About("cells, release 3", "3", "Finds cracks.", ["good", "crack\n2", "größer"], "# Card\n")
FLAGS = flatbuffers.number_types


class Read:
    """A table of a flatbuffer, by the numbers of its fields."""

    def __init__(self, data, place):
        self.table = Table(data, place)

    def at(self, number):
        found = self.table.Offset(4 + 2 * number)
        return self.table.Pos + found if found else 0

    def text(self, number):
        return self.table.String(self.at(number)).decode()

    def child(self, number):
        return Read(self.table.Bytes, self.table.Indirect(self.at(number)))

    def children(self, number):
        found = self.table.Offset(4 + 2 * number)
        start = self.table.Vector(found)
        return [
            Read(self.table.Bytes, self.table.Indirect(start + 4 * one)) for one in range(self.table.VectorLen(found))
        ]

    def floats(self, number):
        found = self.table.Offset(4 + 2 * number)
        start, count = self.table.Vector(found), self.table.VectorLen(found)
        return [float(self.table.Get(FLAGS.Float32Flags, start + 4 * one)) for one in range(count)]

    def number(self, number, kind):
        return self.table.Get(kind, self.at(number))


@pytest.fixture
def root():
    data = metadata(ABOUT, HOW)
    assert data[4:8] == b"M001"
    return Read(data, flatbuffers.encode.Get(FLAGS.UOffsetTFlags.packer_type, data, 0))


def test_the_model_says_what_it_is(root):
    assert [root.text(one) for one in (0, 1, 2, 7)] == ["cells, release 3", "Finds cracks.", "3", "1.0.0"]
    assert [one.text(0) for one in root.children(6)] == ["card.md"]


def test_the_input_is_an_rgb_image_that_nobody_need_scale(root):
    [graph] = root.children(3)
    [image] = graph.children(2)
    assert image.text(0) == "image"
    content = image.child(3)
    assert content.number(0, FLAGS.Uint8Flags) == 2  # ImageProperties
    picture = content.child(1)
    assert picture.number(0, FLAGS.Int8Flags) == 1  # RGB
    assert [picture.child(1).number(one, FLAGS.Uint32Flags) for one in (0, 1)] == [32, 32]
    [unit] = image.children(4)
    assert unit.number(0, FLAGS.Uint8Flags) == 1  # NormalizationOptions
    assert (unit.child(1).floats(0), unit.child(1).floats(1)) == ([0.0], [1.0])
    assert (image.child(5).floats(0), image.child(5).floats(1)) == ([255.0], [0.0])


def test_the_output_names_the_file_of_labels(root):
    [graph] = root.children(3)
    [probabilities] = graph.children(3)
    [labels] = probabilities.children(6)
    assert labels.text(0) == "labels.txt"
    assert labels.number(2, FLAGS.Int8Flags) == 2  # TENSOR_AXIS_LABELS


def test_the_files_lie_behind_a_model_that_loads():
    data = with_files(merged(mean_backbone(32), softmax_head(), HOW, metadata(ABOUT, HOW)), ABOUT)
    assert data == with_files(merged(mean_backbone(32), softmax_head(), HOW, metadata(ABOUT, HOW)), ABOUT)
    with zipfile.ZipFile(io.BytesIO(data)) as pack:
        assert pack.read("labels.txt").decode() == "good\ncrack 2\ngrößer\n"
        assert pack.read("card.md") == b"# Card\n"
    part = Part(data, name="export")
    assert part.run(np.zeros((1, 32, 32, 3), np.float32)).sum() == pytest.approx(1)
    model = unpack(data)
    [entry] = [one for one in model.metadata if one.name == b"TFLITE_METADATA"]
    assert bytes(model.buffers[entry.buffer].data) == metadata(ABOUT, HOW)
