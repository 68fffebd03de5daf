"""Image bytes -> pixels -> what the backbone eats. Camera and hub run this same code."""

import os
from typing import Annotated

# A small file can claim a huge picture: OpenCV refuses beyond this many pixels. It reads the limit when it is loaded.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from shared.errors import ImageError

Pixels = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""


class Preprocess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pixels become the model's input; part of the signed manifest.

    size: side of the square input in pixels. mean, scale: `(x - mean) / scale` on 0..255.
    """

    size: Annotated[int, msgspec.Meta(ge=8, le=4096)] = 224
    mean: float = 127.0
    scale: Annotated[float, msgspec.Meta(gt=0)] = 128.0


def decode(data: bytes) -> Pixels:
    """Decode a PNG, JPEG, BMP, TIFF or WebP file to uint8 [h, w, 3] RGB; ImageError if that fails."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"cannot be decoded ({error.err})", subject=f"image of {len(data)} bytes") from error
    if image is None:
        raise ImageError(
            "cannot be decoded",
            subject=f"image of {len(data)} bytes",
            remedy="Send PNG, JPEG, BMP, TIFF or WebP",
        )
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def encode_png(pixels: Pixels) -> bytes:
    """Encode uint8 [h, w, 3] RGB as PNG, without loss."""
    done, data = cv2.imencode(".png", pixels[:, :, ::-1])
    if not done:
        raise ImageError("cannot be encoded as PNG", subject=f"pixels of shape {pixels.shape}")
    return data.tobytes()


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode uint8 [h, w, 3] RGB as JPEG; quality 1..100."""
    done, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError("cannot be encoded as JPEG", subject=f"pixels of shape {pixels.shape}")
    return data.tobytes()


def to_input(pixels: Pixels, how: Preprocess) -> NDArray[np.float32]:
    """Resize (area when shrinking, linear when growing) and normalise to float32 [1, size, size, 3]."""
    shrinks = pixels.shape[0] > how.size or pixels.shape[1] > how.size
    resized = cv2.resize(pixels, (how.size, how.size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return ((resized.astype(np.float32) - how.mean) / how.scale)[np.newaxis]
