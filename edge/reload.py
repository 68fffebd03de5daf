"""Reload: a low-priority thread that brings the camera to the release it should run.

    state     | on                                   | goes to
    ----------|--------------------------------------|---------------------------------------------
    idle      | plan or exception names a new release | fetching: waits for its manifest
    fetching  | manifest accepted, parts missing     | fetching: a window of retained chunks at a time
    fetching  | every part complete                  | verifying: load, warm-up, golden check
    verifying | all good, swapped between two frames | running
    any       | an error                             | failed(reason): the model in use stays
    any       | plan names another release           | fetching that one
    any       | a pack came and no plan is known     | verifying
    running   | plan names a newer one on trial      | fetching, verifying, shadowing: runs beside the one in use
    running   | the agent died with it, again, again | reverted: the one before runs

Nothing is loaded that was not signed, hashed and checked. All that takes milliseconds is done in the frame loop's
spare time (`edge.spare`). A plan may also say how to triage (`Reload.policy`); the
agent looks there between two frames.
"""

import logging
from collections import Counter
from collections.abc import Callable

from edge.accept import Accepted
from edge.beside import Beside, Next
from edge.inbox import Inbox
from edge.infer import Engine
from edge.pack import PackFile
from edge.policy import Policy
from edge.pursuit import Pursuit
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.standing import Standing
from edge.swap import Swap
from edge.trial import TrialRun
from edge.trust import Trust
from edge.unpack import unpack
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.errors import HoneError, ModelError
from shared.manifest import MAX_CHUNK, MAX_SIGNED, ModelSpec, Trial, VariantName
from shared.messages import ReloadState

log = logging.getLogger(__name__)
RETRY = 60.0
"""Seconds after which a release is tried again that failed for a reason that may pass."""


