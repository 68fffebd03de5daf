"""Beside: bring the other release of a trial to run beside the one in use; or say why it does not."""

import enum
import logging
from collections.abc import Callable

from edge.assemble import assemble
from edge.infer import Engine, Running
from edge.memory import free_mb
from edge.pursuit import Pursuit
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.trial import TrialRun, judge_of
from shared.errors import ReloadError
from shared.manifest import Trial

log = logging.getLogger(__name__)
OFF = "switched off in edge.toml"


class Next(enum.Enum):
    """What comes after a plan: nothing, for now; a release that was here before; another; one on its way; it failed."""

    NOTHING = enum.auto()
    HERE = enum.auto()
    FETCH = enum.auto()
    UNDERWAY = enum.auto()
    FAILED = enum.auto()


class Beside:
    """Not thread-safe: `edge.reload` alone uses it. free: MiB of memory that are free, None: not known.

    wish: what the plan has tried beside the release in use; None: nothing. short: of memory for it, for now.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        engine: Engine,
        shelf: Shelf,
        pursuit: Pursuit,
        trial: TrialRun,
        free: Callable[[], int | None] = free_mb,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._shelf = shelf
        self._pursuit = pursuit
        self._trial = trial
        self._free = free
        self.wish: Trial | None = None
        self.short = False

    @property
    def shadowing(self) -> int:
        """The number of a newer release that runs beside the one in use; 0: none does."""
        running, wish = self._engine.running, self.wish
        newer = running is not None and wish is not None and wish.release > running.release
        return wish.release if wish is not None and newer and self._trial.runs else 0

    def follow(self, wish: Trial | None) -> Next:
        """The plan has this tried beside the release in use: the first step there, or none."""
        running = self._engine.running
        if wish is None or running is None or wish.release == running.release:
            self.end()
            return Next.NOTHING
        self.wish = wish
        if self._pursuit.number != wish.release:
            self._pursuit.drop()
        self._trial.name(running.release, wish.release, share=wish.share, ask=wish.ask)
        if self._pursuit.number:
            return Next.UNDERWAY
        if self._trial.runs:
            return Next.NOTHING
        if self._settings.trial == "off":
            self._trial.skip(OFF)
            return Next.NOTHING
        if wish.release in self._shelf.state.failed:
            if not self._trial.skipped:
                self._trial.skip(f"release {wish.release} failed on this camera before and is not tried again")
            return Next.FAILED
        if self._shelf.state.good != running.release:
            return Next.NOTHING  # until it has run well: a crash shall tell which of the two is to blame
        if (kept := self._shelf.find(wish.release)) is not None:
            self._pursuit.begin_here(kept, trying=True)
            return Next.HERE
        self._pursuit.begin(wish.release, trying=True)
        return Next.FETCH

    def join(self, kept: Kept) -> None:
        """All parts are here: load and check it as for use, and hand it to the trial; skipped where memory is short.

        ModelError where it is no good, or ended the agent again and again.
        """
        main = self._engine.running
        if main is None:
            raise ReloadError("cannot be tried, no release is in use", subject=f"release {kept.release}")
        self._shelf.keep_trial(kept)
        head_alone = _same_embedding(kept, main)
        needed, room = self._settings.trial_memory_mb, self._free()
        self.short = not head_alone and room is not None and room < needed
        if self.short:
            self.skip(f"{room} MB of memory free, {needed} needed for a second backbone")
            return
        self._shelf.start_trial()
        other = assemble(kept, self._shelf, threads=self._settings.threads, pause=self._engine.spare.wait).running
        self._trial.begin(main.facts, other.facts, judge_of(other, head_alone=head_alone))
        log.info("release %d runs on trial beside release %d", other.release, main.release)
        self._engine.spare.wait()
        del other  # where its head is enough, its backbone goes: that takes a while

    def skip(self, reason: str) -> None:
        """The other one does not run here."""
        log.warning("trial: %s", reason)
        self._trial.skip(reason)

    def ran_well(self) -> None:
        """Remember that the other one does no harm, once it has shown that."""
        if self._trial.proven:
            self._shelf.trial_ran_well()

    def check(self) -> None:
        """Raise the ModelError that the other one ended with, as an error of a release that is wanted."""
        error, kept = self._trial.error, self._shelf.state.trial
        if error is not None and kept is not None:
            self._pursuit.begin_here(kept, trying=True)
            raise error

    def end(self) -> None:
        """The plan names none: no other model is held, or on its way."""
        alive = self._trial.runs
        if self._pursuit.trying:
            self._pursuit.drop()
        self.wish, self.short = None, False
        self._trial.end()
        if alive:
            self._shelf.trial_ran_well()


def _same_embedding(kept: Kept, main: Running) -> bool:
    """Whether one pass of the backbone is enough for both heads."""
    backbone = kept.model.variant(kept.variant).backbone.sha256
    return backbone == main.facts.backbone and kept.model.preprocess == main.model.preprocess
