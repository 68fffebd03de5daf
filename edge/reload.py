"""Reload: a low-priority thread that brings the camera to the release it should run.

    state     | on                                   | goes to
    ----------|--------------------------------------|---------------------------------------------
    idle      | plan or exception names a new release | fetching: waits for its manifest
    fetching  | manifest accepted, parts missing     | fetching: a window of retained chunks at a time
    fetching  | every part complete                  | verifying: load, warm-up, golden check
    verifying | all good, swapped between two frames | running
    any       | an error                             | failed(reason): the model in use stays
    any       | plan names another release           | fetching that one
    running   | plan names a newer one on trial      | fetching, verifying, shadowing: runs beside the one in use
    running   | the agent died with it, again, again | reverted: the one before runs

Nothing is loaded that was not signed, hashed and checked. All that takes milliseconds is done in the frame loop's
spare time (`edge.spare`). A plan may also say how to triage (`Reload.policy`); the
agent looks there between two frames.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.assemble import assemble
from edge.beside import ShortOfMemoryError, join
from edge.fetch import Fetch
from edge.infer import Engine
from edge.priority import lower_priority
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.trial import TrialRun
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.errors import HoneError, ManifestError, ModelError, ReloadError, SettingError
from shared.manifest import (
    DESIRED_TYPE,
    PLAN_TYPE,
    RELEASE_TYPE,
    B,
    Desired,
    Manifest,
    Opened,
    Plan,
    Reader,
    Trial,
    check_delegation,
    check_number,
    open_signed,
)
from shared.messages import ReloadState, Want, encode
from shared.policy import TriageSettings, from_wire

log = logging.getLogger(__name__)
SWAP_TIMEOUT = 30.0
RETRY = 60.0
"""Seconds after which a release is tried again that failed for a reason that may pass."""
OFF = "switched off in edge.toml"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the project says of triage. triage: the last that this agent could follow; None: nothing is said.

    refused: why what the last plan says is not followed; empty: it is.
    """

    triage: TriageSettings | None = None
    refused: str = ""


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
        self._camera = settings.camera
        self._project = settings.project
        self._labels = settings.labels
        self._root = settings.root_key
        self._bus = bus
        self._engine = engine
        self._trial = trial
        self._clock = clock
        self._errors = errors
        self._clock_trusted = clock_trusted
        self._changed = changed
        self._spare = engine.spare
        self._shelf = Shelf(settings.state_folder / "models", pause=engine.spare.wait)
        self._fetch = Fetch(
            self._camera, bus=bus, shelf=self._shelf, errors=errors, thin=settings.link.thin, goodput=goodput
        )
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._plan: Plan | None = None
        self._manifest: Manifest | None = None
        self._wanted = 0  # release whose manifest and parts we are after; 0: none
        self._wish: Trial | None = None  # what the plan would have tried beside the release to run
        self._trying = False  # the wanted one shall only be tried
        self._short = False  # of memory for that
        self._failing = 0  # the one that was wanted when the last error came
        self._began = 0.0
        self._heard = 0.0
        self.state = ReloadState(state="idle")
        self.policy = Policy()

    # -- what others tell

    def start(self) -> None:
        """Load what is on disk, then follow the plan."""
        self._bus.subscribe([topics.plan(self._project), topics.desired(self._camera)])
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(5)

    def plan(self, data: bytes) -> None:
        """The plan arrived; empty bytes mean that the broker's copy was cleared."""
        if data:
            self._tell(lambda: self._take_plan(data), abandon=False)

    def manifest(self, number: int, data: bytes) -> None:
        """A release's manifest arrived."""
        self._tell(lambda: self._take_manifest(number, data))

    def desired(self, data: bytes) -> None:
        """An exception for this camera arrived; a cleared topic changes nothing, a signed release 0 ends it."""
        if data:
            self._tell(lambda: self._take_desired(data), abandon=False)

    def chunk(self, sha256: str, index: int, data: bytes) -> None:
        """A retained chunk of a part arrived; empty bytes mean the broker's copy was cleared."""
        self._tell(lambda: self._take_chunk(sha256, index, data))

    def ran_well(self, *, trial: bool = False) -> None:
        """The model in use has run for a while without killing the agent. trial: so has the one beside it."""
        self._tell(lambda: self._take_well(trial), abandon=False)

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
        self._inbox.put(lambda: self._guard(step, abandon=abandon))

    def _run(self) -> None:
        lower_priority()
        self._guard(lambda: self._take_policy(self._shelf.state.triage), abandon=False)
        self._guard(self._boot)
        while True:
            try:
                note = self._inbox.get(timeout=0.5)
            except queue.Empty:
                self._guard(self._nudge)
                continue
            if note is None:
                return
            self._spare.wait()
            note()

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
        self._failing = self._wanted
        if not abandon:
            self._set(reason=str(error))
            return
        if self._trying:
            self._trial.skip(str(error))
        self._drop()
        self._heard = self._clock.monotonic()
        self._set(state="failed", release=self._failing, reason=str(error))

    def _set(self, **fields: object) -> None:
        values = {name: getattr(self.state, name) for name in ReloadState.__struct_fields__}
        self.state = ReloadState(**{**values, **fields})
        self._changed()

    # -- steps

    def _boot(self) -> None:
        """Start with the release on disk, or with the one before when that one cannot be loaded."""
        for _ in range(2):
            kept = self._shelf.to_start()
            if kept is None:
                break
            try:
                self._began = self._clock.monotonic()
                self._swap(kept)
            except ModelError as error:
                self._errors[error.code] += 1
                log.error("release %d on disk: %s", kept.release, error)
                self._shelf.change(current=self._shelf.state.previous, previous=None, starts=0)
            else:
                break
        if left := self._shelf.state.reverted:
            self._set(state="reverted", release=left.release, reason=left.reason)

    def _reader(self) -> Reader:
        return Reader(self._root, self._project, self._camera, self._clock.utc(), self._clock_trusted())

    def _open(self, data: bytes, payload_type: str, kind: type[B]) -> Opened[B]:
        """Rules 1 to 5, and the delegation's number; the body's is still to be checked."""
        opened = open_signed(data, payload_type, kind, self._reader())
        check_delegation(opened.delegation, self._shelf.state.delegation_floor)
        return opened

    def _take_plan(self, data: bytes) -> None:
        opened = self._open(data, PLAN_TYPE, Plan)
        check_number("plan", opened.body.number, self._shelf.state.plan_floor)
        self._shelf.raise_floors(plan_floor=opened.body.number, delegation_floor=opened.delegation)
        self._plan = opened.body
        self._take_policy(opened.body.triage)
        self._follow()

    def _take_policy(self, told: dict[str, Any] | None) -> None:
        """What a plan says of triage holds from now on; where this agent cannot follow it, what it followed stays."""
        try:
            self.policy = Policy(None if told is None else from_wire(told))
        except SettingError as error:
            self._errors[error.code] += 1
            log.error("reload: %s", error)
            self.policy = Policy(self.policy.triage, refused=str(error))
        else:
            if told != self._shelf.state.triage:
                self._shelf.change(triage=told)
        self._changed()

    def _take_desired(self, data: bytes) -> None:
        opened = self._open(data, DESIRED_TYPE, Desired)
        desired = opened.body
        check_number("desired", desired.number, self._shelf.state.desired_floor)
        self._shelf.change(desired_floor=desired.number, delegation_floor=opened.delegation, desired=desired.release)
        self._follow()

    def _follow(self) -> None:
        """Go after the release that the exception or the plan names, unless it runs already or failed here."""
        group = self._plan.group_for(self._camera, self._labels) if self._plan else None
        exception = self._shelf.state.desired
        number = exception or (group.release if group else None)
        running = self._engine.running
        if running is not None and running.release == number:
            if self._wanted and not self._trying:
                self._drop()
            self._wish = group.trial if group and not exception else None
            self._try_beside()
            return
        self._end_trial()
        if self.state.state == "shadowing" and (number is None or number < self._shelf.state.floor):
            self._settle()
        if number is None or number == self._wanted:
            return
        failed = frozenset(self._shelf.state.failed)
        if number in failed:  # also told after a restart, so that a rollout does not wait for this camera
            self._failing = number
            if self._tell_failed(number):
                return
        check_number("release", number, self._shelf.state.floor, failed)
        self._pursue(number)
        self._set(state="fetching", release=number, percent=0.0, reason="")

    def _tell_failed(self, number: int) -> bool:
        """Report a release that failed here before; whether it was in use then."""
        left = self._shelf.state.reverted
        if left is not None and left.release == number:
            self._set(state="reverted", release=number, reason=left.reason)
            return True
        self._set(state="failed", release=number)
        return False

    def _pursue(self, number: int, *, trying: bool = False) -> None:
        """Wait for this release's manifest, and for nothing else."""
        self._give_up()
        self._wanted, self._trying, self._manifest = number, trying, None
        self._began = self._heard = self._clock.monotonic()
        self._bus.subscribe([topics.release(self._project, number)])

    def _take_manifest(self, number: int, data: bytes) -> None:
        if number != self._wanted or self._manifest is not None or not data:
            return
        opened = self._open(data, RELEASE_TYPE, Manifest)
        manifest = opened.body
        if manifest.number != number:
            raise ManifestError(f"says {manifest.number} on the topic of {number}", subject="release")
        floor = 0 if self._trying else self._shelf.state.floor
        check_number("release", number, floor, frozenset(self._shelf.state.failed))
        self._shelf.raise_floors(delegation_floor=opened.delegation)
        self._bus.unsubscribe([topics.release(self._project, number)])
        self._manifest = manifest
        self._heard = self._clock.monotonic()
        self._fetch.begin(manifest.model.parts().values())
        self._advance()

    def _take_chunk(self, sha256: str, index: int, data: bytes) -> None:
        if not data or not self._fetch.asked(sha256, index):
            return
        self._heard = self._clock.monotonic()
        if self._fetch.take(sha256, index, data):
            self._advance()

    def _advance(self) -> None:
        """Ask for the next chunks; when nothing is missing any more, verify and swap."""
        if self._manifest is None:
            return
        if not self._fetch.done:
            self._set_unless_old(percent=self._fetch.percent)
            self._fetch.ask()
            return
        manifest, self._manifest = self._manifest, None
        kept = Kept(release=manifest.number, model=manifest.model)
        if self._trying:
            self._join(kept)
            return
        self._set(state="verifying", percent=100.0)
        self._shelf.try_release(kept.release)
        self._swap(kept)
        self._shelf.change(floor=max(self._shelf.state.floor, kept.release))
        self._shelf.adopt(kept)
        self._wanted = 0
        self._follow()

    def _swap(self, kept: Kept) -> None:
        """Load, warm up, check against the golden outputs, and hand to the engine between two frames."""
        new = assemble(kept, self._shelf, threads=self._settings.threads, pause=self._spare.wait)
        old = self._engine.running
        if not self._engine.offer(new.running, SWAP_TIMEOUT):
            raise ReloadError(f"no frame boundary came in {SWAP_TIMEOUT:.0f} s", subject=f"release {kept.release}")
        took = (self._clock.monotonic() - self._began) * 1000
        log.info("release %d runs (%.0f ms from plan to swap)", kept.release, took)
        self._set(
            state="running",
            release=kept.release,
            percent=100.0,
            reason="",
            last_ms=round(took, 1),
            swap_ms=round(self._engine.swap_ms, 3),
            cosine=new.cosine,
            difference=new.difference,
        )
        self._spare.wait()
        del old  # here, and not in the frame loop: to free a model takes a while

    def _nudge(self) -> None:
        """Nothing came for a while although we wait: ask the hub to publish it anew. After a failure: try again."""
        now = self._clock.monotonic()
        if self._trial.proven:
            self._guard(self._shelf.trial_ran_well, abandon=False)
        if not self._wanted:
            self._check_trial()
            if (self._short or self.state.state == "failed") and now - self._heard > RETRY:
                self._heard = now
                if self._short or self._failing not in self._shelf.state.failed:
                    self._follow()
            return
        if now - self._heard < self._fetch.patience():
            return
        self._heard = now
        if self._manifest is None:
            want = Want(project=self._project, release=self._wanted)
            self._bus.publish(topics.want(self._camera), encode(want))
        self._fetch.remind()
        self._advance()

    def _give_up(self) -> None:
        """Stop waiting for whatever was on its way; complete parts stay on the shelf."""
        self._fetch.drop()
        if self._wanted:
            self._bus.unsubscribe([topics.release(self._project, self._wanted)])
        self._manifest = None

    def _drop(self) -> None:
        """Nothing is wanted any more."""
        self._give_up()
        self._wanted, self._trying = 0, False

    # -- a second release, beside the one to run

    def _try_beside(self) -> None:
        """The release to run does: try the one that the plan names beside it, once that one has shown to do no harm."""
        wish, running = self._wish, self._engine.running
        if wish is None or running is None or wish.release == running.release:
            self._end_trial()
            self._settle()
            return
        if self._trying and self._wanted != wish.release:
            self._drop()
        self._trial.name(running.release, wish.release, share=wish.share, ask=wish.ask)
        if self._wanted == wish.release:
            self._changed()
        elif self._trial.runs:
            self._settle()
        elif self._settings.trial == "off":
            self._trial.skip(OFF)
            self._settle()
        elif wish.release in self._shelf.state.failed:
            self._trial.skip(f"release {wish.release} failed on this camera before and is not tried again")
            self._tell_failed(wish.release)
        elif self._shelf.state.good != running.release:
            self._settle()  # `ran_well` comes back to it: a crash shall tell which one is to blame
        elif (kept := self._shelf.find(wish.release)) is not None:
            self._wanted, self._trying = wish.release, True
            self._tell(lambda: self._join(kept))
        else:
            self._pursue(wish.release, trying=True)
            self._set_unless_old(state="fetching", release=wish.release, percent=0.0, reason="")

    def _join(self, kept: Kept) -> None:
        """All parts of the wanted one are here: have it run beside the one in use."""
        if not self._trying or self._wanted != kept.release:
            return
        if not self._short:
            self._set_unless_old(state="verifying", release=kept.release, percent=100.0, reason="")
        try:
            join(kept, engine=self._engine, shelf=self._shelf, trial=self._trial, settings=self._settings)
        except ShortOfMemoryError as error:
            log.warning("trial: %s", error)
            self._trial.skip(str(error))
            self._short, self._heard = True, self._clock.monotonic()
        else:
            self._short = False
        self._wanted, self._trying = 0, False
        self._settle()

    def _take_well(self, trial: bool) -> None:
        self._shelf.ran_well()
        if trial:
            self._shelf.trial_ran_well()
        elif self._wish is not None and not self._wanted:
            self._try_beside()

    def _check_trial(self) -> None:
        """What the other one ended with is an error like any other of its release."""
        wish = self._wish
        if wish is not None:
            self._wanted, self._trying = wish.release, True
            self._trial.check()
            self._wanted, self._trying = 0, False

    def _end_trial(self) -> None:
        """The plan names none: no other model is held, or on its way."""
        if self._trying:
            self._drop()
        if self._trial.runs:
            self._shelf.trial_ran_well()  # it was alive to the end
        self._wish, self._short = None, False
        self._trial.end()

    def _settle(self) -> None:
        """The state is that of the release in use, or of a newer one that runs beside it."""
        running, wish = self._engine.running, self._wish
        if running is None:
            return
        state, release = "running", running.release
        if wish is not None and self._trial.runs and wish.release > running.release:
            state, release = "shadowing", wish.release
        if (self.state.state, self.state.release) == (state, release):
            self._changed()
        else:
            self._set(state=state, release=release, percent=100.0, reason="")

    def _set_unless_old(self, **fields: object) -> None:
        """`_set`, but of an older release that is tried the report is silent: it is not what a rollout waits for."""
        running = self._engine.running
        if not self._trying or running is None or self._wanted > running.release:
            self._set(**fields)
