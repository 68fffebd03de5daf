"""Stages: what `rollout.groups` says, and which cameras that means. Pure.

"25%": a quarter of the fleet, by each camera's place in the release's order. "line=3": cameras with that label;
"line=3,shift=late" with both. "20": twenty more cameras that are online. A camera's site is its label `site`.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from hub.seen import CameraView
from shared.errors import SettingError
from shared.manifest import labels_of, place_of

_LABEL = re.compile(r"[A-Za-z0-9._-]{1,63}=[A-Za-z0-9._-]{1,63}")


@dataclass(frozen=True, slots=True)
class Spec:
    """One group: exactly one of labels, percent and count is given."""

    labels: dict[str, str] = field(default_factory=dict)
    percent: float | None = None
    count: int | None = None


def read_spec(text: str) -> Spec:
    """The group that a setting's text means; SettingError where it means none.

    >>> read_spec("10%").percent
    10.0
    """
    if re.fullmatch(r"\d{1,3}(\.\d+)?%", text) and 0 < float(text[:-1]) <= 100:
        return Spec(percent=float(text[:-1]))
    if re.fullmatch(r"[1-9]\d{0,5}", text):
        return Spec(count=int(text))
    parts = text.split(",")
    if all(_LABEL.fullmatch(one) for one in parts):
        return Spec(labels=dict(one.split("=", 1) for one in parts))
    raise SettingError(
        f"{text!r} is no group", subject="rollout.groups", remedy='Write "25%", "line=3", or a number of cameras'
    )


def in_group(spec: Spec, release: int, camera: CameraView, named: Collection[str]) -> bool:
    """Whether a camera is in a group, as the camera itself will find (`shared.manifest.Group.holds`)."""
    if spec.count is not None:
        return camera.name in named
    have = labels_of(camera.name, camera.labels)
    if not all(have.get(name) == value for name, value in spec.labels.items()):
        return False
    return spec.percent is None or place_of(release, camera.name) < spec.percent


def named_by_size(spec: Spec, release: int, cameras: Sequence[CameraView], taken: Collection[str]) -> tuple[str, ...]:
    """The cameras of a group that is a number of them: the first by place that are online and not taken yet."""
    free = [one.name for one in cameras if one.online and one.name not in taken]
    return tuple(sorted(free, key=lambda one: place_of(release, one))[: spec.count or 0])
