"""Triage: which frames become events, and how much each is worth. Values in, decisions out.

The audit draw comes first, before duplicates and scores are looked at, so that audit events are a random sample of
all frames, each taken with the probability that is stored with it.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from shared.litert import Floats, Prediction
from shared.policy import TriageSettings


@dataclass(frozen=True, slots=True)
class Chosen:
    """Why a frame became an event, with what probability, and its value (higher is sent first, evicted last)."""

    why: str
    probability: float
    value: float


class Triage:
    """Keeps the last events' embeddings, to leave out near-copies. Not thread-safe."""

    def __init__(self, settings: TriageSettings) -> None:
        self._settings = settings
        self._recent: deque[Floats] = deque(maxlen=settings.remember or None)

    @property
    def settings(self) -> TriageSettings:
        """Those in force."""
        return self._settings

    def use(self, settings: TriageSettings) -> None:
        """Go by other settings from the next frame on; what is remembered stays, as far as it is still asked for."""
        self._settings = settings
        self._recent = deque(self._recent, maxlen=settings.remember or None)

    def decide(self, prediction: Prediction, draw: float) -> Chosen | None:
        """Whether this frame is an event. draw: a fresh random number in [0, 1).

        Least confidence: Lewis and Gale, "A sequential algorithm for training text classifiers", 1994.
        """
        settings = self._settings
        if draw < settings.audit:
            return Chosen("audit", settings.audit, 1.0)
        if prediction.score >= settings.low_score or self._is_copy(prediction.embedding):
            return None
        if settings.remember:
            self._recent.append(_unit(prediction.embedding))
        return Chosen("low_score", 1.0, 1.0 - prediction.score)

    def is_low(self, prediction: Prediction) -> bool:
        """Whether the score is below the threshold, event or not."""
        return prediction.score < self._settings.low_score

    def _is_copy(self, embedding: Floats) -> bool:
        """Whether the cosine to a recent event's embedding is above `duplicate`; another backbone's do not count."""
        recent = [one for one in self._recent if one.shape == embedding.shape]
        if not recent:
            return False
        return bool((np.stack(recent) @ _unit(embedding)).max() > self._settings.duplicate)


def _unit(embedding: Floats) -> Floats:
    unit: Floats = embedding / max(float(np.linalg.norm(embedding)), 1e-12)
    return unit
