"""The real agent of a camera, with a note of when each frame was due and when its prediction was done.

python -m tests.fakes.timed FOLDER CORE...: by FOLDER/edge.toml, on these cores, until SIGTERM; notes in noted.json.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from edge.agent import Agent
from edge.capture import FolderSource, Shot
from edge.frame import Frame
from edge.infer import Running
from edge.settings import read
from shared import heap
from shared.clock import SystemClock
from shared.errors import ImageError
from shared.litert import Prediction
from shared.preprocess import Pixels


class TimedSource(FolderSource):
    """The folder source, which also tells when its beat began."""

    began = 0.0

    def shots(self, stop: Event) -> Iterator[Shot | ImageError]:
        self.began = time.monotonic()
        yield from super().shots(stop)


class TimedAgent:
    """An agent as `hone-edge run` makes it. done: a frame's number -> monotonic seconds of its prediction.

    swaps: seconds and release of each change of the model. Frame n was due at `due(n)`.
    """

    def __init__(self, config: Path) -> None:
        settings = read(config)
        self.done: dict[int, float] = {}
        self.swaps: list[tuple[float, int]] = []
        self.agent = Agent(settings, SystemClock())
        self._period = 1.0 / settings.capture.fps
        self._source = TimedSource(Path(settings.capture.source), settings.capture.fps)
        self._release = 0
        self._frame = 0
        self.agent._capture._source = self._source
        self._see, self.agent._see = self.agent._see, self._noting  # type: ignore[method-assign]
        engine = self.agent._engine
        self._predict, engine.predict = engine.predict, self._predicting  # type: ignore[method-assign]
        heap.settle()

    def due(self, number: int) -> float:
        return self._source.began + number * self._period

    @property
    def dropped(self) -> int:
        return self.agent._capture.dropped

    def _noting(self, frame: Frame, running: Running) -> None:
        if running.release != self._release:
            self._release = running.release
            self.swaps.append((time.monotonic(), running.release))
        self._frame = frame.sequence
        self._see(frame, running)

    def _predicting(self, running: Running, pixels: Pixels) -> Prediction:
        prediction = self._predict(running, pixels)
        self.done[self._frame] = time.monotonic()
        return prediction


def main(folder: Path, cores: list[int]) -> None:
    """Run an agent; seconds are those of the machine's monotonic clock."""
    os.sched_setaffinity(0, cores)
    one = TimedAgent(folder / "edge.toml")
    signal.signal(signal.SIGTERM, lambda *_: one.agent.stop())
    one.agent.run()
    frames = [(one.due(number), done) for number, done in sorted(one.done.items())]
    errors = dict(one.agent._errors)
    noted = {"frames": frames, "swaps": one.swaps, "dropped": one.dropped, "errors": errors}
    (folder / "noted.json").write_text(json.dumps(noted))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(one) for one in sys.argv[2:]])
