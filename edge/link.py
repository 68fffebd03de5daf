"""Link: what the way to the broker carries, learnt from the broker's acknowledgements. Pure; the clock is passed in.

A chunk shall take no longer than CHUNK_S, so that a line of 12 kbit/s shows progress, loses little when it breaks, and
lets no keep-alive starve behind it; and just enough is handed over at a time that the line never runs dry.
"""

import math

CHUNK_S = 8.0
"""Seconds of line time that a chunk may take."""
FIRST_CHUNK = 8192
"""Bytes of a chunk while nothing is known of the line."""
MAX_WINDOW = 2 << 20
"""Bytes that may be on their way to the broker on the best of lines."""
MEMORY_S = 10.0
"""Seconds after which what was learnt counts for a third."""
SAMPLE_S = 0.02
"""Shorter times than this tell nothing, unless all that was sent since the line was idle has arrived in them:
acknowledgements that were held up come in a bunch, and say nothing of the line.
"""


class Link:
    """Measures goodput (bytes/s of payload) while something is under way, and says how much to hand over."""

    def __init__(self) -> None:
        self._flying = 0
        self._acked = 0
        self._since = 0.0
        self._whole = False  # whether `_acked` counts from the first byte after the line was idle
        self._rate: float | None = None

    def sent(self, size: int, now: float) -> None:
        """So many bytes were handed over."""
        if not self._flying:
            self._since, self._acked, self._whole = now, 0, True
        self._flying += size

    def acked(self, size: int, now: float) -> None:
        """The broker has acknowledged so many."""
        self._flying = max(0, self._flying - size)
        self._acked += size
        took = now - self._since
        if took <= 0 or (took < SAMPLE_S and (self._flying or not self._whole)):
            return
        rate = self._acked / took
        fresh = 1 - math.exp(-took / MEMORY_S)
        # A line that turns out better than thought is believed at once: what was learnt from little says too little.
        self._rate = rate if self._rate is None or rate > self._rate else self._rate + fresh * (rate - self._rate)
        self._since, self._acked, self._whole = now, 0, False

    def broke(self) -> None:
        """The connection is gone, and with it what was under way."""
        self._flying = self._acked = 0
        self._whole = False

    @property
    def rate(self) -> float | None:
        """Bytes/s; None while nothing is known."""
        return self._rate

    @property
    def chunk_limit(self) -> int:
        """Bytes of the largest chunk that takes no longer than CHUNK_S."""
        return FIRST_CHUNK if self._rate is None else max(1024, int(self._rate * CHUNK_S))

    @property
    def window(self) -> int:
        """Another message may be handed over while fewer bytes than this are on their way."""
        return min(MAX_WINDOW, max(FIRST_CHUNK, self.chunk_limit))
