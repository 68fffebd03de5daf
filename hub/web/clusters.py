"""Read model of what waits for a label, in groups that look alike."""

import numpy as np
from sqlmodel import col, select

from hub.clusters import kmeans
from hub.queue import waits
from hub.store import Store
from hub.tables import INT8, Embedding, Image
from hub.web.images import queue_item
from hub.web.models import ClusterView
from shared.policy import AUDIT, PAIR

MOST = 2000
"""Images that are grouped at once, the newest: a matter of half a second."""
SHOWN = 60
"""Of one group."""
TYPICAL = 5
"""Images of a group on average, at least: one decision for one image is the label desk's."""


class Clusters:
    """The clusters of one project."""

    def __init__(self, project: str, store: Store) -> None:
        self._project = project
        self._store = store

    def all(self, count: int) -> list[ClusterView]:
        """At most `count` clusters of images that wait and have an embedding by the newest backbone, largest first.

        Without audit images and pairs: which of these get a label is not for anybody to pick.
        """
        with self._store.read() as session:
            rows = session.exec(
                select(Image, Embedding)
                .join(Embedding, col(Embedding.image_id) == col(Image.id))
                .where(*waits(self._project), col(Image.why).not_in([AUDIT, PAIR]))
                .where(col(Embedding.backbone).not_like(f"{INT8}%"))
                .order_by(col(Image.id).desc())
                .limit(MOST)
            ).all()
        images = [(image, found) for image, found in rows if found.backbone == rows[0][1].backbone]
        if not images:
            return []
        vectors = np.stack([np.frombuffer(one.vector, "<f4") for _, one in images])
        nearest, likeness = kmeans(vectors, min(count, max(1, len(images) // TYPICAL)))
        groups = []
        for one in range(int(nearest.max()) + 1):
            members = sorted(np.flatnonzero(nearest == one).tolist(), key=lambda row: -float(likeness[row]))
            if members:
                shown = [queue_item(images[row][0]) for row in members[:SHOWN]]
                groups.append(ClusterView(size=len(members), images=shown))
        return sorted(groups, key=lambda group: -group.size)
