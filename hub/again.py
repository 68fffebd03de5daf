"""Images that are asked about again: second looks at labels that a model doubts, and repeats to see whether operators
agree. Both are blind: what was said before stays hidden. Answers are labels like any other: the last one holds.

So many are owed as the settings' shares of all labels say; what was asked is in the database, so that a restart asks
no more and no fewer. Each image comes again for each reason at most once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from hub.decisions import undone
from hub.settings import LabelSettings
from hub.tables import Image, Label, Run, Suspect

Ask = Literal["", "second", "repeat"]
LATELY = 20
"""An image of the last so many decisions is not repeated: its operator would remember."""


def due(session: Session, project: str, settings: LabelSettings) -> dict[int, Ask]:
    """Ids of the images that should be asked about again now, and why."""
    stands = _stands(project)
    rows = session.exec(
        select(Label.ask, func.count())
        .join(Image, col(Image.id) == col(Label.image_id))
        .where(*stands, Image.split == "pool")
        .group_by(Label.ask)
    ).all()
    counts = dict(rows)
    labels = counts.get("", 0)
    found: dict[int, Ask] = {}
    if (owed := int(settings.second_look * labels) - counts.get("second", 0)) > 0:
        found |= dict.fromkeys(session.exec(doubted(project).order_by(col(Suspect.confidence)).limit(owed)), "second")
    if (owed := int(settings.repeat * labels) - counts.get("repeat", 0)) > 0:
        known = [one for one in _settled(session, stands) if one not in found]
        # A seed that only changes with the answers: whoever asks twice sees the same.
        rng = np.random.default_rng([labels, counts.get("repeat", 0)])
        chosen = rng.permutation(len(known))[:owed]
        found |= dict.fromkeys([known[one] for one in chosen], "repeat")
    return found


def suspected(session: Session, project: str) -> int:
    """How many labels in force the newest run doubts that nobody has looked at again."""
    return session.exec(select(func.count()).select_from(doubted(project).subquery())).one()


def doubted(project: str) -> SelectOfScalar[int]:
    """Ids of images whose label in force the newest run doubts, and that had no second look yet."""
    run = select(func.max(Run.id)).where(Run.project == project, Run.state == "done").scalar_subquery()
    looked = select(Label.image_id).join(Image).where(*_stands(project), Label.ask == "second")
    return (
        select(Suspect.image_id)
        .join(Image, col(Image.id) == col(Suspect.image_id))
        .where(
            Suspect.run_id == run,
            Image.label == Suspect.label,
            Image.state == "verified",
            col(Image.id).not_in(looked),
        )
    )


def _stands(project: str) -> tuple[Any, ...]:
    """Of a label: it is of this project, and nobody took it back."""
    return Image.project == project, Label.kind != "undo", col(Label.id).not_in(undone())


def _settled(session: Session, stands: tuple[Any, ...]) -> list[int]:
    """Images from the field that were labelled once, some time ago, by id."""
    last = session.exec(select(Label.id).where(Label.kind != "undo").order_by(col(Label.id).desc()).limit(LATELY)).all()
    before = min((one for one in last if one is not None), default=0)
    rows = session.exec(
        select(Label.image_id)
        .join(Image, col(Image.id) == col(Label.image_id))
        .where(*stands, Image.split == "pool", Image.state == "verified")
        .group_by(col(Label.image_id))
        .having(
            func.count() == 1,
            func.max(Label.kind) == "label",
            func.max(Label.id) < before,
        )
        .order_by(col(Label.image_id))
    )
    return list(rows)


def mixed(fresh: Sequence[int], known: Sequence[int]) -> list[int]:
    """Those to ask about again, spread evenly among the fresh ones, so that none stands out by its place."""
    found = list(fresh)
    for number, one in enumerate(known):
        found.insert(round((number + 0.5) * (len(fresh) + len(known)) / len(known)), one)
    return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two decisions on one image were the same. kappa: Cohen's; None where it is not defined."""

    n: int
    share: float
    kappa: float | None


def agreement(pairs: Sequence[tuple[str, str]]) -> Agreement | None:
    """Of pairs of class names, the decision before and the one after; None for none.

    Cohen, "A Coefficient of Agreement for Nominal Scales" (1960): agreement beyond what chance alone would give.
    """
    if not pairs:
        return None
    n = len(pairs)
    share = sum(one == other for one, other in pairs) / n
    names = {name for pair in pairs for name in pair}
    chance = sum(
        sum(one == name for one, _ in pairs) * sum(other == name for _, other in pairs) / n**2 for name in names
    )
    return Agreement(n, share, None if chance == 1 else (share - chance) / (1 - chance))


def pairs(session: Session, project: str, ask: Ask, *, own: bool | None = None) -> list[tuple[str, str]]:
    """(class before, class after) of what was asked again and answered with a class both times.

    own: only where the same operator decided both times, or only where another one did.
    """
    rows = session.exec(
        select(Label)
        .join(Image, col(Image.id) == col(Label.image_id))
        .where(
            Image.project == project,
            Label.kind != "undo",
            col(Label.id).not_in(undone()),
            col(Label.image_id).in_(select(Label.image_id).where(Label.ask == ask)),
        )
        .order_by(col(Label.id))
    )
    before: dict[int, Label] = {}
    found = []
    for row in rows:
        last = before.get(row.image_id)
        asked = row.ask == ask and last is not None and (last.kind, row.kind) == ("label", "label")
        if last is not None and asked and own in (None, last.operator == row.operator):
            found.append((last.name, row.name))
        before[row.image_id] = row
    return found
