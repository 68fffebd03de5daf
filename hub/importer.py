"""Import: labelled images from a folder per class (ImageFolder) or a list in a file, as training data or holdout."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sqlmodel import select

from hub import lost
from hub.formats import SPLITS, Bad, Row, read_coco, read_csv, read_label_studio
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Image, Label
from shared.clock import Clock
from shared.errors import ConfigError, ImageError
from shared.files import sha256_hex
from shared.preprocess import decode

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
FORMATS = ("folder", "coco", "csv", "label-studio")
OPERATOR = "import"
BATCH = 64
# Imported images have no event; their identity is their content, so that a second import adds nothing.
NAMESPACE = uuid.UUID("5f1d9a38-7a52-4a41-9d64-3a6f0d6f2f3c")


@dataclass(slots=True)
class Imported:
    """Every row is in one of these. known: there already, with the same label and split. bad: not taken."""

    added: int = 0
    known: int = 0
    bad: list[Bad] = field(default_factory=list)


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
    rows = [Row(str(path), str(path), name, split) for path, name in files]
    done = import_rows(settings, store, rows, folder, clock, progress=progress)
    return done.added, len(files) - done.added


def read_list(kind: str, path: Path, empty: str = "") -> tuple[list[Row], list[Bad]]:
    """The rows of a file of one of FORMATS but "folder"; empty: see `hub.formats.read_coco`. ConfigError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", subject=str(path)) from error
    try:
        if kind == "coco":
            return read_coco(data, empty)
        return read_csv(data) if kind == "csv" else read_label_studio(data)
    except ConfigError as error:
        raise ConfigError(error.what, subject=str(path), remedy=error.remedy) from error


def import_rows(
    settings: HubSettings,
    store: Store,
    rows: Sequence[Row],
    base: Path,
    clock: Clock,
    *,
    split: str = "",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Imported:
    """Store the images of `rows`; each is judged by itself, and none stops the others.

    base: folder of relative paths. split: of rows that name none; ConfigError if there are such and it is empty.
    """
    if not split and any(not row.split for row in rows):
        raise ConfigError("the file does not say what is for training", remedy="Give --split")
    done = Imported()
    for start in range(0, len(rows), BATCH):
        good: list[tuple[Row, bytes]] = []
        for row in rows[start : start + BATCH]:
            data = _judged(settings, row, base)
            if isinstance(data, Bad):
                done.bad.append(data)
            else:
                good.append((Row(row.where, row.path, row.label, row.split or split), data))
        _store_some(settings, store, good, done, clock)
        progress(min(start + BATCH, len(rows)), len(rows))
    return done


def _judged(settings: HubSettings, row: Row, base: Path) -> bytes | Bad:
    """The bytes of a row's image, or what is wrong with the row."""
    if row.label not in settings.project.classes:
        return Bad(row.where, f"{row.path}: {row.label!r} is not one of {', '.join(settings.project.classes)}")
    if row.split not in ("", *SPLITS):
        return Bad(row.where, f"{row.path}: {row.split!r} is not one of {', '.join(SPLITS)}")
    if "://" in row.path:
        return Bad(row.where, f"{row.path}: is not on this machine")
    try:
        path = base / row.path
        if not path.is_file():  # as uploaded: another program's folder names are not ours
            path = base / PurePosixPath(row.path).name
        data = path.read_bytes()
        decode(data)
    except (OSError, ValueError) as error:  # a name with a zero byte is the latter
        return Bad(row.where, f"{row.path}: cannot be read ({getattr(error, 'strerror', None) or error})")
    except ImageError as error:
        return Bad(row.where, f"{row.path}: {error.what}")
    return data


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


def _store_some(
    settings: HubSettings, store: Store, rows: Sequence[tuple[Row, bytes]], done: Imported, clock: Clock
) -> None:
    """One batch: blobs first, then rows."""
    project = settings.project.name
    hashes = store.blobs.put([data for _, data in rows])
    now = clock.utc()
    with store.write() as session:
        lost.heal(session, hashes)
        for row, data in rows:
            sha256 = sha256_hex(data)
            event_id = str(uuid.uuid5(NAMESPACE, f"{project} {sha256}"))
            there = session.exec(select(Image).where(Image.camera == "", Image.event_id == event_id)).first()
            if there is not None:
                if (there.label, there.split) == (row.label, row.split):
                    done.known += 1
                else:
                    said = f"is there already as {there.label} in {there.split}; that stays"
                    done.bad.append(Bad(row.where, f"{row.path}: {row.label} in {row.split}, but it {said}"))
                continue
            height, width = decode(data).shape[:2]
            image = Image(
                event_id=event_id,
                project=project,
                sha256=sha256,
                size=len(data),
                ext=PurePosixPath(row.path).suffix.lower().lstrip("."),
                captured_at=now,
                received_at=now,
                split=row.split,
                state="verified",
                why="import",
                width=width,
                height=height,
                label=row.label,
                decided=True,
            )
            session.add(image)
            session.flush()
            session.add(Label(image_id=image.id or 0, name=row.label, operator=OPERATOR, at=now))
            done.added += 1
