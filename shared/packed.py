"""Packed: the bytes of a part as a zlib stream (RFC 1950), where that makes fewer of them. Bytes in, bytes out.

References and int8 weights are whole numbers that are small more often than not: Huffman codes alone take out more
than looking for repeats does. Floats of a head share their exponents. The rest stays as it is.
"""

import zlib

from shared.errors import PartError

WORTH = 0.9
"""A part is packed when that leaves such a share of it at most: a float backbone keeps 92 %."""
SAVED = 512
"""And when it saves so many bytes at least: to tell of it takes some 200 in the manifest."""
MAX_PACKED = 8 << 20
"""No longer part is packed (bytes): it would take a second, and what is so long is a float backbone."""


def pack(data: bytes) -> bytes | None:
    """The shortest zlib stream of these bytes that was found; None where it is not worth it."""
    if len(data) > MAX_PACKED:
        return None
    best = min((_deflated(data, one) for one in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)), key=len)
    return best if len(best) <= min(WORTH * len(data), len(data) - SAVED) else None


def unpack(data: bytes, size: int) -> bytes:
    """The `size` bytes that were packed; PartError when these are not their stream. Never makes more than `size`."""
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(data, size)
        if len(found) == size and inflate.unconsumed_tail:
            found += inflate.decompress(inflate.unconsumed_tail, 1)  # the end of the stream, or a byte too many
    except zlib.error as error:
        raise PartError(f"cannot be unpacked ({error})", subject=f"packed part of {len(data)} bytes") from error
    if len(found) != size or not inflate.eof or inflate.unused_data:
        raise PartError(f"does not unpack to {size} bytes", subject=f"packed part of {len(data)} bytes")
    return found


def _deflated(data: bytes, strategy: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return deflate.compress(data) + deflate.flush()
