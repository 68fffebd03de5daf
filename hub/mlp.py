"""Embeddings and labels -> a calibrated head with one hidden layer and dropout (Srivastava et al., JMLR 2014)."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hub.checkpoint import Checkpoint
from hub.epochs import Trainer
from hub.folds import auc_of, fold_count, folds_of, log_loss, softmax, temperature_of
from hub.head import Head, Layer, place_of
from hub.settings import TrainSettings
from hub.train import AnyLabels, Floats, Inside, Progress, Trained, checked
from shared.errors import TrainError

if TYPE_CHECKING:
    import torch

Labels = NDArray[np.int64]


class _Task:
    """Embeddings, standardised to a mean squared length of the square root of their number."""

    def __init__(self, z: "torch.Tensor", classes: int, settings: TrainSettings) -> None:
        self._z = z
        self._classes = classes
        self._settings = settings

    def make(self, rows: Labels) -> "torch.nn.Module":
        """Dropout before both layers: on few labels most of 1280 inputs are chance."""
        from torch import nn

        settings = self._settings
        return nn.Sequential(
            nn.Dropout(settings.dropout),
            nn.Linear(self._z.shape[1], settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, self._classes),
        )

    def batch(self, rows: Labels, rng: np.random.Generator | None) -> "torch.Tensor":
        return self._z[rows]


def train_mlp(
    embeddings: Floats,
    labels: AnyLabels,
    classes: int,
    settings: TrainSettings,
    progress: Callable[[Progress], None],
    *,
    checkpoint: Checkpoint | None = None,
    check: Callable[[], None] = lambda: None,
    inside: Callable[[Inside], None] = lambda _: None,
    near: Labels | None = None,
) -> Trained:
    """Train on float32 [n, dims] and int [n], as `hub.train.train_head` does, with all folds held out in turn.

    near: as there. On the processor repeatable bit by bit. TrainError says what lacks.
    """
    import torch

    begin = time.perf_counter()
    x, y = checked(embeddings, labels, classes, settings)
    place = place_of(x, settings.shrinkage)
    if place is None:
        raise TrainError(f"all {len(x)} embeddings are the same", subject="training set", remedy="Check the backbone")
    stretch = np.sqrt(x.shape[1])  # a layer's first weights expect inputs of about 1
    z = ((x - place.mean) / place.scale * stretch).astype(np.float32)
    folds = fold_count(y, classes, settings.folds, near)
    side = folds_of(y, folds, np.random.default_rng(settings.seed), near)
    trainer = Trainer(_Task(torch.from_numpy(z), classes, settings), y, classes, settings, check=check, inside=inside)
    learned = trainer.learn([np.flatnonzero(side == fold) for fold in range(folds)], progress, checkpoint)
    truth = y[learned.rows]
    temperature = temperature_of(learned.logits, truth, settings.class_balanced)
    first, second = (_layer(learned.module, number) for number in (1, 4))
    weights = first.weights.astype(np.float64) * stretch / place.scale
    return Trained(
        head=Head(
            second.weights,
            second.bias,
            temperature,
            center=place.center,
            gain=place.gain,
            hidden=Layer(weights.astype(np.float32), (first.bias - weights @ place.mean).astype(np.float32)),
        ),
        losses=learned.losses,
        oof_auc=auc_of(learned.logits, truth),
        oof_log_loss=log_loss(learned.logits / temperature, truth, settings.class_balanced),
        temperature=temperature,
        folds=folds,
        seconds=time.perf_counter() - begin,
        oof=softmax(learned.logits / temperature),
        oof_rows=learned.rows,
        epochs=learned.epochs,
    )


def _layer(module: "torch.nn.Module", number: int) -> Layer:
    state = module.state_dict()
    return Layer(*(state[f"{number}.{name}"].detach().cpu().numpy() for name in ("weight", "bias")))
