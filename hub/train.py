"""Embeddings and labels -> a calibrated linear head.

1. Standardise every dimension by `std + shrinkage * mean(std)`: rarely active dimensions do not blow up. Then scale
   all to a mean squared length of 1, so that L2 strengths mean the same for every backbone. Both fold into the head.
2. For each L2 strength, fit on all folds but one and predict that one. Take the strength with the best
   out-of-fold log-loss: on elpv at 150 to 350 labels a better guide than out-of-fold AUC.
3. Fit the temperature on those same out-of-fold predictions (Guo et al. 2017, arXiv:1706.04599), then fit the
   weights on everything. The holdout is never seen here.
4. Note where the training set lies (center and gain, see `hub.head`): a linear head alone grows surer the farther an
   image lies from all it has seen, so its confidence score must know the distance.

The fit works in the row space of the data, where an L2-penalised optimum lies (representer theorem): it is cheap.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hub.head import Head
from hub.settings import TrainSettings
from shared.errors import TrainError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]
AnyLabels = NDArray[np.integer[Any]]

_TEMPERATURES = (0.1, 10.0)  # beyond these a small out-of-fold sample says nothing


@dataclass(frozen=True, slots=True)
class Progress:
    """After each fit: step of steps; log-loss and AUC on what the fit did not see."""

    step: int
    steps: int
    loss: float
    metric: float


@dataclass(frozen=True, slots=True)
class Strength:
    """One L2 strength tried: its out-of-fold log-loss (nats, class-balanced where asked) and AUC."""

    l2: float
    log_loss: float
    auc: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A head and how it came about.

    losses: the objective at each step of the final fit. l2: the strength chosen among `tried`. oof_auc,
    oof_log_loss: out-of-fold, after calibration. folds: really used. seconds: wall time.
    """

    head: Head
    losses: tuple[float, ...]
    l2: float
    tried: tuple[Strength, ...]
    oof_auc: float
    oof_log_loss: float
    temperature: float
    folds: int
    seconds: float


def train_head(
    embeddings: Floats, labels: AnyLabels, classes: int, settings: TrainSettings, progress: Callable[[Progress], None]
) -> Trained:
    """Train on float32 [n, dims] and int [n] in 0..classes-1, repeatable bit by bit; TrainError says what lacks.

    `progress` is called after each fit, in this thread; what it raises ends the run.
    """
    import torch

    begin = time.perf_counter()
    x, y = _checked(embeddings, labels, classes, settings)
    folds = min(settings.folds, int(np.bincount(y, minlength=classes).min()))
    strengths = sorted(settings.l2, reverse=True)
    steps = folds * len(strengths) + 1
    side = _folds(y, folds, np.random.default_rng(settings.seed))
    held_out = np.zeros((len(strengths), len(y), classes))
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)  # more are slower on problems this small, and far worse when shared
    try:
        for fold in range(folds):
            inside, outside = side != fold, side == fold
            fits = _Problem(x[inside], y[inside], classes, settings).fit(strengths)
            for number, (weights, bias, _) in enumerate(fits):
                logits = x[outside] @ weights.T + bias
                held_out[number, outside] = logits
                loss = _log_loss(logits, y[outside], settings.class_balanced)
                step = fold * len(strengths) + number + 1
                progress(Progress(step, steps, loss, _auc(logits, y[outside])))
        tried = tuple(
            Strength(l2, _log_loss(logits, y, settings.class_balanced), _auc(logits, y))
            for l2, logits in zip(strengths, held_out, strict=True)
        )
        best = min(range(len(tried)), key=lambda number: tried[number].log_loss)
        temperature = _temperature(held_out[best], y, settings.class_balanced)
        problem = _Problem(x, y, classes, settings)
        *_, (weights, bias, losses) = problem.fit(strengths[: best + 1])
    finally:
        torch.set_num_threads(threads)
    loss = _log_loss(held_out[best] / temperature, y, settings.class_balanced)
    progress(Progress(steps, steps, loss, tried[best].auc))
    return Trained(
        head=Head(
            weights.astype(np.float32),
            bias.astype(np.float32),
            temperature,
            center=problem.mean.astype(np.float32),
            gain=(1.0 / problem.scale / math.sqrt(problem.reach)).astype(np.float32),
        ),
        losses=losses,
        l2=strengths[best],
        tried=tried,
        oof_auc=tried[best].auc,
        oof_log_loss=loss,
        temperature=temperature,
        folds=folds,
        seconds=time.perf_counter() - begin,
    )


_Fit = tuple[Doubles, Doubles, tuple[float, ...]]
"""weights [classes, dims] and bias [classes] for embeddings as they come; the objective at each step."""


