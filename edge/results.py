"""Results: what the model says of each frame, for SCADA, told by a thread of its own.

A result goes at once when no other frame waits for the model, the usual case. While frames follow each other without a
pause, those of PACE_S go together: to hand over a single one wakes the MQTT client's thread, and while the next frame
is looked at both threads want Python's lock; that costs far more than the message.
"""

import threading
from collections import deque
from collections.abc import Callable

from edge.frame import Frame
from edge.infer import Facts
from shared import topics
from shared.bus import Bus
from shared.litert import Prediction
from shared.messages import ClockQuality, Result, encode

PACE_S = 0.03
"""Longest that a result waits for those of the next frames."""


class Results:
    """The thread that publishes a result for each frame, in order. clock_quality: asked from that thread."""

    def __init__(self, camera: str, bus: Bus, clock_quality: Callable[[], ClockQuality]) -> None:
        self._topic = topics.result(camera)
        self._bus = bus
        self._clock_quality = clock_quality
        self._waiting: deque[tuple[Frame, Prediction, Facts]] = deque()
        self._asleep = False
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what waits and end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def add(self, frame: Frame, prediction: Prediction, facts: Facts, *, pause: bool) -> None:
        """One more frame was judged. pause: no other one waits for the model. Called by the frame loop alone."""
        self._waiting.append((frame, prediction, facts))
        if pause or self._asleep:
            self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            self._asleep = True  # before the look at what waits: `add` puts it there first, and looks at this then
            if not self._waiting:
                self._wake.wait()
            self._asleep = False
            self._wake.clear()
            self._tell()
            self._wake.wait(PACE_S)
        self._tell()

    def _tell(self) -> None:
        """Publish all that waits; offline they are gone."""
        clock = self._clock_quality()
        while self._waiting:
            frame, prediction, facts = self._waiting.popleft()
            result = Result(
                sequence=frame.sequence,
                time=frame.at,
                clock=clock,
                label=facts.classes[prediction.best],
                score=min(1.0, prediction.score),
                release=facts.release,
                part=frame.part,
            )
            self._bus.publish(self._topic, encode(result), qos=0)
