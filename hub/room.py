"""Room: the cameras wait when the disk, or their share of it, has no place for more. Nothing is refused for it."""

from datetime import UTC, datetime, timedelta

from sqlmodel import col, func, select

from hub.store import Store
from hub.tables import Image

RESUME = 1.25
"""The disk counts as roomy again when so many times the watermark is free."""


class Watermark:
    """Free bytes below which nothing is accepted; a little more must be free before it is again."""

    def __init__(self, low: int) -> None:
        self._low = low
        self._accepts = True

    def accepts(self, free: int) -> bool:
        """Whether images may be taken, with `free` bytes left on the disk."""
        self._accepts = free >= (self._low if self._accepts else self._low * RESUME)
        return self._accepts


class Quota:
    """Bytes that each camera may have stored on one day (UTC); 0: as many as it likes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._day = ""
        self._used: dict[str, int] = {}

    def load(self, store: Store, now: datetime) -> None:
        """Begin with what the database says of today."""
        self._turn(now)
        if not self._limit:
            return
        midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        with store.read() as session:
            rows = session.exec(
                select(Image.camera, func.sum(Image.size))
                .where(col(Image.received_at) >= midnight, Image.camera != "")
                .group_by(Image.camera)
            )
            self._used = {camera: int(size) for camera, size in rows}

    def wait(self, camera: str, size: int, now: datetime) -> float:
        """Seconds until the camera may have `size` more bytes stored; 0.0: now. The first image of a day may always."""
        self._turn(now)
        used = self._used.get(camera, 0)
        if not self._limit or not used or used + size <= self._limit:
            return 0.0
        now = now.astimezone(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        return max(1.0, (midnight - now).total_seconds())

    def spend(self, camera: str, size: int, now: datetime) -> None:
        """So much was stored."""
        self._turn(now)
        self._used[camera] = self._used.get(camera, 0) + size

    def _turn(self, now: datetime) -> None:
        day = now.astimezone(UTC).date().isoformat()
        if day != self._day:
            self._day, self._used = day, {}
