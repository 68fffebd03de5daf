"""Verify: look at each stored image once, embed it, and compare it with what came before. Findings are flags with a
score (`hub.looks`); nothing is deleted, and no operator waits for an image that cannot be shown.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from sqlmodel import Session, col, func, select

from hub import embed, skew
from hub.looks import WINDOW, Checker, Look
from hub.lost import LOST
from hub.novelty import MOST
from hub.quality import Floats, Light, grey_of
from hub.store import STOP_S, Store
from hub.tables import Embedding, Image, Pair, Release
from hub.tables import Look as LookRow
from hub.tables import Skew as SkewRow
from shared.errors import HoneError, ImageError, StoreError
from shared.litert import Part
from shared.manifest import ModelSpec
from shared.preprocess import Preprocess, decode, to_input

log = logging.getLogger(__name__)
BATCH = 16
PICTURES = 128
"""Grey pictures that are kept to compare with: 32 MB."""
GROWTH = 1.1
"""The training images are read again when there are so many times more of them."""


class Verifier:
    """The thread that verifies new images, oldest first; `wake` may be called from any thread.

    backbone: gives (sha256, part) to embed with, or None while there is none yet; then images wait.
    """

    def __init__(
        self,
        store: Store,
        how: Preprocess,
        backbone: Callable[[], tuple[str, Part] | None],
        errors: Counter[str],
    ) -> None:
        self._store = store
        self._how = how
        self._backbone = backbone
        self._errors = errors
        self._memories: dict[str, _Memory] = {}
        self._swept: tuple[str, int | None] = ("", 0)  # by which backbone all is embedded, up to which id; None: all
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def start(self) -> None:
        """Begin to verify."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something new."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        complained = ""
        while not self._stop.is_set():
            try:
                busy = self._some()
                complained = ""
            except HoneError as error:
                self._errors[error.code] += 1
                if str(error) != complained:  # once, not at each turn: the log may lie on the disk that is full
                    complained = str(error)
                    log.error("verify: %s", error)
                busy = False
            if not busy:
                self._wake.wait(0.5)
                self._wake.clear()

    def _some(self) -> bool:
        """Verify up to BATCH images; whether there were any."""
        found = self._backbone()
        if found is None:
            return False
        name, part = found
        with self._store.read() as session:
            images = _new(session)
        done: list[tuple[Image, Floats | None, Look | None]] = []
        for image in images:
            if self._stop.is_set():
                return False
            done.append((image, *self._look(image, name, part)))
        if done:
            with self._store.write() as session:
                self._save(session, name, done)
            return True
        return self._embed_left(name, part)

    def _embed_left(self, name: str, part: Part) -> bool:
        """Embed some of what was verified while another backbone was in use; whether there was any."""
        backbone, last = self._swept
        if backbone != name:
            last = 0
        if last is None:
            return False
        known = select(Embedding.image_id).where(Embedding.backbone == name)
        with self._store.read() as session:
            rows = session.exec(
                select(Image.id)
                .where(Image.split == "pool", Image.state == "verified", col(Image.id).not_in(known))
                .where(col(Image.id) > last)
                .order_by(col(Image.id))
                .limit(BATCH)
            ).all()
        ids = [one for one in rows if one is not None]
        embed.complete(self._store, name, part, self._how, ids, progress=lambda *_: None)
        self._swept = (name, ids[-1] if ids else None)  # what cannot be decoded is not tried for ever
        return bool(ids)

    def _save(self, session: Session, backbone: str, done: Sequence[tuple[Image, Floats | None, Look | None]]) -> None:
        for image, vector, look in done:
            # Only what verify owns: a label may have come meanwhile.
            row = session.get(Image, image.id)
            if row is None or row.id is None:
                continue
            row.state, row.flags = image.state, image.flags
            row.width, row.height = image.width, image.height
            session.add(row)
            if vector is not None and look is not None:
                session.merge(Embedding(image_id=row.id, backbone=backbone, vector=vector.astype("<f4").tobytes()))
                session.merge(_row(row.id, look))
                _compare(session, row, backbone, vector)

    def _look(self, image: Image, name: str, part: Part) -> tuple[Floats | None, Look | None]:
        """Fill in an image's findings; returns its embedding and what to keep, Nones when it cannot be decoded."""
        try:
            pixels = decode(self._store.blobs.read(image.sha256))
        except (ImageError, StoreError) as error:
            if isinstance(error, StoreError) and self._store.blobs.has(image.sha256):
                raise  # the disk's trouble, not the image's
            image.state = "unreadable" if isinstance(error, ImageError) else LOST
            self._errors[error.code] += 1
            log.warning("event %s of %s: %s; kept, marked %s", image.event_id, image.camera, error, image.state)
            return None, None
        image.state = "verified"
        image.height, image.width = pixels.shape[:2]
        vector = part.run(to_input(pixels, self._how))[0]
        memory = self._memory(image.project, name)
        image.flags, look = memory.checker.look(image.camera, pixels, vector)
        memory.keep(image.id or 0, grey_of(pixels))
        memory.checker.add(image.id or 0, image.camera, look, vector)
        return vector, look

    def _memory(self, project: str, backbone: str) -> "_Memory":
        memory = self._memories.get(project)
        if memory is None or memory.backbone != backbone:
            memory = self._memories[project] = _Memory(self._store, project, backbone)
        memory.refresh()
        return memory


