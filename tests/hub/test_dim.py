"""Too little light, told from parts that are dark by themselves."""

import numpy as np
import pytest

from hub import dim
from hub.dim import dimness, levels
from hub.quality import ENOUGH, grey_of, light_of, sharpness
from tests.hub.pictures import part


def seen(pixels):
    grey = grey_of(pixels)
    return levels(light_of(grey), sharpness(grey))


def exposed(seed, light=1.0, mean=128.0):
    return seen((part(seed, mean=mean) * light).astype(np.uint8))


def drawn(rng, count, spread):
    """Levels of parts that differ in light by `spread`, and in what they show by a little."""
    return [
        np.float32([one, one, 3, 5, 5]) + np.float32(rng.normal(0, 0.05, 5)) for one in rng.normal(4, spread, count)
    ]


def test_half_the_usual_light_is_too_little():
    usual = [exposed(one, mean=60) for one in range(ENOUGH)]
    assert dimness(exposed(99, mean=60), usual) < dim.LIMIT
    assert dimness(exposed(99, 0.4, mean=60), usual) > dim.LIMIT
    assert dimness(exposed(99, 0.4, mean=60), usual[1:]) is None, "too few to say what is usual"


def test_parts_that_differ_in_light_alone_do_not_hide_one_that_got_less_of_it():
    rng = np.random.default_rng(0)
    usual = drawn(rng, 60, spread=0.4)
    assert dimness(usual[0] - np.float32(0.5), usual) > dim.LIMIT, "all is fainter"
    assert dimness(np.float32([3.2, 3.2, 3, 5, 5]), usual) < dim.LIMIT, "a dark part shows what all of them do"


def test_a_tenth_of_dark_pictures_among_the_earlier_ones_does_not_hide_the_next():
    rng = np.random.default_rng(1)
    usual = drawn(rng, 60, spread=0.2)
    dirty = usual + [one - np.float32(1.5) for one in drawn(rng, 6, spread=0.2)]
    for history in (usual, dirty):
        assert dimness(np.float32([3.3, 3.3, 2.3, 4.3, 4.3]), history) > dim.LIMIT


def test_a_still_scene_has_no_spread_and_is_judged_all_the_same():
    still = [np.float32([4, 4, 3, 5, 5])] * ENOUGH
    assert dimness(still[0], still) == pytest.approx(0)
    assert dimness(still[0] - np.float32(0.7), still) > dim.LIMIT
