"""The two files of a spooled event, `UUID_IM.<ext>` and `UUID_MD.json`: their names, and how they are written and read.

The metadata comes last and goes first: an image without it is no event.
"""

import errno
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge.aside import Aside, on_disk
from edge.journal import Line
from shared.errors import MessageError
from shared.files import TMP, sync_folder, write_aside
from shared.messages import MAX_JSON, Event, decode

NOTE = "_MD.json"
JOURNAL, QUARANTINE, TORN = "journal.jsonl", "quarantine", "torn"
"""What else is in the folder."""
_IMAGE = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_IM\.([a-z0-9]{1,8})")
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR}


def says_damaged(error: OSError) -> bool:
    """Whether a failed read speaks against the file; False when it is the machine that lacks something for now."""
    return error.errno not in _PASSING


@dataclass(slots=True)
class Found:
    """What lies in the folder. notes: paths by id, or by what stands for it in a name that we did not make.

    images: paths by id and ext. unfinished: writes that were cut. strangers: names that mean nothing to us.
    """

    notes: dict[str, str] = field(default_factory=dict)
    images: dict[str, dict[str, str]] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


class EventFiles:
    """The files of events in one folder, and those set aside beside them; OSError from all that touches the disk.

    aside_limit: bytes of refused files, and as many of damaged ones.
    """

    def __init__(self, folder: Path, aside_limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = str(folder)
        self._quarantine = Aside(folder / QUARANTINE, aside_limit)
        self._torn = Aside(folder / TORN, aside_limit)

    def note(self, event_id: str) -> str:
        """Path of the metadata."""
        return f"{self._folder}/{event_id}{NOTE}"

    def image(self, event_id: str, ext: str) -> str:
        """Path of the image."""
        return f"{self._folder}/{event_id}_IM.{ext}"

    def write(self, event_id: str, ext: str, metadata: bytes, data: bytes) -> None:
        """Write both files durably; with an OSError none of them is there."""
        image, note = Path(self.image(event_id, ext)), Path(self.note(event_id))
        try:
            aside, note_aside = write_aside(image, data), write_aside(note, metadata)
            os.replace(aside, image)
            os.replace(note_aside, note)
            sync_folder(note.parent)
        except OSError:
            for path in (note, image):
                path.unlink(missing_ok=True)
                path.with_name(path.name + TMP).unlink(missing_ok=True)
            raise

    def read_event(self, event_id: str) -> Event:
        """The metadata; MessageError when it is damaged or another's."""
        with open(self.note(event_id), "rb") as file:
            event = decode(file.read(MAX_JSON + 1), Event, subject=f"event {event_id}")
        if event.id != event_id:
            raise MessageError(f"its metadata is of event {event.id}", subject=f"event {event_id}")
        return event

    def read_image(self, event_id: str, ext: str, size: int) -> bytes:
        """The image; MessageError when it has not `size` bytes."""
        with open(self.image(event_id, ext), "rb") as file:
            data = file.read(size + 1)
            if len(data) != size:
                actual = os.fstat(file.fileno()).st_size
                raise MessageError(f"its image has {actual} bytes, expected {size}", subject=f"event {event_id}")
        return data

    def dispose(self, line: Line, paths: list[str]) -> None:
        """Delete the files of an ended event, or set them aside as its line says; those that are gone are no error."""
        if line.end == "quarantined":
            self._quarantine.write(f"{line.id}.reason.txt", line.reason)
            for path in paths:
                self._quarantine.move(Path(path))
        elif line.reason:
            for path in paths:
                self._torn.move(Path(path))
        else:
            self.delete(paths)

    def delete(self, paths: list[str]) -> None:
        """Delete files; those that are gone are no error."""
        for path in paths:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def check(self, event_id: str, images: dict[str, str]) -> tuple[Event, int]:
        """An event whose files are whole, and the bytes that they take on disk. MessageError, OSError."""
        note = os.lstat(self.note(event_id))
        if not stat.S_ISREG(note.st_mode):
            raise MessageError("its metadata is not a file", subject=f"event {event_id}")
        event = self.read_event(event_id)
        if event.ext not in images:
            raise MessageError("has no image", subject=f"event {event_id}")
        image = os.lstat(images[event.ext])
        if not stat.S_ISREG(image.st_mode) or image.st_size != event.size:
            raise MessageError(
                f"its image has {image.st_size} bytes, expected {event.size}", subject=f"event {event_id}"
            )
        return event, on_disk(note.st_size) + on_disk(image.st_size)

    def scan(self) -> Found:
        """One pass over the folder."""
        found = Found()
        with os.scandir(self._folder) as entries:
            for one in entries:
                name = one.name
                if name.endswith(TMP) and one.is_file(follow_symlinks=False):
                    found.unfinished.append(one.path)
                elif name.endswith(NOTE):
                    found.notes[name.removesuffix(NOTE).encode("ascii", "backslashreplace").decode()] = one.path
                elif match := _IMAGE.fullmatch(name):
                    found.images.setdefault(match[1], {})[match[2]] = one.path
                elif name not in (JOURNAL, QUARANTINE, TORN):
                    found.strangers.append(name)
        return found
