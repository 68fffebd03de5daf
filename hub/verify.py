"""Verify: look at each stored image once: decodable, size, blur, light; and embed it. Findings are flags with a score;
nothing is deleted, and no operator waits for an image that cannot be shown.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable

import cv2
import numpy as np
from sqlmodel import select

from hub.lost import LOST
from hub.store import STOP_S, Store
from hub.tables import Embedding, Image
from shared.errors import HoneError, ImageError, StoreError
from shared.litert import Part
from shared.preprocess import Pixels, Preprocess, decode, to_input

log = logging.getLogger(__name__)
BATCH = 16
MIN_SIDE = 32
BLUR_BELOW = 15.0
DARK_BELOW = 0.06
BRIGHT_ABOVE = 0.94


def flags_of(pixels: Pixels) -> dict[str, float]:
    """Findings on one image, name -> measured value: "small" (shorter side in pixels), "blurred" (variance of the
    Laplacian on the picture scaled to 256 pixels; Pech-Pacheco et al., ICPR 2000), "dark", "bright" (mean, 0..1).
    """
    flags: dict[str, float] = {}
    side = min(pixels.shape[:2])
    if side < MIN_SIDE:
        flags["small"] = float(side)
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (256, 256), interpolation=cv2.INTER_AREA)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    if sharpness < BLUR_BELOW:
        flags["blurred"] = round(sharpness, 2)
    light = float(np.mean(grey)) / 255
    if light < DARK_BELOW:
        flags["dark"] = round(light, 3)
    if light > BRIGHT_ABOVE:
        flags["bright"] = round(light, 3)
    return flags


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
            images = session.exec(
                select(Image).where(Image.state == "new", Image.split == "pool").order_by(Image.id).limit(BATCH)  # type: ignore[arg-type]
            ).all()
        done: list[tuple[Image, bytes | None]] = []
        for image in images:
            if self._stop.is_set():
                return False
            done.append((image, self._look(image, part)))
        if done:
            with self._store.write() as session:
                for image, vector in done:
                    # Only what verify owns: a label may have come meanwhile.
                    row = session.get(Image, image.id)
                    if row is None or row.id is None:
                        continue
                    row.state, row.flags = image.state, image.flags
                    row.width, row.height = image.width, image.height
                    session.add(row)
                    if vector is not None:
                        session.merge(Embedding(image_id=row.id, backbone=name, vector=vector))
        return bool(done)

    def _look(self, image: Image, part: Part) -> bytes | None:
        """Fill in an image's findings; returns its embedding, or None when it cannot be decoded."""
        try:
            pixels = decode(self._store.blobs.read(image.sha256))
        except (ImageError, StoreError) as error:
            if isinstance(error, StoreError) and self._store.blobs.has(image.sha256):
                raise  # the disk's trouble, not the image's
            image.state = "unreadable" if isinstance(error, ImageError) else LOST
            self._errors[error.code] += 1
            log.warning("event %s of %s: %s; kept, marked %s", image.event_id, image.camera, error, image.state)
            return None
        image.state = "verified"
        image.height, image.width = pixels.shape[:2]
        image.flags = flags_of(pixels)
        return bytes(part.run(to_input(pixels, self._how))[0].astype("<f4").tobytes())
