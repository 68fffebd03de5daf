"""Release: give a model a number, sign it, and put it with its parts on retained topics."""

import logging
import threading
from base64 import b64decode
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlmodel import Session, col, func, select

from hub.keys import Keys
from hub.registry import next_number
from hub.store import STOP_S, Store
from hub.tables import Camera, Exemption, Release, Retained, Rollout, Run
from shared import topics
from shared.bus import Bus
from shared.clock import Clock
from shared.errors import StoreError, TrainError
from shared.files import chunk_count, chunks
from shared.golden import Tolerances
from shared.manifest import (
    PLAN_TYPE,
    RELEASE_TYPE,
    Group,
    Manifest,
    ModelSpec,
    Packed,
    PartSpec,
    Plan,
    Signed,
    Variant,
    seal,
)
from shared.messages import Want
from shared.packed import pack
from shared.policy import TriageSettings, to_wire
from shared.preprocess import Preprocess

log = logging.getLogger(__name__)
PARTS = ("backbone", "head", "golden", "references")
INT8 = "int8 "
"""Before the names of parts of the int8 variant, in a run's row."""
IN_FLIGHT = 1 << 20
"""Bytes of retained chunks that the broker may owe us an acknowledgement for."""
MAX_SEEN = 500_000_000
"""Numbers above that which cameras report are a thief's: no hub gets there, and cameras forget them with his key."""
MAX_WANTED = 10_000
"""Ranges of missing chunks that wait to be published again; a camera whose wish came beyond that asks again."""


def model_of(run: Run, store: Store) -> ModelSpec:
    """The model that a finished run made, with its classes and preprocessing; packed parts are put into the store.

    TrainError when the run has none, StoreError when a part is missing.
    """
    if run.state != "done" or not run.parts:
        raise TrainError(f"is {run.state} and has no model", subject=f"run {run.id}", remedy="Release a finished run")
    parts = {name: _part(store, one) for name, one in run.parts.items() if name.removeprefix(INT8) in PARTS}
    return ModelSpec(
        backbone=parts["backbone"],
        head=parts["head"],
        golden=parts["golden"],
        references=parts.get("references"),
        classes=run.settings["classes"],
        preprocess=msgspec.convert(run.settings["preprocess"], Preprocess),
        golden_probabilities=run.golden_probabilities,
        tolerances=Tolerances(),
        thresholds=run.fit.get("thresholds", []),
        int8=_int8(parts, run.fit.get("int8", {})),
    )


def _int8(parts: dict[str, PartSpec], fit: dict[str, Any]) -> Variant | None:
    """The int8 variant; None where the run made none, or left it out."""
    if f"{INT8}backbone" not in parts:
        return None
    return Variant(
        backbone=parts[f"{INT8}backbone"],
        head=parts[f"{INT8}head"],
        golden=parts[f"{INT8}golden"],
        references=parts.get(f"{INT8}references"),
        golden_probabilities=fit["golden_probabilities"],
        thresholds=fit["thresholds"],
    )


def _part(store: Store, sha256: str) -> PartSpec:
    """How a blob travels; packed, it is a blob of its own."""
    data = store.blobs.read(sha256)
    if (packed := pack(data)) is None:
        return PartSpec(sha256=sha256, size=len(data))
    [name] = store.blobs.put([packed])
    return PartSpec(sha256=sha256, size=len(data), packed=Packed(sha256=name, size=len(packed)))


def create(
    session: Session, run: Run, model: ModelSpec, keys: Keys, *, now: datetime, days: int, note: str = ""
) -> Release:
    """Number and sign a release of a run's model, as part of the caller's transaction.

    The number is above every one ever used and above every one that a camera reports (after a restore from backup).
    """
    project = run.project
    seen = _seen(session, project, Camera.floor)
    number = next_number(session, f"release/{project}", above=seen)
    before = session.exec(
        select(Release).where(Release.project == project).order_by(col(Release.number).desc())
    ).first()
    known = {part.sha256 for part in msgspec.convert(before.model, ModelSpec).parts().values()} if before else set()
    parts = model.parts().values()
    expires = now + timedelta(days=days)
    manifest = Manifest(
        number=number,
        created=now,
        expires=expires,
        project=project,
        model=model,
        replaces=before.number if before else 0,
        note=note,
    )
    envelope = seal(manifest, RELEASE_TYPE, keys.signer, keys.delegation)
    release = Release(
        project=project,
        number=number,
        run_id=run.id,
        created_at=now,
        expires_at=expires,
        model=msgspec.to_builtins(model),
        envelope=envelope,
        note=note,
        holdout=run.holdout,
        size=sum(part.travelling().size for part in parts) + len(envelope),
        new_bytes=sum(part.travelling().size for part in parts if part.sha256 not in known) + len(envelope),
    )
    session.add(release)
    session.flush()
    return release


