"""Collect: the thread around the hub's transfer rules.

Messages -> Receiver -> complete images and previews -> `hub.commit`, a thread of its own -> `stored`, `noted`. The
liveness counter is published from this thread: a collector that is stuck, or whose disk is, stops beating.
"""

import logging
import queue
import shutil
import threading
import time
from collections import Counter, defaultdict

import msgspec

from hub import epoch, previews
from hub.commit import Committer, LetGo, Round, stored_hashes
from hub.lease import Claims, Leases
from hub.partials import PartialFiles
from hub.registry import MAX_RELEASE
from hub.room import Quota, Watermark
from hub.settings import HubSettings
from hub.store import Store
from shared import topics
from shared.bus import Bus, Message
from shared.clock import Clock
from shared.errors import ConfigError, HoneError, MessageError, ScopeError, StoreError, UnknownCameraError
from shared.ids import boot_id
from shared.messages import Event, EventId, Gone, HubStatus, Reply, Status, decode, encode, split_attached
from shared.topics import CameraTopic, ChunkTopic
from shared.transfer import Answer, Complete, Effect, Held, Limits, Problem, Receiver

log = logging.getLogger(__name__)
INBOX_BYTES = 64 << 20
"""Bytes of messages that may wait here; beyond it paho's thread waits, and so the broker."""
UNKNOWN_PAUSE_MS = 60_000
STUCK_S = 20.0
"""A commit that takes longer than this, and the hub shows no life: cameras stop sending."""
PULSE_S = 30.0
"""Seconds between two pulses for cameras behind thin links."""
ATTACH = 1 << 20
"""Bytes of the largest first chunk that an event may carry."""
ASK_EACH = 4
"""Images that a camera is asked for at a time: more would wait for one another on a thin link."""


class _Named(msgspec.Struct, frozen=True):
    """All that is needed of an event to refuse it."""

    id: EventId


class _Look:
    """A note in the inbox: somebody wants an image."""


