"""What looks alike is in one group, whatever its length; the same again for the same seed."""

import numpy as np

from hub.clusters import kmeans


def heaps(seed=0):
    rng = np.random.default_rng(seed)
    centers = np.eye(16)[:4]
    truth = np.repeat(np.arange(4), [40, 30, 20, 10])
    return (centers[truth] + rng.normal(0, 0.05, (100, 16))).astype(np.float32) * rng.uniform(0.1, 9, (100, 1)), truth


def test_heaps_are_found():
    points, truth = heaps()
    nearest, likeness = kmeans(points.astype(np.float32), 4)
    assert all(len(set(nearest[truth == one].tolist())) == 1 for one in range(4))
    assert len(set(nearest.tolist())) == 4
    assert likeness.min() > 0.9


def test_the_same_again_and_never_more_than_there_is():
    points, _ = heaps()
    assert np.array_equal(kmeans(points, 6, 3)[0], kmeans(points, 6, 3)[0])
    assert kmeans(points[:2], 12)[0].max() <= 1
    assert kmeans(np.ones((9, 4), np.float32), 3)[0].tolist() == [0] * 9
