"""A .tflite file as Python objects and back (schema: tensorflow/lite/schema/schema.fbs, version 3)."""

from typing import Any

import numpy as np


def new(kind: str, **fields: Any) -> Any:
    """An object of the schema's table `kind`."""
    from ai_edge_litert import schema_py_generated as schema

    made = getattr(schema, f"{kind}T")()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def unpack(data: bytes) -> Any:
    """The ModelT of a .tflite that LiteRT has loaded before: what is none fails in any way.

    Weights that lie behind the flatbuffer, as quantizers put them, are in it too.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for one in model.buffers:
        if one.offset:
            one.data = np.frombuffer(data, np.uint8, one.size, one.offset)
            one.offset = one.size = 0
    return model


def pack(model: Any, room: int = 8192) -> bytes:
    """A ModelT as .tflite, the same bytes for the same model. room: bytes that it takes about."""
    import flatbuffers  # type: ignore[import-untyped]

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802
            self.Prep(16, x.nbytes)  # the schema's `force_align: 16`, which generated Python leaves out
            return super().CreateNumpyVector(x)

    builder = Builder(room)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
