"""What was measured of a model, as pages, the API and model cards tell it; read from the JSON that a run's row has.

Reads what is there: old rows may lack keys that newer code writes.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(frozen=True)


class Interval(View):
    """A measured value and its 95 % interval; without one, low and high repeat the value."""

    value: float
    low: float
    high: float


class ClassFigures(View):
    """One class on held-out images."""

    name: str
    n: int = 0
    recall: float | None = None
    precision: float | None = None
    f1: float | None = None


class Figures(View):
    """How good a model is on n held-out images. confusion: [label][predicted] counts."""

    n: int = 0
    accuracy: Interval | None = None
    balanced_accuracy: Interval | None = None
    auc: Interval | None = None
    f1: float | None = None
    ece: float | None = None
    classes: list[ClassFigures] = []
    confusion: list[list[int]] = []


class Gain(View):
    """A new model against the old one on the same images. fixed, broken: how many only one of them gets right.

    n: images that decided, which may be fewer than were looked at: after a worn holdout only fresh ones do.
    """

    n: int = 0
    auc_gain: Interval | None = None
    accuracy_gain: Interval | None = None
    mcnemar_p: float | None = None
    fixed: int = 0
    broken: int = 0
    verdict: str = ""
    reason: str = ""


class SliceView(View):
    """Some of the held-out images, by camera, condition, day or week. few: too few for a figure."""

    kind: str
    name: str
    n: int
    few: bool
    accuracy: Interval | None = None
    before: Interval | None = None
    fixed: int = 0
    broken: int = 0


def interval(data: Any) -> Interval | None:
    """An interval, or a bare number as one without width; None for anything else."""
    if isinstance(data, dict) and (value := number(data.get("value"))) is not None:
        low, high = number(data.get("low")), number(data.get("high"))
        return Interval(value=value, low=value if low is None else low, high=value if high is None else high)
    bare = number(data)
    return None if bare is None else Interval(value=bare, low=bare, high=bare)


def number(data: Any) -> float | None:
    """A JSON number as float; None for anything else."""
    return float(data) if isinstance(data, int | float) and not isinstance(data, bool) else None


def figures(data: dict[str, Any], names: Sequence[str]) -> Figures | None:
    """An `Evaluation`; None when there is none. names: of the classes, in the order of its lists."""
    if not data:
        return None
    classes = data.get("classes")
    return Figures(
        n=int(number(data.get("n")) or 0),
        accuracy=interval(data.get("accuracy")),
        balanced_accuracy=interval(data.get("balanced_accuracy")),
        auc=interval(data.get("auc")),
        f1=number(data.get("f1")),
        ece=number(data.get("ece")),
        classes=[_one_class(one, index, names) for index, one in enumerate(classes)]
        if isinstance(classes, list)
        else [],
        confusion=data.get("confusion") or [],
    )


def gain(data: dict[str, Any]) -> Gain | None:
    """A `Comparison`; None when there is none."""
    if not data:
        return None
    return Gain(
        n=int(number(data.get("n")) or 0),
        auc_gain=interval(data.get("auc_gain")),
        accuracy_gain=interval(data.get("accuracy_gain")),
        mcnemar_p=number(data.get("mcnemar_p")),
        fixed=_length(data.get("fixed")),
        broken=_length(data.get("broken")),
        verdict=str(data.get("verdict", "")),
        reason=str(data.get("reason", "")),
    )


def slices(data: Sequence[dict[str, Any]]) -> list[SliceView]:
    """Those of `hub.slices`."""
    return [
        SliceView(**{**one, "accuracy": interval(one.get("accuracy")), "before": interval(one.get("before"))})
        for one in data
    ]


def ids(data: Any) -> list[int]:
    """Ids of images; of anything else none."""
    return [one for one in data if isinstance(one, int)] if isinstance(data, list) else []


def _one_class(data: Any, index: int, names: Sequence[str]) -> ClassFigures:
    found = data if isinstance(data, dict) else {}
    return ClassFigures(
        name=names[index] if index < len(names) else f"class {index}",
        n=int(number(found.get("n")) or 0),
        recall=number(found.get("recall")),
        precision=number(found.get("precision")),
        f1=number(found.get("f1")),
    )


def _length(data: Any) -> int:
    """How many: of a list its length, of a number itself."""
    return len(data) if isinstance(data, list) else int(number(data) or 0)
