"""Backbone and head -> one .tflite that takes pixels and gives probabilities, for people without Hone.

The head's operators are appended to the backbone's graph, the preprocessing goes before it: no weight is touched, so
the file computes what the release computes. Any backbone that a release can have may be merged, int8 ones too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.tflite import new, pack, unpack
from shared.errors import ModelError
from shared.preprocess import Preprocess

MOST_BYTES = 2**31 - 2**20
INPUT, OUTPUT = "image", "probabilities"
"""Names of the tensors that go in and out."""


def merged(backbone: bytes, head: bytes, how: Preprocess, metadata: bytes = b"") -> bytes:
    """One .tflite: float32 [1, size, size, 3], RGB from 0 to 255 -> probabilities float32 [1, classes].

    backbone, head: parts of a release, which LiteRT loads. metadata: kept as TFLITE_METADATA. ModelError where the
    backbone is too large for that, or has custom operators of a kind that cannot be moved.
    """
    model, other = unpack(backbone), unpack(head)
    size = len(backbone) + len(head) + len(metadata)
    if size > MOST_BYTES:
        raise ModelError(
            f"would have {size} bytes with its head, and a flatbuffer cannot have more than {MOST_BYTES}",
            subject="backbone",
            remedy="Quantize it, or hand out both parts of the release as they are",
        )
    if any(one.largeCustomOptionsSize for graph in model.subgraphs for one in graph.operators or []):
        raise ModelError(
            "has custom operators with options behind its flatbuffer, so it cannot be merged with its head",
            subject="backbone",
            remedy="Convert it again without them, and train again",
        )
    graph = _Graph(model)
    graph.before(how)
    graph.after(other)
    if metadata:
        graph.note("TFLITE_METADATA", metadata)
    return pack(model, size + 65536)


class _Graph:
    """The first subgraph of a ModelT, which is the one that LiteRT runs; changed in place."""

    def __init__(self, model: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model = model
        self._graph = model.subgraphs[0]

    def before(self, how: Preprocess) -> None:
        """Let the graph take pixels from 0 to 255."""
        [inner] = self._graph.inputs
        shape = [1, how.size, how.size, 3]
        pixels, centred = self._tensor(INPUT, shape), self._tensor("centred", shape)
        mean, scale = (
            self._tensor(name, [1], np.array([value], "<f4"))
            for name, value in (("mean", how.mean), ("scale", how.scale))
        )
        self._graph.operators[:0] = [
            self._operator("SUB", [pixels, mean], centred, "SubOptions"),
            self._operator("DIV", [centred, scale], int(inner), "DivOptions"),
        ]
        self._graph.inputs = [pixels]

    def after(self, other: Any) -> None:
        """Append what the first output of another model's first subgraph needs; it takes this one's first output."""
        theirs = other.subgraphs[0]
        place = {int(theirs.inputs[0]): int(self._graph.outputs[0])}
        wanted = int(theirs.outputs[0])
        for operator in _needed(theirs, wanted):
            for one in (*operator.inputs, *operator.outputs):
                if int(one) >= 0 and int(one) not in place:
                    place[int(one)] = self._adopt(other, theirs.tensors[int(one)])
            operator.opcodeIndex = self._code(other.operatorCodes[operator.opcodeIndex])
            operator.inputs = [place.get(int(one), -1) for one in operator.inputs]
            operator.outputs = [place[int(one)] for one in operator.outputs]
            self._graph.operators.append(operator)
        self._graph.tensors[place[wanted]].name = OUTPUT
        self._graph.outputs = [place[wanted]]
        self._model.description = "Hone model"
        self._model.signatureDefs = [
            new(
                "SignatureDef",
                signatureKey="serving_default",
                subgraphIndex=0,
                inputs=[new("TensorMap", name=INPUT, tensorIndex=int(self._graph.inputs[0]))],
                outputs=[new("TensorMap", name=OUTPUT, tensorIndex=place[wanted])],
            )
        ]

    def note(self, name: str, data: bytes) -> None:
        """Keep some metadata."""
        known = [one for one in self._model.metadata or [] if one.name not in (name, name.encode())]
        self._model.metadata = [*known, new("Metadata", name=name, buffer=self._buffer(np.frombuffer(data, np.uint8)))]

    def _adopt(self, other: Any, tensor: Any) -> int:
        """A tensor of another model, with its values."""
        data = other.buffers[tensor.buffer].data
        tensor.buffer = 0 if data is None else self._buffer(data)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _tensor(self, name: str, shape: list[int], values: NDArray[np.float32] | None = None) -> int:
        buffer = 0 if values is None else self._buffer(values.view(np.uint8))
        kind = self._schema.TensorType.FLOAT32
        self._graph.tensors.append(new("Tensor", name=name, shape=shape, type=kind, buffer=buffer))
        return len(self._graph.tensors) - 1

    def _buffer(self, data: NDArray[np.uint8]) -> int:
        self._model.buffers.append(new("Buffer", data=data))
        return len(self._model.buffers) - 1

    def _operator(self, kind: str, inputs: list[int], output: int, options: str) -> Any:
        builtin = getattr(self._schema.BuiltinOperator, kind)
        return new(
            "Operator",
            opcodeIndex=self._code(new("OperatorCode", builtinCode=builtin, deprecatedBuiltinCode=builtin, version=1)),
            inputs=inputs,
            outputs=[output],
            builtinOptionsType=getattr(self._schema.BuiltinOptions, options),
            builtinOptions=new(options),
        )

    def _code(self, wanted: Any) -> int:
        """The place of an operator's code, which is added where it is not there."""
        for place, one in enumerate(self._model.operatorCodes):
            same = (one.builtinCode, one.version, one.customCode)
            if same == (wanted.builtinCode, wanted.version, wanted.customCode):
                return place
        self._model.operatorCodes.append(wanted)
        return len(self._model.operatorCodes) - 1


def _needed(graph: Any, wanted: int) -> list[Any]:
    """The operators that a tensor comes from, in their order."""
    needed, found = {wanted}, []
    for operator in reversed(graph.operators):
        if needed & {int(one) for one in operator.outputs}:
            needed |= {int(one) for one in operator.inputs}
            found.append(operator)
    return found[::-1]
