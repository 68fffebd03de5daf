"""How good a release is in the field: from the labels of random audit frames, each with the chance it was taken with.

Frames taken with chance p stand for 1 / p frames each (Horvitz and Thompson 1952); the share of right answers is the
ratio of two such sums (Hájek 1971), which needs no count of all frames. It is unbiased as far as audit images are
labelled without a choice: those that wait, and those that an operator skipped, are counted and shown beside it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlmodel import Session, col

from hub.evaluate import Interval, wilson
from hub.tables import Image
from shared.policy import AUDIT

BOOTSTRAP = 1000
FEW = 20
"""Labels below which no figure is given."""


@dataclass(frozen=True, slots=True)
class Field:
    """A release on one camera, or on all of them (""). audits: images of its audit; labelled: those with a class.

    accuracy: None below FEW labels.
    """

    release: int
    camera: str
    audits: int
    labelled: int
    accuracy: Interval | None


def accuracy(right: NDArray[np.bool_], chances: NDArray[np.float64], seed: int = 0) -> Interval:
    """Share of right answers among all frames, from bool [n] of sampled ones and the chances they were taken with.

    The interval is the wider of a percentile bootstrap and Wilson's on the effective number of images: the first alone
    covers 26 % where 30 images of a model that is right in 99 % are all there is, the second too little where chances
    differ with difficulty.
    """
    weights = 1.0 / chances
    n = len(weights)
    share = float(weights @ right / weights.sum())
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=BOOTSTRAP)
    low, high = np.percentile((counts @ (weights * right)) / (counts @ weights), (2.5, 97.5))
    score = wilson(share, float(weights.sum() ** 2 / (weights**2).sum()))
    return Interval(value=share, low=min(float(low), score.low), high=max(float(high), score.high))


def in_the_field(session: Session, project: str, releases: Sequence[int]) -> list[Field]:
    """These releases on every camera that sent audit images of theirs, and on all of them; the newest release first."""
    answers = (col(Image.guess), col(Image.label), col(Image.probability))
    rows = session.execute(
        select(col(Image.release), col(Image.camera), *answers)
        .where(col(Image.project) == project, col(Image.why) == AUDIT, col(Image.release).in_(releases))
        .order_by(col(Image.id))
    ).all()
    audits: dict[tuple[int, str], list[tuple[bool, float] | None]] = defaultdict(list)
    for release, camera, guess, label, chance in rows:
        answer = None if label is None or chance <= 0 else (label == guess, chance)
        audits[release, camera].append(answer)
        audits[release, ""].append(answer)
    return [_field(*key, audits[key]) for key in sorted(audits, key=lambda one: (-one[0], one[1]))]


def _field(release: int, camera: str, answers: Sequence[tuple[bool, float] | None]) -> Field:
    known = [one for one in answers if one is not None]
    right = np.array([one for one, _ in known], bool)
    chances = np.array([chance for _, chance in known], np.float64)
    found = accuracy(right, chances) if len(known) >= FEW else None
    return Field(release, camera, len(answers), len(known), found)
