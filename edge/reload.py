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
import queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from edge.assemble import assemble
from edge.beside import Beside, Next
from edge.infer import Engine
from edge.pack import PackFile
from edge.policy import Policy, policy_of
from edge.priority import lower_priority
from edge.pursuit import Pursuit
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.trial import TrialRun
from edge.trust import Trust
from edge.unpack import unpack
from edge.variant import choose
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.errors import ExpiredError, HoneError, ManifestError, ModelError, ReloadError, SettingError
from shared.manifest import (
    DESIRED_TYPE,
    MAX_CHUNK,
    MAX_SIGNED,
    PLAN_TYPE,
    RELEASE_TYPE,
    Desired,
    Group,
    Manifest,
    ModelSpec,
    Plan,
    Trial,
    VariantName,
    check_number,
)
from shared.messages import ReloadState

log = logging.getLogger(__name__)
SWAP_TIMEOUT = 30.0
RETRY = 60.0
"""Seconds after which a release is tried again that failed for a reason that may pass."""
INBOX = 64
"""Messages that may wait for the thread, some times what it asks for: whoever publishes more fills no memory."""


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
        self._changed = changed
        self._spare = engine.spare
        self._shelf = Shelf(settings.state_folder / "models", pause=engine.spare.wait)
        self._trust = Trust(settings, shelf=self._shelf, clock=clock, clock_trusted=clock_trusted)
        self._pursuit = Pursuit(settings, bus=bus, shelf=self._shelf, clock=clock, errors=errors, goodput=goodput)
        self._beside = Beside(settings, engine=engine, shelf=self._shelf, pursuit=self._pursuit, trial=trial)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._plan: Plan | None = None
        self._failing = 0  # the release that was wanted when the last error came
        self._began = 0.0
        self._overdue = 0  # number of the plan of which it was said that no newer one came in time
        self._stopped = 0.0  # when a release failed, or was skipped, that may be tried again
        self.state = ReloadState(state="idle")
        self.policy = Policy()

    # -- what others tell

    def start(self) -> None:
        """Load what is on disk, then follow the plan."""
        self._bus.subscribe([topics.plan(self._settings.project), topics.desired(self._settings.camera)])
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(5)

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

    def _hear(self, step: Callable[[bytes], None], data: bytes, *, abandon: bool = True) -> None:
        """`_tell` for what came from the broker, which nobody need have signed."""
        if self._inbox.qsize() >= INBOX:
            self._errors["flood"] += 1
            return
        self._tell(lambda: step(data), abandon=abandon)

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
        self._failing = self._pursuit.number
        if not abandon:
            self._set(reason=str(error))
            return
        if self._pursuit.trying:
            self._beside.skip(str(error))
        self._pursuit.drop()
        self._stopped = self._clock.monotonic()
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

    def _take_plan(self, data: bytes) -> None:
        opened = self._trust.open(data, PLAN_TYPE, Plan)
        check_number("plan", opened.body.number, self._shelf.state.plan_floor)
        self._trust.accept(opened, plan_floor=opened.body.number)
        self._plan = opened.body
        self._take_policy(opened.body.triage)
        if self.state.state in ("idle", "running"):
            self._set(reason=self._waiting())
        self._follow()

    def _take_policy(self, told: dict[str, Any] | None) -> None:
        """What a plan says of triage holds from now on; where this agent cannot follow it, what it followed stays."""
        try:
            self.policy = policy_of(told)
        except SettingError as error:
            self._errors[error.code] += 1
            log.error("reload: %s", error)
            self.policy = Policy(self.policy.triage, refused=str(error))
        else:
            if told != self._shelf.state.triage:
                self._shelf.change(triage=told)
        self._changed()

    def _take_desired(self, data: bytes) -> None:
        opened = self._trust.open(data, DESIRED_TYPE, Desired)
        desired = opened.body
        check_number("desired", desired.number, self._shelf.state.desired_floor)
        self._shelf.change(desired=desired.release)
        self._trust.accept(opened, desired_floor=desired.number)
        self._follow()

    def _follow(self) -> None:
        """Go after the release that the exception or the plan names, unless it runs already or failed here."""
        group, exception, number = self._group(), self._shelf.state.desired, self._named()
        running = self._engine.running
        if running is not None and running.release == number and not self._shelf.state.distrusted:
            if not self._pursuit.trying:
                self._pursuit.drop()
            self._try_beside(group.trial if group and not exception else None)
            return
        self._beside.end()
        if self.state.state == "shadowing" and (number is None or number < self._shelf.state.floor):
            self._settle()
        if number is None or number == self._pursuit.number:
            return
        failed = frozenset(self._shelf.state.failed)
        if number in failed:  # also told after a restart, so that a rollout does not wait for this camera
            self._failing = number
            if self._tell_failed(number):
                return
        check_number("release", number, self._shelf.state.floor, failed)
        self._began = self._clock.monotonic()
        self._pursuit.begin(number)
        self._set(state="fetching", release=number, percent=0.0, reason="")

    def _tell_failed(self, number: int) -> bool:
        """Report a release that failed here before; whether it was in use then."""
        left = self._shelf.state.reverted
        if left is not None and left.release == number:
            self._set(state="reverted", release=number, reason=left.reason)
            return True
        if (self.state.state, self.state.release) != ("failed", number):
            self._set(state="failed", release=number, reason="failed on this camera before and is not tried again")
        return False

    def _group(self) -> Group | None:
        """The plan's group that holds this camera."""
        return self._plan.group_for(self._settings.camera, self._settings.labels) if self._plan else None

    def _named(self) -> int | None:
        """The release that the exception or the plan names."""
        group = self._group()
        return self._shelf.state.desired or (group.release if group else None)

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
        elif self._named() not in (None, number):
            self._shelf.change(brought=kept)
            log.info("reload: %s", self._waiting())
            self._set(reason=self._waiting())
            told(True, self._waiting())
        else:
            self._began = self._clock.monotonic()
            self._pursuit.begin_here(kept)
            self._set(state="fetching", release=number, percent=0.0, reason="")
            self._guard(self._advance)
            failed = self.state.state == "failed"
            told(not failed, self.state.reason if failed else f"release {number} runs")

    def _waiting(self) -> str:
        """What is to be said while nothing is wrong: that a pack waits for its plan, or nothing."""
        brought = self._shelf.state.brought
        if brought is None:
            return ""
        return f"release {brought.release} was brought by a pack and waits for its plan, which names {self._named()}"

    def _take_manifest(self, number: int, data: bytes) -> None:
        if not data or not self._pursuit.waits_for(number):
            return
        opened = self._trust.open(data, RELEASE_TYPE, Manifest)
        manifest = opened.body
        if manifest.number != number:
            raise ManifestError(f"says {manifest.number} on the topic of {number}", subject="release")
        floor = 0 if self._pursuit.trying else self._shelf.state.floor
        check_number("release", number, floor, frozenset(self._shelf.state.failed))
        self._trust.accept(opened)
        self._pursuit.found(manifest, self._variant_of(manifest.model))
        self._advance()

    def _variant_of(self, model: ModelSpec) -> VariantName:
        """Which variant of a model to go after, by what was measured here; on trial that of the model in use."""
        running, pace, speeds = self._engine.running, self._engine.pace, self._shelf.state.speeds
        now = running.facts.variant if running is not None else "float"
        if pace is not None:
            speeds = {**speeds, now: round(pace.infer_ms, 2)}
            self._shelf.change(speeds=speeds)
        setting = now if self._pursuit.trying else self._settings.variant
        return choose(setting, offered=model.int8 is not None, running=now, speeds=speeds, pace=pace)

    def _take_chunk(self, sha256: str, index: int, data: bytes) -> None:
        if self._pursuit.chunk(sha256, index, data):
            self._advance()

    def _advance(self) -> None:
        """Ask for the next chunks; when nothing is missing any more, verify and swap, or have it tried."""
        kept = self._pursuit.ready()
        if kept is None:
            if self._pursuit.number:
                self._set_unless_old(
                    state="fetching", release=self._pursuit.number, percent=self._pursuit.percent, reason=""
                )
            return
        if self._pursuit.trying:
            self._join(kept)
            return
        self._set(state="verifying", percent=100.0)
        self._shelf.try_release(kept.release)
        self._swap(kept)
        self._shelf.change(floor=max(self._shelf.state.floor, kept.release))
        self._shelf.adopt(kept)
        self._pursuit.drop()
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
        self._guard(self._notice_silence, abandon=False)
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

    def _notice_silence(self) -> None:
        """Say once that a plan has expired and no newer one came: the hub signs anew at half time, if it is heard."""
        plan, reader = self._plan, self._trust.reader()
        if plan is None or not reader.clock_trusted or plan.expires > reader.now or self._overdue == plan.number:
            return
        self._overdue = plan.number
        raise ExpiredError(
            f"expired at {plan.expires:%Y-%m-%d %H:%M} UTC, and no newer one came",
            subject=f"plan {plan.number}",
            remedy="Is the hub running, and does somebody hold its plans back?",
        )

    # -- a second release, beside the one in use

    def _try_beside(self, wish: Trial | None) -> None:
        """The release to run does; this one shall be tried beside it."""
        match self._beside.follow(wish):
            case Next.HERE:
                self._tell(self._advance)
            case Next.FETCH if wish is not None:
                self._set_unless_old(state="fetching", release=wish.release, percent=0.0, reason="")
            case Next.FAILED if wish is not None:
                self._tell_failed(wish.release)
            case Next.UNDERWAY:
                self._changed()
            case _:
                self._settle()

    def _join(self, kept: Kept) -> None:
        """All parts of the wanted one are here: have it run beside the one in use."""
        if not self._beside.short:
            self._set_unless_old(state="verifying", release=kept.release, percent=100.0, reason="")
        self._stopped = self._clock.monotonic()
        self._beside.join(kept)
        self._pursuit.drop()
        self._settle()

    def _take_well(self, trial: bool) -> None:
        self._shelf.ran_well()
        if trial:
            self._shelf.trial_ran_well()
        elif (wish := self._beside.wish) is not None:
            self._try_beside(wish)

    def _settle(self) -> None:
        """The state is that of the release in use, or of a newer one that runs beside it."""
        running = self._engine.running
        if running is None:
            return
        shadowing = self._beside.shadowing
        state, release = ("shadowing", shadowing) if shadowing else ("running", running.release)
        if (self.state.state, self.state.release) == (state, release):
            self._changed()
        else:
            self._set(state=state, release=release, percent=100.0, reason="")

    def _set_unless_old(self, **fields: object) -> None:
        """`_set`, but of an older release that is tried the report is silent: it is not what a rollout waits for."""
        running = self._engine.running
        if not self._pursuit.trying or running is None or self._pursuit.number > running.release:
            self._set(**fields)
