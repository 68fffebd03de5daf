"""Capture: the real folder, the real inotify, a real video file; and what happens when the model is slow."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture import Capture, FolderSource, Shot, VideoSource, WatchSource, open_source, read_file
from edge.frame import Frame
from edge.settings import CaptureSettings
from shared.errors import ConfigError, ImageError
from shared.preprocess import encode_jpeg, encode_png
from tests.fakes.clock import FakeClock
from tests.fakes.listener import wait_until


def picture(shade: int, side: int = 8) -> np.ndarray:
    return np.full((side, side, 3), shade, np.uint8)


def png(shade: int) -> bytes:
    return encode_png(picture(shade))


def shots(source: FolderSource | VideoSource) -> list[Shot | ImageError]:
    return list(source.shots(threading.Event()))


class Handed:
    """A source from which the test gives shots one by one."""

    def __init__(self) -> None:
        self.given: queue.SimpleQueue[Shot | ImageError | Exception | None] = queue.SimpleQueue()

    def shots(self, stop: threading.Event) -> Iterator[Shot | ImageError]:
        while (one := self.given.get()) is not None:
            if isinstance(one, OSError):
                raise one
            yield one  # type: ignore[misc]


@pytest.fixture
def started(clock: FakeClock) -> Iterator[Callable[..., Capture]]:
    made: list[Capture] = []

    def start(source: object, length: int = 4) -> Capture:
        made.append(Capture(source, clock, queue_length=length))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.stop()


def take_all(capture: Capture) -> list[Frame]:
    frames: list[Frame] = []

    def drained() -> bool:
        frame = capture.take(timeout=0.01)
        if frame is not None:
            frames.append(frame)
        return capture.drained

    wait_until(drained, "the source to end")
    return frames


# ------------------------------------------------------------------------------------ a folder


def test_a_folder_in_order_of_name_with_the_files_own_bytes(tmp_path: Path) -> None:
    jpeg = encode_jpeg(picture(9, 16), 50)
    for name, data in {"b.png": png(2), "a.PNG": png(1), "c.jpg": jpeg, "notes.txt": b"x", "a.json": b"{}"}.items():
        (tmp_path / name).write_bytes(data)
    got = shots(FolderSource(tmp_path, 1000))
    assert [(one.part, one.ext, one.data) for one in got if isinstance(one, Shot)] == [
        ("a", "png", png(1)), ("b", "png", png(2)), ("c", "jpg", jpeg)
    ]  # fmt: skip
    assert [int(one.pixels[0, 0, 0]) for one in got[:2] if isinstance(one, Shot)] == [1, 2]


def test_a_folder_has_its_pace(tmp_path: Path) -> None:
    """Without a look at any watch: the source waits until one period after the other is due."""
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(png(n))

    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    assert len(list(FolderSource(tmp_path, 0.01).shots(Stop()))) == 4
    assert waits[0] == 0
    assert [round(one / 100) for one in waits] == [0, 1, 2, 3], "the beat does not shift by what was not waited"


def test_a_stopped_folder_gives_no_more(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    stop = threading.Event()
    source = FolderSource(tmp_path, 0.001).shots(stop)
    next(source)
    stop.set()
    assert list(source) == []


@pytest.mark.parametrize("data", [b"", b"no image", png(1)[:30]], ids=["empty", "text", "cut"])
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.png").write_bytes(data)
    error = read_file(tmp_path / "x.png")
    assert isinstance(error, ImageError)
    assert str(error).startswith("x.png: cannot be decoded")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    error = read_file(tmp_path / "gone.png")
    assert "gone.png: cannot be read (No such file" in str(error)


# ------------------------------------------------------------------------------------ the thread and its queue


def test_unreadable_files_are_counted_and_skipped(tmp_path: Path, started: Callable[..., Capture]) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n) if n != 1 else b"torn")
    capture = started(FolderSource(tmp_path, 1000))
    frames = take_all(capture)
    assert [(one.sequence, one.part) for one in frames] == [(0, "0"), (1, "2")]
    assert (capture.captured, capture.unreadable, capture.dropped, capture.ended) == (2, 1, 0, True)


def test_a_slow_consumer_loses_the_oldest_and_it_is_counted(clock: FakeClock, started: Callable[..., Capture]) -> None:
    source = Handed()
    capture = started(source, length=3)
    for n in range(10):
        source.given.put(Shot(picture(n), part=str(n)))
    wait_until(lambda: capture.captured == 10, "all ten")
    assert capture.dropped == 7
    assert not capture.drained
    assert capture.waiting
    got = [capture.take(0) for _ in range(3)]
    assert not capture.waiting
    assert [one and one.sequence for one in got] == [7, 8, 9]
    assert got[0] is not None
    assert (got[0].at, got[0].data, got[0].ext) == (clock.utc(), None, "png")
    assert capture.take(0.01) is None
    source.given.put(None)
    wait_until(lambda: capture.drained, "the end")


def test_take_wakes_up_for_a_frame(started: Callable[..., Capture]) -> None:
    source = Handed()
    capture = started(source)
    threading.Timer(0.05, source.given.put, [Shot(picture(1))]).start()
    assert capture.take(timeout=10) is not None
    source.given.put(None)


def test_a_source_that_fails_ends_and_is_logged(
    started: Callable[..., Capture], caplog: pytest.LogCaptureFixture
) -> None:
    """For example: the kernel allows no more watches."""
    source = Handed()
    capture = started(source)
    source.given.put(OSError(28, "inotify watch limit reached"))
    wait_until(lambda: capture.ended, "the end")
    assert "inotify watch limit reached" in caplog.text


def test_stop_before_start(clock: FakeClock) -> None:
    Capture(Handed(), clock, queue_length=1).stop()


# ------------------------------------------------------------------------------------ a watched folder


@pytest.fixture
def watched(tmp_path: Path, started: Callable[..., Capture]) -> tuple[Path, Capture]:
    """A folder that is being watched for certain: one file has already come through."""
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "old.png").write_bytes(png(1))
    capture = started(WatchSource(folder), length=100)

    def awake() -> bool:
        (folder / "first.png").write_bytes(png(0))
        return capture.take(0.1) is not None

    wait_until(awake, "the watch to begin")
    while capture.take(0.3):
        pass
    return folder, capture


def come(capture: Capture, count: int) -> list[Frame]:
    frames: list[Frame] = []

    def there() -> bool:
        frame = capture.take(0.05)
        if frame is not None:
            frames.append(frame)
        return len(frames) >= count

    wait_until(there, f"{count} frames, got {[one.part for one in frames]}")
    return frames


def test_what_is_written_or_moved_into_the_folder_comes_once(watched: tuple[Path, Capture], tmp_path: Path) -> None:
    folder, capture = watched
    with open(folder / "a.png", "wb") as file:  # written slowly: it comes when it is closed
        file.write(png(1)[:20])
        file.flush()
        assert capture.take(0.2) is None
        file.write(png(1)[20:])
    assert [(one.part, one.data) for one in come(capture, 1)] == [("a", png(1))]

    (folder / "b.png.tmp").write_bytes(png(2))
    os.replace(folder / "b.png.tmp", folder / "b.png")
    assert [one.part for one in come(capture, 1)] == ["b"]

    (tmp_path / "c.png").write_bytes(png(3))
    os.replace(tmp_path / "c.png", folder / "c.png")  # from another folder of the same disk
    assert [one.part for one in come(capture, 1)] == ["c"]

    os.replace(folder / "c.png", tmp_path / "out.png")  # and out again
    (folder / "notes.txt").write_text("x")
    (folder / "sub.png").mkdir()
    (folder / "d.png").write_bytes(b"no image")
    (folder / "e.png").write_bytes(png(5))
    assert [one.part for one in come(capture, 1)] == ["e"]
    assert capture.unreadable == 1
    assert capture.take(0.2) is None, "nothing came twice, and nothing that was there before"


# ------------------------------------------------------------------------------------ video


def test_a_video_file_ends(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 16))
    if not writer.isOpened():
        pytest.skip("no MJPG here")
    for n in range(5):
        frame = np.zeros((16, 32, 3), np.uint8)
        frame[..., 2] = 40 * n  # OpenCV's red
        writer.write(frame)
    writer.release()
    source = open_source(CaptureSettings(source=str(path)))
    assert isinstance(source, VideoSource)
    got = [one for one in shots(source) if isinstance(one, Shot)]
    assert len(got) == 5
    assert got[0].pixels.shape == (16, 32, 3)
    assert (got[0].data, got[0].part) == (None, None)
    red = [int(one.pixels[..., 0].mean()) for one in got]
    assert all(abs(value - 40 * n) < 12 for n, value in enumerate(red)), red
    assert max(int(one.pixels[..., 2].mean()) for one in got) < 12


# ------------------------------------------------------------------------------------ which source


def test_open_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no images.*capture\.watch"):
        open_source(CaptureSettings(source=str(tmp_path)))
    assert isinstance(open_source(CaptureSettings(source=str(tmp_path), watch=True)), WatchSource)
    (tmp_path / "x.WEBP").write_bytes(b"")
    assert isinstance(open_source(CaptureSettings(source=str(tmp_path))), FolderSource)
    assert isinstance(open_source(CaptureSettings(source="rtsp://camera/1")), VideoSource)
    assert isinstance(open_source(CaptureSettings(source="0")), VideoSource)
