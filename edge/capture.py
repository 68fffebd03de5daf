"""Capture: frames from a folder, a watched folder, a device or a URL, in a thread that never waits for the model."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

from edge.frame import Frame
from edge.settings import CaptureSettings
from shared.clock import Clock
from shared.errors import ConfigError, ImageError
from shared.preprocess import Pixels, decode

log = logging.getLogger(__name__)
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, slots=True)
class Shot:
    """What a source gives: pixels uint8 [h, w, 3] RGB, and bytes, kind and name where it came from a file."""

    pixels: Pixels
    data: bytes | None = None
    ext: str = "png"
    part: str | None = None


class Source(Protocol):
    """Gives shots until it ends; a shot that cannot be decoded comes as ImageError."""

    def shots(self, stop: threading.Event) -> Iterator[Shot | ImageError]:
        """Shots, paced by the source; returns when it has no more or `stop` is set."""
        ...


def read_file(path: Path) -> Shot | ImageError:
    """Read one image file; the error names it."""
    try:
        data = path.read_bytes()
        return Shot(decode(data), data, path.suffix.lower().lstrip("."), path.stem)
    except OSError as error:
        return ImageError(f"cannot be read ({error.strerror})", subject=path.name)
    except ImageError as error:
        return ImageError(error.what, subject=path.name)


class FolderSource:
    """The images of a folder in order of name, `fps` a second, once."""

    def __init__(self, folder: Path, fps: float) -> None:
        self._folder = folder
        self._period = 1.0 / fps

    def shots(self, stop: threading.Event) -> Iterator[Shot | ImageError]:
        """One shot a period; a slow consumer does not shift the beat."""
        due = time.monotonic()
        for path in sorted(one for one in self._folder.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES):
            shot = read_file(path)
            if stop.wait(max(0.0, due - time.monotonic())):
                return
            yield shot
            due += self._period


class WatchSource:
    """Files that another program puts into a folder (written and closed, or moved there), each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def shots(self, stop: threading.Event) -> Iterator[Shot | ImageError]:
        """A shot for each new file, as it comes."""
        arrived: queue.SimpleQueue[str] = queue.SimpleQueue()

        class Handler(FileSystemEventHandler):
            def on_closed(self, event: FileSystemEvent) -> None:
                if isinstance(event, FileClosedEvent):
                    arrived.put(str(event.src_path))

            def on_moved(self, event: FileSystemEvent) -> None:
                if isinstance(event, FileMovedEvent):
                    arrived.put(str(event.dest_path))

        # Full events: a file that is moved in from another folder is told as a move too.
        observer = InotifyObserver(generate_full_events=True)
        observer.schedule(Handler(), str(self._folder))
        observer.start()
        try:
            while not stop.is_set():
                try:
                    path = Path(arrived.get(timeout=0.2))
                except queue.Empty:
                    continue
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    yield read_file(path)
        finally:
            observer.stop()
            observer.join()


class VideoSource:
    """A device or URL through OpenCV, opened again after a loss; or a video file, read once at `fps`."""

    def __init__(self, name: str, fps: float) -> None:
        self._name: int | str = int(name) if name.isdigit() else name
        self._fps = fps

    def shots(self, stop: threading.Event) -> Iterator[Shot | ImageError]:
        """Shots at the pace of the device; a file ends."""
        is_file = isinstance(self._name, str) and "://" not in self._name
        while not stop.is_set():
            video = cv2.VideoCapture(self._name)
            period = 1.0 / self._fps if is_file else 0.0
            due = time.monotonic()
            try:
                while video.isOpened() and not stop.wait(max(0.0, due - time.monotonic()) if is_file else 0.0):
                    done, pixels = video.read()
                    if not done:
                        break
                    due += period
                    yield Shot(np.ascontiguousarray(pixels[:, :, ::-1], dtype=np.uint8))
            finally:
                video.release()
            if is_file:
                return
            log.warning("video source %s gives no frames; trying again in 2 s", self._name)
            stop.wait(2.0)


def open_source(settings: CaptureSettings) -> Source:
    """The source that the settings name; ConfigError for a folder without images."""
    path = Path(settings.source)
    if not path.is_dir():
        return VideoSource(settings.source, settings.fps)
    if settings.watch:
        return WatchSource(path)
    if not any(one.suffix.lower() in IMAGE_SUFFIXES for one in path.iterdir()):
        raise ConfigError("holds no images", subject=str(path), remedy="Set capture.watch = true to wait for them")
    return FolderSource(path, settings.fps)


class Capture:
    """The capture thread and its short queue. When the model is too slow the oldest waiting frame is dropped."""

    def __init__(self, source: Source, clock: Clock, *, queue_length: int) -> None:
        self._source = source
        self._clock = clock
        self._length = queue_length
        self._frames: deque[Frame] = deque()
        self._ready = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self.captured = 0
        self.dropped = 0
        self.unreadable = 0
        self.ended = False

    def start(self) -> None:
        """Begin to capture."""
        self._thread.start()

    def take(self, timeout: float) -> Frame | None:
        """The next frame; None after `timeout` seconds without one."""
        with self._ready:
            if not self._frames:
                self._ready.wait(timeout)
            return self._frames.popleft() if self._frames else None

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    @property
    def waiting(self) -> bool:
        """Whether a frame is there to be taken."""
        return bool(self._frames)

    @property
    def drained(self) -> bool:
        """Whether the source has ended and every frame was taken."""
        return self.ended and not self._frames

    def _run(self) -> None:
        try:
            self._take_all()
        except OSError as error:
            log.error("the source gives no more frames (%s)", error)
        self.ended = True

    def _take_all(self) -> None:
        for shot in self._source.shots(self._stop):
            if isinstance(shot, ImageError):
                self.unreadable += 1
                log.warning("%s", shot)
                continue
            frame = Frame(self.captured, self._clock.utc(), shot.pixels, shot.data, shot.ext, shot.part)
            with self._ready:
                self.captured += 1
                self._frames.append(frame)
                if len(self._frames) > self._length:
                    self._frames.popleft()
                    self.dropped += 1
                self._ready.notify()
