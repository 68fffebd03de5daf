"""Where a model is good and where it is not: its answers on held-out images, by camera, condition and time."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hub.evaluate import Interval, wilson

DAYS = timedelta(days=14)
"""Images of a longer time are told apart by week."""
IMPORTED = "imported"
CLEAN = "nothing found"
Kind = Literal["camera", "condition", "day", "week"]


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the held-out images. name: of the camera, of a finding, or of a day (2026-03-01) or week (2026-W09), UTC.

    accuracy, before: of the new and the old model, with Wilson's interval; None where n is too few, or there is no old
    one. fixed, broken: images that only the new, or only the old one gets right.
    """

    kind: Kind
    name: str
    n: int
    few: bool
    accuracy: Interval | None = None
    before: Interval | None = None
    fixed: int = 0
    broken: int = 0


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of an image beside its class. camera: "" for an imported one, whose time says nothing.

    conditions: what `verify` found; None: it never looked, as at imported images.
    """

    camera: str
    conditions: Sequence[str] | None
    at: datetime


def slices(
    right: NDArray[np.bool_], traits: Sequence[Traits], *, before: NDArray[np.bool_] | None = None, minimum: int
) -> list[Slice]:
    """Slice bool [n], whether the model is right, by the traits of the n images; before: the same of the old model.

    An image is in one slice of each kind, but of conditions in as many as it has; in none of these when nobody looked
    for any. A kind with one slice is left out.
    """
    members: dict[tuple[Kind, str], list[int]] = defaultdict(list)
    for index, keys in enumerate(_keys(traits)):
        for key in keys:
            members[key].append(index)
    found = []
    for (kind, name), indices in sorted(members.items(), key=lambda one: one[0]):
        if sum(other == kind for other, _ in members) < 2:
            continue
        now, n = right[indices], len(indices)
        was = None if before is None else before[indices]
        few = n < minimum
        found.append(
            Slice(
                kind=kind,
                name=name,
                n=n,
                few=few,
                accuracy=None if few else wilson(float(now.mean()), n),
                before=None if few or was is None else wilson(float(was.mean()), n),
                fixed=0 if was is None else int((now & ~was).sum()),
                broken=0 if was is None else int((was & ~now).sum()),
            )
        )
    return found


def _keys(traits: Sequence[Traits]) -> Iterator[list[tuple[Kind, str]]]:
    times = [one.at for one in traits if one.camera]
    weeks = bool(times) and max(times) - min(times) > DAYS
    for one in traits:
        keys: list[tuple[Kind, str]] = [("camera", one.camera or IMPORTED)]
        if one.conditions is not None:
            keys += [("condition", name) for name in sorted(set(one.conditions)) or [CLEAN]]
        if one.camera:
            keys.append(("week", f"{one.at:%G-W%V}") if weeks else ("day", f"{one.at:%Y-%m-%d}"))
        yield keys
