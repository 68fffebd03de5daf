"""The agent: the camera's flow from top to bottom. Only this file knows the order of the steps.

    capture -> infer -> triage -> spool -> send          reload: desired -> fetch -> verify -> warm up -> swap
                 |  \\-> trial -^                           report
                  \\-> result (SCADA)

The frame loop waits for neither disk nor network: events go to a writer thread, uploads and releases have their own.
"""

import base64
import logging
import queue
import random
import threading
import time
from collections import Counter
from pathlib import Path

from edge.backlog import Backlog, encode_embedding
from edge.budget import Meter
from edge.capture import Capture, open_source
from edge.frame import Frame
from edge.infer import Engine, Facts, Running
from edge.pack import Packs
from edge.priority import lower_priority
from edge.reload import Reload
from edge.report import LowScores, Reporting, clock_quality
from edge.results import Results
from edge.send import Sending
from edge.settings import EdgeSettings
from edge.shelf import WELL_FRAMES, WELL_SECONDS
from edge.spool import Spool
from edge.thumbnail import thumbnail
from edge.triage import Chosen, Triage
from edge.trial import Seen, TrialRun
from edge.waiting import offer_of
from shared import topics
from shared.bus import Message
from shared.clock import Clock
from shared.errors import HoneError, SpoolError
from shared.files import sha256_hex
from shared.ids import boot_id, event_id
from shared.messages import Event, HubStatus, Reply, Status, decode, encode
from shared.mqtt import PahoBus
from shared.policy import AUDIT, TriageSettings
from shared.preprocess import encode_jpeg, encode_png
from shared.topics import BlobTopic, CameraTopic, HubTopic, PlanTopic, ReleaseTopic

log = logging.getLogger(__name__)
WRITER_QUEUE = 32
"""Events that may wait for the disk before one is counted as unspooled."""
TOGETHER = 4
"""Frames that triage looks at in one go while they follow each other without a pause."""
DIGITS = 4
"""Of scores in events: more would say nothing, and cost a thin link a quarter of a percent."""


