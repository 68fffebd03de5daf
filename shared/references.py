"""References: a few embeddings that stand for all training images; how far a frame is from them says how new it is.

They are chosen so that each next one is the farthest from those before (see `hub.references`). So every training image
has a reference that is nearer than the two nearest references are to each other.
"""

import numpy as np

from shared.errors import PartError
from shared.litert import Floats

MAX_REFERENCES = 256
"""No references part has more rows: a camera compares each frame with all of them."""


def encode(rows: Floats) -> bytes:
    """Rows float32 [n, dims], whose length says nothing -> the bytes of a references part: int8, row by row.

    The largest number of a row becomes 127: with embeddings that moves no cosine by more than a thousandth.
    """
    largest = np.abs(rows).max(axis=1, keepdims=True)
    data: bytes = np.rint(rows * (127 / largest)).astype(np.int8).tobytes()
    decode(data, rows.shape[1])
    return data


def decode(data: bytes, dims: int) -> Floats:
    """The bytes of a references part -> unit rows, float32 [n, dims]; PartError when they are not that."""
    subject = f"references part of {len(data)} bytes"
    if not data or len(data) % dims or len(data) > dims * MAX_REFERENCES:
        raise PartError(f"is not 1 to {MAX_REFERENCES} rows of {dims} numbers", subject=subject)
    rows = np.frombuffer(data, np.int8).astype(np.float32).reshape(-1, dims)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise PartError("has rows of nothing but zeros", subject=subject)
    unit: Floats = rows / lengths
    return unit


def nearest(rows: Floats, embeddings: Floats) -> Floats:
    """Cosine distance of each embedding, float32 [n, dims], to the nearest unit row: float32 [n]."""
    points = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    distances: Floats = 1.0 - (points @ rows.T).max(axis=1)
    return np.maximum(distances, 0.0)
