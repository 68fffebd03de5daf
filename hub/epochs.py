"""Train torch modules by epochs: early stopping on what a module does not see, resumable, repeatable.

1. One module for each fold that is held out, all trained side by side, epoch after epoch. After each epoch the loss of
   the held-out predictions is known. The training ends `patience` epochs after the best one.
2. A module on all images, for as many epochs as were best. Its temperature is fitted to the held-out predictions of
   the best epoch, see `hub.train`.

The optimiser is AdamW (Loshchilov and Hutter, arXiv:1711.05101). Every epoch of every module has random numbers of its
own, from seed, module and epoch: a training that is resumed goes on as if it had never stopped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hub.checkpoint import Checkpoint
from hub.folds import auc_of, log_loss, weights_of
from hub.settings import TrainSettings
from hub.train import Inside, Progress
from shared.errors import ConfigError, TrainError

if TYPE_CHECKING:
    import torch

Doubles = NDArray[np.float64]
Labels = NDArray[np.int64]


class Task(Protocol):
    """What is trained."""

    def make(self, rows: Labels) -> "torch.nn.Module":
        """A fresh module that will see these training images only; its forward gives logits [n, classes]."""
        ...

    def batch(self, rows: Labels, rng: np.random.Generator | None) -> "torch.Tensor":
        """Inputs of these images; rng: to change them at random, None: as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """module: trained on all images, on the processor. epochs: of it; losses: its mean loss in each.

    logits: of the held-out images at the best epoch, float64 [m, classes]; rows: which images those are.
    """

    module: "torch.nn.Module"
    epochs: int
    losses: tuple[float, ...]
    logits: Doubles
    rows: Labels


def device_of(settings: TrainSettings) -> str:
    """ "cpu" or "cuda"; ConfigError when a GPU is asked for and there is none."""
    import torch

    there = torch.cuda.is_available()
    if settings.device == "cuda" and not there:
        raise ConfigError(
            "is cuda, and torch finds no GPU",
            subject="train.device",
            remedy="Set it to auto or cpu, or install a driver",
        )
    return "cuda" if there and settings.device != "cpu" else "cpu"


def device_name(settings: TrainSettings) -> str:
    """What a training by these settings runs on: "cpu", or "cuda" and the name of the GPU. As `device_of` raises."""
    import torch

    device = device_of(settings)
    return device if device == "cpu" else f"{device} {torch.cuda.get_device_name()}"


def precision_of(settings: TrainSettings, device: str) -> "torch.autocast":
    """The context that modules compute in: with mixed precision in bfloat16 where that loses little."""
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=settings.precision == "mixed")


@dataclass(slots=True)
class _Member:
    """One module in training. rows: what it sees; held: what it does not. number: of its random numbers."""

    module: "torch.nn.Module"
    optimizer: "torch.optim.Optimizer"
    rows: Labels
    held: Labels
    number: int


class _Told:
    """Tells of the batches of one epoch of all modules. Those that only predict count as much: where an epoch is long,
    most of the first one goes into reading images.
    """

    def __init__(self, inside: Callable[[Inside], None], step: int, steps: int, batches: int) -> None:
        self._inside = inside
        self._step, self._steps, self._batches = step, steps, batches
        self._done = self._trained = 0
        self._loss = 0.0

    def batch(self, loss: float | None = None) -> None:
        """One more. loss: of one that was trained on."""
        self._done += 1
        if loss is not None:
            self._trained += 1
            self._loss += loss
        self._inside(Inside(self._step, self._steps, self._done / self._batches, self._loss / self._trained))


