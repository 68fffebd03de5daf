"""The demo's own measurements, apart from the hub's: what equally many random labels would have given, and the gain.

Embeds the cells with the released backbone under LiteRT, in a low-priority thread, while the story goes on.
"""

import os
import threading
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlmodel import select

from hub.demo.cells import CLASSES, Cell, Split
from hub.evaluate import Comparison, compare, evaluate
from hub.settings import TrainSettings
from hub.store import Store
from hub.tables import Release
from hub.train import train_head
from shared.errors import HoneError
from shared.litert import Floats, Part
from shared.manifest import ModelSpec
from shared.preprocess import Preprocess, decode, to_input

DRAWS = 10


class Judge:
    """Embeds all cells of a split in the background; `join` before asking."""

    def __init__(self, split: Split, backbone: Part, how: Preprocess, seed: int) -> None:
        self._split = split
        self._backbone = backbone
        self._how = how
        self._seed = seed
        self._stop = threading.Event()
        self._vectors: dict[Cell, Floats] = {}
        self._thread = threading.Thread(target=self._embed, name="judge", daemon=True)
        self._error: HoneError | None = None

    def start(self) -> None:
        """Begin to embed."""
        self._thread.start()

    def stop(self) -> None:
        """Give up."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def join(self, go_on: Callable[[], None]) -> None:
        """Wait until everything is embedded; raises what went wrong. go_on: called meanwhile; may raise to end it."""
        while self._thread.is_alive():
            go_on()
            self._thread.join(0.2)
        if self._error is not None:
            raise self._error

    def random_labels_auc(self, labels: int, train: TrainSettings) -> float | None:
        """Mean AUC on the holdout over DRAWS of training on the start set and `labels` random cells of the streams."""
        if not labels:
            return None
        pool = [cell for stream in self._split.streams for cell in stream]
        rng = np.random.default_rng(self._seed)
        x, y = self._data(self._split.holdout)
        values = []
        for _ in range(DRAWS):
            drawn = [pool[one] for one in rng.choice(len(pool), min(labels, len(pool)), replace=False)]
            some_x, some_y = self._data([*self._split.start, *drawn])
            head = train_head(some_x, some_y, len(CLASSES), train, lambda _progress: None).head
            auc = evaluate(head.probabilities(x), y, bootstrap=10).auc
            if auc is not None:
                values.append(auc.value)
        return float(np.mean(values)) if values else None

    def gain(self, store: Store, first: int, last: int) -> Comparison:
        """Release `last` against release `first`, both as exported, on the same holdout images."""
        x, y = self._data(self._split.holdout)
        with store.read() as session:
            releases = {one.number: one.model for one in session.exec(select(Release)).all()}
        probabilities = []
        for number in (first, last):
            spec = msgspec.convert(releases[number], ModelSpec)
            head = Part(store.blobs.read(spec.head.sha256), name="head")
            probabilities.append(np.concatenate([head.run(one[np.newaxis]) for one in x]))
        return compare(probabilities[0], probabilities[1], y)

    def _data(self, cells: Sequence[Cell]) -> tuple[Floats, NDArray[np.int64]]:
        x = np.stack([self._vectors[one] for one in cells])
        return x, np.array([CLASSES.index(one.label) for one in cells], np.int64)

    def _embed(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
        split = self._split
        try:
            for cell in [*split.holdout, *split.start, *(one for stream in split.streams for one in stream)]:
                if self._stop.is_set():
                    return
                pixels = decode(cell.path.read_bytes())
                self._vectors[cell] = self._backbone.run(to_input(pixels, self._how))[0]
        except HoneError as error:
            self._error = error
