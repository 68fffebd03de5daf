"""Run a model under LiteRT (tflite-runtime where only that runs): pixels -> embedding -> probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.calling import called
from shared.errors import PartError
from shared.preprocess import Pixels, Preprocess, to_input

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # armv7l: only tflite-runtime has wheels there
    from tflite_runtime.interpreter import Interpreter

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one frame. probabilities: float32 [classes], sum 1. embedding: float32 [dims].

    confidence: the head's own score, 0 to 1, where it has one (see `hub.head`). thresholds: float32 [classes], above 0.
    """

    probabilities: Floats
    embedding: Floats
    confidence: float | None = None
    thresholds: Floats | None = None

    @property
    def best(self) -> int:
        """Index of the class whose probability is the largest multiple of its threshold; without, the most probable."""
        return int(called(self.probabilities, self.thresholds))

    @property
    def score(self) -> float:
        """The confidence score: the head's own, or else the probability of the most probable class."""
        return float(self.probabilities.max()) if self.confidence is None else self.confidence


class Part:
    """One .tflite file with one float32 input and float32 outputs, ready to run; not safe to share by threads.

    Raises PartError when the bytes are not such a model.
    """

    def __init__(self, data: bytes, *, name: str, threads: int = 1) -> None:
        self.name = name
        try:
            self._interpreter: Any = Interpreter(model_content=data, num_threads=threads)
            self._interpreter.allocate_tensors()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except (ValueError, RuntimeError, TypeError, SystemError) as error:
            raise PartError(
                f"does not load ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                subject=f"model part {name} of {len(data)} bytes",
                remedy="The model in use stays; export and release it again",
            ) from error
        if len(inputs) != 1 or not outputs or any(one["dtype"] != np.float32 for one in (*inputs, *outputs)):
            raise PartError("must have one float32 input and float32 outputs", subject=f"model part {name}")
        self._input = int(inputs[0]["index"])
        self._outputs = [int(one["index"]) for one in outputs]
        self.input_shape: tuple[int, ...] = tuple(int(n) for n in inputs[0]["shape"])
        self.output_shapes: list[tuple[int, ...]] = [tuple(int(n) for n in one["shape"]) for one in outputs]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.output_shapes[0]

    def run(self, x: Floats) -> Floats:
        """Run once on float32 of `input_shape`; returns a copy of the first output, float32 of `output_shape`."""
        return self.run_all(x)[0]

    def run_all(self, x: Floats) -> list[Floats]:
        """Run once on float32 of `input_shape`; returns copies of all outputs, float32 of `output_shapes`."""
        if x.shape != self.input_shape:
            raise PartError(f"takes {self.input_shape}, got {x.shape}", subject=f"model part {self.name}")
        self._interpreter.set_tensor(self._input, x)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise PartError(f"cannot be run ({error})", subject=f"model part {self.name}") from error
        return [np.asarray(self._interpreter.get_tensor(one), dtype=np.float32) for one in self._outputs]


class Head:
    """A head alone: embedding in, Prediction out. Not safe to share by threads. thresholds: as for `Model`."""

    def __init__(self, part: Part, thresholds: Sequence[float] = ()) -> None:
        self._part = part
        self._thresholds = np.array(thresholds, np.float32) if thresholds else None

    def judge(self, embedding: Floats) -> Prediction:
        """Run it on an embedding, float32 [dims]."""
        probabilities, *confidence = self._part.run_all(embedding[np.newaxis])
        score = float(confidence[0][0, 0]) if confidence else None
        return Prediction(probabilities[0], embedding, score, self._thresholds)


class Model:
    """Backbone and head as one: pixels in, Prediction out. Not safe to share by threads.

    The backbone takes float32 [1, size, size, 3] and gives [1, dims]; the head takes [1, dims] and gives calibrated
    probabilities [1, classes] and, if it likes, a confidence score [1, 1]. thresholds: one a class, above 0; empty: the
    most probable class is the label. PartError when they do not fit each other.
    """

    def __init__(
        self,
        backbone: Part,
        head: Part,
        classes: Sequence[str],
        how: Preprocess,
        thresholds: Sequence[float] = (),
    ) -> None:
        if backbone.input_shape != (1, how.size, how.size, 3):
            raise PartError(
                f"takes {backbone.input_shape}, preprocessing gives {(1, how.size, how.size, 3)}",
                subject="backbone",
            )
        if head.input_shape != backbone.output_shape:
            raise PartError(f"takes {head.input_shape}, the backbone gives {backbone.output_shape}", subject="head")
        if head.output_shapes not in ([(1, len(classes))], [(1, len(classes)), (1, 1)]):
            raise PartError(f"gives {head.output_shapes} for {len(classes)} classes", subject="head")
        if thresholds and (len(thresholds) != len(classes) or not min(thresholds) > 0):
            raise PartError(f"has thresholds {list(thresholds)} for {len(classes)} classes", subject="head")
        self._backbone = backbone
        self._head = head
        self.head = Head(head, thresholds)
        self.classes = tuple(classes)
        self.preprocess = how

    def embed(self, pixels: Pixels) -> Floats:
        """Embedding of one image, float32 [dims]."""
        embedding: Floats = self._backbone.run(to_input(pixels, self.preprocess))[0]
        return embedding

    def classify(self, embedding: Floats) -> Floats:
        """Calibrated probabilities of one embedding, float32 [classes]."""
        probabilities: Floats = self._head.run(embedding[np.newaxis])[0]
        return probabilities

    def predict(self, pixels: Pixels) -> Prediction:
        """Run backbone and head on one image."""
        return self.head.judge(self.embed(pixels))

    def judge(self, embedding: Floats) -> Prediction:
        """Run the head alone on an embedding that is there already, float32 [dims]."""
        return self.head.judge(embedding)