class Trainer:
    """Trains a task on int labels [n]. check, inside: called after each batch; what they raise ends the training."""

    def __init__(
        self,
        task: Task,
        y: Labels,
        classes: int,
        settings: TrainSettings,
        *,
        check: Callable[[], None] = lambda: None,
        inside: Callable[[Inside], None] = lambda _: None,
    ) -> None:
        self._task = task
        self._inside = inside
        self._y = y
        self._classes = classes
        self._settings = settings
        self._check = check
        self._device = device_of(settings)
        self._weights = weights_of(y, classes, settings.class_balanced) * len(y)

    def learn(
        self, held_out: Sequence[Labels], progress: Callable[[Progress], None], checkpoint: Checkpoint | None = None
    ) -> Learned:
        """Train with these sets of images held out in turn, then on all. TrainError when the loss is not finite."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(self._settings.threads)
        devices = [torch.cuda.current_device()] if self._device == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                return self._learn([np.sort(one) for one in held_out], progress, checkpoint)
        finally:
            torch.set_num_threads(threads)

    def _learn(
        self, held_out: list[Labels], progress: Callable[[Progress], None], checkpoint: Checkpoint | None
    ) -> Learned:
        import torch

        settings, everything = self._settings, np.arange(len(self._y))
        steps = 2 * settings.epochs
        rows = np.concatenate(held_out)
        kept = (checkpoint.load() if checkpoint is not None else None) or {}
        best_loss, best_epoch = kept.get("best_loss", float("inf")), int(kept.get("best_epoch", 0))
        best_logits = kept["best_logits"].numpy() if "best_logits" in kept else np.zeros((len(rows), self._classes))
        begun, losses = int(kept.get("epoch", 0)), list(kept.get("losses", []))
        final = bool(kept.get("final", False))

        def state(members: list[_Member], epoch: int) -> dict[str, Any]:
            return {
                "final": final,
                "epoch": epoch,
                "best_loss": best_loss,
                "best_epoch": best_epoch,
                "best_logits": torch.from_numpy(best_logits),
                "losses": losses,
                "modules": [one.module.state_dict() for one in members],
                "optimizers": [one.optimizer.state_dict() for one in members],
            }

        if not final:
            members = [
                self._member(np.setdiff1d(everything, held), held, number) for number, held in enumerate(held_out)
            ]
            _restore(members, kept)
            for epoch in range(begun, settings.epochs):
                told = _Told(self._inside, epoch, steps, sum(map(self._batches, members)))
                for one in members:
                    self._epoch(one, epoch, told)
                logits = np.concatenate([self._predict(one, told) for one in members])
                loss = log_loss(logits, self._y[rows], settings.class_balanced)
                if loss < best_loss:
                    best_loss, best_epoch, best_logits = loss, epoch + 1, logits
                progress(Progress(epoch + 1, steps, loss, auc_of(logits, self._y[rows])))
                if epoch + 1 - best_epoch >= settings.patience:
                    break
                if checkpoint is not None:
                    checkpoint.keep(lambda members=members, epoch=epoch: state(members, epoch + 1))  # type: ignore[misc]
            final, begun, kept = True, 0, {}
        steps = settings.epochs + best_epoch
        metric = auc_of(best_logits, self._y[rows])
        last = self._member(everything, everything[:0], len(held_out))
        _restore([last], kept)
        for epoch in range(begun, best_epoch):
            told = _Told(self._inside, settings.epochs + epoch, steps, self._batches(last))
            losses.append(self._epoch(last, epoch, told))
            progress(Progress(settings.epochs + epoch + 1, steps, best_loss, metric))
            if checkpoint is not None:
                checkpoint.keep(lambda epoch=epoch: state([last], epoch + 1))  # type: ignore[misc]
        return Learned(last.module.cpu().eval(), best_epoch, tuple(losses), best_logits, rows)

    def _member(self, rows: Labels, held: Labels, number: int) -> _Member:
        import torch

        torch.manual_seed(_number(self._settings.seed, number, 0))
        module = self._task.make(rows).to(self._device)
        trained = [one for one in module.parameters() if one.requires_grad]
        return _Member(module, torch.optim.AdamW(trained, lr=self._settings.learning_rate), rows, held, number)

    def _batches(self, member: _Member) -> int:
        """Of an epoch, to train on and to predict."""
        size = self._settings.batch_size
        return -(-len(member.rows) // size) + -(-len(member.held) // size)

    def _epoch(self, member: _Member, epoch: int, told: _Told) -> float:
        """Once through all images that a module sees, in an order of its own; the mean loss."""
        import torch

        seed = _number(self._settings.seed, member.number, epoch + 1)
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        member.module.train()
        order, total = rng.permutation(member.rows), 0.0
        for start in range(0, len(order), self._settings.batch_size):
            some = order[start : start + self._settings.batch_size]
            x = self._task.batch(some, rng).to(self._device)
            y = torch.from_numpy(self._y[some]).to(self._device)
            weight = torch.from_numpy(self._weights[some]).to(self._device, torch.float32)
            member.optimizer.zero_grad()
            with precision_of(self._settings, self._device):
                logits = member.module(x).float()
            loss = (weight * torch.nn.functional.cross_entropy(logits, y, reduction="none")).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            member.optimizer.step()
            total += (batch_loss := loss.item()) * len(some)
            self._check()
            told.batch(batch_loss)
        if not np.isfinite(total):
            raise TrainError(
                f"the loss became {total} in epoch {epoch + 1}",
                subject="training",
                remedy="Set a lower train.learning_rate",
            )
        return total / len(order)

    def _predict(self, member: _Member, told: _Told) -> Doubles:
        import torch

        member.module.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(member.held), self._settings.batch_size):
                x = self._task.batch(member.held[start : start + self._settings.batch_size], None).to(self._device)
                with precision_of(self._settings, self._device):
                    found.append(member.module(x).float().cpu().numpy())
                self._check()
                told.batch()
        return np.concatenate(found).astype(np.float64)


def _restore(members: list[_Member], kept: dict[str, Any]) -> None:
    for one, module, optimizer in zip(members, kept.get("modules", []), kept.get("optimizers", []), strict=False):
        one.module.load_state_dict(module)
        one.optimizer.load_state_dict(optimizer)


def _number(*parts: int) -> int:
    """A seed of its own for each of these."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
