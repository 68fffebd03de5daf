"""Images and labels -> a backbone whose last blocks, or all layers, were trained on, with a calibrated linear head.

1. The head starts as the linear head on Lite0's own embeddings of the same images, not at random: else the first steps
   spoil what the backbone knows (Kumar et al. 2022, arXiv:2202.10054).
2. Every fifth image of each class is held out (one of `folds`), with its near-copies. Epochs end on its loss;
   temperature and thresholds come from its predictions. Then all images are trained on for as many epochs. All folds in
   turn would take as many times as long, and embeddings that a backbone has learned to tell apart say nothing
   out-of-fold any more.
3. Batch normalisation keeps the statistics of ImageNet: those of a few small batches would be noise.

Without augmentation the frozen first blocks see each image once; what they give is kept in memory.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from hub.checkpoint import Checkpoint
from hub.epochs import Trainer, device_of, precision_of
from hub.export import lite0
from hub.folds import auc_of, fold_count, folds_of, log_loss, softmax, temperature_of
from hub.head import Head
from hub.settings import TrainSettings
from hub.train import AnyLabels, Floats, Inside, Progress, Trained, checked, train_head
from shared.preprocess import Pixels, Preprocess, to_input

if TYPE_CHECKING:
    import torch

Labels = NDArray[np.int64]

MEMORY = 2 << 30
"""Bytes of images, or of what the frozen blocks make of them, that are kept in memory."""
_ANGLE = 10.0  # degrees, at most either way
_GAIN = 0.15  # brighter or darker by at most so much


@dataclass(frozen=True, slots=True)
class Tuned:
    """net: the whole backbone, for `hub.export.convert`. trained: its head and the rest of the outcome.

    The head does not know yet where the training set lies: give it `place_of` the new embeddings.
    """

    net: "torch.nn.Module"
    trained: Trained


def finetune(
    load: Callable[[int], Pixels],
    embeddings: Floats,
    labels: AnyLabels,
    classes: int,
    how: Preprocess,
    *,
    settings: TrainSettings,
    progress: Callable[[Progress], None],
    checkpoint: Checkpoint | None = None,
    check: Callable[[], None] = lambda: None,
    inside: Callable[[Inside], None] = lambda _: None,
    near: Labels | None = None,
) -> Tuned:
    """Train on images 0..n-1, decoded by `load`. embeddings: Lite0's own of them, float32 [n, dims]; labels: int [n];
    near: as for `hub.train.train_head`.

    TrainError says what lacks.
    """
    begin = time.perf_counter()
    x, y = checked(embeddings, labels, classes, settings)
    folds = fold_count(y, classes, settings.folds, near)
    side = folds_of(y, folds, np.random.default_rng(settings.seed), near)
    # The fold of the most pictures that differ; without near-copies the first.
    fold = int(np.argmax([len(np.unique(near[side == one])) for one in range(folds)])) if near is not None else 0
    task = _Task(load, (x.astype(np.float32), y, classes), how, settings)
    learned = Trainer(task, y, classes, settings, check=check, inside=inside).learn(
        [np.flatnonzero(side == fold)], progress, checkpoint
    )
    truth = y[learned.rows]
    temperature = temperature_of(learned.logits, truth, settings.class_balanced)
    module: Any = learned.module
    numbers = {name: one.detach().cpu().numpy() for name, one in module.head.state_dict().items()}
    dims = np.ones(x.shape[1], np.float32)
    trained = Trained(
        head=Head(numbers["weight"], numbers["bias"], temperature, center=0 * dims, gain=dims),
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
    net = lite0(how.size)
    net.load_state_dict({**net.state_dict(), **module.tail_state()})
    return Tuned(net, trained)


def augmented(pixels: Pixels, which: tuple[str, ...], rng: np.random.Generator) -> Pixels:
    """A random picture that shows the same: flipped, turned by a few degrees, brighter or darker; as `which` names."""
    flips = {"flip_horizontal": np.fliplr, "flip_vertical": np.flipud}
    for name, flip in flips.items():
        if name in which and rng.random() < 0.5:
            pixels = flip(pixels)
    if "rotate" in which:
        height, width = pixels.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-_ANGLE, _ANGLE), 1.0)
        pixels = np.asarray(
            cv2.warpAffine(np.ascontiguousarray(pixels), turn, (width, height), borderMode=cv2.BORDER_REFLECT_101),
            np.uint8,
        )
    if "gain" in which:
        pixels = np.clip(pixels * rng.uniform(1 - _GAIN, 1 + _GAIN), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


class _Task:
    """Images as the module takes them: what the frozen blocks give, or the normalised picture itself."""

    def __init__(
        self,
        load: Callable[[int], Pixels],
        known: tuple[Floats, Labels, int],
        how: Preprocess,
        settings: TrainSettings,
    ) -> None:
        import torch

        self._load = load
        self._embeddings, self._y, self._classes = known
        self._how, self._settings = how, settings
        self._device = device_of(settings)
        self._frozen = lite0(how.size).to(self._device).eval()
        self._first = 0 if settings.kind == "full" else max(0, len(self._frozen._blocks) - settings.blocks)
        self._kept: dict[int, torch.Tensor] = {}
        self._bytes = 0

    def make(self, rows: Labels) -> "torch.nn.Module":
        """Lite0 from the first block that is trained on, and the head of these images."""
        import torch

        settings = msgspec.structs.replace(self._settings, l2=(0.001,), folds=2)
        head = train_head(self._embeddings[rows], self._y[rows], self._classes, settings, lambda _: None).head
        linear = torch.nn.Linear(head.dims, self._classes)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(head.weights))
            linear.bias.copy_(torch.from_numpy(head.bias))
        return _tail(lite0(self._how.size), self._first, self._settings.kind == "full", linear, self._settings.dropout)

    def batch(self, rows: Labels, rng: np.random.Generator | None) -> "torch.Tensor":
        """Inputs of these images, of new random pictures where the settings say so."""
        import torch

        changes = self._settings.augment if rng is not None else ()
        if changes and rng is not None:
            pictures = [augmented(self._small(row), changes, rng) for row in rows.tolist()]
            return self._through(torch.cat([self._tensor(one) for one in pictures]))
        new = [row for row in rows.tolist() if row not in self._kept]
        fresh: dict[int, torch.Tensor] = {}
        if new:
            made = self._through(torch.cat([self._tensor(self._load(row)) for row in new])).cpu()
            fresh = dict(zip(new, torch.split(made, 1), strict=True))
            for row, one in fresh.items():
                if self._bytes + one.nbytes <= MEMORY:
                    self._kept[row] = one.clone()
                    self._bytes += one.nbytes
        return torch.cat([self._kept.get(row, fresh.get(row)) for row in rows.tolist()])  # type: ignore[misc]

    def _small(self, row: int) -> Pixels:
        """The picture at the model's size, not normalised."""
        plain = Preprocess(size=self._how.size, mean=0.0, scale=1.0)
        picture = np.rint(to_input(self._load(row), plain)[0])
        return np.asarray(np.clip(picture, 0, 255), np.uint8)

    def _tensor(self, pixels: Pixels) -> "torch.Tensor":
        import torch

        return torch.from_numpy(to_input(pixels, self._how).transpose(0, 3, 1, 2).copy())

    def _through(self, x: "torch.Tensor") -> "torch.Tensor":
        """What the frozen blocks make of pictures; the pictures themselves where nothing is frozen."""
        import torch

        if self._settings.kind == "full":
            return x
        net: Any = self._frozen
        with torch.no_grad(), precision_of(self._settings, self._device):
            x = net._swish(net._bn0(net._conv_stem(x.to(self._device))))
            for block in net._blocks[: self._first]:
                x = block(x)
        return x


