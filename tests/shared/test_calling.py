import numpy as np

from shared.calling import called


def test_the_label_is_the_class_that_exceeds_its_threshold_most():
    p = np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]], np.float32)
    assert called(p).tolist() == called(p, []).tolist() == called(p, None).tolist() == [0, 1, 0]
    assert called(p, [0.8, 0.2]).tolist() == [1, 1, 0]
    assert called(p[0], np.array([0.8, 0.2], np.float32)) == 1