def _new(session: Session) -> list[Image]:
    """The next images to verify, the oldest first; before all others those that a rollout may wait for."""
    new = select(Image).where(Image.state == "new", Image.split == "pool").order_by(col(Image.id)).limit(BATCH)
    pairs = new.join(Pair, (col(Pair.camera) == Image.camera) & (col(Pair.event_id) == Image.event_id))
    found = list(session.exec(pairs))
    if len(found) < BATCH:
        found += session.exec(new.where(col(Image.id).not_in([one.id for one in found]))).all()[: BATCH - len(found)]
    return found


class _Memory:
    """What verify remembers of a project, read from the database when it starts and when the backbone changes."""

    def __init__(self, store: Store, project: str, backbone: str) -> None:
        self.backbone = backbone
        self._store = store
        self._project = project
        self._pictures: OrderedDict[int, Floats | None] = OrderedDict()
        self._taught = 0
        self.checker = Checker(self._picture)
        with store.read() as session:
            rows = session.exec(
                select(LookRow, Image.camera)
                .join(Image, col(Image.id) == col(LookRow.image_id))
                .where(Image.project == project)
                .order_by(col(LookRow.image_id).desc())
                .limit(WINDOW)
            ).all()
        vectors = embed.load(store, backbone, [row.image_id for row, _ in rows])
        for row, camera in reversed(rows):
            self.checker.add(row.image_id, camera, _look(row), vectors.get(row.image_id))

    def refresh(self) -> None:
        """Read the training images again, if there are many more than before."""
        labelled = (Image.project == self._project, col(Image.label).is_not(None), Image.split != "holdout")
        with self._store.read() as session:
            count = session.exec(select(func.count()).select_from(Image).where(*labelled)).one()
            if not count or count < GROWTH * self._taught:
                return
            ids = [one for one in session.exec(select(Image.id).where(*labelled).order_by(col(Image.id))) if one]
        vectors = embed.load(self._store, self.backbone, ids[:: -(-len(ids) // MOST)])
        if vectors:
            self.checker.taught(np.stack(list(vectors.values())))
            self._taught = count

    def keep(self, image: int, grey: Floats | None) -> None:
        """Have a picture at hand; the one that was used longest ago goes."""
        self._pictures[image] = grey
        if len(self._pictures) > PICTURES:
            self._pictures.popitem(last=False)

    def _picture(self, image: int) -> Floats | None:
        """The grey picture of an earlier image; None where its bytes are gone."""
        if image not in self._pictures:
            with self._store.read() as session:
                row = session.get(Image, image)
            try:
                grey = None if row is None else grey_of(decode(self._store.blobs.read(row.sha256)))
            except (ImageError, StoreError):  # told when it was verified, or by fsck
                grey = None
            self.keep(image, grey)
        self._pictures.move_to_end(image)
        return self._pictures[image]


def _row(image: int, look: Look) -> LookRow:
    return LookRow(
        image_id=image,
        bits=look.bits.to_bytes(8, "little"),
        up=look.light.up,
        down=look.light.down,
        view=look.view.tobytes(),
        sharp=look.sharp.astype("<f4").tobytes(),
        soft=look.soft.astype("<f4").tobytes(),
        copy_of=look.copy_of,
    )


def _look(row: LookRow) -> Look:
    view = np.frombuffer(row.view, np.uint8)
    return Look(
        bits=int.from_bytes(row.bits, "little"),
        light=Light(row.up, row.down),
        view=view.reshape(2 * (int(len(view) ** 0.5),)),
        sharp=np.frombuffer(row.sharp, "<f4"),
        soft=np.frombuffer(row.soft, "<f4"),
        copy_of=row.copy_of,
    )


def _compare(session: Session, image: Image, backbone: str, vector: Floats) -> None:
    """Note how far the camera's embedding of an image is from ours, where it sent one by the same backbone."""
    sent = session.get(SkewRow, (image.camera, image.event_id))
    if sent is None:
        return
    release = session.exec(
        select(Release).where(Release.project == image.project, Release.number == image.release)
    ).first()
    if release is None or msgspec.convert(release.model, ModelSpec).backbone.sha256 != backbone:
        session.delete(sent)
        return
    sent.distance, sent.vector = skew.distance(sent.vector, vector), b""
    session.add(sent)
