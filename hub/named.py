"""Which blobs the rows name. The one place that knows: what is not named here no backup holds, and fsck calls it an
orphan. Asked for by the first two digits of the sha256, as the blobs lie in folders: a million never are in memory.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy
from sqlmodel import Session, col, exists, func, select

from hub.segments import Place
from hub.tables import Blob, Image, Release, Run, table_of

PREFIXES = tuple(f"{number:02x}" for number in range(256))
ImageRow = tuple[int | None, str, int, str]
"""id, sha256, size, state"""
ROWS = 500  # hashes in one query: databases bound the number of parameters


def images(session: Session, prefix: str) -> Sequence[ImageRow]:
    """The images whose sha256 begins with `prefix`, by id."""
    rows = select(Image.id, Image.sha256, Image.size, Image.state).where(_begins(Image.sha256, prefix))
    return session.exec(rows.order_by(col(Image.id))).all()


def parts(session: Session) -> dict[str, str]:
    """sha256 -> owner of every model part, or data of a run, that a release or a run names."""
    found: dict[str, str] = {}
    for number, model in session.exec(select(Release.number, Release.model).order_by(col(Release.number))):
        for name, sha256 in _parts_of(model).items():
            found.setdefault(sha256, f"{name} of release {number}")
    for run, state, names, data in session.exec(
        select(Run.id, Run.state, Run.parts, Run.snapshot).order_by(col(Run.id))
    ):
        # A run that has not ended well can be resumed, and the data that it needs are no part of a model yet.
        unfinished = {"snapshot": data} if data and state != "done" else {}
        for name, sha256 in {**names, **unfinished}.items():
            found.setdefault(sha256, f"{name} of run {run}")
    return found


def _parts_of(model: Mapping[str, Any], variant: str = "") -> dict[str, str]:
    """Name -> sha256 of every part of a release's model, packed ones and those of the int8 variant too."""
    found = {}
    for name in ("backbone", "head", "golden", "references"):
        if part := model.get(name):
            found[f"{variant}{name}"] = part["sha256"]
            if packed := part.get("packed"):
                found[f"packed {variant}{name}"] = packed["sha256"]
    return {**found, **(_parts_of(model["int8"], "int8 ") if model.get("int8") else {})}


def placed(session: Session, prefix: str = "", *, segment: str = "") -> list[tuple[str, Place]]:
    """The blobs that images name and the index finds in a segment, in the order in which they lie: those whose sha256
    begins with `prefix`, or those of one segment. None where the schema is from before there were segments.
    """
    if not _has_segments(session):
        return []
    image = sqlalchemy.select(1).where(col(Image.sha256) == col(Blob.sha256))
    rows = select(Blob.sha256, Blob.segment, Blob.offset, Blob.size).where(exists(image))
    if prefix:
        rows = rows.where(_begins(Blob.sha256, prefix))
    if segment:
        rows = rows.where(Blob.segment == segment)
    found = session.exec(rows.order_by(col(Blob.segment), col(Blob.offset)))
    return [(sha256, Place(name, offset, size)) for sha256, name, offset, size in found]


def segments(session: Session) -> dict[str, int]:
    """Name -> end of the last blob in it, of every segment that the index names."""
    if not _has_segments(session):
        return {}
    ends = select(Blob.segment, func.max(col(Blob.offset) + col(Blob.size))).group_by(col(Blob.segment))
    return dict(session.exec(ends).all())


def among(session: Session, hashes: Collection[str]) -> set[str]:
    """Those of these sha256 that any row names now."""
    every = sorted(hashes)
    found = parts(session).keys() & set(every)
    for start in range(0, len(every), ROWS):
        some = every[start : start + ROWS]
        found |= set(session.exec(select(Image.sha256).where(col(Image.sha256).in_(some)).distinct()))
    return found


def _begins(column: str, prefix: str) -> sqlalchemy.ColumnElement[bool]:
    """A condition that an index of the column serves."""
    above = col(column) >= prefix
    return above if prefix == PREFIXES[-1] else above & (col(column) < f"{int(prefix, 16) + 1:02x}")


def _has_segments(session: Session) -> bool:
    return sqlalchemy.inspect(session.connection()).has_table(table_of(Blob).name)
