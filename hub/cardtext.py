"""A model card as Markdown, for people and programs without Hone. What users wrote is text there, never markup."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hub.card import Card, Side, days
from hub.figures import Figures, Interval

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&!@$])")
_LINKS = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)  # GitHub's Markdown makes links of bare addresses
_FIRST = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-+=]))")  # would begin a list, or a heading


def markdown(card: Card) -> str:
    """The card as CommonMark with GitHub's tables."""
    return "\n\n".join(_blocks(card)) + "\n"


def escaped(text: str) -> str:
    """A user's text as one line of Markdown that shows just that text."""
    line = " ".join(text.split())
    return _FIRST.sub(r"\1\\", _LINKS.sub(lambda found: f"\\{found[0]}", _MARKS.sub(r"\\\1", line)))


def _blocks(card: Card) -> Iterator[str]:
    yield f"# Model card: {escaped(card.project)}, release {card.release}"
    yield _bullets(
        [
            f"Released {card.created_at:%Y-%m-%d %H:%M} UTC" + (f": {escaped(card.note)}" if card.note else ""),
            f"Made by run {card.run}, {card.run_at:%Y-%m-%d %H:%M} UTC" if card.run_at else "Its run is not known",
            escaped(card.model),
            f"Classes: {', '.join(map(escaped, card.classes))}",
            f"Input: RGB, {card.input.size} x {card.input.size} pixels, (x - {card.input.mean:g}) / "
            f"{card.input.scale:g} on 0 to 255",
            _decides(card),
        ]
    )
    yield "## Intended use"
    yield from (escaped(one) for one in re.split(r"\n\s*\n", card.intended_use) if one.strip())
    yield "## Limitations"
    yield _bullets(escaped(one) for one in card.limitations)
    yield from _measured(card)
    yield from _data(card)
    yield "## Training"
    settings = [(escaped(name), _plain(value)) for name, value in sorted(card.settings.items())]
    yield _table(["Setting", "Value"], settings) if settings else "Its settings are not known."
    if card.versions:
        yield f"Versions: {', '.join(f'{escaped(name)} {escaped(one)}' for name, one in card.versions.items())}."
    yield "## Parts"
    yield _table(["Part", "SHA-256", "Bytes"], [(one.name, f"`{one.sha256}`", one.size) for one in card.parts])
    yield "## Lineage"
    yield _bullets(_lineage(card))


def _decides(card: Card) -> str:
    if not card.thresholds:
        return "The label is the most probable class"
    told = ", ".join(f"{escaped(name)} {value:.4g}" for name, value in card.thresholds.items())
    return f"The label is the class whose probability is the largest multiple of its threshold: {told}"


def _measured(card: Card) -> Iterator[str]:
    yield "## Measured on held-out images"
    held = card.holdout
    if card.figures is None:
        yield "Nothing was measured."
        return
    worn = f", worn after {held.verdicts} verdicts" if held.worn else ""
    on = f", holdout version {held.version}{worn}" if held.version else ""
    yield f"{_count(card.figures.n, 'image')}{on}; in brackets 95 % intervals."
    before = [f"Release {card.against}" if card.against else "Before"] if card.before else []
    others = {"Its int8 variant": card.int8, **dict.fromkeys(before, card.before)}
    columns = {name: one for name, one in others.items() if one is not None}
    yield _table(["Measure", "This release", *columns], _rows([card.figures, *columns.values()]))
    if card.int8_left_out:
        yield f"The int8 variant is not part of the release: {escaped(card.int8_left_out)}."
    yield _table(
        ["Class", "Images", "Recall", "Precision", "F1"],
        [
            (escaped(one.name), one.n, *map(_number, (one.recall, one.precision, one.f1)))
            for one in card.figures.classes
        ],
    )
    names = [escaped(one.name) for one in card.figures.classes]
    if card.figures.confusion:
        yield "How often images of a class (rows) were called what (columns):"
        yield _table(
            ["Label", *names], [(name, *row) for name, row in zip(names, card.figures.confusion, strict=False)]
        )
    if card.slices:
        yield _table(
            ["Slice", "Images", "Accuracy", *before],
            [
                (
                    f"{one.kind} {escaped(one.name)}",
                    one.n,
                    "too few" if one.few else _number(one.accuracy),
                    *([_number(one.before)] if before else []),
                )
                for one in card.slices
            ],
        )
    if card.reason:
        yield f"Verdict: {escaped(card.verdict)}; {escaped(card.reason)}."


def _rows(columns: Sequence[Figures]) -> Iterator[Sequence[object]]:
    measures = {
        "auc": "AUC",
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "f1": "F1, mean of classes",
        "ece": "Calibration error",
    }
    for key, name in measures.items():
        yield name, *(_number(getattr(one, key)) for one in columns)


def _data(card: Card) -> Iterator[str]:
    yield "## Data"
    data = card.data
    if data.training is None or data.holdout is None:
        yield f"Snapshot `{data.snapshot}` was not kept." if data.snapshot else "Its data are not known."
        return
    neither = f"{_count(data.left_out, 'labelled image')} on neither side"
    yield f"Snapshot `{data.snapshot}`, labelled by {_count(data.operators, 'operator')}; {neither}."
    for title, side in (("learned from", data.training), ("held out", data.holdout)):
        when = f", captured {days(side.first, side.last)}" if side.first and side.last else ""
        yield f"{_count(side.images, 'image')} {title}{when}:"
        yield _table(["Source", *map(escaped, card.classes), "All"], _sources(side, card.classes))


def _sources(side: Side, classes: Sequence[str]) -> Iterator[Sequence[object]]:
    for one in side.sources:
        yield escaped(one.camera) or "imported", *(one.labels.get(name, 0) for name in classes), one.images
    if side.gone:
        yield "no longer known", *[""] * len(classes), side.gone
    yield "all", *(side.labels.get(name, 0) for name in classes), side.images


def _lineage(card: Card) -> Iterator[str]:
    yield f"Images and labels: /api/releases/{card.release}/images on the hub names each; snapshot above"
    yield f"Run: {card.run if card.run is not None else 'not known'}"
    yield "Model: the parts above, by hash"
    yield f"Cameras that say they run it: {', '.join(map(escaped, card.cameras)) or 'none'}"


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {one}" for one in items)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: Interval | float | None) -> str:
    if isinstance(value, Interval):
        return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
    return "–" if value is None else f"{value:.3f}"


def _plain(value: Any) -> str:
    """A setting in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "–"
    if isinstance(value, dict):
        return ", ".join(f"{escaped(str(key))} {_plain(one)}" for key, one in value.items()) or "–"
    return f"{value:.4g}" if isinstance(value, float) else escaped(str(value)) or "–"
