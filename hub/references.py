"""References of a release: which training images stand for all of them on the cameras (see `shared.references`)."""

import numpy as np

from shared.litert import Floats
from shared.references import decode, encode, nearest

COUNT = 64
"""Most references: with 1280 dims they cost a camera 82 kB, and some 20 us a frame."""
SHARE = 4
"""Training images to a reference: with fewer, images like those of the training set would look new."""
COPY = 1e-3
"""Cosine distance below which a references part cannot tell two embeddings apart."""
STALE = 1.25
"""References are replaced when fresh ones cover the training images so many times as tightly."""
COVERED = 0.95


def references_part(embeddings: Floats, released: bytes | None = None) -> bytes | None:
    """The references part for these training images, float32 [n, dims]; None when they are all the same.

    released: those of the release before, by the same backbone. They are kept, and no camera fetches others, while they
    cover the images nearly as well as fresh ones: by the distance within which COVERED of them have a reference.
    """
    fresh = k_center(embeddings, max(2, min(COUNT, len(embeddings) // SHARE)))
    if len(fresh) < 2:
        return None
    if released is not None:
        reach = [
            float(np.quantile(nearest(rows, embeddings), COVERED)) for rows in (decode(released, fresh.shape[1]), fresh)
        ]
        if reach[0] <= STALE * reach[1] + COPY:
            return released
    return encode(fresh)


def k_center(embeddings: Floats, count: int) -> Floats:
    """Up to `count` rows at length 1, each the farthest from those before: greedy k-center (Gonzalez, "Clustering to
    minimize the maximum intercluster distance", 1985). The first is the one nearest to the middle of all.
    """
    points = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    points = points[np.linalg.norm(points, axis=1) > 0.5]
    chosen = [int((points @ points.mean(axis=0)).argmax())] if len(points) else []
    distance = np.full(len(points), np.inf, np.float32)
    while 0 < len(chosen) < count:
        distance = np.minimum(distance, 1.0 - points @ points[chosen[-1]])
        farthest = int(distance.argmax())
        if distance[farthest] < COPY:
            break
        chosen.append(farthest)
    rows: Floats = points[chosen].astype(np.float32)
    return rows
