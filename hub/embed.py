"""Embeddings of stored images by one backbone: computed once, kept beside the images."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlmodel import col, select

from hub.store import Store
from hub.tables import Embedding, Image
from shared.errors import ImageError, StoreError
from shared.litert import Part
from shared.preprocess import Pixels, Preprocess, decode, to_input

log = logging.getLogger(__name__)
ROWS = 500  # ids in one query: databases bound the number of parameters


def load(store: Store, backbone: str, image_ids: Sequence[int]) -> dict[int, NDArray[np.float32]]:
    """The embeddings that are there: image id -> float32 [dims]."""
    found: dict[int, NDArray[np.float32]] = {}
    with store.reading() as connection:
        for start in range(0, len(image_ids), ROWS):
            some = list(image_ids[start : start + ROWS])
            rows = connection.execute(
                select(Embedding.image_id, Embedding.vector).where(
                    Embedding.backbone == backbone, col(Embedding.image_id).in_(some)
                )
            )
            found.update({one: np.frombuffer(vector, "<f4").astype(np.float32) for one, vector in rows})
    return found


def complete(
    store: Store,
    backbone: str,
    part: Part,
    how: Preprocess,
    image_ids: Sequence[int],
    *,
    progress: Callable[[int, int], None],
) -> dict[int, NDArray[np.float32]]:
    """The embeddings of all these images, computing and keeping what lacks; an image that cannot be decoded has none.

    progress: is told (done, to do) after each image that had to be computed.
    """
    found = load(store, backbone, image_ids)
    lacking = [one for one in image_ids if one not in found]
    for start in range(0, len(lacking), 32):
        some = lacking[start : start + 32]
        with store.read() as session:
            hashes = dict(session.exec(select(Image.id, Image.sha256).where(col(Image.id).in_(some))).all())
        rows = []
        for offset, image_id in enumerate(some):
            try:
                vector = part.run(to_input(decode(store.blobs.read(hashes[image_id])), how))[0]
            except (ImageError, StoreError) as error:
                log.warning("image %d has no embedding: %s", image_id, error)
                continue
            finally:
                progress(start + offset + 1, len(lacking))
            found[image_id] = vector
            rows.append(Embedding(image_id=image_id, backbone=backbone, vector=vector.astype("<f4").tobytes()))
        with store.write() as session:
            for row in rows:
                session.merge(row)
    return found


def hashes(store: Store, ids: Sequence[int]) -> dict[int, str]:
    """Image id -> sha256."""
    found: dict[int, str] = {}
    with store.read() as session:
        for start in range(0, len(ids), ROWS):
            rows = session.exec(select(Image.id, Image.sha256).where(col(Image.id).in_(ids[start : start + ROWS])))
            found.update({one: sha256 for one, sha256 in rows if one is not None})
    return found


def pictures(store: Store, ids: Sequence[int]) -> list[Pixels]:
    """The images, decoded; StoreError or ImageError where one cannot be."""
    named = hashes(store, ids)
    return [decode(store.blobs.read(named[one])) for one in ids]
