"""Policy: how cameras choose and how the hub learns, as far as both ends must agree on its form.

A camera has its own in edge.toml; what the project says in its signed plan goes before it, as a whole, unless
edge.toml says `triage_local = true`. A plan holds only what differs from the defaults: these are part of the protocol.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.errors import SettingError

Share = Annotated[float, Meta(ge=0, le=1)]


class TriageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which frames become events.

    low_score: a frame whose best probability is below this is an event. audit: share of all frames taken at random,
    whatever the model says. duplicate: cosine to one of the last `remember` events above which a frame is not one.
    remember: how many events that are; 0: none.
    """

    low_score: Share = 0.8
    audit: Share = 0.01
    duplicate: Annotated[float, Meta(ge=0, le=1.01)] = 0.995
    remember: Annotated[int, Meta(ge=0, le=10000)] = 64


def to_wire(settings: TriageSettings) -> dict[str, Any]:
    """Settings as they travel: only what differs from the defaults, so that older cameras know what they can follow."""
    whole, defaults = (msgspec.json.decode(msgspec.json.encode(one)) for one in (settings, TriageSettings()))
    return {name: value for name, value in whole.items() if value != defaults[name]}


def from_wire(told: Mapping[str, Any]) -> TriageSettings:
    """Settings that travelled; SettingError when this program cannot follow them as they are, and then none of them."""
    try:
        return msgspec.convert(told, TriageSettings, strict=True)
    except msgspec.ValidationError as error:
        raise SettingError(
            f"cannot be followed by this version ({error})",
            subject="the project's triage settings",
            remedy="Update this camera's agent, or change the settings",
        ) from error
