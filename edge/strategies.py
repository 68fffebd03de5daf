"""Strategies: how much it is worth to ask what a frame shows, each a rule on what the model says of it.

The one scale of values, 0 to 1, on which the spool sorts events of all strategies: every strategy's own measure is bent
so that its threshold lies at 0.5 and the most that it can say at 1, in straight lines (novelty, which has no most, by
halving). So a value says how far a frame is beyond what just makes an event, whichever strategy took it; 0.5 and less
is no event.

A frame is looked at when the model has just thrown all else out of the processor's caches: there each kind of NumPy
call costs some 40 us the first time, and 2 us the next. So there are few kinds, and few classes are plain numbers.
"""

import math
from collections.abc import Sequence

import numpy as np

from shared.litert import Floats, Prediction
from shared.policy import TriageSettings, misfit

JUST = 0.5
"""The value of a frame that lies on a threshold."""


def low_score(score: float, below: float) -> float:
    """Least confidence: Lewis and Gale, "A sequential algorithm for training text classifiers", 1994.

    score: the head's confidence, which also knows the distance to the training images (see `hub.head`).
    """
    return _bend(1.0 - score, 1.0 - below, 1.0)


def margin(probabilities: Floats, below: float) -> float:
    """Smallest margin between the two best classes: Scheffer, Decomain and Wrobel, "Active hidden Markov models for
    information extraction", 2001.
    """
    *_, second, first = sorted(probabilities.tolist())
    return _bend(1.0 - (first - second), 1.0 - below, 1.0)


def entropy(probabilities: Floats, above: float) -> float:
    """Entropy over the largest possible one, ln(classes): Shannon, "A mathematical theory of communication", 1948; as
    a query strategy in Settles, "Active learning literature survey", 2009, section 3.1.
    """
    p = probabilities[probabilities > 0].astype(np.float64)
    return _bend(float(-(p * np.log(p)).sum()) / math.log(len(probabilities)), above, 1.0)


def band(probability: float, low: float, high: float) -> float:
    """A probability near a decision threshold, the middle of the band: uncertainty sampling of two classes as in Lewis
    and Catlett, "Heterogeneous uncertainty sampling for supervised learning", 1994, with a threshold other than 0.5.
    """
    middle, half = (low + high) / 2, (high - low) / 2
    reach = max(middle, 1.0 - middle)
    return _bend(reach - abs(probability - middle), reach - half, reach)


def rare(probability: float, above: float) -> float:
    """The probability of a rare class: relevance sampling, as in Lewis and Gale 1994; where positives are one in a
    hundred it is these that a model lacks (Attenberg and Provost, "Why label when you can search?", 2010).
    """
    return _bend(probability, above, 1.0)


def novelty(distance: float, spacing: float, above: float) -> float:
    """Distance to the nearest reference: Sun et al., "Out-of-distribution detection with deep nearest neighbors", 2022.

    distance: cosine. spacing: that within which all training images have a reference, see `shared.references`.
    """
    return 1.0 - math.exp2(-distance / (above * spacing))


def _bend(measure: float, threshold: float, most: float) -> float:
    """A measure from 0 to `most` on the scale of values; rounding may take it a little beyond."""
    measure = min(measure, most)
    if measure > threshold:
        return JUST + JUST * (measure - threshold) / (most - threshold)
    return JUST * measure / threshold if threshold > 0 else 0.0


class Judge:
    """The strategies of some settings for one model; safe to share by threads.

    classes: none, and no strategy works: there is no model yet. references: float32 [n, dims], unit rows; None: the
    release has none. shares: of the strategies that can work, adding up to 1, empty when none can. skipped: the others,
    and why.
    """

    def __init__(self, settings: TriageSettings, classes: Sequence[str], references: Floats | None = None) -> None:
        self._settings = settings
        self._references = references
        self._positive = classes.index(settings.rare) if settings.rare in classes else len(classes) - 1
        self._spacing = _spacing(references) if references is not None and len(references) > 1 else 0.0
        wanted = settings.shares() if classes else {}
        reasons = {name: misfit(settings, name, classes) for name in wanted}
        if "novelty" in wanted and not self._spacing:
            reasons["novelty"] = "the release has no references"
        self.skipped: dict[str, str] = {name: reason for name, reason in reasons.items() if reason}
        left: dict[str, float] = {name: share for name, share in wanted.items() if name not in self.skipped}
        self.shares = {name: share / sum(left.values()) for name, share in left.items()}

    def value(self, name: str, prediction: Prediction) -> float | None:
        """What a strategy says of a frame; None when there is no such strategy, or it is skipped."""
        settings, probabilities = self._settings, prediction.probabilities
        match name:
            case _ if name not in self.shares:
                return None
            case "low_score":
                return low_score(prediction.score, settings.low_score)
            case "margin":
                return margin(probabilities, settings.margin)
            case "entropy":
                return entropy(probabilities, settings.entropy)
            case "band":
                return band(float(probabilities[1]), *settings.band)
            case "rare":
                return rare(float(probabilities[self._positive]), settings.rare_above)
            case "novelty":
                return self._novelty(prediction.embedding)
        return None

    def _novelty(self, embedding: Floats) -> float | None:
        if self._references is None or self._references.shape[1:] != embedding.shape:
            return None
        nearest = max(self._references.dot(embedding).tolist()) / length(embedding)
        return novelty(max(0.0, 1.0 - nearest), self._spacing, self._settings.novelty)


def length(embedding: Floats) -> float:
    """Of a vector; next to nothing for a vector of nothing, so that one can divide by it."""
    return max(math.sqrt(embedding.dot(embedding)), 1e-12)


def unit(embedding: Floats) -> Floats:
    """A vector at length 1; a vector of nothing stays."""
    one: Floats = embedding / length(embedding)
    return one


def _spacing(references: Floats) -> float:
    """Least cosine distance between two references; 0 for copies, which say nothing."""
    cosines = references @ references.T
    np.fill_diagonal(cosines, -1.0)
    return max(0.0, 1.0 - float(cosines.max()))
