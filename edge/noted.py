"""Noted: which previews the hub keeps, in a file, so that they need not be offered again after a restart.

A line each: the event's id and the chunk size by which the hub knows it. Nothing is synced: a preview whose line is
lost is offered again, and no harm is done.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from shared.files import write_atomic
from shared.ids import EVENT_ID

log = logging.getLogger(__name__)
SPARE = 1000
"""Lines of events that are gone, beyond as many as there are, before the file is written anew."""


class Noted:
    """Event ids and chunk sizes; a full disk costs only repeats. path: None: in memory only. Not thread-safe."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._sizes: dict[str, int] = {}
        self._lines = 0

    def load(self, present: Collection[str]) -> None:
        """Begin with what the file says of the events that are still there; lines that make no sense are left out."""
        if self._path is None:
            return
        try:
            lines = self._path.read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s cannot be read (%s); previews are offered again", self._path, error.strerror)
            return
        self._lines = len(lines)
        for line in lines:
            event_id, _, size = line.partition(" ")
            if event_id in present and EVENT_ID.fullmatch(event_id) and size.isdigit() and int(size):
                self._sizes[event_id] = int(size)

    def get(self, event_id: str) -> int | None:
        """The chunk size by which the hub knows the preview; None: it does not."""
        return self._sizes.get(event_id)

    def add(self, sizes: Mapping[str, int]) -> None:
        """The hub keeps these previews."""
        fresh = {one: size for one, size in sizes.items() if self._sizes.get(one) != size}
        self._sizes.update(fresh)
        if self._path is None:
            return
        self._lines += len(fresh)
        try:
            if self._lines > 2 * len(self._sizes) + SPARE:
                write_atomic(self._path, _text(self._sizes))
                self._lines = len(self._sizes)
            elif fresh:
                with open(self._path, "ab") as file:
                    file.write(_text(fresh))
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error.strerror)

    def forget(self, event_id: str) -> None:
        """The event is no longer in the spool."""
        self._sizes.pop(event_id, None)

    def clear(self) -> None:
        """The hub keeps none of them. OSError when the file cannot be deleted."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._sizes.clear()
        self._lines = 0


def _text(sizes: Mapping[str, int]) -> bytes:
    return "".join(f"{one} {size}\n" for one, size in sizes.items()).encode()
