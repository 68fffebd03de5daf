"""How values are written for people: the templates' filters. Pure."""

from datetime import datetime
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from hub.figures import Interval
from hub.web.rollouts import RolloutView, TrialView
from hub.web.standing import TITLES, spec_title

VERDICTS = {
    "better": ("good", "Better"),
    "same": ("calm", "No proven difference"),
    "worse": ("bad", "Worse"),
    "not enough data": ("warn", "Not enough data"),
}
RUN_STATES = {
    "queued": ("calm", "Queued"),
    "running": ("live", "Running"),
    "done": ("good", "Done"),
    "failed": ("bad", "Failed"),
    "cancelled": ("calm", "Cancelled"),
}
CAMERA_STATES = {
    "current": ("good", "Up to date"),
    "waiting": ("warn", "Waiting"),
    "updating": ("live", "Updating"),
    "failed": ("bad", "Failed"),
    "silent": ("warn", "Silent"),
    "offline": ("bad", "Offline"),
}
SOURCES = {"default": ("calm", "Default"), "hub.toml": ("calm", "hub.toml"), "project": ("live", "Set here")}
FOLLOWS = {
    "project": ("good", "Follows"),
    "own": ("calm", "Its own"),
    "local": ("warn", "Its own"),
    "waiting": ("warn", "Not yet"),
    "refused": ("bad", "Cannot"),
    "unknown": ("calm", "Not known"),
}
MEASURES = {"low_score": "Low scores", "class_mix": "Classes", "embedding": "Embeddings"}
SIDES = {
    "": "not divided yet",
    "train": "learnt from",
    "holdout": "held out",
    "out": "on neither side: near-copy of held-out images, or held apart",
}
REASONS = {
    "low_score": "low score",
    "margin": "two classes are close",
    "entropy": "many classes are close",
    "band": "near the threshold",
    "rare": "class of interest",
    "novelty": "unlike the training images",
    "random": "random sample",
    "audit": "audit sample",
    "pair": "two releases differ on it",
}
_ENDS = {
    "superseded": ("calm", "Replaced"),
    "reverted": ("bad", "Taken back"),
    "aborted": ("calm", "Aborted"),
}


def install(environment: Environment) -> None:
    """Give the templates these words; a name that a template misspells is an error."""
    environment.undefined = StrictUndefined
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(
        when=when,
        share=share,
        score=score,
        gain=gain,
        count=count,
        data=data,
        duration=duration,
        place=place,
        plain=plain,
        coded=coded,
    )
    environment.globals.update(
        VERDICTS=VERDICTS,
        RUN_STATES=RUN_STATES,
        CAMERA_STATES=CAMERA_STATES,
        SOURCES=SOURCES,
        FOLLOWS=FOLLOWS,
        STAGES=TITLES,
        standing=standing,
        mix=mix,
        spec_title=spec_title,
        MEASURES=MEASURES,
        SIDES=SIDES,
        MOST_SHOWN=24,
        REASONS=REASONS,
        axis=axis,
        zip=zip,
        round=round,
        max=max,
    )


def when(time: datetime | None) -> Markup:
    """A time; the page's script makes it relative and puts the local time into its title."""
    if time is None:
        return Markup("–")
    text = f"{time:%Y-%m-%d %H:%M} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(time.isoformat(), text, text)


def share(value: float | None, digits: int = 0) -> str:
    """0.123 -> 12 %."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def score(value: Interval | float | None) -> str:
    """0.93412 -> 0.934."""
    if isinstance(value, Interval):
        value = value.value
    return "–" if value is None else f"{value:.3f}"


def gain(value: float | None) -> str:
    """0.0312 -> +0.031, with a true minus sign."""
    if value is None:
        return "–"
    return f"{'−' if value < 0 else '+'}{abs(value):.3f}"


def count(value: float | None) -> str:
    """12345 -> 12 345, with narrow spaces."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def data(size: float | None) -> str:
    """Bytes -> 12.3 MB, in powers of 1000."""
    if size is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float | None) -> str:
    """75.2 -> 1 min 15 s."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        rest = int(seconds % 60)
        return f"{seconds // 60:.0f} min {rest} s" if rest else f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def axis(values: list[Interval | None]) -> tuple[float, float]:
    """Where the axis for these shares begins and ends: whole tenths with room for all."""
    lows = [one.low for one in values if one is not None]
    begin = max(0, min(9, int(min(lows, default=0.5) * 10 - 0.2)))
    return begin / 10, 1.0


def place(value: float, ends: tuple[float, float]) -> str:
    """Where a value stands on an axis, in percent of its width."""
    begin, end = ends
    return f"{100 * min(max((value - begin) / (end - begin), 0.0), 1.0):.2f}%"


def coded(text: str) -> Markup:
    """Text with `names` in it, as a sentence."""
    pieces = [
        escape(one) if number % 2 == 0 else Markup("<code>{}</code>").format(one)
        for number, one in enumerate(text.split("`"))
    ]
    return Markup("").join(pieces)


def standing(rollout: RolloutView) -> tuple[str, str]:
    """A rollout as kind and text of a pill."""
    if rollout.state in _ENDS:
        return _ENDS[rollout.state]
    if rollout.stage == "done":
        return "good", "Rolled out"
    if rollout.stage == "draft":
        return ("calm", "Draft") if rollout.state == "held" else ("calm", "Waits for its turn")
    return ("warn", "Held") if rollout.state == "held" else ("live", "Under way")


def mix(trial: TrialView, most: int = 3) -> list[tuple[str, float, float]]:
    """Class, share of the frames that the old and the new model called so: those that moved most."""
    names = sorted({*trial.old_classes, *trial.new_classes})
    rows = [(one, trial.old_classes.get(one, 0.0), trial.new_classes.get(one, 0.0)) for one in names]
    return sorted(rows, key=lambda row: -abs(row[2] - row[1]))[:most]


def plain(value: Any) -> str:
    """A setting or measured value in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(plain(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(one)}" for key, one in value.items())
    return str(value)
