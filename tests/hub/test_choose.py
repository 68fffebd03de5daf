"""Which image comes next is a rule with values."""

from typing import get_args, get_type_hints

import numpy as np
import pytest

from hub.choose import ORDERS, PAGE, Waiting, camera, cluster, halves, mix, random, uncertainty
from hub.settings import LabelSettings

NONE = np.zeros((0, 2), np.float32)


def f(*rows):
    return np.array(rows, np.float32)


def at(*degrees):
    """Points on a circle: cosine distance grows with the angle between."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def wait(scores, points, known=NONE, cameras=None):
    return Waiting(np.asarray(scores, np.float32), points, cameras or ["site/a"] * len(points), known)


def test_every_order_is_a_setting_and_every_setting_an_order():
    assert set(get_args(get_type_hints(LabelSettings)["order"])) == set(ORDERS)


@pytest.mark.parametrize("name", ORDERS)
def test_nothing_is_chosen_twice_and_no_more_than_there_is(name):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(17, 3)).astype(np.float32)
    one = wait(rng.random(17), points, points[:3], [f"site/{number % 4}" for number in range(17)])
    for count in (0, 1, 5, 17, 40):
        got = ORDERS[name](one, count)
        assert len(got) == len(set(got)) == min(count, 17)
        assert got == ORDERS[name](one, count), "the same each time"
    nothing = wait([], np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))
    assert ORDERS[name](nothing, 5) == []


# -- mix


def cloud(centre, count, seed=0, spread=0.05):
    return (np.array(centre) + spread * np.random.default_rng(seed).normal(size=(count, len(centre)))).astype(
        np.float32
    )


def test_a_new_line_is_asked_about_before_what_is_known():
    old, new = cloud([0, 0, 0], 40), cloud([3, 3, 0], 40, seed=1)
    order = mix(wait(np.full(80, 0.7), np.concatenate([old, new]), cloud([0, 0, 0], 30, seed=2)), 5)
    assert all(one >= 40 for one in order)


def test_many_alike_come_before_an_outlier():
    many, outlier = cloud([1, 0, 0], 60, spread=0.3), f([-0.1, 0.5, 0.5])
    assert mix(wait(np.full(61, 0.6), np.concatenate([many, outlier])), 1)[0] < 60
    assert halves(wait([0.6] * 60 + [0.5], np.concatenate([many, outlier])), 1)[0] == 60, "k-center takes it"


def test_where_all_lie_alike_the_unsure_one_comes_first():
    points = at(0, 90, 180, 270)
    for unsure in range(4):
        scores = np.full(4, 0.95)
        scores[unsure] = 0.55
        assert mix(wait(scores, points), 1) == [unsure]


def test_it_is_the_greatest_reduction_of_weighted_variance_that_bayesian_regression_gives():
    rng = np.random.default_rng(4)
    x, known = rng.normal(size=(12, 3)).astype(np.float32), rng.normal(size=(7, 3)).astype(np.float32)
    scores = rng.uniform(0.5, 1, 12)
    everything = np.concatenate([x, known]).astype(np.float64)
    z = (everything - everything.mean(0)) / (everything.std(0) + 0.3 * everything.std(0).mean())
    z = np.c_[z / np.sqrt((z**2).sum(1).mean()), np.ones(19)]  # with a bias
    sure = 4 * scores * (1 - scores)
    expected, rows = [], list(range(12, 19))
    for _ in range(4):
        before = z @ np.linalg.inv(np.eye(4) + z[rows].T @ z[rows]) @ z.T
        gains = []
        for one in range(12):
            after = z @ np.linalg.inv(np.eye(4) + z[[*rows, one]].T @ z[[*rows, one]]) @ z.T
            gains.append(-1 if one in expected else sure[one] * (sure @ np.diag(before - after)[:12]))
        expected.append(int(np.argmax(gains)))
        rows.append(expected[-1])
    assert mix(wait(scores, x, known), 4) == expected


def test_copies_come_last():
    points = np.concatenate([np.repeat(at(0), 10, axis=0), at(60, 120)])
    first = mix(wait(np.full(12, 0.6), points), 3)
    assert len({0 if one < 10 else one for one in first}) == 3
    assert set(mix(wait(np.full(12, 0.6), points, at(0)), 2)) == {10, 11}, "of what is known"
    assert sorted(mix(wait(np.zeros(4), np.zeros((4, 2), np.float32)), 4)) == [0, 1, 2, 3]


def test_of_very_many_a_spread_is_compared(monkeypatch):
    monkeypatch.setattr("hub.choose.MOST", 50)
    rng = np.random.default_rng(0)
    points, known = rng.normal(size=(400, 4)).astype(np.float32), rng.normal(size=(300, 4)).astype(np.float32)
    scores = rng.uniform(0.5, 1, 400)
    order = mix(wait(scores, points, known), 60)
    assert len(set(order)) == 60
    assert scores[order].min() < 0.55
    assert scores[order].max() > 0.95


# -- halves


def test_without_anything_known_the_least_sure_comes_first():
    assert halves(wait([0.9, 0.2, 0.5], at(0, 40, 80)), 1) == [1]


def test_the_farthest_from_what_is_known_comes_first():
    assert halves(wait([0.0, 0.9, 0.5], at(1, 90, 30), at(0)), 1) == [1]


def test_in_turn_the_farthest_of_all_and_of_the_unsure():
    # 24 sure images everywhere, 8 unsure ones near 0 degrees: only every second one may come from the unsure.
    scores = [0.0] * 8 + [0.9] * 24
    points = np.concatenate([at(*np.linspace(1, 8, 8)), at(*np.linspace(90, 270, 24))])
    order = halves(wait(scores, points, at(0)), 2)
    assert order[0] >= 8, "k-center over all"
    assert order[1] == 7, "the farthest of the shortlist"


def test_what_is_chosen_is_spread_out():
    points = np.concatenate([at(*np.linspace(0, 2, 30)), at(120), at(240)])
    assert {30, 31} < set(halves(wait(np.zeros(32), points), 8))


def test_copies_are_not_asked_for_twice_while_there_is_something_else():
    points = np.concatenate([at(*[0] * 10), at(60, 120)])
    first = halves(wait(np.zeros(12), points), 3)
    assert len({0 if one < 10 else one for one in first}) == 3
    known = halves(wait(np.zeros(12), points, at(0)), 2)
    assert set(known) == {10, 11}, "a copy of what is known comes last"
    assert sorted(halves(wait(np.zeros(4), np.zeros((4, 2), np.float32)), 4)) == [0, 1, 2, 3]


def test_length_does_not_matter_only_direction():
    points = at(10, 80, 40)
    scaled = points * f([100.0], [0.01], [3.0])
    scores = [0.1, 0.2, 0.3]
    assert halves(wait(scores, points, at(0)), 3) == halves(wait(scores, scaled, at(0) * 7), 3)


def test_a_long_shortlist_takes_surer_ones_that_lie_farther():
    # The first turn takes the one at 180 degrees; of the other eight, the surer they are, the farther they lie.
    points = np.concatenate([at(*np.linspace(2, 16, 8)), at(180), at(*[0.5] * 18)])
    scores = [*np.linspace(0.1, 0.2, 8), 0.9, *[0.8] * 18]
    assert [halves(wait(scores, points, at(0)), 2, shortlist=one)[1] for one in (1, 2, 4)] == [1, 3, 7]


# -- the others


def test_the_least_sure_first():
    assert uncertainty(wait([0.9, 0.2, 0.5, 0.2], at(0, 1, 2, 3)), 3) == [1, 3, 2]


def test_cameras_take_turns_each_with_its_least_sure():
    cameras = ["site/b", "site/b", "site/b", "site/a", "site/c"]
    assert camera(wait([0.5, 0.3, 0.4, 0.9, 0.6], at(0, 1, 2, 3, 4), cameras=cameras), 5) == [3, 1, 4, 2, 0]


def test_like_images_come_together_the_greatest_group_and_the_most_typical_first():
    few, many = np.linspace(80, 84, PAGE - 4), np.linspace(0, 4, PAGE + 4)
    points = np.concatenate([at(*few), at(*many)])
    order = cluster(wait(np.zeros(2 * PAGE), points), 2 * PAGE)
    assert all(one >= len(few) for one in order[: len(many)])
    assert set(order[:2]) == {len(few) + 7, len(few) + 8}, "those in the middle of their group"


def test_random_is_any_with_the_same_probability_and_another_seed_another_order():
    one = wait(np.zeros(10), at(*range(10)))
    first = [random(one, 1, seed=seed)[0] for seed in range(2000)]
    counts = np.bincount(first, minlength=10)
    assert counts.min() > 140
    assert counts.max() < 260
