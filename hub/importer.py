"""Import: labelled images from a folder with a folder per class (ImageFolder), as training data or as holdout."""

import uuid
from collections.abc import Callable
from pathlib import Path

from sqlmodel import select

from hub import lost
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Image, Label
from shared.clock import Clock
from shared.errors import ConfigError, ImageError
from shared.files import sha256_hex
from shared.preprocess import decode

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "holdout")
OPERATOR = "import"
BATCH = 64
# Imported images have no event; their identity is their content, so that a second import adds nothing.
NAMESPACE = uuid.UUID("5f1d9a38-7a52-4a41-9d64-3a6f0d6f2f3c")


def import_folder(
    settings: HubSettings,
    store: Store,
    folder: Path,
    split: str,
    clock: Clock,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[int, int]:
    """Store `folder`/CLASS/* as labelled images; returns (added, there already).

    ConfigError for a folder that is no class of the project, or holds no images; ImageError names a file that cannot
    be decoded, before anything is stored.
    """
    files = _files(settings, folder)
    for path, _ in files:
        try:
            decode(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot be read ({error.strerror})", subject=str(path)) from error
        except ImageError as error:
            raise ImageError(
                error.what, subject=str(path), remedy="Remove it or mend it; nothing was imported"
            ) from error
    added = 0
    for start in range(0, len(files), BATCH):
        added += _store_some(settings, store, files[start : start + BATCH], split, clock)
        progress(min(start + BATCH, len(files)), len(files))
    return added, len(files) - added


def _files(settings: HubSettings, folder: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise ConfigError("is not a folder", subject=str(folder), remedy="Give a folder with a folder per class")
    files: list[tuple[Path, str]] = []
    for one in sorted(folder.iterdir()):
        if not one.is_dir():
            continue
        if one.name not in settings.project.classes:
            raise ConfigError(
                f"is not a class of project {settings.project.name}",
                subject=str(one),
                remedy=f"Name the folders {', '.join(settings.project.classes)}",
            )
        files += [(path, one.name) for path in sorted(one.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not files:
        raise ConfigError("holds no images", subject=str(folder), remedy="Put images into a folder per class")
    return files


def _store_some(settings: HubSettings, store: Store, files: list[tuple[Path, str]], split: str, clock: Clock) -> int:
    """One batch: blobs first, then rows; returns how many were new."""
    project = settings.project.name
    blobs = [path.read_bytes() for path, _ in files]
    hashes = store.blobs.put(blobs)
    now = clock.utc()
    added = 0
    with store.write() as session:
        lost.heal(session, hashes)
        for (path, name), data in zip(files, blobs, strict=True):
            sha256 = sha256_hex(data)
            event_id = str(uuid.uuid5(NAMESPACE, f"{project} {sha256}"))
            if session.exec(select(Image.id).where(Image.camera == "", Image.event_id == event_id)).first():
                continue
            height, width = decode(data).shape[:2]
            image = Image(
                event_id=event_id,
                project=project,
                sha256=sha256,
                size=len(data),
                ext=path.suffix.lower().lstrip("."),
                captured_at=now,
                received_at=now,
                split=split,
                state="verified",
                why="import",
                width=width,
                height=height,
                label=name,
                decided=True,
            )
            session.add(image)
            session.flush()
            session.add(Label(image_id=image.id or 0, name=name, operator=OPERATOR, at=now))
            added += 1
    return added
