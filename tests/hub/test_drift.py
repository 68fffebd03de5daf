"""Drift: an alarm where something changed, and no more false ones than was asked for."""

import numpy as np
import pytest

from hub.drift import Drift, Measure, basis, compare, counts_differ, drifted, holm, points_differ, sample

RNG = np.random.default_rng
AXES = basis("b", RNG(0).normal(size=(100, 40)).astype(np.float32))


def seen(rng, n, *, low=0.2, classes=(0.9, 0.1), shift=0.0):
    scores = np.where(rng.random(n) < low, rng.uniform(0.5, 0.8, n), rng.uniform(0.8, 1, n))
    names = rng.choice(["good", "defect", "crack"][: len(classes)], n, p=classes)
    points = rng.normal(size=(n, 40)) + shift * np.eye(40)[0]
    return sample(scores.tolist(), names.tolist(), AXES.project(points.astype(np.float32)))


def look(reference, now, seed=0, level=0.01):
    return compare(reference, now, camera="a", release=2, own=True, low_score=0.8, level=level, seed=seed)


@pytest.mark.parametrize(("changed", "name"), [
    ({"low": 0.6}, "low_score"),
    ({"classes": (0.5, 0.5)}, "class_mix"),
    ({"shift": 3.0}, "embedding"),
])  # fmt: skip
def test_each_measure_finds_its_own_change(changed, name):
    reference = seen(RNG(1), 200)
    found = look(reference, seen(RNG(2), 50, **changed))
    assert found.drifted
    assert [one.name for one in found.measures if one.p <= 0.01 / 3] == [name]
    assert look(reference, seen(RNG(2), 50)).drifted is False


def test_a_fleet_where_nothing_changes_raises_few_alarms():
    """At most the level, over references, blocks and measures: 60 blocks at .1 give 6, and hardly ever 15."""
    alarms = sum(look(seen(RNG(one), 100), seen(RNG(one + 5000), 50), one, level=0.1).drifted for one in range(60))
    assert 1 <= alarms <= 14


def test_the_reason_is_in_words():
    reference = seen(RNG(1), 200)
    found = look(reference, seen(RNG(2), 50, low=0.7))
    was, now = found.measures[0].reference, found.measures[0].now
    assert f"{now:.0%} of the scores are low instead of {was:.0%}" in found.reason
    assert "the same camera" in found.reason
    assert "look like" in look(reference, seen(RNG(3), 50)).reason


def test_images_that_are_not_embedded_leave_the_other_measures():
    blind = sample([0.5] * 50, ["good"] * 50, np.zeros((0, 32), np.float32))
    found = look(seen(RNG(1), 200), blind)
    assert [one.name for one in found.measures] == ["low_score", "class_mix"]
    assert found.drifted


def test_a_class_that_the_reference_never_had():
    reference = sample([0.9] * 60, ["good"] * 60, np.zeros((0, 32), np.float32))
    now = sample([0.9] * 50, ["good"] * 25 + ["crack"] * 25, np.zeros((0, 32), np.float32))
    [_, mix] = look(reference, now).measures
    assert mix.distance == 0.5
    assert look(reference, reference).drifted is False


def test_counts_agree_with_fishers_exact_test():
    """One-sided in the distance is two-sided in the table: where both margins are equal the two tests agree."""
    from scipy.stats import fisher_exact

    reference, now = np.array([10, 40]), np.array([20, 30])
    p = np.mean([counts_differ(reference, now, RNG(seed))[1] for seed in range(20)])
    assert p == pytest.approx(fisher_exact([reference, now]).pvalue, abs=0.005)


def test_points_agree_with_energy_by_hand():
    reference, now = np.array([[0.0], [2.0]], np.float32), np.array([[1.0], [5.0]], np.float32)
    across, within = (1 + 5 + 1 + 3) / 4, (2 * 2 / 4, 2 * 4 / 4)
    distance, p = points_differ(reference, now, RNG(0))
    assert distance == pytest.approx((2 * across - sum(within)) / (2 * across))
    assert p > 0.3
    assert points_differ(reference, reference, RNG(0)) == (0.0, 1.0)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03], 0.05) == [True, False, False]
    assert holm([0.01, 0.02, 0.03], 0.05) == [True, True, True]
    assert holm([0.02, 0.9, 0.9], 0.05) == [False, False, False]
    assert holm([], 0.05) == []


def test_a_projection_keeps_the_largest_part_of_the_variance():
    rng = RNG(5)
    flat = (rng.normal(size=(60, 3)) @ rng.normal(size=(3, 50)) + 7).astype(np.float32)
    axes = basis("b", flat)
    spread = np.linalg.norm(flat - flat.mean(axis=0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(axes.project(flat), axis=1), spread, rtol=1e-3)
    assert axes.project(flat).shape == (60, 32)


def test_a_policy_goes_by_the_surest_alarms_of_the_release_in_use():
    def made(camera, p, release=2, alarm=True):
        measures = [Measure(name="low_score", distance=0.1, p=p)]
        return Drift(
            camera=camera, release=release, n=50, own=True, level=0.01, drifted=alarm, measures=measures, reason=""
        )

    found = [made("a", 0.002), made("b", 0.001), made("c", 0.0005, release=1), made("d", 0.4, alarm=False)]
    assert [one.camera for one in drifted(found)] == ["c", "b", "a"]
    assert [one.camera for one in drifted(found, {"a": 2, "b": 2, "c": 2})] == ["b", "a"]
