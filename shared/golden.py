"""The golden check: before a camera uses a model, it must compute what the hub computed.

The inputs and the backbone's embeddings of them are a part of their own, which belongs to the backbone and stays on
the camera. The head's outputs on them are named by the signed manifest, so a new head costs no new golden part.
"""

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from shared.errors import GoldenError, PartError
from shared.preprocess import decode as decode_image

if typing.TYPE_CHECKING:  # who reads a manifest needs no runtime
    from shared.litert import Floats, Model

MAX_GOLDEN = 16 * 1024 * 1024
"""No golden part is longer (bytes)."""
MAX_INPUTS = 64
"""No golden part has more inputs: a camera runs them all before it swaps."""


class Tolerances(msgspec.Struct, frozen=True, kw_only=True):
    """How far a camera may be from the hub; part of the signed manifest.

    min_cosine: of its embedding to the hub's. max_probability_difference: of any class of any input.
    """

    min_cosine: Annotated[float, Meta(ge=-1, le=1)] = 0.999
    max_probability_difference: Annotated[float, Meta(ge=0, le=1)] = 0.02


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs and what the backbone makes of them. inputs: PNG files; embeddings: float32 little-endian [dims]."""

    v: Literal[1] = 1
    dims: Annotated[int, Meta(ge=1, le=1 << 16)]
    inputs: Annotated[list[bytes], Meta(min_length=1, max_length=MAX_INPUTS)]
    embeddings: Annotated[list[bytes], Meta(min_length=1, max_length=MAX_INPUTS)]

    def embedding(self, index: int) -> "Floats":
        """The hub's embedding of one input, float32 [dims]."""
        return np.frombuffer(self.embeddings[index], dtype="<f4").astype(np.float32)


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How far the worst input was from the hub: cosine of embeddings, and difference of a probability."""

    worst_cosine: float
    worst_difference: float


def encode(golden: Golden) -> bytes:
    """Golden -> the bytes of a golden part (msgpack); PartError if `decode` would refuse them."""
    data = msgspec.msgpack.encode(golden)
    decode(data)
    return data


def decode(data: bytes) -> Golden:
    """The bytes of a golden part -> Golden; PartError if they are damaged or longer than MAX_GOLDEN."""
    subject = f"golden part of {len(data)} bytes"
    if len(data) > MAX_GOLDEN:
        raise PartError(f"is longer than {MAX_GOLDEN} bytes", subject=subject, remedy="Use fewer golden images")
    try:
        golden = msgspec.msgpack.decode(data, type=Golden)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PartError(f"is damaged ({error})", subject=subject, remedy="Fetch it again") from error
    if len(golden.inputs) != len(golden.embeddings):
        raise PartError(f"has {len(golden.inputs)} inputs and {len(golden.embeddings)} embeddings", subject=subject)
    for number in range(len(golden.embeddings)):
        size = len(golden.embeddings[number])
        if size != 4 * golden.dims:
            raise PartError(f"embedding {number} has {size} bytes, not 4 x {golden.dims}", subject=subject)
        if not np.isfinite(golden.embedding(number)).all():
            raise PartError(f"embedding {number} is not finite", subject=subject)
    return golden


def golden_outputs(model: "Model", golden: Golden) -> list[list[float]]:
    """What the head gives for the golden embeddings, [inputs][classes]: what the hub writes into the manifest."""
    return [model.classify(golden.embedding(number)).tolist() for number in range(len(golden.inputs))]


def check(
    model: "Model",
    golden: Golden,
    expected_probabilities: Sequence[Sequence[float]],
    tolerances: Tolerances,
    pause: Callable[[], None] = lambda: None,
) -> GoldenResult:
    """Run `model` on the golden inputs; GoldenError, with what was measured, where it is beyond `tolerances`.

    ImageError where an input cannot be decoded. Not a finite number counts as beyond every tolerance. pause: called
    before each input.
    """
    classes = len(model.classes)
    if len(expected_probabilities) != len(golden.inputs) or any(len(row) != classes for row in expected_probabilities):
        raise GoldenError(
            f"the manifest must name {len(golden.inputs)} x {classes} probabilities, it names "
            f"{len(expected_probabilities)} x {sorted({len(row) for row in expected_probabilities})}",
            subject="golden check",
            remedy="Release the model again",
        )
    cosines: list[float] = []
    differences: list[float] = []
    for number, data in enumerate(golden.inputs):
        pause()
        prediction = model.predict(decode_image(data))
        if not 0 <= prediction.score <= 1:
            raise GoldenError(f"gives a confidence score of {prediction.score}", subject="golden check")
        cosines.append(_cosine(prediction.embedding, golden.embedding(number)))
        expected = np.asarray(expected_probabilities[number], dtype=np.float32)
        differences.append(float(np.abs(prediction.probabilities - expected).max()))
    result = GoldenResult(float(np.min(cosines)), float(np.max(differences)))  # both keep a NaN
    near = result.worst_cosine >= tolerances.min_cosine
    alike = result.worst_difference <= tolerances.max_probability_difference
    if not (near and alike):
        raise GoldenError(
            f"computes something else than on the hub: worst cosine {result.worst_cosine:.6f} "
            f"(at least {tolerances.min_cosine:g}), worst probability difference {result.worst_difference:.6f} "
            f"(at most {tolerances.max_probability_difference:g}), over {len(golden.inputs)} inputs",
            subject="golden check",
            remedy="The model in use stays; compare runtime versions",
        )
    return result


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Cosine of the angle between two vectors; 0 where either is zero or their lengths differ, NaN stays NaN."""
    if a.shape != b.shape:
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length != 0 else 0.0
