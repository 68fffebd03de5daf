"""Embeddings and labels -> a calibrated linear head.

1. Standardise every dimension by `std + shrinkage * mean(std)`: rarely active dimensions do not blow up. Then scale
   all to a mean squared length of 1, so that L2 strengths mean the same for every backbone. Both fold into the head.
2. For each L2 strength, fit on all folds but one and predict that one. Take the strength with the best
   out-of-fold log-loss: on elpv at 150 to 350 labels a better guide than out-of-fold AUC.
3. Fit the temperature on those same out-of-fold predictions (Guo et al. 2017, arXiv:1706.04599), then fit the
   weights on everything. The holdout is never seen here.
4. Note where the training set lies (center and gain, see `hub.head`): a linear head alone grows surer the farther an
   image lies from all it has seen, so its confidence score must know the distance.

With fewer images than dimensions the fit works in the row space of the data, where an L2-penalised optimum lies
(representer theorem): it is cheap. Nothing here needs torch, whose import alone takes as long as all of a training.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub import logistic
from hub.folds import auc_of, fold_count, folds_of, log_loss, softmax, temperature_of, weights_of
from hub.head import Head, place_of
from hub.settings import TrainSettings
from shared.errors import TrainError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]
AnyLabels = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Progress:
    """After each fit or epoch: step of steps, at most; log-loss and AUC on what the fit did not see."""

    step: int
    steps: int
    loss: float
    metric: float


@dataclass(frozen=True, slots=True)
class Inside:
    """Within an epoch: so many of the steps are done, at most, and this share of the next one, above 0 to 1.

    loss: the mean so far, on what is trained on.
    """

    step: int
    steps: int
    share: float
    loss: float


@dataclass(frozen=True, slots=True)
class Strength:
    """One L2 strength tried: its out-of-fold log-loss (nats, class-balanced where asked) and AUC."""

    l2: float
    log_loss: float
    auc: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A head and how it came about.

    losses: the objective at each step of the final fit, or its mean over each epoch. oof_auc, oof_log_loss:
    out-of-fold, after calibration. folds: really used. seconds: wall time. oof: calibrated out-of-fold probabilities,
    float64 [m, classes], of the training images `oof_rows`, int [m]. l2: the strength chosen among `tried`, of a linear
    head. epochs: of the final fit, of others.
    """

    head: Head
    losses: tuple[float, ...]
    oof_auc: float
    oof_log_loss: float
    temperature: float
    folds: int
    seconds: float
    oof: Doubles
    oof_rows: Labels
    l2: float = 0.0
    tried: tuple[Strength, ...] = ()
    epochs: int = 0


def train_head(
    embeddings: Floats,
    labels: AnyLabels,
    classes: int,
    settings: TrainSettings,
    progress: Callable[[Progress], None],
    *,
    near: Labels | None = None,
) -> Trained:
    """Train on float32 [n, dims] and int [n] in 0..classes-1, repeatable bit by bit; TrainError says what lacks.

    near: int [n], groups of near-copies, which `hub.folds.folds_of` keeps together. `progress` is called after each
    fit, in this thread; what it raises ends the run.
    """
    from threadpoolctl import threadpool_limits

    begin = time.perf_counter()
    x, y = checked(embeddings, labels, classes, settings)
    folds = fold_count(y, classes, settings.folds, near)
    strengths = sorted(settings.l2, reverse=True)
    steps = folds * len(strengths) + 1
    side = folds_of(y, folds, np.random.default_rng(settings.seed), near)
    held_out = np.zeros((len(strengths), len(y), classes))
    with threadpool_limits(settings.threads):  # more are slower on problems this small, and far worse when shared
        for fold in range(folds):
            inside, outside = side != fold, side == fold
            fits = _Problem(x[inside], y[inside], classes, settings).fit(strengths)
            for number, (weights, bias, _) in enumerate(fits):
                logits = x[outside] @ weights.T + bias
                held_out[number, outside] = logits
                loss = log_loss(logits, y[outside], settings.class_balanced)
                step = fold * len(strengths) + number + 1
                progress(Progress(step, steps, loss, auc_of(logits, y[outside])))
        tried = tuple(
            Strength(l2, log_loss(logits, y, settings.class_balanced), auc_of(logits, y))
            for l2, logits in zip(strengths, held_out, strict=True)
        )
        best = min(range(len(tried)), key=lambda number: tried[number].log_loss)
        temperature = temperature_of(held_out[best], y, settings.class_balanced)
        problem = _Problem(x, y, classes, settings)
        *_, (weights, bias, losses) = problem.fit(strengths[: best + 1])
    loss = log_loss(held_out[best] / temperature, y, settings.class_balanced)
    progress(Progress(steps, steps, loss, tried[best].auc))
    return Trained(
        head=Head(
            weights.astype(np.float32),
            bias.astype(np.float32),
            temperature,
            center=problem.place.center,
            gain=problem.place.gain,
        ),
        losses=losses,
        l2=strengths[best],
        tried=tried,
        oof_auc=tried[best].auc,
        oof_log_loss=loss,
        temperature=temperature,
        folds=folds,
        seconds=time.perf_counter() - begin,
        oof=softmax(held_out[best] / temperature),
        oof_rows=np.arange(len(y)),
    )


