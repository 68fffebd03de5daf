"""Policy: how cameras choose and how the hub learns, as far as both ends must agree on its form.

A camera has its own in edge.toml; what the project says in its signed plan goes before it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]


class TriageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which frames become events.

    low_score: a frame whose best probability is below this is an event. audit: share of all frames taken at random,
    whatever the model says. duplicate: cosine to one of the last `remember` events above which a frame is not one.
    """

    low_score: Share = 0.8
    audit: Share = 0.01
    duplicate: Annotated[float, Meta(ge=0, le=1.01)] = 0.995
    remember: Annotated[int, Meta(ge=0, le=10000)] = 64
