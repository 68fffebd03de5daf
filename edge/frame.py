"""A frame: what capture gives and every step after it reads."""

from dataclasses import dataclass
from datetime import datetime

from shared.preprocess import Pixels


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured image. sequence: grows by 1. pixels: uint8 [h, w, 3] RGB. part: id of the work piece, if known.

    data, ext: the bytes and kind of the file that it came from; None for a raw frame of a device.
    """

    sequence: int
    at: datetime
    pixels: Pixels
    data: bytes | None = None
    ext: str = "png"
    part: str | None = None
