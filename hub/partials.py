"""Unfinished images on disk, so that a slow upload survives a restart of the hub.

A folder per image: `event.json` (camera and event), and a file per chunk, named by its index. Nothing is synced: after
a power cut a chunk may be missing or damaged, the hash of the whole tells, and the camera sends it again.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from shared.errors import MessageError
from shared.messages import Event, decode, encode
from shared.transfer import Drop, Keep

log = logging.getLogger(__name__)
NOTE = "event.json"


class _Owned(msgspec.Struct, frozen=True):
    camera: str
    event: Event


class PartialFiles:
    """The folder of unfinished images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def do(self, work: Iterable[Keep | Drop]) -> None:
        """Write and delete what the receiver wants; a full disk costs only the safety, and is logged."""
        for one in work:
            try:
                if isinstance(one, Drop):
                    shutil.rmtree(self._place(one.camera, one.event_id), ignore_errors=True)
                else:
                    self._keep(one)
            except OSError as error:
                log.warning("an unfinished image of %s cannot be put on disk (%s)", one.camera, error.strerror)

    def load(self) -> Iterator[Keep]:
        """Everything that is there; what cannot be read is deleted: its camera still has it."""
        if not self._folder.is_dir():
            return
        for place in sorted(self._folder.iterdir()):
            try:
                owned = decode((place / NOTE).read_bytes(), _Owned, subject=str(place))
                chunks = {
                    int(one.name): data
                    for one in place.iterdir()
                    if one.name.isdigit() and len(data := one.read_bytes()) == _length(owned.event, int(one.name))
                }
            except (OSError, MessageError) as error:
                log.warning("an unfinished image cannot be read (%s); its camera sends it anew", error)
                with contextlib.suppress(OSError):
                    shutil.rmtree(place) if place.is_dir() else place.unlink()
                continue
            yield Keep(owned.camera, owned.event, chunks)

    def _place(self, camera: str, event_id: str) -> Path:
        return self._folder / f"{camera.replace('/', '__')}__{event_id}"

    def _keep(self, one: Keep) -> None:
        place = self._place(one.camera, one.event.id)
        note = encode(_Owned(one.camera, one.event))
        place.mkdir(parents=True, exist_ok=True)
        old = place / NOTE
        if not old.exists() or old.read_bytes() != note:  # begun, or cut otherwise than before
            shutil.rmtree(place)
            place.mkdir()
            old.write_bytes(note)
        for index, data in one.chunks.items():
            (place / str(index)).write_bytes(data)


def _length(event: Event, index: int) -> int:
    """Bytes that a chunk must have; negative for one that does not exist."""
    return min(event.chunk_size, event.size - index * event.chunk_size)
