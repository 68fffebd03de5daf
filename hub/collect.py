"""Collect: the thread around the hub's transfer rules, and the group commit.

Messages -> Receiver -> complete images -> one round of fsync for the blobs, one transaction for the rows -> `stored`.
The liveness counter is published from this same thread: a collector that is stuck stops beating.
"""

import logging
import queue
import threading
from collections import Counter, defaultdict

import msgspec
from sqlmodel import select

from hub.registry import MAX_RELEASE
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Image, Tombstone
from shared import topics
from shared.bus import Bus, Message
from shared.clock import Clock
from shared.errors import HoneError, MessageError, ScopeError, StoreError, UnknownCameraError
from shared.messages import Event, EventId, HubStatus, Reply, Status, decode, encode
from shared.topics import CameraTopic, ChunkTopic
from shared.transfer import Answer, Complete, Effect, Limits, Problem, Receiver

log = logging.getLogger(__name__)
INBOX = 4096
"""Messages that may wait here; beyond it paho's thread waits, and so the broker."""
UNKNOWN_PAUSE_MS = 60_000


class _Named(msgspec.Struct, frozen=True):
    """All that is needed of an event to refuse it."""

    id: EventId


class Collector:
    """Takes the cameras' uploads; `message` may be called from the bus's thread."""

    def __init__(
        self, settings: HubSettings, boot: str, *, store: Store, bus: Bus, clock: Clock, errors: Counter[str]
    ) -> None:
        self._settings = settings
        self._boot = boot
        self._store = store
        self._bus = bus
        self._clock = clock
        self._errors = errors
        limits = Limits(image_bytes=settings.collect.image_mb << 20, partial_bytes=settings.collect.partial_mb << 20)
        self._receiver = Receiver(limits)
        self._inbox: queue.Queue[Message | None] = queue.Queue(INBOX)
        self._batch: list[Complete] = []
        self._due = 0.0  # when the batch must be committed
        self._beat = 0
        self._beat_at = 0.0
        self._thread = threading.Thread(target=self._run, name="collect", daemon=True)

    def start(self) -> None:
        """Begin to collect."""
        self._thread.start()

    def stop(self) -> None:
        """Store what is complete and end the thread."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(10)

    def message(self, message: Message) -> None:
        """A `status`, `event` or `chunk` of a camera arrived; waits when the collector is far behind."""
        self._inbox.put(message)

    # -- the thread

    def _run(self) -> None:
        while True:
            self._keep_beating()
            left = max(0.0, self._due - self._clock.monotonic())
            try:
                message = self._inbox.get(timeout=left if self._batch else min(0.5, self._settings.beat_s))
            except queue.Empty:
                self._commit()
                continue
            if message is None:
                self._commit()
                return
            try:
                self._take(message)
            except HoneError as error:
                self._count(error)
            # Messages may never pause: an image waits no longer than batch_ms all the same.
            if len(self._batch) >= self._settings.collect.batch or self._clock.monotonic() >= self._due:
                self._commit()

    def _keep_beating(self) -> None:
        now = self._clock.monotonic()
        if now - self._beat_at < self._settings.beat_s:
            return
        self._beat_at = now
        self._beat += 1
        status = HubStatus(online=True, boot=self._boot, beat=self._beat, beat_s=self._settings.beat_s)
        self._bus.publish(topics.hub_status(self._settings.name), encode(status), retain=True)
        if expired := self._receiver.tick(now):
            log.info("%d unfinished images expired; their cameras still have them", expired)

    def _take(self, message: Message) -> None:
        now = self._clock.monotonic()
        topic = topics.parse(message.topic)
        match topic:
            case ChunkTopic(camera=camera, event=event_id, index=index):
                self._do(self._receiver.chunk(camera, event_id, index, message.payload, now))
            case CameraTopic(camera=camera, leaf="event"):
                event = self._read_event(camera, message)
                self._check(camera, event)
                self._do(self._receiver.event(camera, event, self._stored_hash(camera, event.id), now))
            case CameraTopic(camera=camera, leaf="status"):
                if message.payload:
                    self._greet(camera, decode(message.payload, Status, subject=message.topic))
            case _:
                raise MessageError("is not for the collector", subject=message.topic)

    def _read_event(self, camera: str, message: Message) -> Event:
        """The event; one that cannot be read is refused by its id, where that can, or its camera would ask for ever."""
        try:
            return decode(message.payload, Event, subject=message.topic)
        except MessageError as error:
            try:
                named = decode(message.payload, _Named, subject=message.topic)
            except MessageError:
                raise error from None
            self._bus.publish(topics.reply(camera), encode(Reply(refuse={named.id: error.what})))
            raise

    def _greet(self, camera: str, status: Status) -> None:
        if status.online:
            self._do(self._receiver.hello(camera))
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
            self._bus.publish(topics.reply(camera), encode(Reply(pause_ms=UNKNOWN_PAUSE_MS)))
            raise error

    def _stored_hash(self, camera: str, event_id: str) -> str | None:
        """sha256 under which this event is stored or was purged; None when it never was."""
        with self._store.read() as session:
            stored = session.exec(
                select(Image.sha256).where(Image.camera == camera, Image.event_id == event_id)
            ).first()
            if stored is None:
                tombstone = session.get(Tombstone, (camera, event_id))
                stored = tombstone.sha256 if tombstone else None
            return stored

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Answer(camera=camera, reply=reply):
                    self._bus.publish(topics.reply(camera), encode(reply))
                case Complete():
                    if not self._batch:
                        self._due = self._clock.monotonic() + self._settings.collect.batch_ms / 1000
                    self._batch.append(effect)
                case Problem(error=error):
                    self._count(error)

    def _count(self, error: HoneError) -> None:
        self._errors[error.code] += 1
        log.warning("%s", error)

    def _commit(self) -> None:
        """Make the batch durable, blobs first, and only then say `stored`."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        done: dict[str, list[str]] = defaultdict(list)
        for one in batch:
            done[one.camera].append(one.event.id)
        try:
            self._store.blobs.put([one.data for one in batch])
            self._insert(batch)
        except StoreError as error:
            self._count(error)
            for camera, event_ids in done.items():
                self._do(self._receiver.not_durable(camera, event_ids))
            return
        for camera, event_ids in done.items():
            self._do(self._receiver.durable(camera, event_ids))
        log.debug("stored %d images: %s", len(batch), ", ".join(one.event.id for one in batch))

    def _insert(self, batch: list[Complete]) -> None:
        """One transaction for all rows."""
        received = self._clock.utc()
        with self._store.write() as session:
            for one in batch:
                event = one.event
                session.add(
                    Image(
                        camera=one.camera,
                        event_id=event.id,
                        project=event.project,
                        sha256=event.sha256,
                        size=event.size,
                        ext=event.ext,
                        captured_at=event.time,
                        received_at=received,
                        release=event.release,
                        guess=event.label,
                        score=event.score,
                        scores=dict(event.scores),
                        why=event.why,
                        probability=event.probability,
                    )
                )
