"""A camera that was turned, moved or covered sees another scene; another part, or more light, is the same one."""

import numpy as np

from hub import framing
from hub.framing import likeness, view_of
from hub.quality import ENOUGH, grey_of
from tests.hub.pictures import part

BEFORE = [view_of(grey_of(part(one))) for one in range(ENOUGH)]


def judged(pixels, history=BEFORE):
    found = likeness(view_of(grey_of(pixels)), history)
    return found is not None and found[0] < framing.UNLIKE_BELOW and found[1] > framing.LIMIT


def test_another_part_or_light_is_the_same_view():
    assert not any(judged(part(one)) for one in range(100, 140))
    assert not judged(np.uint8(part(100) * 0.5))


def test_a_turned_camera_and_another_scene_are_told():
    assert judged(np.ascontiguousarray(part(100).transpose(1, 0, 2)))
    assert judged(np.uint8(np.linspace(20, 230, 300)[None, :, None].repeat(300, 0).repeat(3, 2)))


def test_nothing_is_said_before_there_is_enough_to_compare_with():
    assert likeness(BEFORE[0], BEFORE[1:]) is None
