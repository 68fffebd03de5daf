"""The daemon: the hub's flow from top to bottom. Only this file knows the order of the steps.

collect -> verify -> label -> train -> export -> evaluate -> release -> rollout
                              `------- a run, in its own process ------'
"""

import importlib.metadata
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
from sqlmodel import Session, col, select

from hub import epoch, keys, previews, release, repeat, retrain, verdict, watch
from hub.collect import Collector
from hub.drift import drifted
from hub.label import Desk
from hub.lease import Claims
from hub.policies import Policies
from hub.registry import Registry, labels_since_run
from hub.rollouts import Rollouts
from hub.runs import Runs
from hub.settings import HubSettings
from hub.store import STOP_S, Store
from hub.tables import Preview, Release, Run
from hub.verify import Verifier
from hub.web.actions import HubState
from shared import topics
from shared.bus import Message
from shared.clock import Clock
from shared.errors import ConfigError, HoneError, MessageError, StoreError, TrainError, UnknownCameraError
from shared.ids import boot_id
from shared.litert import Part
from shared.manifest import ModelSpec
from shared.messages import HubStatus, Reported, Status, Want, decode, encode
from shared.mqtt import PahoBus
from shared.topics import CameraTopic

log = logging.getLogger(__name__)
TICK_S = 0.5
EXPIRE_EVERY_S = 3600.0
"""Seconds between two looks for old previews, once none is left: a look goes through the rows of all."""
WATCH_S = 30.0
LOOKS = 5
"""Cameras looked at in one round of the loop: commands of the page wait meanwhile."""


