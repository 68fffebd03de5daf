"""Tiny real .tflite models, written with the schema that LiteRT brings: they load in a millisecond and compute."""

import numpy as np
from numpy.typing import NDArray


def _model(
    operator: int,
    options_type: int,
    options: object,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    *,
    constant: NDArray[np.int32] | None = None,
    input_type: int | None = None,
    output_type: int | None = None,
) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: bytes, shape: tuple[int, ...], kind: int, buffer: int) -> object:
        one = schema.TensorT()
        one.name, one.shape, one.type, one.buffer = name, list(shape), kind, buffer
        return one

    def buffer(data: bytes = b"") -> object:
        one = schema.BufferT()
        one.data = np.frombuffer(data, np.uint8) if data else None
        return one

    floats = schema.TensorType.FLOAT32
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = operator, operator, 1
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, [0], [1]
    op.builtinOptionsType, op.builtinOptions = options_type, options
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor(b"in", input_shape, floats if input_type is None else input_type, 1),
        tensor(b"out", output_shape, floats if output_type is None else output_type, 2),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [op]
    buffers = [buffer(), buffer(), buffer()]
    if constant is not None:
        graph.tensors.append(tensor(b"const", constant.shape, schema.TensorType.INT32, 3))
        buffers.append(buffer(constant.tobytes()))
        op.inputs = [0, 2]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def mean_backbone(size: int) -> bytes:
    """float32 [1, size, size, 3] -> [1, 3]: the mean of each colour."""
    from ai_edge_litert import schema_py_generated as schema

    options = schema.ReducerOptionsT()
    options.keepDims = False
    axes = np.array([1, 2], np.int32)
    return _model(
        schema.BuiltinOperator.MEAN, schema.BuiltinOptions.ReducerOptions, options, (1, size, size, 3), (1, 3),
        constant=axes,
    )  # fmt: skip


def softmax_head(classes: int = 3, *, beta: float = 1.0) -> bytes:
    """float32 [1, classes] -> [1, classes]: softmax of beta times the input."""
    from ai_edge_litert import schema_py_generated as schema

    options = schema.SoftmaxOptionsT()
    options.beta = beta
    shape = (1, classes)
    return _model(schema.BuiltinOperator.SOFTMAX, schema.BuiltinOptions.SoftmaxOptions, options, shape, shape)


def whole_number_input(size: int = 3) -> bytes:
    """int32 [1, size] -> float32 [1, size]: loads, but its input is of the wrong type."""
    return _cast(size, backwards=False)


def whole_number_output(size: int = 3) -> bytes:
    """float32 [1, size] -> int32 [1, size]: loads, but its output is of the wrong type."""
    return _cast(size, backwards=True)


def _cast(size: int, *, backwards: bool) -> bytes:
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.TensorType.INT32, schema.TensorType.FLOAT32
    options = schema.CastOptionsT()
    options.inDataType, options.outDataType = kinds[::-1] if backwards else kinds
    return _model(
        schema.BuiltinOperator.CAST, schema.BuiltinOptions.CastOptions, options, (1, size), (1, size),
        input_type=options.inDataType, output_type=options.outDataType,
    )  # fmt: skip