class Collector:
    """Takes the cameras' uploads; `message` may be called from the bus's thread.

    claims: serve the sites that these win, beside other collectors; None: serve all, alone.
    """

    def __init__(
        self,
        settings: HubSettings,
        *,
        store: Store,
        bus: Bus,
        clock: Clock,
        errors: Counter[str],
        claims: Claims | None = None,
    ) -> None:
        self._settings = settings
        self._boot = boot_id()
        self._store = store
        self._bus = bus
        self._clock = clock
        self._errors = errors
        self._leases = Leases(claims, store, clock, errors, self._works) if claims is not None else None
        self._sites: frozenset[str] = frozenset()  # those served, with leases
        collect = settings.collect
        limits = Limits(image_bytes=collect.image_mb << 20, partial_bytes=collect.partial_mb << 20)
        self._receiver = Receiver(limits)
        self._partials = PartialFiles(settings.state_folder / "partials" / settings.name)
        self._watermark = Watermark(collect.free_mb << 20)
        self._quota = Quota(collect.quota_mb_per_day << 20)
        self._inbox: queue.SimpleQueue[Message | Round | _Look | None] = queue.SimpleQueue()
        self._committer = Committer(store, clock, self._inbox.put, batch=collect.batch)
        self._waiting = 0  # bytes in the inbox
        self._lock = threading.Lock()
        self._epoch = ""
        self._turned = clock.monotonic()  # when the thread was last seen to go round
        self._beat = 0
        self._shown = threading.Lock()  # no status of the boot before goes out once there is another
        self._here = False  # the broker has us
        self._settles_at = float("inf")
        self._beat_at = float("-inf")
        self._pulse_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def start(self) -> None:
        """Begin to collect, with the unfinished images that an earlier hub left on disk.

        With claims: ConfigError when another collector of this name runs; finding out may take some seconds.
        """
        if self._leases is not None:
            self._leases.enter()
        now = self._clock.monotonic()
        for one in self._partials.load():
            self._receiver.restore(one.camera, one.event, one.chunks, now)
        self._quota.load(self._store, self._clock.utc())
        self._turned = now
        self._committer.start()
        if self._leases is None:
            self._bus.subscribe(topics.uploads())
        else:
            self._leases.start()
        self._thread.start()

    def stop(self) -> None:
        """Store what is complete and end the threads."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(10)
        self._committer.stop()
        while not self._inbox.empty():
            if isinstance(last := self._inbox.get(), Round):
                self._conclude(last)
        self._partials.do(self._receiver.spill(float("inf")))
        if self._leases is not None:
            self._leases.stop()

    @property
    def error(self) -> ConfigError | None:
        """Why this collector shall end."""
        return None if self._leases is None else self._leases.error

    @property
    def boot(self) -> str:
        """Under which id the hub shows life now."""
        return self._boot

    def connected(self) -> None:
        """The broker has us (again). What cameras sent meanwhile is lost: a fresh boot id has them ask at once."""
        with self._shown:
            self._boot = boot_id()
            self._here = True
            self._receiver.settled = False
            self._settles_at = float("inf")
            self._beat_at = float("-inf")

    def disconnected(self, reason: str) -> None:
        """The broker is gone: no life is shown until it has us again, and then under another boot id."""
        self._here = False

    def message(self, message: Message) -> None:
        """An upload of a camera, or its `status`, arrived; waits when the collector is far behind."""
        while self._waiting > INBOX_BYTES and self._thread.is_alive():
            time.sleep(0.01)
        with self._lock:
            self._waiting += len(message.payload)
        self._inbox.put(message)

    def ask(self, camera: str, event_id: str) -> None:
        """The image of a preview is wanted: now, and until it is stored or gone. StoreError."""
        with self._store.write() as session:
            previews.ask(session, camera, event_id, self._clock.utc())
        self._inbox.put(_Look())

    def statuses(self, *, online: bool) -> list[tuple[str, bytes]]:
        """The retained messages that say whether this hub is there."""
        # No site among `sites` would mean all of them: who serves none is not there for the cameras.
        online = online and (self._leases is None or bool(self._sites))
        common = HubStatus(online=online, boot=self._boot)
        if online:
            common = msgspec.structs.replace(
                common,
                epoch=self._epoch,
                beat=self._beat,
                beat_s=self._settings.beat_s,
                sites=sorted(self._sites),
                accepts=self._receiver.accepts,
                attach=ATTACH,
                credit=self._receiver.first_credit,
            )
        pulse = msgspec.structs.replace(common, beat_s=max(PULSE_S, common.beat_s) if online else common.beat_s)
        name = self._settings.name
        return [(topics.hub_status(name), encode(common)), (topics.hub_pulse(name), encode(pulse))]

    # -- the thread

    def _run(self) -> None:
        while True:
            self._mind_the_sites()
            self._keep_beating()
            try:
                item = self._inbox.get(timeout=min(0.5, self._settings.beat_s))
            except queue.Empty:
                continue
            if item is None:
                return
            try:
                if isinstance(item, Round):
                    self._conclude(item)
                elif isinstance(item, _Look):
                    self._ask_for_wanted(self._clock.monotonic())
                else:
                    with self._lock:
                        self._waiting -= len(item.payload)
                    self._take(item)
            except HoneError as error:
                self._count(error)

    def _works(self) -> bool:
        """Whether cameras reach us, the thread goes round, and commits come to an end."""
        turns = self._clock.monotonic() - self._turned < STUCK_S
        return self._bus.online and turns and self._committer.busy() < STUCK_S

    def _mind_the_sites(self) -> None:
        """Serve what the leases allow, from now on and no longer; the next beat, at once, tells the cameras."""
        self._turned = now = self._clock.monotonic()
        if self._leases is None or (held := self._leases.held(now)) == self._sites:
            return
        lost, new = sorted(self._sites - held), sorted(held - self._sites)
        self._sites = held
        if lost:
            self._bus.unsubscribe(topics.uploads(lost))
        for site in lost:
            self._receiver.leave(site)
        if new:
            self._bus.subscribe(topics.uploads(new))
            try:
                self._quota.load(self._store, self._clock.utc())  # another has stored something of theirs today
            except StoreError as error:
                self._count(error)
        self._beat_at = self._pulse_at = float("-inf")
        log.info("serves %s", ", ".join(sorted(held)) or "no site")

    def _keep_beating(self) -> None:
        now = self._clock.monotonic()
        if now - self._beat_at < self._settings.beat_s:
            return
        self._beat_at = now
        # A beat after the first, the broker has told who is there. Until it has, a thousand could be promised what ten
        # may have.
        self._receiver.settled = now >= self._settles_at
        self._mind_the_disk(now)
        try:
            self._epoch = epoch.current(self._store, self._clock)  # a restore may begin one while we run
            self._ask_for_wanted(now)
        except StoreError as error:
            self._count(error)
        if expired := self._receiver.tick(now):
            log.info("%d unfinished images expired; their cameras still have them", expired)
        self._partials.do(self._receiver.spill(now))
        if self._committer.busy() > STUCK_S:
            log.error("a commit has taken %.0f s so far; the hub shows no life meanwhile", self._committer.busy())
            return
        with self._shown:
            if not self._here:
                return
            if self._settles_at == float("inf"):
                self._settles_at = now + self._settings.beat_s
                self._receiver.settled = False
            self._beat += 1
            [status, pulse] = self.statuses(online=True)
            self._bus.publish(*status, retain=True)
            if now - self._pulse_at >= PULSE_S and self._bus.publish(*pulse, retain=True):
                self._pulse_at = now

    def _ask_for_wanted(self, now: float) -> None:
        """Ask for wanted images that are not on their way: at first, after a restart, or because nothing came of it."""
        with self._store.read() as session:
            found = previews.wanted(session, self._settings.project.name, self._receiver.online, ASK_EACH)
        for camera, event in found:
            if not self._quota.wait(camera, event.size, self._clock.utc()):
                self._do(self._receiver.want(camera, event, now))

    def _mind_the_disk(self, now: float) -> None:
        """Below the watermark the whole fleet waits; nothing is refused."""
        try:
            free = shutil.disk_usage(self._settings.state_folder).free
        except OSError as error:  # gone with its mount: nothing can be stored now
            log.error("the disk of %s cannot be looked at (%s)", self._settings.state_folder, error.strerror)
            free = 0
        accepts = self._watermark.accepts(free)
        if accepts != self._receiver.accepts:
            self._receiver.accepts = accepts
            self._pulse_at = float("-inf")  # those behind thin links shall know at once, too
            if accepts:
                log.info("there is room on the disk again; the cameras may send")
            else:
                self._errors["disk_full"] += 1
                log.error(
                    "less than collect.free_mb = %d is free on the disk of %s; the cameras wait",
                    self._settings.collect.free_mb,
                    self._settings.state_folder,
                )

    def _take(self, message: Message) -> None:
        now = self._clock.monotonic()
        topic = topics.parse(message.topic)
        if self._leases is not None and isinstance(topic, CameraTopic | ChunkTopic) and not self._serves(topic.camera):
            return  # it was under way when the site went to another collector
        match topic:
            case ChunkTopic(camera=camera, event=event_id, index=index):
                self._do(self._receiver.chunk(camera, event_id, index, message.payload, now))
            case CameraTopic(camera=camera, leaf="event"):
                self._take_event(camera, message, now)
            case CameraTopic(camera=camera, leaf="status"):
                if message.payload:
                    status = decode(message.payload, Status, subject=message.topic)
                    self._greet(camera, status, retained=message.retained)
            case CameraTopic(camera=camera, leaf="gone"):
                gone = decode(message.payload, Gone, subject=message.topic)
                self._committer.put(LetGo(camera, gone.ids))
            case _:
                raise MessageError("is not for the collector", subject=message.topic)

    def _serves(self, camera: str) -> bool:
        return camera.partition("/")[0] in self._sites

    def _take_event(self, camera: str, message: Message, now: float) -> None:
        text, first = split_attached(message.payload)
        event = self._read_event(camera, text, message.topic)
        self._check(camera, event)
        if event.held:
            self._do(self._receiver.event(camera, self._legible(event), None, now))
            return
        if wait := self._quota.wait(camera, event.size, self._clock.utc()):
            self._errors["quota"] += 1
            log.warning("event %s of %s is above the camera's quota for today; it waits", event.id, camera)
            self._answer(camera, Reply(pause_ms=int(1000 * min(wait, 3600.0))))
            return
        # Whether a small image is stored already is found out when it comes to store; only where that spares
        # chunks, or where there is none to come, is it asked now.
        before = None
        if not event.follows or event.size > event.chunk_size:
            with self._store.reading() as connection:
                before = stored_hashes(connection, [(camera, event.id)])[0].get((camera, event.id))
        self._do(self._receiver.event(camera, event, before, now, first))

    def _legible(self, event: Event) -> Event:
        """The preview, without what nobody could show: better half of it than none."""
        try:
            previews.parts(event)
        except MessageError as error:
            self._count(error)
            return msgspec.structs.replace(event, thumbnail=None, embedding=None)
        return event

    def _read_event(self, camera: str, text: bytes, topic: str) -> Event:
        """The event; one that cannot be read is refused by its id, where that can, or its camera would ask for ever."""
        try:
            return decode(text, Event, subject=topic)
        except MessageError as error:
            try:
                named = decode(text, _Named, subject=topic)
            except MessageError:
                raise error from None
            self._answer(camera, Reply(refuse={named.id: error.what}))
            raise

    def _greet(self, camera: str, status: Status, *, retained: bool) -> None:
        if status.online:
            self._do(self._receiver.hello(camera, self._clock.monotonic()))
            if not retained:
                self._answer(camera, Reply())  # shows that we live, sooner than the next beat or pulse
        else:
            self._receiver.bye(camera)

    def _check(self, camera: str, event: Event) -> None:
        """An error for what this hub must not store; the camera keeps it and is paused."""
        accepted = self._settings.collect.cameras
        error: HoneError | None = None
        if accepted and camera not in accepted:
            error = UnknownCameraError(
                "is not among collect.cameras", subject=f"camera {camera}", remedy="Add it, or take its account away"
            )
        elif event.project != self._settings.project.name:
            error = ScopeError(
                f"is of project {event.project}, this hub serves {self._settings.project.name}",
                subject=f"event {event.id} of {camera}",
            )
        elif event.release > MAX_RELEASE:
            error = MessageError(f"names a release above {MAX_RELEASE}", subject=f"event {event.id} of {camera}")
        if error is not None:
            self._answer(camera, Reply(pause_ms=UNKNOWN_PAUSE_MS))
            raise error

    def _answer(self, camera: str, reply: Reply) -> None:
        self._bus.publish(topics.reply(camera), encode(reply))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Answer(camera=camera, reply=reply):
                    self._answer(camera, reply)
                case Complete() | Held():
                    self._committer.put(effect)
                case Problem(error=error):
                    self._count(error)

    def _conclude(self, result: Round) -> None:
        """Tell the cameras what became of a round of commit."""
        if result.error is not None:
            self._count(result.error)
        stored: dict[str, list[str]] = defaultdict(list)
        failed: dict[str, list[str]] = defaultdict(list)
        noted: dict[str, list[str]] = defaultdict(list)
        for held in result.noted:
            noted[held.camera].append(held.event.id)
        for one in result.stored:
            stored[one.camera].append(one.event.id)
            self._quota.spend(one.camera, one.event.size, self._clock.utc())
        for offered in result.failed:
            failed[offered.camera].append(offered.event.id)
        for offered, sha256 in result.known:
            if sha256 == offered.event.sha256:
                stored[offered.camera].append(offered.event.id)
            else:
                self._do(self._receiver.stored_before(offered.camera, offered.event, sha256))
        for let_go in result.gone:
            self._receiver.gone(let_go.camera, let_go.event_ids)
        for camera, event_ids in stored.items():
            self._do(self._receiver.durable(camera, event_ids))
        for camera, event_ids in noted.items():
            self._do(self._receiver.noted(camera, event_ids))
        for camera, event_ids in failed.items():
            self._do(self._receiver.not_durable(camera, event_ids))
        if result.stored and log.isEnabledFor(logging.DEBUG):
            log.debug("stored %d images: %s", len(result.stored), ", ".join(one.event.id for one in result.stored))

    def _count(self, error: HoneError) -> None:
        self._errors[error.code] += 1
        log.warning("%s", error)
