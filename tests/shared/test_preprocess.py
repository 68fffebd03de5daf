import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import preprocess
from shared.errors import ImageError
from shared.preprocess import Pixels, Preprocess


def picture(height: int = 12, width: int = 20, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey PNG whose header says width x height, whatever rows hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=20)
def test_png_keeps_every_pixel(height: int, width: int, seed: int) -> None:
    pixels = picture(height, width, seed)
    back = preprocess.decode(preprocess.encode_png(pixels))
    assert back.dtype == np.uint8
    assert back.flags.c_contiguous
    np.testing.assert_array_equal(back, pixels)


def test_colours_are_red_green_blue() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    back = preprocess.decode(preprocess.encode_jpeg(red, 95))
    assert back[4, 4, 0] > 240
    assert back[4, 4, 2] < 15


def test_quality_matters() -> None:
    pixels = picture(64, 64)
    assert len(preprocess.encode_jpeg(pixels, 30)) < len(preprocess.encode_jpeg(pixels, 95))


def test_grey_becomes_three_equal_channels() -> None:
    back = preprocess.decode(png(2, 2, b"\0\x10\x20\0\x30\x40"))
    assert back.tolist() == [[[16] * 3, [32] * 3], [[48] * 3, [64] * 3]]


WHOLE = preprocess.encode_png(picture())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\x00" * 1000,
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0" + b"\x00" * 500,
        WHOLE[:8],
        WHOLE[:40],
        WHOLE[: len(WHOLE) // 2],
        b"GIF89a",
        b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        b"BM" + b"\xff" * 100,
        b"II*\x00" + b"\xff" * 100,
        png(0, 0, b""),
        png(2**31 - 1, 2**31 - 1, b"\0"),
        png(1_000_000, 1_000_000, b"\0"),
        b"<svg/>",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_image_is_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError, match=f"image of {len(data)} bytes: cannot be decoded"):
        preprocess.decode(data)


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\x00"]))
@settings(max_examples=60)
def test_any_bytes_are_pixels_or_an_image_error(data: bytes, magic: bytes) -> None:
    try:
        pixels = preprocess.decode(magic + data)
    except ImageError:
        return
    assert pixels.ndim == 3


@pytest.mark.parametrize("shape", [(12, 20), (300, 300), (1, 1), (8, 500), (24, 24)])
def test_input_has_the_models_shape(shape: tuple[int, int]) -> None:
    x = preprocess.to_input(picture(*shape), Preprocess(size=24))
    assert x.shape == (1, 24, 24, 3)
    assert x.dtype == np.float32
    assert -127 / 128 <= x.min() <= x.max() <= 1.0


def test_input_is_normalised() -> None:
    grey = np.full((10, 10, 3), 100, np.uint8)
    x = preprocess.to_input(grey, Preprocess(size=4, mean=20.0, scale=40.0))
    np.testing.assert_array_equal(x, np.full((1, 4, 4, 3), 2.0, np.float32))
    assert preprocess.to_input(np.full((3, 3, 3), 127, np.uint8), Preprocess()).max() == 0.0


def test_shrinking_averages() -> None:
    """Area: a chequerboard becomes grey, not one of its two colours."""
    board = ((np.indices((64, 64)).sum(0) % 2) * 254).astype(np.uint8)[..., np.newaxis].repeat(3, 2)
    x = preprocess.to_input(board, Preprocess(size=8))
    np.testing.assert_allclose(x, 0.0, atol=0.01)