class Agent:
    """One camera. `run` returns after `stop`."""

    def __init__(self, settings: EdgeSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._boot = boot_id()
        self._stopping = False  # no Event: a signal handler that sets one can wait for a lock of its own thread
        self._errors: Counter[str] = Counter()
        camera = settings.camera
        last_will = (topics.status(camera), encode(Status(online=False)))
        self._bus = PahoBus(settings.mqtt, client_id=f"hone/camera/{camera}", will=last_will)
        self._capture = Capture(open_source(settings.capture), clock, queue_length=settings.capture.queue)
        self._engine = Engine()
        self._triage: Triage[Seen] = Triage(settings.triage)
        self._undecided: list[tuple[Seen, float]] = []  # and when each was seen
        self._results = Results(camera, self._bus, lambda: clock_quality(settings))
        self._trial = TrialRun(self._engine, self._triage.is_low)
        self._low = LowScores(clock)
        self._spool = Spool(
            settings.state_folder / "spool",
            limit=settings.spool.limit_mb << 20,
            audit_limit=round(settings.spool.audit_share * (settings.spool.limit_mb << 20)),
            quarantine_limit=settings.spool.quarantine_mb << 20,
            keep_s=settings.spool.keep_hours * 3600,
            clock=clock,
        )
        meter = Meter(settings.link, settings.state_folder / "link.json", clock)
        self._sending = Sending(
            camera,
            self._bus,
            self._spool,
            clock,
            self._errors,
            meter=meter,
            memory=settings.state_folder / "epoch",
            noted=settings.state_folder / "noted",
            embeddings=not settings.link.thin,
        )
        self._backlog = Backlog(self._spool, self._sending.revalued, self._errors)
        self._reporting = Reporting(
            settings,
            boot=self._boot,
            bus=self._bus,
            clock=clock,
            capture=self._capture,
            engine=self._engine,
            spool=self._spool,
            reload=lambda: self._reload,
            low=self._low,
            errors=self._errors,
            triage=self._triage,
            trial=self._trial,
            goodput=lambda: self._sending.goodput,
        )
        self._reload = Reload(
            settings,
            bus=self._bus,
            engine=self._engine,
            trial=self._trial,
            clock=clock,
            errors=self._errors,
            clock_trusted=lambda: clock_quality(settings) == "synchronised",
            changed=self._reporting.changed,
            goodput=lambda: self._sending.goodput,
        )
        folder = settings.packs
        self._packs = Packs(Path(folder), self._reload.bring, self._errors) if folder else None
        self._to_write: queue.Queue[tuple[Seen, Chosen] | None] = queue.Queue(WRITER_QUEUE)
        self._writer = threading.Thread(target=self._write, name="spool", daemon=True)

    def run(self) -> None:
        """Run until `stop`; the frame loop is here."""
        thin, hub = self._settings.link.thin, self._settings.hub or "+"
        life = topics.hub_pulse(hub) if thin else topics.hub_status(hub)
        self._bus.subscribe([life, topics.reply(self._settings.camera)])
        self._writer.start()
        self._sending.start()
        self._backlog.start()
        self._trial.start()
        self._reload.start()
        if self._packs is not None:
            self._packs.start()
        self._reporting.start()
        self._results.start()
        self._bus.start(self)
        log.info(
            "camera %s started; waiting for a release of project %s", self._settings.camera, self._settings.project
        )
        capturing = False
        judging: tuple[Facts, TriageSettings] | None = None  # by which the backlog was valued
        proving, since, before = 0, 0.0, 0  # the release that has yet to run well, since when and which frame
        while not self._stopping:
            self._follow_policy()
            running = self._engine.turn()
            if running is None:
                time.sleep(0.05)
                continue
            if not capturing:
                capturing = True
                self._capture.start()
            now, inferred = self._clock.monotonic(), self._engine.inferred
            if running.release != abs(proving):
                proving, since, before = running.release, now, inferred
            elif proving > 0 and (now - since > WELL_SECONDS or inferred - before > WELL_FRAMES):
                self._reload.ran_well()
                proving = -proving
            for seen in self._trial.done():
                self._decide(seen, now)
            settings = self._triage.settings
            facts = running.facts
            if judging is None or judging[0] is not facts:
                self._decide_all()
                self._hand_over(self._triage.model(facts.classes, facts.references))
            if judging is None or judging[0] is not facts or judging[1] is not settings:
                judging = facts, settings
                self._backlog.value(facts, settings)
            frame = self._capture.take(timeout=0.2)
            if frame is not None:
                self._see(frame, running)
            elif self._capture.drained:
                self._hand_over(self._triage.close())
            else:
                self._hand_over(self._triage.due(self._clock.monotonic()))
        self._shut_down()

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping = True

    # -- the flow

    def _see(self, frame: Frame, running: Running) -> None:
        """One frame: infer, tell SCADA, and decide, soon or when the other model of a trial has judged it too.

        Soon: at once in a pause. When the model has run, the processor's caches hold nothing that triage needs, so that
        to look at TOGETHER frames takes little longer than to look at one.
        """
        prediction = self._engine.predict(running, frame.pixels)
        self._low.add(self._triage.is_low(prediction))
        pause = not self._capture.waiting
        if self._settings.link.results and not self._settings.link.thin:
            self._results.add(frame, prediction, running.facts, pause=pause)
        seen = Seen(frame, prediction, running.facts)
        if not self._trial.take(seen, random.random()):
            self._undecided.append((seen, self._clock.monotonic()))
        if pause or len(self._undecided) >= TOGETHER:
            self._decide_all()

    def _decide_all(self) -> None:
        """Triage of the frames that were seen and wait for nothing more."""
        for seen, now in self._undecided:
            self._decide(seen, now)
        self._undecided.clear()

    def _decide(self, seen: Seen, now: float) -> None:
        """Triage, and hand an event to the writer."""
        pair = seen.share if seen.rival else 0.0
        self._hand_over(self._triage.see(seen, seen.prediction, random.random(), now, pair))

    def _hand_over(self, events: list[tuple[Seen, Chosen]]) -> None:
        for one in events:
            try:
                self._to_write.put_nowait(one)
            except queue.Full:
                self._spool.not_written(audit=one[1].why == AUDIT)
                self._lost(one[0])

    def _lost(self, seen: Seen) -> None:
        if seen.rival is not None:
            self._trial.lost(seen.rival)

    def _follow_policy(self) -> None:
        """Triage as the project says, or as edge.toml where that is silent or goes first; from this frame on."""
        local = self._settings.triage_local
        wanted = (None if local else self._reload.policy.triage) or self._settings.triage
        if wanted is not self._triage.settings:
            self._decide_all()
            self._triage.use(wanted)
            self._reporting.changed()
            log.info("triage: %s", wanted)

    def _write(self) -> None:
        """The writer thread: frame -> event in the spool -> offered to the sender."""
        lower_priority()
        while (item := self._to_write.get()) is not None:
            seen, chosen = item
            frame, prediction, facts = seen.frame, seen.prediction, seen.facts
            data, ext = self._file_of(frame)
            event = Event(
                id=event_id(frame.at),
                project=self._settings.project,
                release=facts.release,
                time=frame.at,
                clock=clock_quality(self._settings),
                label=facts.classes[prediction.best],
                score=_short(prediction.score),
                scores={
                    name: _short(float(one)) for name, one in zip(facts.classes, prediction.probabilities, strict=True)
                },
                why=chosen.why,
                probability=chosen.probability,
                value=round(chosen.value, DIGITS),
                size=len(data),
                sha256=sha256_hex(data),
                ext=ext,
                chunk_size=self._settings.spool.chunk_kb << 10,
                held=self._settings.link.previews,
                thumbnail=_thumbnail(frame) if self._settings.link.previews else None,
                embedding=encode_embedding(prediction.embedding),
                backbone=facts.backbone or None,
                rival=seen.rival,
            )
            try:
                self._spool.add(event, data)
            except SpoolError as error:
                self._errors[error.code] += 1
                self._lost(seen)
                log.error("event %s: %s", event.id, error)
            else:
                self._backlog.keep(event)
                self._sending.spooled(offer_of(event))

    def _file_of(self, frame: Frame) -> tuple[bytes, str]:
        """The file's own bytes where there is a file, else the pixels as the settings say."""
        if frame.data is not None:
            return frame.data, frame.ext
        if self._settings.capture.raw == "jpeg":
            return encode_jpeg(frame.pixels, self._settings.capture.jpeg_quality), "jpg"
        return encode_png(frame.pixels), "png"

    # -- the bus; called in its thread

    def connected(self) -> None:
        """The broker accepted us."""
        status = Status(online=True, boot=self._boot)
        self._bus.publish(topics.status(self._settings.camera), encode(status), retain=True)
        self._sending.connected()
        self._reporting.changed()
        log.info("connected to the broker")

    def disconnected(self, reason: str) -> None:
        """The broker is gone; frames go on, events wait in the spool."""
        self._sending.disconnected()
        log.warning("disconnected from the broker (%s)", reason)

    def message(self, message: Message) -> None:
        """A message arrived: to the step it is for; one that means nothing is counted and logged."""
        try:
            match topics.parse(message.topic):
                case HubTopic(name=name):
                    if message.payload and self._settings.hub in ("", name):
                        status = decode(message.payload, HubStatus, subject=message.topic)
                        self._sending.hub(name, status, retained=message.retained)
                case CameraTopic(leaf="reply"):
                    self._sending.reply(decode(message.payload, Reply, subject=message.topic))
                case CameraTopic(leaf="desired"):
                    self._reload.desired(message.payload)
                case PlanTopic():
                    self._reload.plan(message.payload)
                case ReleaseTopic(number=number):
                    self._reload.manifest(number, message.payload)
                case BlobTopic(sha256=sha256, index=index):
                    self._reload.chunk(sha256, index, message.payload)
        except HoneError as error:
            self._errors[error.code] += 1
            log.warning("%s", error)

    # -- the end

    def _shut_down(self) -> None:
        """Stop in the order of the flow, so that what was chosen is in the spool before the process ends."""
        self._capture.stop()
        self._results.stop()
        self._decide_all()
        self._trial.stop()
        for seen in self._trial.done():
            self._decide(seen, self._clock.monotonic())
        self._hand_over(self._triage.close())
        self._to_write.put(None)
        self._writer.join(10)
        self._backlog.stop()
        self._sending.stop()
        if self._packs is not None:
            self._packs.stop()
        self._reload.ran_well(trial=True)  # whoever is asked to stop has not been killed by its model
        self._reload.stop()
        self._reporting.stop()
        self._bus.stop([(topics.status(self._settings.camera), encode(Status(online=False, boot=self._boot)))])
        log.info("camera %s stopped; %d events wait in the spool", self._settings.camera, self._spool.state().left)


def _short(score: float) -> float:
    return min(1.0, round(score, DIGITS))


def _thumbnail(frame: Frame) -> str:
    return base64.b64encode(thumbnail(frame.pixels)).decode()
