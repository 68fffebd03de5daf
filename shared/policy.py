"""Policy: how cameras choose and how the hub learns, as far as both ends must agree on its form.

A camera has its own in edge.toml; what the project says in its signed plan goes before it, as a whole, unless
edge.toml says `triage_local = true`. A plan holds only what differs from the defaults: these are part of the protocol.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shared.errors import ConfigError, SettingError

Share = Annotated[float, Meta(ge=0, le=1)]
Strategy = Literal["low_score", "margin", "entropy", "band", "rare", "novelty"]
"""Each is defined in `edge.strategies`."""
AUDIT = "audit"
"""Why a frame of the random sample is an event."""
PAIR = "pair"
"""Why a random frame is one on which the two models of a trial differ."""


class TriageSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which frames become events: the best of each window that a strategy takes, and a random share of all.

    strategy: the one in use, or "mix": several, each with its share of the room in a window; mix: those shares, adding
    up to 1; a frame that several take is the first one's. window, window_s: a window ends after so many frames, or so
    many seconds; 1 frame: each is decided at once. top: most events of a window, the audit not counted; so many frames
    are held in memory until it ends.

    What a frame must have to be taken. low_score: a confidence score below this. margin: less between its two best
    probabilities. entropy: more of the largest possible entropy. band: of two classes, a probability of the second one
    between these. rare: the class of interest; "": the second of two; rare_above: a probability of it above this.
    novelty: farther from all references than so many times the farthest training image.

    audit: share of all frames taken at random, whatever the model says. duplicate: cosine to one of the last `remember`
    events above which a frame is not one. remember: how many events that are; 0: none.
    """

    strategy: Literal[Strategy, "mix"] = "mix"
    mix: dict[Strategy, Share] = msgspec.field(
        default_factory=lambda: {"low_score": 0.5, "margin": 0.25, "novelty": 0.25}
    )
    window: Annotated[int, Meta(ge=1, le=10000)] = 10
    window_s: Annotated[float, Meta(gt=0, le=3600)] = 30.0
    top: Annotated[int, Meta(ge=1, le=16)] = 4
    low_score: Share = 0.8
    margin: Share = 0.5
    entropy: Share = 0.6
    band: tuple[Share, Share] = (0.3, 0.7)
    rare: Annotated[str, Meta(max_length=200)] = ""
    rare_above: Share = 0.0
    novelty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    audit: Share = 0.01
    duplicate: Annotated[float, Meta(ge=0, le=1.01)] = 0.995
    remember: Annotated[int, Meta(ge=0, le=10000)] = 64

    def shares(self) -> dict[Strategy, float]:
        """The strategies in use, in their order, and their shares."""
        if self.strategy == "mix":
            return {name: share for name, share in self.mix.items() if share > 0}
        return {self.strategy: 1.0}


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


def check(settings: TriageSettings, classes: Sequence[str] = ()) -> None:
    """ConfigError for values that are wrong together. classes: of the project, in their order; none: not known here."""
    if settings.top > settings.window:
        raise _wrong("top", f"{settings.top} of a window of {settings.window} frames", "Raise triage.window")
    if settings.band[0] >= settings.band[1]:
        raise _wrong("band", f"from {settings.band[0]:g} to {settings.band[1]:g}", "Write the lower end first")
    total = sum(settings.mix.values())
    if settings.strategy == "mix" and not math.isclose(total, 1.0, abs_tol=1e-6):
        raise _wrong("mix", f"shares that add up to {total:g}", "They must add up to 1")
    if not classes:
        return
    for name in settings.shares():
        if reason := misfit(settings, name, classes):
            raise _wrong(name, f"no meaning here: {reason}", "Use another strategy, or name a class")


def misfit(settings: TriageSettings, name: Strategy, classes: Sequence[str]) -> str:
    """Why a strategy cannot work with these classes; empty when it can."""
    if name == "band" and len(classes) != 2:
        return f"a band needs 2 classes, there are {len(classes)}"
    if name == "rare" and settings.rare and settings.rare not in classes:
        return f"{settings.rare!r} is none of {', '.join(classes)}"
    if name == "rare" and not settings.rare and len(classes) != 2:
        return f"of {len(classes)} classes triage.rare must name the one of interest"
    return ""


def _wrong(key: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"has {what}", subject=f"triage.{key}", remedy=remedy)