def _tail(net: Any, first: int, whole: bool, head: "torch.nn.Linear", dropout: float) -> "torch.nn.Module":
    """Lite0 from block `first` on, or with its stem where `whole`, then the head."""
    import torch

    class Tail(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if whole:
                self._conv_stem, self._bn0 = net._conv_stem, net._bn0
            self._blocks = torch.nn.ModuleDict(
                {str(number): net._blocks[number] for number in range(first, len(net._blocks))}
            )
            self._conv_head, self._bn1, self._swish = net._conv_head, net._bn1, net._swish
            self.drop, self.head = torch.nn.Dropout(dropout), head

        def train(self, mode: bool = True) -> "Tail":
            """Batch normalisation stays as it is."""
            super().train(mode)
            for one in self.modules():
                if isinstance(one, torch.nn.BatchNorm2d):
                    one.eval()
            return self

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if whole:
                x = self._swish(self._bn0(self._conv_stem(x)))
            for block in self._blocks.values():
                x = block(x)
            found: torch.Tensor = self.head(self.drop(self._swish(self._bn1(self._conv_head(x))).mean((2, 3))))
            return found

        def tail_state(self) -> dict[str, torch.Tensor]:
            """The tensors under the names that the whole net gives them."""
            return {name: one for name, one in self.state_dict().items() if not name.startswith("head.")}

    return Tail()