class Reload:
    """Takes plans, manifests and chunks from the bus; hands checked models to the engine, and to the trial.

    Public methods may be called from any thread and return at once. changed: called after every change of `state`, and
    when a trial begins, is skipped or ends.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        bus: Bus,
        engine: Engine,
        trial: TrialRun,
        clock: Clock,
        errors: Counter[str],
        clock_trusted: Callable[[], bool],
        changed: Callable[[], None] = lambda: None,
        goodput: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._engine = engine
        self._clock = clock
        self._errors = errors
        self._shelf = shelf = Shelf(settings.state_folder / "models", pause=engine.spare.wait)
        self._trust = Trust(settings, shelf=shelf, clock=clock, clock_trusted=clock_trusted)
        self._accepted = Accepted(settings, trust=self._trust, shelf=shelf, errors=errors)
        self._pursuit = Pursuit(settings, bus=bus, shelf=shelf, clock=clock, errors=errors, goodput=goodput)
        self._beside = Beside(settings, engine=engine, shelf=shelf, pursuit=self._pursuit, trial=trial)
        self._standing = Standing(
            engine=engine, shelf=shelf, pursuit=self._pursuit, beside=self._beside, changed=changed
        )
        self._swap = Swap(settings, engine=engine, shelf=shelf, standing=self._standing, clock=clock, errors=errors)
        self._inbox = Inbox(
            first=self._first, idle=lambda: self._guard(self._nudge), pause=engine.spare.wait, errors=errors
        )
        self._failing = 0  # the release that was wanted when the last error came
        self._stopped = 0.0  # when a release failed, or was skipped, that may be tried again

    # -- what others tell

    def start(self) -> None:
        """Load what is on disk, then follow the plan."""
        self._bus.subscribe([topics.plan(self._settings.project), topics.desired(self._settings.camera)])
        self._inbox.start()

    def stop(self) -> None:
        """End the thread."""
        self._inbox.stop()

    def plan(self, data: bytes) -> None:
        """The plan arrived; empty bytes mean that the broker's copy was cleared."""
        if data:
            self._hear(self._take_plan, data[: MAX_SIGNED + 1], abandon=False)

    def manifest(self, number: int, data: bytes) -> None:
        """A release's manifest arrived."""
        self._hear(lambda cut: self._take_manifest(number, cut), data[: MAX_SIGNED + 1])

    def desired(self, data: bytes) -> None:
        """An exception for this camera arrived; a cleared topic changes nothing, a signed release 0 ends it."""
        if data:
            self._hear(self._take_desired, data[: MAX_SIGNED + 1], abandon=False)

    def chunk(self, sha256: str, index: int, data: bytes) -> None:
        """A retained chunk of a part arrived; empty bytes mean the broker's copy was cleared."""
        self._hear(lambda cut: self._take_chunk(sha256, index, cut), data[: MAX_CHUNK + 1])

    def bring(self, pack: PackFile, told: Callable[[bool, str], None]) -> None:
        """A pack came. told: called once, in the reload thread, with whether it was taken, and what comes of it.

        Its release runs at once where no plan or exception names another one; else it waits on the shelf for its plan.
        """
        self._tell(lambda: self._take_pack(pack, told), abandon=False)

    def ran_well(self, *, trial: bool = False) -> None:
        """The model in use has run for a while without killing the agent. trial: so has the one beside it."""
        self._tell(lambda: self._take_well(trial), abandon=False)

    @property
    def state(self) -> ReloadState:
        """How far it is."""
        return self._standing.state

    @property
    def policy(self) -> Policy:
        """What the project says of triage."""
        return self._accepted.policy

    @property
    def floor(self) -> int:
        """Highest release number ever accepted."""
        return self._shelf.state.floor

    @property
    def plan_floor(self) -> int:
        """Highest plan number ever accepted."""
        return self._shelf.state.plan_floor

    # -- the thread

    def _tell(self, step: Callable[[], None], *, abandon: bool = True) -> None:
        self._inbox.tell(lambda: self._guard(step, abandon=abandon))

    def _hear(self, step: Callable[[bytes], None], data: bytes, *, abandon: bool = True) -> None:
        """`_tell` for what came from the broker."""
        self._inbox.hear(lambda: self._guard(lambda: step(data), abandon=abandon))

    def _first(self) -> None:
        self._guard(self._recall, abandon=False)
        self._guard(self._boot)

    def _guard(self, step: Callable[[], None], *, abandon: bool = True) -> None:
        """Run one step; an error is logged, counted and reported, and the model in use stays.

        abandon: whether the error ends the pursuit of the wanted release; a bad plan from a stranger must not.
        """
        try:
            step()
        except HoneError as error:
            self._errors[error.code] += 1
            self._trouble(error, abandon)
            if abandon and isinstance(error, ModelError) and self._failing:
                self._shelf.fail(self._failing)
        except OSError as error:
            self._errors["disk"] += 1
            self._trouble(error, abandon)

    def _trouble(self, error: Exception, abandon: bool) -> None:
        log.error("reload: %s", error)
        self._failing = self._pursuit.number
        if not abandon:
            self._standing.set(reason=str(error))
            return
        if self._pursuit.trying:
            self._beside.skip(str(error))
        self._pursuit.drop()
        self._stopped = self._clock.monotonic()
        self._standing.set(state="failed", release=self._failing, reason=str(error))

    # -- steps

    def _recall(self) -> None:
        self._accepted.recall_policy()
        self._standing.changed()

    def _boot(self) -> None:
        self._swap.boot()
        self._standing.left()

    def _take_plan(self, data: bytes) -> None:
        self._accepted.take_plan(data)
        self._standing.changed()
        if self.state.state in ("idle", "running"):
            self._standing.set(reason=self._accepted.waiting())
        self._follow()

    def _take_desired(self, data: bytes) -> None:
        self._accepted.take_desired(data)
        self._follow()

    def _follow(self) -> None:
        """Go after the release that the exception or the plan names, unless it runs already or failed here."""
        number, running = self._accepted.release, self._engine.running
        if running is not None and running.release == number and not self._shelf.state.distrusted:
            if not self._pursuit.trying:
                self._pursuit.drop()
            self._try_beside(self._accepted.trial)
            return
        self._beside.end()
        if self.state.state == "shadowing" and (number is None or number < self._shelf.state.floor):
            self._standing.settle()
        if number is None or number == self._pursuit.number:
            return
        if number in self._shelf.state.failed:
            self._failing = number  # also told after a restart, so that a rollout does not wait for this camera
            if self._standing.failed_before(number):
                return
        self._accepted.check_release(number)
        self._swap.begin()
        self._pursuit.begin(number)
        self._standing.set(state="fetching", release=number, percent=0.0, reason="")

    def _take_pack(self, pack: PackFile, told: Callable[[bool, str], None]) -> None:
        """Check a pack as if it came from the broker and put its parts on the shelf; then it runs, or waits."""
        try:
            unsigned = self._settings.packs_unsigned
            kept = unpack(pack, trust=self._trust, shelf=self._shelf, unsigned=unsigned, variant=self._variant_of)
        except (HoneError, OSError) as error:
            told(False, str(error))
            raise
        number, running = kept.release, self._engine.running
        if running is not None and running.release == number:
            told(True, f"release {number} runs already")
        elif self._accepted.release not in (None, number):
            self._shelf.change(brought=kept)
            log.info("reload: %s", self._accepted.waiting())
            self._standing.set(reason=self._accepted.waiting())
            told(True, self._accepted.waiting())
        else:
            self._swap.begin()
            self._pursuit.begin_here(kept)
            self._standing.set(state="fetching", release=number, percent=0.0, reason="")
            self._guard(self._advance)
            failed = self.state.state == "failed"
            told(not failed, self.state.reason if failed else f"release {number} runs")

    def _take_manifest(self, number: int, data: bytes) -> None:
        if not data or not self._pursuit.waits_for(number):
            return
        manifest = self._accepted.manifest(number, data, trying=self._pursuit.trying)
        self._pursuit.found(manifest, self._variant_of(manifest.model))
        self._advance()

    def _variant_of(self, model: ModelSpec) -> VariantName:
        return self._swap.variant(model, trying=self._pursuit.trying)

    def _take_chunk(self, sha256: str, index: int, data: bytes) -> None:
        if self._pursuit.chunk(sha256, index, data):
            self._advance()

    def _advance(self) -> None:
        """Ask for the next chunks; when nothing is missing any more, verify and swap, or have it tried."""
        kept = self._pursuit.ready()
        if kept is None:
            if self._pursuit.number:
                self._standing.set_unless_old(
                    state="fetching", release=self._pursuit.number, percent=self._pursuit.percent, reason=""
                )
            return
        if self._pursuit.trying:
            self._join(kept)
            return
        self._swap.use(kept)
        self._pursuit.drop()
        self._follow()

    def _nudge(self) -> None:
        """Nothing came for a while although we wait: ask the hub to publish it anew. After a failure: try again."""
        self._guard(self._accepted.notice_silence, abandon=False)
        self._guard(self._beside.ran_well, abandon=False)
        if self._pursuit.number:
            if self._pursuit.remind():
                self._advance()
            return
        self._beside.check()
        now, short = self._clock.monotonic(), self._beside.short
        if (short or self.state.state == "failed") and now - self._stopped > RETRY:
            self._stopped = now
            if short or self._failing not in self._shelf.state.failed:
                self._follow()

    # -- a second release, beside the one in use

    def _try_beside(self, wish: Trial | None) -> None:
        """The release to run does; this one shall be tried beside it."""
        match self._beside.follow(wish):
            case Next.HERE:
                self._tell(self._advance)
            case Next.FETCH if wish is not None:
                self._standing.set_unless_old(state="fetching", release=wish.release, percent=0.0, reason="")
            case Next.FAILED if wish is not None:
                self._standing.failed_before(wish.release)
            case Next.UNDERWAY:
                self._standing.changed()
            case _:
                self._standing.settle()

    def _join(self, kept: Kept) -> None:
        """All parts of the wanted one are here: have it run beside the one in use."""
        if not self._beside.short:
            self._standing.set_unless_old(state="verifying", release=kept.release, percent=100.0, reason="")
        self._stopped = self._clock.monotonic()
        self._beside.join(kept)
        self._pursuit.drop()
        self._standing.settle()

    def _take_well(self, trial: bool) -> None:
        self._shelf.ran_well()
        if trial:
            self._shelf.trial_ran_well()
        elif (wish := self._beside.wish) is not None:
            self._try_beside(wish)