def renew(release: Release, keys: Keys, *, now: datetime, days: int) -> None:
    """Sign a release anew with a later expiry, under the same number; the row belongs to the caller's transaction."""
    release.expires_at = now + timedelta(days=days)
    release.envelope = signed_until(release, keys, release.expires_at)


def manifest_of(release: Release) -> Manifest:
    """The manifest that was signed for a release."""
    signed = msgspec.json.decode(release.envelope, type=Signed)
    return msgspec.json.decode(b64decode(signed.body["payload"]), type=Manifest)


def signed_until(release: Release, keys: Keys, expires: datetime) -> bytes:
    """A release's manifest signed anew, with another expiry and nothing else changed."""
    manifest = msgspec.structs.replace(manifest_of(release), expires=expires)
    return seal(manifest, RELEASE_TYPE, keys.signer, keys.delegation)


def sign_plan(
    session: Session,
    rollout: Rollout,
    groups: list[Group],
    keys: Keys,
    *,
    now: datetime,
    days: int,
    triage: TriageSettings | None = None,
) -> None:
    """Give a rollout's present groups a new plan number and signature, as part of the caller's transaction.

    triage: what all cameras of the project follow; None: each its own.
    """
    number = next_number(session, f"plan/{rollout.project}", above=_seen(session, rollout.project, Camera.plan_floor))
    plan = Plan(
        number=number,
        created=now,
        expires=now + timedelta(days=days),
        project=rollout.project,
        stage=rollout.stage,
        groups=groups,
        triage=None if triage is None else to_wire(triage),
    )
    rollout.plan_number = number
    rollout.plan_expires = plan.expires
    rollout.plan = seal(plan, PLAN_TYPE, keys.signer, keys.delegation)
    session.add(rollout)


def plan_of(rollout: Rollout) -> Plan | None:
    """A rollout's plan, as it travels; None where it has none."""
    if not rollout.plan:
        return None
    signed = msgspec.json.decode(rollout.plan, type=Signed)
    return msgspec.json.decode(b64decode(signed.body["payload"]), type=Plan)


def refused(session: Session, rollout: Rollout, keys: Keys) -> str:
    """Why cameras would refuse the plan in force, which then must be signed anew; "" where nothing speaks against it.

    After a restore from a backup a camera may have accepted a higher number, or a newer delegation.
    """
    seen = _seen(session, rollout.project, Camera.plan_floor)
    if seen > rollout.plan_number:
        return f"a camera has accepted plan {seen}"
    if rollout.plan and not keys.cover(rollout.plan):
        return "it was signed under another delegation"
    return ""


def _seen(session: Session, project: str, floor: int) -> int:
    """The highest number that a camera reports in a column of Camera, up to MAX_SEEN."""
    reported = select(func.max(floor)).where(Camera.project == project, col(floor) <= MAX_SEEN)
    return session.exec(reported).one() or 0


