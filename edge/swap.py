"""Swap: a release on the shelf comes into use, between two frames; whatever fails, the one in use stays."""

import logging
from collections import Counter

from edge.assemble import assemble
from edge.infer import Engine
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.standing import Standing
from edge.variant import choose
from shared.clock import Clock
from shared.errors import ModelError, ReloadError
from shared.manifest import ModelSpec, VariantName

log = logging.getLogger(__name__)
SWAP_TIMEOUT = 30.0


class Swap:
    """Not thread-safe: `edge.reload` alone uses it."""

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        engine: Engine,
        shelf: Shelf,
        standing: Standing,
        clock: Clock,
        errors: Counter[str],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._shelf = shelf
        self._standing = standing
        self._clock = clock
        self._errors = errors
        self._began = 0.0

    def begin(self) -> None:
        """A release is named: the time to its swap is counted from now on."""
        self._began = self._clock.monotonic()

    def boot(self) -> None:
        """Start with the release on disk, or with the one before when that one cannot be loaded."""
        for _ in range(2):
            kept = self._shelf.to_start()
            if kept is None:
                break
            try:
                self.begin()
                self._swap(kept)
            except ModelError as error:
                self._errors[error.code] += 1
                log.error("release %d on disk: %s", kept.release, error)
                self._shelf.change(current=self._shelf.state.previous, previous=None, starts=0)
            else:
                break

    def use(self, kept: Kept) -> None:
        """All parts of this release are here: it runs from now on, and lower numbers are refused.

        ModelError where it is no good; ReloadError where the frame loop does not take it in time.
        """
        self._standing.set(state="verifying", percent=100.0)
        self._shelf.try_release(kept.release)
        self._swap(kept)
        self._shelf.change(floor=max(self._shelf.state.floor, kept.release))
        self._shelf.adopt(kept)

    def variant(self, model: ModelSpec, *, trying: bool) -> VariantName:
        """Which variant of a model to go after, by what was measured here; on trial that of the model in use."""
        running, pace, speeds = self._engine.running, self._engine.pace, self._shelf.state.speeds
        now = running.facts.variant if running is not None else "float"
        if pace is not None:
            speeds = {**speeds, now: round(pace.infer_ms, 2)}
            self._shelf.change(speeds=speeds)
        setting = now if trying else self._settings.variant
        return choose(setting, offered=model.int8 is not None, running=now, speeds=speeds, pace=pace)

    def _swap(self, kept: Kept) -> None:
        """Load, warm up, check against the golden outputs, and hand to the engine between two frames."""
        new = assemble(kept, self._shelf, threads=self._settings.threads, pause=self._engine.spare.wait)
        old = self._engine.running
        if not self._engine.offer(new.running, SWAP_TIMEOUT):
            self._shelf.change(trying=0, tries=0)  # it was loaded, and has not killed the agent
            raise ReloadError(f"no frame boundary came in {SWAP_TIMEOUT:.0f} s", subject=f"release {kept.release}")
        took = (self._clock.monotonic() - self._began) * 1000
        log.info("release %d runs (%.0f ms from plan to swap)", kept.release, took)
        self._standing.set(
            state="running",
            release=kept.release,
            percent=100.0,
            reason="",
            last_ms=round(took, 1),
            swap_ms=round(self._engine.swap_ms, 3),
            cosine=new.cosine,
            difference=new.difference,
        )
        self._engine.spare.wait()
        del old  # here, and not in the frame loop: to free a model takes a while
