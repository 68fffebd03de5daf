"""fsck: does every row have its blob, and every blob its row? Reads only."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import col, select

from hub.store import Store
from hub.tables import Image, Release, Run
from shared.files import sha256_hex


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. kind: "missing", "damaged", "size" (rows without good bytes), "orphan", "leftover"."""

    kind: str
    subject: str
    text: str


def check(store: Store, *, deep: bool = False) -> Iterator[Finding]:
    """Every finding; deep: read every blob and compute its hash."""
    with store.read() as session:
        images = session.exec(select(Image.id, Image.sha256, Image.size).order_by(col(Image.id))).all()
        models = [one for one in session.exec(select(Release.model)).all() if one]
        runs = session.exec(select(Run.parts)).all()
    needed: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for image_id, sha256, size in images:
        needed.setdefault(sha256, f"image {image_id}")
        sizes[sha256] = size
    for model in models:
        for name in ("backbone", "head", "golden"):
            needed.setdefault(model[name]["sha256"], f"release part {name}")
    for parts in runs:
        for name, sha256 in parts.items():
            needed.setdefault(sha256, f"run part {name}")
    there = set(store.blobs.all())
    for sha256, owner in needed.items():
        if sha256 not in there:
            yield Finding("missing", owner, f"blob {sha256} is not there")
        elif sha256 in sizes and store.blobs.size(sha256) != sizes[sha256]:
            yield Finding("size", owner, f"blob {sha256} does not have the {sizes[sha256]} bytes of its row")
        elif deep and sha256_hex(store.blobs.read(sha256)) != sha256:
            yield Finding("damaged", owner, f"blob {sha256} has other bytes than its name says")
    for sha256 in sorted(there - needed.keys()):
        yield Finding("orphan", f"blob {sha256}", "no row names it (harmless: left by a crash before its row)")
    for path in store.blobs.leftovers():
        yield Finding("leftover", str(path), "half-written file of a crash (harmless)")
