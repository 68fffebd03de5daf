"""Export: the labelled images with their labels, as other programs read them and `hone-hub import` does.

Images of cameras are written as split "train", or "holdout" where they are held out. The folder holds
`images/SHA256.ext` and one file beside it, or as an ImageFolder `SPLIT/CLASS/SHA256.ext`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlmodel import col, select

from hub.formats import WRITERS, Bad, Item
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Assignment, Image
from shared.errors import ConfigError, StoreError


@dataclass(frozen=True, slots=True)
class Exported:
    """images: written; bad: labelled images that could not be."""

    images: int
    bad: list[Bad]


def export_data(
    settings: HubSettings,
    store: Store,
    kind: str,
    folder: Path,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write all labelled images of the project's classes into `folder`, which must be empty or not there yet.

    kind: one of `hub.importer.FORMATS`. The same image with the same label in the same split is written once.
    ConfigError when the folder cannot be used.
    """
    classes = settings.project.classes
    with store.read() as session:
        rows = session.exec(
            select(Image, Assignment.side)
            .join(Assignment, col(Assignment.image_id) == col(Image.id), isouter=True)
            .where(Image.project == settings.project.name, col(Image.label).in_(classes))
            .order_by(col(Image.id))
        ).all()
    items: dict[Item, str] = {}
    for row, side in rows:
        split = "holdout" if "holdout" in (row.split, side) else "train"
        where = f"{split}/{row.label}" if kind == "folder" else "images"
        items[Item(f"{where}/{row.sha256}.{row.ext}", str(row.label), split, row.width, row.height)] = row.sha256
    bad: list[Bad] = []
    written: list[Item] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError("is not empty", subject=str(folder), remedy="Name another folder")
        for number, (item, sha256) in enumerate(items.items(), 1):
            try:
                data = store.blobs.read(sha256)
            except StoreError as error:
                bad.append(Bad(item.path, str(error)))
                continue
            path = folder / item.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            written.append(item)
            progress(number, len(items))
        if kind != "folder":
            name, write = WRITERS[kind]
            aside = folder / f"{name}.part"
            aside.write_bytes(write(written, classes))
            os.replace(aside, folder / name)
    except OSError as error:
        raise ConfigError(f"cannot be written ({error.strerror})", subject=str(folder)) from error
    return Exported(len(written), bad)