class Daemon:
    """One hub: threads for collecting, verifying and publishing, and this loop for everything slow.

    settings: what hub.toml says; which of them are in force, `hub.policies` knows. config: path of the file that they
    came from; runs, in their own processes, read it again. drift: what drifts now, in words, for the retrain policy;
    by default what `hub.watch` has seen.
    """

    def __init__(
        self,
        settings: HubSettings,
        config: Path,
        store: Store,
        clock: Clock,
        drift: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._settings = settings
        self._drift = drift or self._seen_to_drift
        self._store = store
        self._clock = clock
        self._project = settings.project.name
        self._errors: Counter[str] = Counter()
        self._key_folder = settings.state_folder / "keys"
        self._keys_of = keys.changed_at(self._key_folder)
        will = (topics.hub_status(settings.name), encode(HubStatus(online=False)))
        self._bus = PahoBus(settings.mqtt, client_id=f"hone/hub/{settings.name}", will=will)
        self._registry = Registry(store, clock)
        self._collector = self._make_collector()
        self._verifier = Verifier(store, settings.project.preprocess, self._backbone, self._errors)
        self._publisher = release.Publisher(store, self._bus, self._project, clock)
        self._policies = Policies(settings, store, clock)
        self._rollouts = Rollouts(
            store,
            self._project,
            keys.load(self._key_folder),
            self._registry,
            clock,
            settings=self._policies.now,
            changed=self._publisher.changed,
        )
        self.desk = Desk(
            store,
            self._project,
            settings.project.classes,
            clock,
            settings=lambda: self._policies.now().label,
            settle=lambda: self._policies.now().rollout.settle,
        )
        self._runs = Runs(self._project, config, settings.cache_folder, store, clock)
        self._embedder: tuple[str, Part] | None = None
        self._fetching = previews.Pace(settings.collect.fetch_per_hour)
        self._expire_at = float("-inf")
        self._complained: dict[str, str] = {}  # of each step, what it said last
        self._epoch = ""  # the one last seen
        self._restored = False  # a new one has begun, and nothing was signed in it so far
        self._next_look = 0.0
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # commands of the page against the loop
        self._thread = threading.Thread(target=self._loop, name="daemon", daemon=True)

    def _make_collector(self) -> Collector | None:
        """None where the collectors beside this hub do it all."""
        settings, collect = self._settings, self._settings.collect
        if not collect.enabled:
            return None
        claims = Claims(settings.name, boot_id(), collect.sites) if collect.sites else None
        return Collector(
            settings,
            store=self._store,
            bus=self._bus,
            clock=self._clock,
            errors=self._errors,
            claims=claims,
        )

    def start(self) -> None:
        """Start every thread; the broker may come later."""
        try:
            self._mind_the_epoch()  # a restore before the loop's first round is one, too
            self._registry.start()
        except StoreError as error:  # a full disk: the page works, and the loop goes on trying
            self._count("start", error)
            self._registry.lost_sight()
        if self._collector is not None:
            self._collector.start()
        self._verifier.start()
        self._publisher.start()
        self._bus.subscribe(topics.states())
        self._bus.start(self)
        self._thread.start()

    def stop(self) -> None:
        """End every thread and the run, if one is under way; it is taken up again at the next start."""
        self._stopping.set()
        self._thread.join(STOP_S)
        self._runs.stop()
        self._verifier.stop()
        goodbye: list[tuple[str, bytes]] = []
        if self._collector is not None:
            self._collector.stop()
            goodbye = self._collector.statuses(online=False)
        self._publisher.stop()
        self._bus.stop(goodbye)
        self._registry.flush()

    @property
    def error(self) -> ConfigError | None:
        """Why this hub shall end."""
        return None if self._collector is None else self._collector.error

    # -- the bus; called in its thread

    def connected(self) -> None:
        """The broker has us: it may have lost what was retained."""
        if self._collector is not None:
            self._collector.connected()
        self._publisher.everything()
        log.info("connected to the broker")

    def disconnected(self, reason: str) -> None:
        """The broker is gone, and with it the sight of every camera; the bus goes on trying."""
        if self._collector is not None:
            self._collector.disconnected(reason)
        self._registry.lost_sight()
        log.warning("disconnected from the broker (%s)", reason)

    def message(self, message: Message) -> None:
        """A message of a camera: to the step it is for; one that means nothing is counted and logged."""
        try:
            self._dispatch(message)
        except HoneError as error:
            self._errors[error.code] += 1
            log.warning("%s", error)

    def _dispatch(self, message: Message) -> None:
        topic = topics.parse(message.topic)
        if not isinstance(topic, CameraTopic):
            self._collect(message)
            return
        accepted = self._settings.collect.cameras
        if accepted and topic.camera not in accepted and topic.leaf != "event":  # the collector answers an event
            raise UnknownCameraError(
                f"sent a {topic.leaf} and is not among collect.cameras", subject=f"camera {topic.camera}"
            )
        match topic.leaf:
            case "status":
                if message.payload:
                    self._registry.status(topic.camera, decode(message.payload, Status, subject=message.topic))
                self._collect(message)
            case "event" | "gone":
                self._collect(message)
            case "reported":
                if message.payload:
                    self._registry.reported(topic.camera, decode(message.payload, Reported, subject=message.topic))
            case "want":
                self._publisher.want(decode(message.payload, Want, subject=message.topic))
            case _:
                raise MessageError("is not for the hub", subject=message.topic)

    def _collect(self, message: Message) -> None:
        if self._collector is not None:
            self._collector.message(message)

    # -- the loop

    def _loop(self) -> None:
        while not self._stopping.wait(TICK_S):
            for step in (
                self._registry.flush,
                self._runs.supervise,
                self._retrain,
                self._release_better,
                self._mind_the_epoch,
                self._mind_the_keys,
                self._roll_out,
                self._fetch,
                self._expire,
                self._store.reserve.keep,
                self._watch,
            ):
                try:
                    with self._lock:
                        step()
                except HoneError as error:
                    self._count(step.__name__.strip("_"), error)
                else:
                    self._complained.pop(step.__name__.strip("_"), None)

    def _count(self, step: str, error: HoneError) -> None:
        """Log an error of a step once, not at each turn: the log may lie on the disk that is full."""
        self._errors[error.code] += 1
        if self._complained.get(step) != str(error):
            self._complained[step] = str(error)
            log.error("%s: %s", step, error)

    def _backbone(self) -> tuple[str, Part] | None:
        """The backbone of the newest release, to embed with."""
        with self._store.read() as session:
            newest = session.exec(
                select(Release).where(Release.project == self._project).order_by(col(Release.number).desc())
            ).first()
        if newest is None:
            return None
        sha256 = msgspec.convert(newest.model, ModelSpec).backbone.sha256
        if self._embedder is None or self._embedder[0] != sha256:
            self._embedder = (sha256, Part(self._store.blobs.read(sha256), name="backbone"))
        return self._embedder

    def _retrain(self) -> None:
        """The retrain policy: whether the rules that are on start a run now."""
        settings = self._policies.now()
        drift = self._drift() if settings.retrain.on_drift else ()
        with self._store.read() as session:
            facts = _facts(session, settings, drift)
        why = retrain.due(facts, settings.retrain, self._clock.utc().astimezone())
        if why is not None:
            self._runs.queue(why)

    def _release_better(self) -> None:
        """Release what the last run made, if it was proven better, or is the first."""
        if not self._policies.now().retrain.auto_release:
            return
        with self._store.read() as session:
            run = session.exec(
                select(Run).where(Run.project == self._project, Run.state == "done").order_by(col(Run.id).desc())
            ).first()
            if run is None or run.verdict not in ("better", "first"):
                return
            released = session.exec(select(Release).where(Release.run_id == run.id)).first()
        against = verdict.latest(self._store, self._project)
        if released is None and run.against == (against.number if against else 0):
            self._rollouts.release(run, f"automatic: {run.reason}")

    def _mind_the_epoch(self) -> None:
        """A restore may begin a new epoch while we run: what the broker retains is of the one before."""
        now = epoch.current(self._store, self._clock)
        if self._epoch and now != self._epoch:
            self._restored = True
        self._epoch = now

    def _mind_the_keys(self) -> None:
        """`hone-hub keys` may rotate or revoke while we run: what is in use is signed anew then, see `_roll_out`."""
        changed = keys.changed_at(self._key_folder)
        if changed not in (0, self._keys_of):
            found = keys.load(self._key_folder)
            self._rollouts.use(found)
            self._keys_of = changed
            log.warning("delegation %d is in force, of key %s", found.number, found.delegated[0])

    def _roll_out(self) -> None:
        """Move the rollout on; nothing moves while the fleet is out of sight."""
        if self._bus.online:
            self._rollouts.look(restored=self._restored)
            self._restored = False

    def _fetch(self) -> None:
        """The fetch policy: so many images an hour of those that cameras hold."""
        now = self._clock.monotonic()
        if not self._fetching.due(now):
            return
        online = [one.name for one in self._registry.cameras(self._project) if one.online]
        with self._store.read() as session:
            found = previews.best(session, self._project, online)
        if found is not None:
            self._fetching.spend(now)
            self._want(*found)

    def _expire(self) -> None:
        """Let old previews go, a batch at each turn."""
        now, days = self._clock.monotonic(), self._settings.collect.preview_days
        if not days or now < self._expire_at:
            return
        before = self._clock.utc() - timedelta(days=days)
        with self._store.read() as session:
            ids = previews.expired(session, self._project, before)
        if ids:
            with self._store.write() as session:
                count = previews.drop(session, self._project, before, ids)
            log.info("%d previews went that were offered last more than %d days ago", count, days)
        if len(ids) < previews.EXPIRE_BATCH:
            self._expire_at = now + EXPIRE_EVERY_S

    def _seen_to_drift(self) -> list[str]:
        """Of each camera whose last look at the release that it runs raised an alarm: what was found."""
        releases = {one.name: one.release for one in self._registry.cameras(self._project)}
        with self._store.read() as session:
            looks = watch.load(session, self._project)
        return [f"{one.camera}: {one.reason}" for one in drifted(looks, releases)]

    def _watch(self) -> None:
        """Look for drift, now and then: audit images are few."""
        now = self._clock.monotonic()
        if now < self._next_look:
            return
        looks = watch.look(self._store, self._project, self._policies.now().drift, self._clock, LOOKS)
        if len(looks) < LOOKS:
            self._next_look = now + WATCH_S
        for found in looks:
            log.log(logging.WARNING if found.drifted else logging.INFO, "%s: %s", found.camera, found.reason)

    # -- commands of the page (hub.web.actions)

    def state(self) -> HubState:
        """How the daemon is right now."""
        return HubState(
            broker=self._bus.online,
            boot=self._collector.boot if self._collector is not None else "",
            errors=dict(self._errors),
            up=self._bus.sent,
            down=self._bus.received,
            version=importlib.metadata.version("hone"),
        )

    def start_run(self, why: str) -> int:
        """Queue a training run; TrainError when one is under way already."""
        with self._lock:
            return self._runs.queue(why)

    def cancel_run(self, run_id: int) -> None:
        """Cancel a queued or running run."""
        with self._lock:
            self._runs.cancel(run_id)

    def resume_run(self, run_id: int) -> None:
        """Queue a cancelled or failed run once more, to go on from its checkpoint; TrainError when that cannot be."""
        with self._lock:
            self._runs.make_way()
            repeat.resume(self._policies.now(), self._store, run_id)

    def repeat_run(self, run_id: int) -> int:
        """Queue a run with the settings and data of this one; returns its id. TrainError when that cannot be."""
        with self._lock:
            self._runs.make_way()
            return repeat.again(self._policies.now(), self._store, run_id, self._clock)

    def release_run(self, run_id: int, note: str, start: bool = True) -> int:
        """Release the model of a finished run; returns its number. start: its rollout begins when its turn comes."""
        with self._lock:
            with self._store.read() as session:
                run = session.get(Run, run_id)
            if run is None:
                raise TrainError("does not exist", subject=f"run {run_id}")
            return self._rollouts.release(run, note, start=start)

    def resume_rollout(self) -> None:
        """Let a held rollout go on, or a draft begin."""
        with self._lock:
            self._rollouts.resume()

    def pause_rollout(self) -> None:
        """Hold the rollout under way."""
        with self._lock:
            self._rollouts.pause()

    def promote_rollout(self) -> None:
        """Let the rollout under way into its next stage, whatever has been proven."""
        with self._lock:
            self._rollouts.promote()

    def abort_rollout(self, why: str) -> None:
        """End the rollout under way; what is in use goes back to the model before."""
        with self._lock:
            self._rollouts.abort(why)

    def exempt(self, camera: str, release: int, reason: str, operator: str) -> None:
        """One release for one camera, whatever the plan says; release 0 ends that."""
        with self._lock:
            self._rollouts.exempt(camera, release, reason, operator)

    def ask_preview(self, preview_id: int) -> None:
        """Have the image of a preview sent, as soon as its camera is there. Nothing where it is gone or stored."""
        with self._store.read() as session:
            found = session.get(Preview, preview_id)
        if found is not None:
            self._want(found.camera, found.event_id)

    def _want(self, camera: str, event_id: str) -> None:
        """Have an image sent that its camera holds; a collector beside us finds it in the database."""
        if self._collector is not None:
            self._collector.ask(camera, event_id)
            return
        with self._store.write() as session:
            previews.ask(session, camera, event_id, self._clock.utc())


def _facts(session: Session, settings: HubSettings, drift: Sequence[str]) -> retrain.Facts:
    """What the retrain policy decides on."""
    project, classes = settings.project.name, settings.project.classes
    newest = select(Run).where(Run.project == project).order_by(col(Run.id).desc())
    last = session.exec(newest).first()
    learned = session.exec(newest.where(Run.train_images > 0)).first()
    failed = 0
    for run in session.exec(newest.where(Run.state != "cancelled").limit(retrain.MOST_DOUBLINGS + 1)):
        if run.state != "failed":
            break
        failed += 1
    positive = settings.retrain.positive or classes[1]
    return retrain.Facts(
        labels=labels_since_run(session, project),
        positives=labels_since_run(session, project, positive) if settings.retrain.every_positives else 0,
        last=last.created_at if last is not None else None,
        learned=learned.train_images if learned is not None else 0,
        busy=last is not None and last.state in ("queued", "running"),
        failed=failed,
        drift=drift,
    )
