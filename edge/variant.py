"""Variant: which form of a model a camera runs, float or int8. Values in, a decision out.

1. A release without an int8 variant is run as float. Otherwise `variant` in edge.toml says it, unless it is "auto".
2. Auto keeps what runs until float was measured here, and starts with float.
3. Where int8 was measured too and is no faster than float, auto takes float: not every runtime gains by it.
4. Auto takes float while its median prediction takes SHARE of the usual time between two frames at most, and else int8.
   A camera that runs int8 goes back only when float would take BACK at most, so that it does not flap.

Judged when a release is taken: no camera fetches a model because a minute was busy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.manifest import VariantName

Setting = Literal["auto", "float", "int8"]
SHARE = 0.5
"""Share of the time between two frames that float may take: decoding, triage and sending want the rest."""
BACK = 0.4


@dataclass(frozen=True, slots=True)
class Pace:
    """Of the model that runs, medians over its last frames: infer_ms, of a prediction; period_ms, from the begin of one
    to that of the next.
    """

    infer_ms: float
    period_ms: float


def choose(
    setting: Setting, *, offered: bool, running: VariantName, speeds: Mapping[str, float], pace: Pace | None
) -> VariantName:
    """The variant of a release to fetch and run.

    offered: the release has int8. running: what runs now, float where nothing does. speeds: variant -> median ms of a
    prediction when it last ran here. pace: None: too few frames so far.
    """
    if not offered:
        return "float"
    if setting != "auto":
        return setting
    if "float" not in speeds or pace is None:
        return running
    if "int8" in speeds and speeds["int8"] >= speeds["float"]:
        return "float"
    share = SHARE if running == "float" else BACK
    return "float" if speeds["float"] <= share * pace.period_ms else "int8"
