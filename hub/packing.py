"""Packing: a release as one file, to be carried to cameras that no broker reaches (`shared.pack`)."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
from sqlmodel import select

from hub import keys, release
from hub.settings import HubSettings
from hub.store import Store
from hub.tables import Release
from shared.clock import Clock
from shared.errors import StoreError
from shared.files import sync_folder
from shared.pack import END, SIGNED, UNSIGNED, header, padding, part_name


def write_pack(
    settings: HubSettings, store: Store, number: int, path: Path, clock: Clock, *, days: int, signed: bool = True
) -> int:
    """Write a release of the project to a file; returns its bytes.

    It is signed anew, under the delegation in force, good for so many days. signed: False leaves the signature out.
    StoreError where there is no such release, a part is missing or the file cannot be written; ConfigError where
    there are no keys.
    """
    with store.read() as session:
        row = session.exec(
            select(Release).where(Release.project == settings.project.name, Release.number == number)
        ).first()
    if row is None:
        raise StoreError("does not exist", subject=f"release {number}", remedy="The page lists releases")
    expires = clock.utc() + timedelta(days=days)
    if signed:
        manifest = release.signed_until(row, keys.load(settings.state_folder / "keys"), expires)
    else:
        manifest = msgspec.json.encode(msgspec.structs.replace(release.manifest_of(row), expires=expires))
    members = _members(row, store, SIGNED if signed else UNSIGNED, manifest)
    aside = path.with_name(f".{path.name}.tmp")  # a camera's folder may be written to: it leaves such names alone
    try:
        with aside.open("wb") as file:
            for name, data in members:
                file.write(header(name, len(data)))
                file.write(data)
                file.write(bytes(padding(len(data))))
            file.write(END)
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", subject=str(path)) from error
    finally:
        aside.unlink(missing_ok=True)
    return size


def _members(row: Release, store: Store, name: str, manifest: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each, one part at a time in memory."""
    yield name, manifest
    for part, spec in release.manifest_of(row).model.all_parts().items():
        yield part_name(part, spec), store.blobs.read(spec.sha256)
