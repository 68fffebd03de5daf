"""A release's model card: what it is for, what it learned from, how good it is, and where not (rows -> `Card`). Pure.

After Mitchell et al. 2019, Model Cards for Model Reporting (arXiv:1810.03993). Limitations are words that the data
gives by fixed rules; nobody writes them, so nobody forgets them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Any

import msgspec

from hub.dataset import Entry
from hub.evaluate import wilson
from hub.figures import Figures, Gain, SliceView, View, figures, gain, slices
from hub.lineage import Member
from hub.split import Standing
from hub.tables import Release, Run
from shared.preprocess import Preprocess

FEW = 20
"""A class that was learned from fewer images, or judged on fewer, is named as a limitation."""
MISCALIBRATED = 0.1
"""An expected calibration error above it is one as well."""
_PARTS = ("backbone", "head", "golden", "references")
_OWN = ("name", "classes", "preprocess", "backbone")  # of a run's settings: told elsewhere


class Input(View):
    """What the model takes: RGB, resized to `size` x `size` pixels, `(x - mean) / scale` on 0..255."""

    size: int
    mean: float
    scale: float


class PartFacts(View):
    """One content-addressed file of the model. size: bytes."""

    name: str
    sha256: str
    size: int


class Source(View):
    """Images of one camera, or imported ones (camera ""), by label."""

    camera: str
    images: int
    labels: dict[str, int]


class Side(View):
    """One side of a snapshot. gone: images whose rows are no more, so that their source is not known.

    first, last: when cameras captured what is in it; None where all was imported.
    """

    images: int
    gone: int
    labels: dict[str, int]
    sources: list[Source]
    first: datetime | None
    last: datetime | None


class DataFacts(View):
    """The data of a run. kept: whether its snapshot can still be read; else both sides are None.

    operators: how many people labelled what came from cameras. left_out: labelled images on neither side.
    """

    snapshot: str
    kept: bool
    training: Side | None
    holdout: Side | None
    operators: int
    left_out: int


class HoldoutFacts(View):
    """What the model was judged on. worn: so many verdicts went by this version that no more count.

    doubt: why the scores may be wrong, or "".
    """

    version: int
    worn: bool
    verdicts: int
    limit: int
    doubt: str


class Card(View):
    """The model card of one release. stated: the project says itself what the model is for.

    run: that made the model, None where it is not known; seed, settings, versions: of that run. thresholds: class ->
    threshold, empty where the most probable class is the label. figures: on held-out images; int8: of its int8 variant
    on the same ones; int8_left_out: why the release does not have it all the same, or "". before: of release `against`
    on the same ones. cameras: that say they run it now.
    """

    project: str
    release: int
    created_at: datetime
    note: str
    model: str
    classes: list[str]
    input: Input
    thresholds: dict[str, float]
    intended_use: str
    stated: bool
    run: int | None
    run_at: datetime | None
    data: DataFacts
    seed: int | None
    settings: dict[str, Any]
    versions: dict[str, str]
    holdout: HoldoutFacts
    figures: Figures | None
    int8: Figures | None
    int8_left_out: str
    slices: list[SliceView]
    against: int
    before: Figures | None
    comparison: Gain | None
    verdict: str
    reason: str
    parts: list[PartFacts]
    limitations: list[str]
    cameras: list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a card is made of. intended_use: what the project says, or "". limit: verdicts a holdout is good for.

    entries: the lines of the run's snapshot, None where they were not kept; members: the image of each, as far as it
    is there. operators, cameras: as in the card.
    """

    release: Release
    run: Run | None
    intended_use: str
    standing: Standing
    limit: int
    entries: Sequence[Entry] | None
    members: Sequence[Member | None]
    operators: int
    cameras: Sequence[str]