class Publisher:
    """Puts releases, parts and plans on retained topics, in a thread of its own, at the broker's pace."""

    def __init__(self, store: Store, bus: Bus, project: str, clock: Clock) -> None:
        self._store = store
        self._bus = bus
        self._project = project
        self._clock = clock
        self._work = threading.Event()
        self._stop = threading.Event()
        self._wanted: set[tuple[str, int, int]] = set()
        self._manifests: set[int] = set()
        self._lock = threading.Lock()
        self._due = self._lost = False
        self._there: dict[str, bytes] = {}  # part, release or camera -> what this connection has put there
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._work.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def everything(self) -> None:
        """Publish all retained state that is in use: the broker may have lost it."""
        with self._lock:
            self._due = self._lost = True
        self._work.set()

    def changed(self) -> None:
        """Publish what is in use and not there yet, and the plan: a release was made, or a rollout moved on."""
        with self._lock:
            self._due = True
        self._work.set()

    def want(self, want: Want) -> None:
        """A camera misses retained messages: publish them again, if a release in use names them."""
        with self._lock:
            if want.release is not None and want.project == self._project:
                self._manifests.add(want.release)
            if want.sha256 is not None:
                room = MAX_WANTED - len(self._wanted)
                self._wanted.update((want.sha256, first, last) for first, last in want.ranges[:room])
        self._work.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work.wait(1.0)
            self._work.clear()
            self.turn()

    def turn(self) -> None:
        """Publish what is due; for the thread, and for who has none."""
        with self._lock:
            due, self._due = self._due, False
            lost, self._lost = self._lost, False
            wanted, self._wanted = self._wanted, set()
            manifests, self._manifests = self._manifests, set()
        if lost:
            self._there.clear()
        try:
            if due:
                self._publish_all()
            if (wanted or manifests) and not lost:
                self._publish_some(wanted, manifests)
        except StoreError as error:
            log.error("cannot be published, trying on: %s", error)
            with self._lock:
                self._due = True

    def _in_use(self) -> tuple[list[Release], Rollout | None, list[Exemption]]:
        """The rollout whose plan is in force, exceptions from it, and the releases that they name."""
        with self._store.read() as session:
            rollout = session.exec(
                select(Rollout)
                .where(Rollout.project == self._project, Rollout.plan_number > 0)
                .order_by(col(Rollout.plan_number).desc())
            ).first()
            exempt = list(session.exec(select(Exemption).where(Exemption.project == self._project)))
            numbers = {one.release for one in exempt} | ({rollout.release, rollout.previous} if rollout else set())
            releases = session.exec(
                select(Release)
                .where(Release.project == self._project, col(Release.number).in_(numbers - {0}))
                .order_by(col(Release.number))
            ).all()
            return list(releases), rollout, exempt

    def _publish_all(self) -> None:
        """Parts first, manifests then, the plan last: whoever reads the plan finds the rest. What this connection has
        put there already stays as it is: a plan of its own for each stage shall not cost the model each time. What is
        not needed any more is cleared then.
        """
        releases, rollout, exempt = self._in_use()
        used: set[str] = set()
        for release in releases:
            for part in msgspec.convert(release.model, ModelSpec).blobs():
                used.add(part.sha256)
                if part.sha256 in self._there:
                    continue
                self._remember(part.sha256, chunk_count(part.size, part.chunk_size))
                for index, chunk in enumerate(chunks(self._store.blobs.read(part.sha256), part.chunk_size)):
                    if not self._publish(topics.blob(part.sha256, index), chunk):
                        return
                self._there[part.sha256] = b""
            used.add(str(release.number))
            self._remember(str(release.number), 0)
            if not self._put(str(release.number), topics.release(self._project, release.number), release.envelope):
                return
        for one in exempt:
            if not self._put(one.camera, topics.desired(one.camera), one.envelope):
                return
        if rollout is not None and rollout.plan and self._publish(topics.plan(self._project), rollout.plan):
            self._clear(used)

    def _put(self, name: str, topic: str, envelope: bytes) -> bool:
        """Publish what is signed unless the very same is there; False when offline or stopping."""
        if self._there.get(name) == envelope:
            return True
        if not self._publish(topic, envelope):
            return False
        self._there[name] = envelope
        return True

    def _remember(self, name: str, count: int) -> None:
        """Note, durably and before it is published, what has to be cleared one day."""
        with self._store.read() as session:
            known = session.get(Retained, (self._project, name)) is not None
        if not known:
            with self._store.write() as session:
                session.add(Retained(project=self._project, name=name, count=count))

    def _clear(self, used: set[str]) -> None:
        """Clear what neither plan nor exceptions nor the report of any camera name, nor another project has there."""
        with self._store.read() as session:
            kept = select(Retained).where(Retained.project == self._project, col(Retained.name).not_in(used))
            unused = session.exec(kept).all()
            others = set(
                session.exec(select(Retained.name).where(Retained.project != self._project, Retained.count > 0))
            )
            running = session.exec(
                select(Release).where(
                    Release.project == self._project,
                    col(Release.number).in_(select(Camera.release).where(Camera.project == self._project)),
                )
            ).all()
        for release in running:
            used |= {str(release.number)}
            used |= {part.sha256 for part in msgspec.convert(release.model, ModelSpec).blobs()}
        for row in unused:
            if row.name in used:
                continue
            self._there.pop(row.name, None)
            clear = [topics.blob(row.name, index) for index in range(row.count)]
            clear = clear or [topics.release(self._project, int(row.name))]
            if row.name not in others and not all(self._publish(one, b"") for one in clear):
                return
            with self._store.write() as session:
                session.delete(row)
            log.info("cleared from the broker: %s", row.name[:12] if row.count else f"release {row.name}")

    def _publish_some(self, wanted: set[tuple[str, int, int]], manifests: set[int]) -> None:
        """What cameras miss, if a release in use has it."""
        releases, _, _ = self._in_use()
        for release in releases:
            if release.number in manifests and not self._publish(
                topics.release(self._project, release.number), release.envelope
            ):
                return
        specs = [part for one in releases for part in msgspec.convert(one.model, ModelSpec).blobs()]
        for part in {one.sha256: one for one in specs}.values():
            # Clipped to what there is: a stranger may ask for any number of chunks.
            count = chunk_count(part.size, part.chunk_size)
            indices: set[int] = set()
            for sha256, first, last in wanted:
                if sha256 == part.sha256 and len(indices) < count:
                    indices.update(range(first, min(last, count - 1) + 1))
            if not indices:
                continue
            for index, chunk in enumerate(chunks(self._store.blobs.read(part.sha256), part.chunk_size)):
                if index in indices and not self._publish(topics.blob(part.sha256, index), chunk):
                    return

    def _publish(self, topic: str, payload: bytes) -> bool:
        """Publish retained, waiting while the broker owes acknowledgements; False when offline or stopping.

        What was not published is published on the next connect, with everything else.
        """
        while self._bus.unacked > IN_FLIGHT:
            if self._stop.wait(0.01):
                return False
        return self._bus.publish(topic, payload, retain=True)
