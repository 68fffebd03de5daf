"""Findings of fsck, and what its steps tell one another."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hub import named
from shared.clock import Clock

GRACE = timedelta(hours=1)
"""Younger files are not judged: their rows may be under way."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know of. mended: nothing is left to do about it. size: bytes, of garbage.

    kind, of rows: "missing", "damaged" (their blob), "unindexed" (a segment has it, and no row says where), "size"
    (their own number), "lost" (marked so before), "found" (was lost, the blob is there again). Of files: "orphan",
    "leftover", "foreign". Of records in segments: "garbage".
    """

    kind: str
    subject: str
    text: str
    mended: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """kind: "good", or as in Finding."""

    kind: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Bad:
    """A blob that rows name and that is not good, as far as is known yet. part: which model part it is, if any."""

    verdict: Verdict
    rows: list[named.ImageRow]
    part: str | None


def old(path: Path, clock: Clock) -> bool:
    """Whether a file has not been written to for GRACE; False when it is gone: a half-written one is whole by now."""
    try:
        return clock.utc().timestamp() - path.lstat().st_mtime > GRACE.total_seconds()
    except FileNotFoundError:
        return False
