"""All rules together on a line of drawn parts: what is planted is flagged, the others are not."""

import dataclasses

import cv2
import numpy as np

from hub.looks import WINDOW, Checker
from hub.quality import grey_of
from shared.preprocess import decode, encode_jpeg
from tests.hub.pictures import part


def vector_of(pixels):
    """An embedding that is alike for all parts, as a backbone's is: coarse structure."""
    small = cv2.resize(grey_of(pixels), (8, 8), interpolation=cv2.INTER_AREA)
    return np.append(small.ravel() - small.mean(), 60).astype(np.float32)


class Line:
    def __init__(self):
        self.greys = {}
        self.checker = Checker(self.greys.get)
        self.count = 0

    def see(self, pixels, camera="a/b"):
        self.count += 1
        flags, look = self.checker.look(camera, pixels, vector_of(pixels))
        self.checker.add(self.count, camera, look, vector_of(pixels))
        self.greys[self.count] = grey_of(pixels)
        return flags, look


def test_planted_faults_are_flagged_and_good_parts_are_not():
    line = Line()
    early = [line.see(part(one))[0] for one in range(64)]
    line.checker.taught(np.stack([vector_of(part(one)) for one in range(64)]))
    clean = [line.see(part(one))[0] for one in range(100, 140)]
    assert sum(bool(one) for one in early) <= 2
    assert sum(bool(one) for one in clean) <= 3
    assert "blurred" in line.see(cv2.GaussianBlur(part(200), (0, 0), 4))[0]
    assert "dark" in line.see(np.uint8(part(201) * 0.25))[0]
    flags, look = line.see(decode(encode_jpeg(np.roll(part(110), 2, axis=1), 80)))
    assert flags["copy"] > 0.99
    assert look.copy_of == 64 + 11
    turned = line.see(np.ascontiguousarray(part(202).transpose(1, 0, 2)))[0]
    assert {"view", "novel"} <= set(turned)


def test_before_anything_is_known_a_flat_picture_is_blurred():
    flags, _ = Line().see(np.full((100, 100, 3), 128, np.uint8))
    assert flags == {"blurred": 0.0}


def test_cameras_have_their_own_light_and_view():
    line = Line()
    for one in range(40):
        line.see(part(one), "a/bright")
        line.see(np.uint8(part(100 + one) * 0.3), "a/dim")
    assert "dark" in line.see(np.uint8(part(300) * 0.3), "a/bright")[0]
    assert "dark" not in line.see(np.uint8(part(301) * 0.3), "a/dim")[0]


def test_the_window_of_copies_forgets_the_oldest_and_another_backbone_begins_anew():
    line = Line()
    _, look = line.see(part(1))
    small = np.ones(3, np.float32)
    for one in range(WINDOW + 5):
        line.checker.add(1000 + one, "a/b", look, small)
    assert line.checker._id_at(0) == 1000 + WINDOW
    assert line.checker._id_at(5) == 1005
    assert len(line.checker._ids) == WINDOW
    assert line.checker._copy(grey_of(part(1)), look.bits, vector_of(part(1))) is None


def test_what_an_older_version_measured_teaches_nothing_and_hurts_nothing():
    line = Line()
    _, look = line.see(part(1))
    old = dataclasses.replace(look, sharp=look.sharp[:48], soft=look.soft[:48])
    for one in range(100):
        line.checker.add(1000 + one, "a/b", old, vector_of(part(1)))
    line.checker.add(2000, "a/b", look, vector_of(part(1)))
    assert "dark" not in line.see(part(2))[0]
    assert line.checker._rule is None
