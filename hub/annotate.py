"""TFLite metadata: what goes in and out of a model and its labels, inside the .tflite, as task libraries read it.

Written by hand after tflite-support's metadata_schema.fbs: the package that does it brings a hundred megabytes. The
files that it names are a zip behind the flatbuffer, where interpreters do not look.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from shared.preprocess import Preprocess

LABELS = "labels.txt"
CARD = "card.md"
_PARSER = "1.0.0"  # the oldest parser of metadata that knows all that we write
_AXIS_LABELS = 2  # AssociatedFileType.TENSOR_AXIS_LABELS
_FEATURES, _IMAGE = 1, 2  # of the union ContentProperties
_NORMALIZATION = 1  # of the union ProcessUnitOptions
_RGB = 1  # ColorSpaceType
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes


class _Scalar(NamedTuple):
    kind: Literal["Int8", "Uint8", "Uint32"]
    value: int


_Table = Mapping[int, Any]
"""Number of a field -> _Scalar, text, list of floats, table, or list of tables."""


@dataclass(frozen=True, slots=True)
class About:
    """What a model says of itself. version: of the model, such as its release number. card: Markdown."""

    name: str
    version: str
    description: str
    classes: Sequence[str]
    card: str


def metadata(about: About, how: Preprocess) -> bytes:
    """TFLITE_METADATA of a model with one input and one output, as `hub.merge` makes it."""
    import flatbuffers  # type: ignore[import-untyped]

    image = {
        0: "image",
        1: f"RGB, {how.size} x {how.size} pixels, 0 to 255; the model scales them itself",
        3: {0: _Scalar("Uint8", _IMAGE), 1: {0: _Scalar("Int8", _RGB), 1: _size(how)}},
        4: [{0: _Scalar("Uint8", _NORMALIZATION), 1: {0: [0.0], 1: [1.0]}}],
        5: {0: [255.0], 1: [0.0]},
    }
    probabilities = {
        0: "probabilities",
        1: "calibrated, one a class",
        3: {0: _Scalar("Uint8", _FEATURES), 1: {}},
        5: {0: [1.0], 1: [0.0]},
        6: [{0: LABELS, 1: "class names", 2: _Scalar("Int8", _AXIS_LABELS)}],
    }
    model = {
        0: about.name,
        1: about.description,
        2: about.version,
        3: [{2: [image], 3: [probabilities]}],
        6: [{0: CARD, 1: "model card"}],
        7: _PARSER,
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, model), file_identifier=b"M001")
    return bytes(builder.Output())


def with_files(model: bytes, about: About) -> bytes:
    """A .tflite with the files behind it that its metadata names: labels, one a line, and the model card."""
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a") as pack:
        for name, text in (
            (LABELS, "".join(f"{' '.join(one.split())}\n" for one in about.classes)),
            (CARD, about.card),
        ):
            pack.writestr(zipfile.ZipInfo(name, _LONG_AGO), text.encode())
    return file.getvalue()


def _size(how: Preprocess) -> _Table:
    return {0: _Scalar("Uint32", how.size), 1: _Scalar("Uint32", how.size)}


def _written(builder: Any, value: Any) -> int:
    """Write what is no scalar; returns its offset. Children come before their parents."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, list):
        if value and isinstance(value[0], float):
            builder.StartVector(4, len(value), 4)
            for number in reversed(value):
                builder.PrependFloat32(number)
            return int(builder.EndVector())
        offsets = [_written(builder, one) for one in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    fields = {number: one if isinstance(one, _Scalar) else _written(builder, one) for number, one in value.items()}
    builder.StartObject(max(fields, default=-1) + 1)
    for number, one in fields.items():
        if isinstance(one, _Scalar):
            getattr(builder, f"Prepend{one.kind}Slot")(number, one.value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(number, one, 0)
    return int(builder.EndObject())
