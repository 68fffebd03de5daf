"""Pictures that carry a number in their pixels, so that any copy of one tells by itself which one it is.

A mark is (camera, serial). The upper left corner shows it in ROWS x COLUMNS black and white blocks, most significant
bit first: 8 bits of camera, 24 of serial, 16 of CRC over these. The rest is noise, so that files are large.
"""

import binascii

import cv2
import numpy as np

BLOCK, COLUMNS, ROWS = 10, 8, 6
SIDES = 88, 140
"""Shortest and longest side in pixels: PNG files of some 20 to 60 kB."""

Mark = tuple[int, int]


def draw(camera: int, serial: int) -> bytes:
    """The PNG of a mark, always the same bytes; 0 <= camera < 256, 0 <= serial < 2**24."""
    rng = np.random.default_rng([camera, serial])
    side = int(rng.integers(*SIDES))
    # Each picture of a tint of its own: the tiny model looks at mean colours, so events differ in value.
    pixels = rng.integers(0, 256, (side, side, 3)) * rng.uniform(0.5, 1.0, 3)
    marked = camera.to_bytes(1) + serial.to_bytes(3)
    bits = np.unpackbits(np.frombuffer(marked + _crc(marked), np.uint8)).reshape(ROWS, COLUMNS)
    corner = np.kron(bits, np.ones((BLOCK, BLOCK)))[..., None]
    noise = rng.integers(0, 60, (*corner.shape[:2], 3))
    pixels[: ROWS * BLOCK, : COLUMNS * BLOCK] = np.where(corner == 1, 255 - noise, noise)
    done, data = cv2.imencode(".png", pixels.astype(np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


def read(data: bytes) -> Mark | None:
    """The mark that a picture's pixels show; None when it is no such picture, or damaged."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    if pixels is None or min(pixels.shape) < max(ROWS, COLUMNS) * BLOCK:
        return None
    corner = pixels[: ROWS * BLOCK, : COLUMNS * BLOCK].reshape(ROWS, BLOCK, COLUMNS, BLOCK)
    shown = np.packbits(corner.mean(axis=(1, 3)) > 127).tobytes()
    marked, crc = shown[:4], shown[4:]
    return (marked[0], int.from_bytes(marked[1:])) if crc == _crc(marked) else None


def _crc(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0xFFFF).to_bytes(2)
