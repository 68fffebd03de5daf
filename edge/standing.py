"""Standing: how far the reload is, as the reports say it."""

from collections.abc import Callable

from edge.beside import Beside
from edge.infer import Engine
from edge.pursuit import Pursuit
from edge.shelf import Shelf
from shared.messages import ReloadState


class Standing:
    """Not thread-safe: `edge.reload` alone uses it, but anyone may read `state`. changed: called after every change,
    and where the trial has changed.
    """

    def __init__(
        self, *, engine: Engine, shelf: Shelf, pursuit: Pursuit, beside: Beside, changed: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._shelf = shelf
        self._pursuit = pursuit
        self._beside = beside
        self.changed = changed
        self.state = ReloadState(state="idle")

    def set(self, **fields: object) -> None:
        """Change these fields of the state."""
        values = {name: getattr(self.state, name) for name in ReloadState.__struct_fields__}
        self.state = ReloadState(**{**values, **fields})
        self.changed()

    def set_unless_old(self, **fields: object) -> None:
        """`set`, but of an older release that is tried the report is silent: it is not what a rollout waits for."""
        running = self._engine.running
        if not self._pursuit.trying or running is None or self._pursuit.number > running.release:
            self.set(**fields)

    def settle(self) -> None:
        """The state is that of the release in use, or of a newer one that runs beside it."""
        running = self._engine.running
        if running is None:
            return
        shadowing = self._beside.shadowing
        state, release = ("shadowing", shadowing) if shadowing else ("running", running.release)
        if (self.state.state, self.state.release) == (state, release):
            self.changed()
        else:
            self.set(state=state, release=release, percent=100.0, reason="")

    def left(self) -> None:
        """The state is that of the release that was left last, where there is one."""
        if left := self._shelf.state.reverted:
            self.set(state="reverted", release=left.release, reason=left.reason)

    def failed_before(self, number: int) -> bool:
        """Report a release that failed here before; whether it was in use then."""
        left = self._shelf.state.reverted
        if left is not None and left.release == number:
            self.set(state="reverted", release=number, reason=left.reason)
            return True
        if (self.state.state, self.state.release) != ("failed", number):
            self.set(state="failed", release=number, reason="failed on this camera before and is not tried again")
        return False