def card(facts: Facts) -> Card:
    """The card of one release."""
    release, run = facts.release, facts.run
    # The row's JSON as it is: ModelSpec would load LiteRT, and the page does without.
    classes: list[str] = release.model["classes"]
    thresholds: list[float] = release.model.get("thresholds") or []
    how = msgspec.convert(release.model.get("preprocess") or {}, Preprocess)
    settings = dict(run.settings) if run else {}
    own = PurePath(str(settings.get("backbone") or "")).name  # a card is handed on: no folder of this machine
    measured = figures(run.evaluation, classes) if run else None
    data = _data(facts)
    made = Card(
        project=release.project,
        release=release.number,
        created_at=release.created_at,
        note=release.note,
        model=_kind(settings, own),
        classes=classes,
        input=Input(size=how.size, mean=how.mean, scale=how.scale),
        thresholds=dict(zip(classes, thresholds, strict=False)),
        intended_use=facts.intended_use.strip() or _unstated(classes),
        stated=bool(facts.intended_use.strip()),
        run=run.id if run else None,
        run_at=(run.ended_at or run.created_at) if run else None,
        data=data,
        seed=settings.get("seed"),
        settings={
            **{name: one for name, one in settings.items() if name not in _OWN},
            **({"backbone": own} if own else {}),
        },
        versions={name: str(one) for name, one in run.versions.items()} if run else {},
        holdout=HoldoutFacts(
            version=release.holdout,
            worn=bool(release.holdout) and facts.standing.worn,
            verdicts=facts.standing.verdicts,
            limit=facts.limit,
            doubt=run.doubt if run else "",
        ),
        figures=measured,
        int8=figures(run.evaluation.get("int8") or {}, classes) if run else None,
        int8_left_out=str((run.fit.get("int8") or {}).get("left_out", "")) if run else "",
        slices=slices(run.slices) if run else [],
        against=run.against if run else 0,
        before=figures(run.before, classes) if run else None,
        comparison=gain(run.comparison) if run else None,
        verdict=run.verdict if run else "",
        reason=run.reason if run else "",
        parts=[
            PartFacts(name=variant + name, sha256=one["sha256"], size=one["size"])
            for variant, model in (("", release.model), ("int8 ", release.model.get("int8") or {}))
            for name in _PARTS
            if (one := model.get(name))
        ],
        limitations=[],
        cameras=sorted(facts.cameras),
    )
    return made.model_copy(update={"limitations": list(_limitations(made))})


def _unstated(classes: Sequence[str]) -> str:
    return (
        f"Nobody has stated what this model is for. It was made to call images {' or '.join(classes)} for this "
        "project, on cameras like those that its data came from. It is not known to fit any other use."
    )


def _kind(settings: dict[str, Any], own: str) -> str:
    """Head and backbone in words."""
    if not settings:
        return "Head on a backbone; the run that made them is not known"
    lite0 = "EfficientNet-Lite0 (ImageNet weights, Apache-2.0)"
    kind = settings.get("kind", "linear")
    if kind in ("blocks", "full"):
        trained = "all blocks" if kind == "full" else f"the last {settings.get('blocks')} blocks"
        return f"Linear head on {lite0}, {trained} of it trained along"
    head = "MLP head with one hidden layer" if kind == "mlp" else "Linear head"
    stages = ", all stages" if settings.get("features") == "stages" else ""
    return f"{head} on frozen {f'backbone {own}, not ours' if own else lite0 + stages}"


def _data(facts: Facts) -> DataFacts:
    run, entries = facts.run, facts.entries
    pairs = list(zip(entries, facts.members, strict=True)) if entries is not None else None
    return DataFacts(
        snapshot=run.snapshot if run else "",
        kept=pairs is not None,
        training=_side([one for one in pairs if one[0].side != "holdout"]) if pairs is not None else None,
        holdout=_side([one for one in pairs if one[0].side == "holdout"]) if pairs is not None else None,
        operators=facts.operators,
        left_out=run.left_out if run else 0,
    )