_Fit = tuple[Doubles, Doubles, tuple[float, ...]]
"""weights [classes, dims] and bias [classes] for embeddings as they come; the objective at each step."""


class _Problem:
    """One training set, standardised and turned into its row space; solved for several L2 strengths."""

    def __init__(self, x: Doubles, y: Labels, classes: int, settings: TrainSettings) -> None:
        place = place_of(x, settings.shrinkage)
        if place is None:
            raise _unfit(f"all {len(x)} embeddings are the same", "Check the backbone")
        self.place = place
        z = (x - place.mean) / place.scale
        self._z, self._y = z, y
        self._basis: Doubles | None = None
        if len(z) < z.shape[1] // 2:
            self._basis, r = np.linalg.qr(z.T)  # z == r.T @ basis.T, basis orthonormal [dims, n]
            self._z = np.ascontiguousarray(r.T)
        self._weight = weights_of(y, classes, settings.class_balanced)
        self._classes, self._max_iterations = classes, settings.max_iterations

    def fit(self, strengths: list[float]) -> Iterator[_Fit]:
        """Minimise weighted cross-entropy + l2 / 2 * |weights|^2, each strength from the one before."""
        for found in logistic.fit(
            self._z, self._y, self._weight, self._classes, strengths=strengths, max_iterations=self._max_iterations
        ):
            weights = found.weights if self._basis is None else found.weights @ self._basis.T
            weights = weights / self.place.scale
            yield weights, found.bias - weights @ self.place.mean, found.losses


def checked(embeddings: Floats, labels: AnyLabels, classes: int, settings: TrainSettings) -> tuple[Doubles, Labels]:
    """The arrays in double precision, or TrainError."""
    if not settings.l2 or min(settings.l2) <= 0 or settings.folds < 2 or settings.max_iterations < 1:
        raise TrainError("must have L2 strengths above 0, 2 folds, 1 iteration", subject="training settings")
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise _unfit(f"embeddings {embeddings.shape} do not fit labels {labels.shape}")
    if len(bad := np.flatnonzero(~np.isfinite(embeddings).all(axis=1))):
        text = f"{len(bad)} of {len(embeddings)} embeddings are not finite, the first is number {bad[0]}"
        raise _unfit(text, "Embed these images again")
    if classes < 2:
        raise _unfit(f"needs 2 classes, the project has {classes}", "Add a class")
    if ((labels < 0) | (labels >= classes)).any():
        raise _unfit(f"labels {labels.min()} to {labels.max()} of {classes} classes")
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    if few := ", ".join(f"class {number} has {count}" for number, count in enumerate(counts) if count < 2):
        raise _unfit(f"every class needs at least 2 labelled images: {few}", "Label more, or remove the class")
    return embeddings.astype(np.float64), labels.astype(np.int64)


def _unfit(what: str, remedy: str = "") -> TrainError:
    return TrainError(what, subject="training set", remedy=remedy)