class _Problem:
    """One training set, standardised and turned into its row space; solved for several L2 strengths."""

    def __init__(self, x: Doubles, y: Labels, classes: int, settings: TrainSettings) -> None:
        self.mean = x.mean(axis=0)
        spread = x.std(axis=0)
        self.scale = spread + settings.shrinkage * spread.mean()
        self.scale[self.scale == 0] = 1.0
        z = (x - self.mean) / self.scale
        length = math.sqrt(float((z**2).sum(axis=1).mean()))
        if not length > 0:
            raise _unfit(f"all {len(x)} embeddings are the same", "Check the backbone")
        self.scale *= length
        z /= length
        self.reach = float(np.quantile((z**2).sum(axis=1), 0.75))
        self._basis, r = np.linalg.qr(z.T)  # z == r.T @ basis.T, basis orthonormal [dims, min(dims, n)]
        self._z, self._y = np.ascontiguousarray(r.T), y
        self._weight = _weights(y, classes, settings.class_balanced)
        self._classes, self._max_iterations = classes, settings.max_iterations

    def fit(self, strengths: list[float]) -> Iterator[_Fit]:
        """Minimise weighted cross-entropy + l2 / 2 * |weights|^2 by L-BFGS, each strength from the one before."""
        import torch

        z, y = torch.from_numpy(self._z), torch.from_numpy(self._y)
        weight = torch.from_numpy(self._weight)
        w = torch.zeros(self._classes, z.shape[1], dtype=torch.float64, requires_grad=True)
        b = torch.zeros(self._classes, dtype=torch.float64, requires_grad=True)
        for l2 in strengths:
            losses: list[float] = []
            stop: dict[str, Any] = {"max_iter": self._max_iterations, "tolerance_grad": 1e-6, "tolerance_change": 1e-10}
            optimizer = torch.optim.LBFGS([w, b], **stop, history_size=20, line_search_fn="strong_wolfe")

            def objective(optimizer: Any = optimizer, l2: float = l2, losses: list[float] = losses) -> torch.Tensor:
                optimizer.zero_grad()
                loss = weight @ torch.nn.functional.cross_entropy(z @ w.T + b, y, reduction="none")
                loss = loss + l2 / 2 * (w**2).sum()
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.item())
                return loss

            optimizer.step(objective)  # type: ignore[no-untyped-call]
            if not math.isfinite(losses[-1]):
                raise TrainError(f"the loss became {losses[-1]} at L2 strength {l2}", subject="training")
            weights = (w.detach().numpy() @ self._basis.T) / self.scale
            yield weights, b.detach().numpy() - weights @ self.mean, tuple(losses)


def _checked(embeddings: Floats, labels: AnyLabels, classes: int, settings: TrainSettings) -> tuple[Doubles, Labels]:
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


def _folds(y: Labels, folds: int, rng: np.random.Generator) -> Labels:
    """Stratified: the fold of each image, int [n]; each class is spread evenly."""
    side = np.zeros(len(y), dtype=np.int64)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        side[members] = np.arange(len(members)) % folds
    return side


def _weights(y: Labels, classes: int, balanced: bool) -> Doubles:
    """Weight of each image, float64 [n], sum 1; balanced: the classes present share it equally."""
    if not balanced:
        return np.full(len(y), 1.0 / len(y))
    counts = np.bincount(y, minlength=classes)
    return 1.0 / (counts[y] * np.count_nonzero(counts))


def _log_loss(logits: Doubles, y: Labels, balanced: bool) -> float:
    """Cross-entropy in nats of float64 [n, classes]."""
    from scipy.special import log_softmax

    return float(-_weights(y, logits.shape[1], balanced) @ log_softmax(logits, axis=1)[np.arange(len(y)), y])


def _auc(logits: Doubles, y: Labels) -> float:
    """Area under the ROC curve, in [0, 1]: of class 1, or the mean over one class against the rest."""
    from scipy.special import softmax
    from sklearn.metrics import roc_auc_score

    if logits.shape[1] == 2:
        return float(roc_auc_score(y, logits[:, 1] - logits[:, 0]))
    return float(roc_auc_score(y, softmax(logits, axis=1), multi_class="ovr"))


def _temperature(logits: Doubles, y: Labels, balanced: bool) -> float:
    """The temperature > 0 that gives the least log-loss, within bounds that a tiny sample cannot leave."""
    from scipy.optimize import minimize_scalar

    bounds = (math.log(_TEMPERATURES[0]), math.log(_TEMPERATURES[1]))
    found = minimize_scalar(lambda log: _log_loss(logits / math.exp(log), y, balanced), bounds=bounds, method="bounded")
    return math.exp(float(found.x))