def _side(pairs: Sequence[tuple[Entry, Member | None]]) -> Side:
    by_camera: dict[str, Counter[str]] = {}
    times = []
    for entry, member in pairs:
        if member is None:
            continue
        by_camera.setdefault(member.camera, Counter())[entry.label] += 1
        if member.camera:  # the time of an imported image says nothing
            times.append(member.captured_at)
    return Side(
        images=len(pairs),
        gone=sum(member is None for _, member in pairs),
        labels=dict(Counter(entry.label for entry, _ in pairs)),
        sources=[
            Source(camera=camera, images=labels.total(), labels=dict(labels))
            for camera, labels in sorted(by_camera.items())
        ],
        first=min(times, default=None),
        last=max(times, default=None),
    )


def _limitations(card: Card) -> Iterator[str]:
    """What a reader must know before relying on it, the gravest first."""
    if card.figures is None:
        yield "Nothing was measured of it on held-out images."
    yield from _of_the_proof(card)
    yield from _of_the_data(card)
    yield from _where_weak(card)
    if card.figures and card.figures.ece is not None and card.figures.ece > MISCALIBRATED:
        off = f"{card.figures.ece:.2f}"
        yield f"Its probabilities are off by {off} on average: do not read them as the chance of being right."
    yield f"It gives every image one of its labels ({', '.join(card.classes)}), also one that shows something else."


def _of_the_proof(card: Card) -> Iterator[str]:
    if card.verdict == "first":
        yield "It was compared with no other model."
    elif card.verdict and card.verdict != "better":
        than = f"release {card.against}" if card.against else "another model"
        yield f"It was not proven better than {than}: {card.reason}."
    if card.holdout.doubt:
        yield f"Its scores may be wrong: {card.holdout.doubt}."
    if card.holdout.worn:
        given = f"{card.holdout.verdicts} verdicts went by it, {card.holdout.limit} are allowed"
        yield f"Holdout version {card.holdout.version} is worn: {given}."


def _of_the_data(card: Card) -> Iterator[str]:
    training, holdout = card.data.training, card.data.holdout
    if training is None or holdout is None:
        yield "What it learned from is no longer known in detail."
        return
    for name in card.classes:
        learned, judged = training.labels.get(name, 0), holdout.labels.get(name, 0)
        if learned < FEW:
            yield f"{name}: learned from {_images(learned)} only."
        if judged < FEW:
            yield f"{name}: judged on {_images(judged)} only, so its figures are rough."
    judged_on = {one.camera for one in holdout.sources}
    learned_from = {one.camera for one in training.sources}
    unproven = sorted(({one for one in learned_from if one} | set(card.cameras)) - judged_on)
    if unproven and holdout.images:
        yield f"No held-out image is from {_some(unproven)}: how good it is there was not measured."
    if training.last is not None and training.first is not None:
        span = days(training.first, training.last)
        yield f"What it learned from cameras is of {span} (UTC); it knows nothing of what changed later."
    if training.gone + holdout.gone:
        yield f"{_images(training.gone + holdout.gone)} of its data are gone, so their source is not known."


def _where_weak(card: Card) -> Iterator[str]:
    """Classes and slices whose whole interval lies below the accuracy on all held-out images."""
    if card.figures is None or card.figures.accuracy is None:
        return
    whole = card.figures.accuracy.value
    for one in card.figures.classes:
        if one.recall is not None and one.n >= FEW and wilson(one.recall, one.n).high < whole:
            yield f"{one.name}: finds {one.recall:.2f} of them only; {whole:.2f} of all images are called right."
    for part in card.slices:
        if part.accuracy is not None and part.accuracy.high < whole:
            right = f"{part.accuracy.value:.2f} of {_images(part.n)} right, {whole:.2f} of all"
            yield f"Weak for {part.kind} {part.name or 'imported'}: {right}."
    few = [f"{one.kind} {one.name}" for one in card.slices if one.few]
    if few:
        yield f"Too few held-out images to judge {_some(few)}."


def days(first: datetime, last: datetime) -> str:
    """A span of time by its days, one where it is one."""
    begin, end = f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"
    return begin if begin == end else f"{begin} to {end}"


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
