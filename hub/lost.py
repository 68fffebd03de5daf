"""Images whose bytes are lost: the row stays, in the state "lost", and its labels with it. No queue hands it out and no
run learns from it; when its blob comes again, it is what it was.
"""

from collections.abc import Collection

from sqlalchemy import case
from sqlmodel import Session, and_, col, update

from hub.tables import Image

LOST = "lost"
ROWS = 500  # hashes in one statement: databases bound the number of parameters


def mark(session: Session, hashes: Collection[str]) -> int:
    """The blobs of these sha256 are gone: mark their images; returns how many. Part of the caller's transaction."""
    count = 0
    for some in _chunks(hashes):
        count += session.exec(
            update(Image).where(col(Image.sha256).in_(some), col(Image.state) != LOST).values(state=LOST)
        ).rowcount
    return count


def heal(session: Session, hashes: Collection[str]) -> int:
    """The blobs of these sha256 are there again: their lost images wait for verify, or are what they were when it had
    looked at them already; returns how many. Part of the caller's transaction.
    """
    unseen = and_(col(Image.split) == "pool", col(Image.width) == 0)
    count = 0
    for some in _chunks(hashes):
        count += session.exec(
            update(Image)
            .where(col(Image.sha256).in_(some), col(Image.state) == LOST)
            .values(state=case((unseen, "new"), else_="verified"))
        ).rowcount
    return count


def _chunks(hashes: Collection[str]) -> list[list[str]]:
    every = sorted(set(hashes))
    return [every[start : start + ROWS] for start in range(0, len(every), ROWS)]
