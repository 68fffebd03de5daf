"""Pack: releases that are carried to the camera by hand, as files in a folder that is watched.

A file that was written or moved there goes to the reload, which decides; then to `done` or `failed` in the same folder,
with the reason in a file beside it. Files whose names begin with a dot are left alone.
"""

import logging
import os
import queue
import stat
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

from shared.errors import ConfigError, PackError
from shared.manifest import MAX_SIGNED, PartSpec
from shared.pack import BLOCK, SIGNED, UNSIGNED, Member, padding, part_name, read_header

log = logging.getLogger(__name__)
GRACE = 10.0
"""Seconds after the start in which a broker that is there has sent its plan; packs that lie there wait for so long."""
DONE, FAILED = "done", "failed"


class PackFile:
    """A pack that is read from front to back, in a `with` block; no more of it in memory than was asked for.

    All raise PackError where the file is not what it should be, and OSError where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # As UTF-8, whatever bytes the file system allows: it goes into a file and into the report.
        self.name = f"pack {os.fsencode(path.name).decode('utf-8', 'backslashreplace')}"
        self._file: BinaryIO | None = None

    def __enter__(self) -> "PackFile":
        # A link could lead anywhere, and a pipe would be waited for.
        handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        self._file = os.fdopen(handle, "rb")
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            self._file.close()
            raise PackError("is no plain file", subject=self.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def manifest(self) -> tuple[bytes, bool]:
        """The first member: the manifest as it would be on the wire, and whether it is signed at all."""
        member = self._next()
        if member.name not in (SIGNED, UNSIGNED):
            raise PackError(f"begins with {member.name[:100]!r}, not with a manifest", subject=self.name)
        if member.size > MAX_SIGNED:
            raise PackError(f"has a manifest of {member.size} bytes, {MAX_SIGNED} are allowed", subject=self.name)
        return self._body(member.size), member.name == SIGNED

    def part(self, name: str, part: PartSpec) -> bytes:
        """The next member, which must be this part by name and size; its hash is for the shelf to check."""
        member, wanted = self._next(), part_name(name, part)
        if member != Member(wanted, part.size):
            raise PackError(
                f"has {member.name[:100]!r} of {member.size} bytes where {wanted} of {part.size} belongs",
                subject=self.name,
            )
        return self._body(part.size)

    def _next(self) -> Member:
        try:
            return read_header(self._read(BLOCK))
        except PackError as error:
            raise PackError(error.what, subject=self.name) from error

    def _body(self, size: int) -> bytes:
        data = self._read(size)
        self._read(padding(size))
        return data

    def _read(self, size: int) -> bytes:
        assert self._file is not None
        data = self._file.read(size)
        if len(data) != size:
            raise PackError("ends too early; was it copied to the end?", subject=self.name)
        return data


class Packs:
    """Watches the folder, from `start` to `stop`.

    bring: takes a pack and says once, from any thread, whether it was taken, and why. grace: see GRACE.
    """

    def __init__(
        self,
        folder: Path,
        bring: Callable[[PackFile, Callable[[bool, str], None]], None],
        errors: Counter[str],
        *,
        grace: float = GRACE,
    ) -> None:
        self._folder = folder
        self._bring = bring
        self._errors = errors
        self._grace = grace
        self._arrived: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._under_way: set[str] = set()
        self._stop = threading.Event()
        self._observer = InotifyObserver(generate_full_events=True)
        self._thread = threading.Thread(target=self._run, name="packs", daemon=True)

    def start(self) -> None:
        """Watch, and take what lies there already; ConfigError where the folder cannot be used."""
        arrived = self._arrived

        class Handler(FileSystemEventHandler):
            def on_closed(self, event: FileSystemEvent) -> None:
                if isinstance(event, FileClosedEvent):
                    arrived.put(Path(os.fsdecode(event.src_path)))

            def on_moved(self, event: FileSystemEvent) -> None:
                if isinstance(event, FileMovedEvent):
                    arrived.put(Path(os.fsdecode(event.dest_path)))

        try:
            for one in (self._folder, self._folder / DONE, self._folder / FAILED):
                one.mkdir(parents=True, exist_ok=True)
            self._observer.schedule(Handler(), str(self._folder))
            self._observer.start()
            there = sorted(self._folder.iterdir())
        except OSError as error:
            raise ConfigError(f"packs cannot be used ({error.strerror})", subject=str(self._folder)) from error
        for path in there:
            arrived.put(path)
        self._thread.start()

    def stop(self) -> None:
        """End watching."""
        self._stop.set()
        self._arrived.put(None)
        if self._thread.is_alive():
            self._thread.join(5)
            self._observer.stop()
            self._observer.join(5)

    def _run(self) -> None:
        self._stop.wait(self._grace)
        while (path := self._arrived.get()) is not None and not self._stop.is_set():
            # The folder's own files alone: `done` and `failed` are in it, and files leave it by a move, too.
            wanted = path.parent == self._folder and path.name[0] != "." and not path.is_dir() and os.path.lexists(path)
            if wanted and path.name not in self._under_way:
                self._under_way.add(path.name)
                log.info("pack %s came", path.name)
                self._bring(PackFile(path), lambda good, why, path=path: self._told(path, good, why))  # type: ignore[misc]

    def _told(self, path: Path, good: bool, why: str) -> None:
        """Put a pack where it belongs, and the reason beside it; one that cannot be moved is not taken again."""
        target = self._folder / (DONE if good else FAILED) / path.name
        try:
            os.replace(path, target)
            target.with_name(path.name + ".txt").write_text(why + "\n", encoding="utf-8")
        except OSError as error:
            self._errors["disk"] += 1
            log.error("pack %s cannot be moved to %s (%s)", path.name, target.parent, error.strerror)
            return
        self._under_way.discard(path.name)
        log.log(logging.INFO if good else logging.ERROR, "pack %s %s: %s", path.name, target.parent.name, why)
