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

import numpy as np

from edge.fetch import Fetch
from edge.infer import Engine, Facts, Running
from edge.pack import PackFile
from edge.priority import lower_priority
from edge.settings import EdgeSettings
from edge.shelf import Kept, Shelf
from edge.trust import Trust
from edge.unpack import unpack
from shared import references, topics
from shared.bus import Bus
from shared.clock import Clock
from shared.errors import (
    ExpiredError,
    HoneError,
    ImageError,
    ManifestError,
    ModelError,
    PartError,
    ReloadError,
    SettingError,
)
from shared.golden import check as check_golden
from shared.golden import decode as decode_golden
from shared.litert import Model, Part
from shared.manifest import (
    DESIRED_TYPE,
    MAX_CHUNK,
    MAX_SIGNED,
    PLAN_TYPE,
    RELEASE_TYPE,
    Desired,
    Manifest,
    Plan,
    check_number,
)
from shared.messages import ReloadState, Want, encode
from shared.policy import TriageSettings, from_wire

log = logging.getLogger(__name__)
SWAP_TIMEOUT = 30.0
RETRY = 60.0
"""Seconds after which a release is tried again that failed for a reason that may pass."""
INBOX = 64
"""Messages that may wait for the thread, some times what it asks for: whoever publishes more fills no memory."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the project says of triage. triage: the last that this agent could follow; None: nothing is said.

    refused: why what the last plan says is not followed; empty: it is.
    """

    triage: TriageSettings | None = None
    refused: str = ""


