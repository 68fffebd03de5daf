"""A model pack: one file that carries a release by hand. Bytes in, members out; who reads files is `edge.pack`.

An uncompressed tar (ustar) of plain files, in this order: the manifest, then each part of its model in the order of
`ModelSpec.all_parts`, named by part and hash, as it is and not packed. The manifest is `manifest.json`, signed as on
the wire (`shared.manifest`), or `unsigned.json`, a bare Manifest. Nothing else is in it, and no name in it is ever used
as a path.
"""

import tarfile
from dataclasses import dataclass

from shared.errors import PackError
from shared.manifest import PartSpec

BLOCK = 512
SIGNED = "manifest.json"
UNSIGNED = "unsigned.json"
END = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class Member:
    """What a header announces: the member's name and bytes."""

    name: str
    size: int


def part_name(name: str, part: PartSpec) -> str:
    """What a part is called in a pack.

    >>> part_name("head", PartSpec(sha256="0" * 64, size=1))[:10]
    'head.00000'
    """
    return f"{name}.{part.sha256}"


def padding(size: int) -> int:
    """Zero bytes after a member of `size` bytes.

    >>> padding(512), padding(513)
    (0, 511)
    """
    return -size % BLOCK


def header(name: str, size: int) -> bytes:
    """The block before a member; the same for the same name and size."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def read_header(block: bytes) -> Member:
    """What a block announces; PackError unless it is a plain file with a name of its own."""
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise PackError(f"is no pack, or ends too early ({error})") from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.size < 0 or info.linkname:
        raise PackError(f"has a member {info.name[:100]!r} that is no plain file")
    return Member(info.name, info.size)
