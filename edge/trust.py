"""Trust: what this camera accepts of what is signed, and what it remembers of that on the shelf.

The rules are those of `shared.manifest`; here is what they need to know: the time, and what was accepted before.
"""

import logging
from collections.abc import Callable
from typing import Any

from edge.settings import EdgeSettings
from edge.shelf import Shelf
from shared.clock import BUILT, Clock
from shared.manifest import B, Opened, Reader, check_delegation, open_signed, open_unsigned, taken_back

log = logging.getLogger(__name__)


class Trust:
    """Used by the reload thread alone."""

    def __init__(
        self, settings: EdgeSettings, *, shelf: Shelf, clock: Clock, clock_trusted: Callable[[], bool]
    ) -> None:
        self._root = settings.root_key
        self._project = settings.project
        self._camera = settings.camera
        self._shelf = shelf
        self._clock = clock
        self._clock_trusted = clock_trusted

    def reader(self) -> Reader:
        """Who reads, and when: the latest time that is known, so that a clock set back makes no old word new."""
        now = max(self._clock.utc(), BUILT, self._shelf.state.signed)
        return Reader(self._root, self._project, self._camera, now, self._clock_trusted())

    def open(self, data: bytes, payload_type: str, kind: type[B]) -> Opened[B]:
        """Rules 1 to 5 and 7, and the delegation's number; the body's is still to be checked. ManifestError."""
        opened = open_signed(data, payload_type, kind, self.reader())
        state = self._shelf.state
        check_delegation(opened.delegation, state.delegation_floor)
        if opened.delegation > state.delegation_floor and taken_back(state.keys, opened.keys):
            log.warning("delegation %d takes back the keys of %d", opened.delegation, state.delegation_floor)
            self._shelf.take_back(opened.delegation, opened.keys)
        return opened

    def open_unsigned(self, data: bytes, kind: type[B]) -> B:
        """Rules 1, 4 and 5 for a body that nobody signed. ManifestError."""
        return open_unsigned(data, kind, self.reader())

    def accept(self, opened: Opened[Any], **floors: int) -> None:
        """Remember what was accepted, durably.

        A time of signing counts up to now, by a clock that is trusted: a hub whose clock was wrong once must not have
        all refused that it signs later.
        """
        if self._shelf.state.keys != opened.keys:
            self._shelf.change(keys=opened.keys)
        reader = self.reader()
        signed = min(opened.body.created, reader.now) if reader.clock_trusted else self._shelf.state.signed
        self._shelf.raise_floors(delegation_floor=opened.delegation, signed=signed, **floors)
