"""Packs as bytes, right ones and others, for tests of those who read them."""

from collections.abc import Sequence

from shared.pack import END, SIGNED, header, padding, part_name
from tests.fakes.hub import Parts


def archive(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Members as they stand in a pack."""
    return b"".join(header(name, len(data)) + data + bytes(padding(len(data))) for name, data in members) + END


def members(manifest: bytes, model: Parts, name: str = SIGNED) -> list[tuple[str, bytes]]:
    """Manifest and parts under their names, in the right order."""
    specs = model.spec().all_parts()
    return [
        (name, manifest),
        *((part_name(one, specs[one]), data) for one, data in zip(specs, model.blobs(), strict=True)),
    ]


def pack(manifest: bytes, model: Parts, name: str = SIGNED) -> bytes:
    """A pack of a release."""
    return archive(members(manifest, model, name))