class Reload:
    """Takes plans, manifests and chunks from the bus; hands checked models to the engine.

    Public methods may be called from any thread and return at once. changed: called after every change of `state`.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        *,
        bus: Bus,
        engine: Engine,
        clock: Clock,
        errors: Counter[str],
        clock_trusted: Callable[[], bool],
        changed: Callable[[], None] = lambda: None,
        goodput: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._camera = settings.camera
        self._project = settings.project
        self._threads = settings.threads
        self._bus = bus
        self._engine = engine
        self._clock = clock
        self._errors = errors
        self._clock_trusted = clock_trusted
        self._changed = changed
        self._spare = engine.spare
        self._shelf = Shelf(settings.state_folder / "models", pause=engine.spare.wait)
        self._trust = Trust(settings, shelf=self._shelf, clock=clock, clock_trusted=clock_trusted)
        self._unsigned = settings.packs_unsigned
        self._fetch = Fetch(
            self._camera, bus=bus, shelf=self._shelf, errors=errors, thin=settings.link.thin, goodput=goodput
        )
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._plan: Plan | None = None
        self._manifest: Manifest | None = None
        self._wanted = 0  # release whose manifest and parts we are after; 0: none
        self._failing = 0  # the one that was wanted when the last error came
        self._began = 0.0
        self._heard = 0.0
        self._overdue = 0  # number of the plan of which it was said that no newer one came in time
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

    def ran_well(self) -> None:
        """The model in use has run for a while without killing the agent."""
        self._tell(self._shelf.ran_well)

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
        self._failing = self._wanted
        if not abandon:
            self._set(reason=str(error))
            return
        self._give_up()
        self._wanted = 0
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
                return
            try:
                self._began = self._clock.monotonic()
                self._swap(kept)
            except ModelError as error:
                self._errors[error.code] += 1
                log.error("release %d on disk: %s", kept.release, error)
                self._shelf.change(current=self._shelf.state.previous, previous=None, starts=0)
            else:
                return

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
        opened = self._trust.open(data, DESIRED_TYPE, Desired)
        desired = opened.body
        check_number("desired", desired.number, self._shelf.state.desired_floor)
        self._shelf.change(desired=desired.release)
        self._trust.accept(opened, desired_floor=desired.number)
        self._follow()

    def _follow(self) -> None:
        """Go after the release that the exception or the plan names, unless it runs already or failed here."""
        number = self._named()
        running = self._engine.running
        if number is None or number == self._wanted:
            return
        if running is not None and running.release == number and not self._shelf.state.distrusted:
            if self._wanted:
                self._give_up()
                self._wanted = 0
                self._set(state="running", release=number, percent=100.0, reason="")
            return
        failed = frozenset(self._shelf.state.failed)
        if number in failed:  # also told after a restart, so that a rollout does not wait for this camera
            self._failing = number
            self._set(state="failed", release=number)
        check_number("release", number, self._shelf.state.floor, failed)
        self._go_after(number)
        self._bus.subscribe([topics.release(self._project, number)])

    def _named(self) -> int | None:
        """The release that the exception or the plan names."""
        return self._shelf.state.desired or (self._plan.release_for(self._camera) if self._plan else None)

    def _go_after(self, number: int) -> None:
        self._give_up()
        self._wanted = number
        self._began = self._heard = self._clock.monotonic()
        self._set(state="fetching", release=number, percent=0.0, reason="")

    def _take_pack(self, pack: PackFile, told: Callable[[bool, str], None]) -> None:
        """Check a pack as if it came from the broker and put its parts on the shelf; then it runs, or waits."""
        try:
            manifest = unpack(pack, trust=self._trust, shelf=self._shelf, unsigned=self._unsigned)
        except (HoneError, OSError) as error:
            told(False, str(error))
            raise
        number, running = manifest.number, self._engine.running
        if running is not None and running.release == number:
            told(True, f"release {number} runs already")
        elif self._named() not in (None, number):
            self._shelf.change(brought=Kept(release=number, model=manifest.model))
            log.info("reload: %s", self._waiting())
            self._set(reason=self._waiting())
            told(True, self._waiting())
        else:
            self._go_after(number)
            self._guard(lambda: self._begin(manifest))
            failed = self.state.state == "failed"
            told(not failed, self.state.reason if failed else f"release {number} runs")

    def _waiting(self) -> str:
        """What is to be said while nothing is wrong: that a pack waits for its plan, or nothing."""
        brought = self._shelf.state.brought
        if brought is None:
            return ""
        return f"release {brought.release} was brought by a pack and waits for its plan, which names {self._named()}"

    def _take_manifest(self, number: int, data: bytes) -> None:
        if number != self._wanted or self._manifest is not None or not data:
            return
        opened = self._trust.open(data, RELEASE_TYPE, Manifest)
        manifest = opened.body
        if manifest.number != number:
            raise ManifestError(f"says {manifest.number} on the topic of {number}", subject="release")
        check_number("release", number, self._shelf.state.floor, frozenset(self._shelf.state.failed))
        self._trust.accept(opened)
        self._bus.unsubscribe([topics.release(self._project, number)])
        self._begin(manifest)

    def _begin(self, manifest: Manifest) -> None:
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
            self._set(percent=self._fetch.percent)
            self._fetch.ask()
            return
        manifest, self._manifest = self._manifest, None
        self._set(state="verifying", percent=100.0)
        self._shelf.try_release(manifest.number)
        self._swap(Kept(release=manifest.number, model=manifest.model))
        self._shelf.change(floor=max(self._shelf.state.floor, manifest.number))
        self._shelf.adopt(Kept(release=manifest.number, model=manifest.model))
        self._wanted = 0

    def _swap(self, kept: Kept) -> None:
        """Load, warm up, check against the golden outputs, and hand to the engine between two frames."""
        running, cosine, difference = self._build(kept)
        old = self._engine.running
        if not self._engine.offer(running, SWAP_TIMEOUT):
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
            cosine=cosine,
            difference=difference,
        )
        self._spare.wait()
        del old  # here, and not in the frame loop: to free a model takes a while

    def _build(self, kept: Kept) -> tuple[Running, float, float]:
        """A checked model, with the golden check's worst cosine and probability difference.

        In pieces, each of some milliseconds: no frame waits for more than one.
        """
        spec, pause = kept.model, self._spare.wait
        golden = decode_golden(self._shelf.read(spec.golden))
        backbone_bytes = self._shelf.read(spec.backbone)
        pause()
        backbone = Part(backbone_bytes, name="backbone", threads=self._threads)
        head_bytes = self._shelf.read(spec.head)
        head = Part(head_bytes, name="head", threads=self._threads)
        model = Model(backbone, head, spec.classes, spec.preprocess, spec.thresholds)
        rows = None
        if spec.references is not None:
            rows = references.decode(self._shelf.read(spec.references), head.input_shape[-1])
        pause()
        model.predict(np.zeros((spec.preprocess.size, spec.preprocess.size, 3), np.uint8))  # warm-up
        try:
            result = check_golden(model, golden, spec.golden_probabilities, spec.tolerances, pause)
        except ImageError as error:
            raise PartError(f"holds an image that {error.what}", subject="golden part") from error
        facts = Facts(kept.release, model.classes, spec.backbone.sha256, head_bytes, rows)
        return Running(facts, model), result.worst_cosine, result.worst_difference

    def _nudge(self) -> None:
        """Nothing came for a while although we wait: ask the hub to publish it anew. After a failure: try again."""
        now = self._clock.monotonic()
        self._guard(self._notice_silence, abandon=False)
        if not self._wanted:
            if self.state.state == "failed" and now - self._heard > RETRY:
                self._heard = now
                if self._failing not in self._shelf.state.failed:
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

    def _give_up(self) -> None:
        """Stop waiting for whatever was on its way; complete parts stay on the shelf."""
        self._fetch.drop()
        if self._wanted:
            self._bus.unsubscribe([topics.release(self._project, self._wanted)])
        self._manifest = None
