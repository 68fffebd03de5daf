"""A .tflite file as Python objects and back (schema: tensorflow/lite/schema/schema.fbs, version 3)."""

from typing import Any


def new(kind: str, **fields: Any) -> Any:
    """An object of the schema's table `kind`."""
    from ai_edge_litert import schema_py_generated as schema

    made = getattr(schema, f"{kind}T")()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def unpack(data: bytes) -> Any:
    """The ModelT of a .tflite that LiteRT has loaded before: what is none fails in any way."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(data, 0)


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
