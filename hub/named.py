"""Which blobs the rows name. The one place that knows: what is not named here no backup holds, and fsck calls it an
orphan. Asked for by the first two digits of the sha256, as the blobs lie in folders: a million never are in memory.
"""

from collections.abc import Collection, Sequence

from sqlmodel import Session, col, select

from hub.tables import Image, Release, Run

PREFIXES = tuple(f"{number:02x}" for number in range(256))
ImageRow = tuple[int | None, str, int, str]
"""id, sha256, size, state"""
ROWS = 500  # hashes in one query: databases bound the number of parameters


def images(session: Session, prefix: str) -> Sequence[ImageRow]:
    """The images whose sha256 begins with `prefix`, by id."""
    rows = select(Image.id, Image.sha256, Image.size, Image.state).where(Image.sha256 >= prefix)
    if prefix < PREFIXES[-1]:
        rows = rows.where(Image.sha256 < f"{int(prefix, 16) + 1:02x}")
    return session.exec(rows.order_by(col(Image.id))).all()


def parts(session: Session) -> dict[str, str]:
    """sha256 -> owner of every model part that a release or a run names."""
    found: dict[str, str] = {}
    for number, model in session.exec(select(Release.number, Release.model).order_by(col(Release.number))):
        for name in ("backbone", "head", "golden", "references"):
            if model.get(name):
                found.setdefault(model[name]["sha256"], f"{name} of release {number}")
    for run, names in session.exec(select(Run.id, Run.parts).order_by(col(Run.id))):
        for name, sha256 in names.items():
            found.setdefault(sha256, f"{name} of run {run}")
    return found


def among(session: Session, hashes: Collection[str]) -> set[str]:
    """Those of these sha256 that any row names now."""
    every = sorted(hashes)
    found = parts(session).keys() & set(every)
    for start in range(0, len(every), ROWS):
        some = every[start : start + ROWS]
        found |= set(session.exec(select(Image.sha256).where(col(Image.sha256).in_(some)).distinct()))
    return found
