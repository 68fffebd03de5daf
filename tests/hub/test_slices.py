"""Slices: by camera, condition and time, and where there are too few images nothing is claimed."""

from datetime import timedelta

import numpy as np
import pytest

from hub.evaluate import wilson
from hub.slices import Slice, Traits, slices
from tests.hub.making import NOW


def traits(camera="site/a", conditions=(), days=0.0):
    return Traits(camera, None if conditions is None else list(conditions), NOW + timedelta(days=days))


def by_name(found, kind):
    return {one.name: one for one in found if one.kind == kind}


def test_each_camera_has_its_figure():
    right = np.array([True] * 18 + [False] * 2 + [True] * 5 + [False] * 15)
    before = np.array([True] * 10 + [False] * 10 + [True] * 20)
    found = slices(right, [traits("site/a")] * 20 + [traits("")] * 20, before=before, minimum=20)
    a, imported = by_name(found, "camera")["site/a"], by_name(found, "camera")["imported"]
    assert (a.n, a.few, a.accuracy.value, a.before.value, a.fixed, a.broken) == (20, False, 0.9, 0.5, 8, 0)
    assert (imported.accuracy.value, imported.before.value, imported.fixed, imported.broken) == (0.25, 1.0, 0, 15)
    assert a.accuracy == wilson(0.9, 20)


def test_too_few_say_so():
    found = slices(np.ones(21, bool), [traits("site/a")] * 20 + [traits("site/b")], minimum=20)
    assert by_name(found, "camera")["site/b"] == Slice(kind="camera", name="site/b", n=1, few=True)
    assert by_name(found, "camera")["site/a"].before is None, "there is no old model"


def test_an_image_counts_under_each_of_its_conditions():
    marks = [traits(conditions=["dark", "blurred"]), traits(conditions=["dark"]), traits(), traits()]
    found = by_name(slices(np.array([0, 1, 1, 0], bool), marks, minimum=1), "condition")
    assert {name: (one.n, one.accuracy.value) for name, one in found.items()} == {
        "blurred": (1, 0.0),
        "dark": (2, 0.5),
        "nothing found": (2, 0.5),
    }


def test_an_image_that_nobody_looked_at_is_no_image_without_findings():
    marks = [traits(conditions=["dark"]), traits(), traits("", conditions=None), traits("", conditions=None)]
    found = slices(np.array([0, 1, 0, 0], bool), marks, minimum=1)
    assert {name: (one.n, one.accuracy.value) for name, one in by_name(found, "condition").items()} == {
        "dark": (1, 0.0),
        "nothing found": (1, 1.0),
    }
    assert by_name(found, "camera")["imported"].n == 2


@pytest.mark.parametrize(("days", "kind", "names"), [
    ([0, 0, 13], "day", {"2026-03-01": 2, "2026-03-14": 1}),
    ([0, 7, 15], "week", {"2026-W09": 1, "2026-W10": 1, "2026-W12": 1}),
])  # fmt: skip
def test_time_is_told_apart_by_day_and_over_a_longer_time_by_week(days, kind, names):
    marks = [*(traits(days=one) for one in days), traits("", days=400)]
    found = slices(np.ones(len(marks), bool), marks, minimum=1)
    assert {one.name: one.n for one in found if one.kind in ("day", "week")} == names, (
        "imports have no time of their own"
    )
    assert by_name(found, kind)


def test_a_kind_with_one_slice_is_left_out():
    assert slices(np.ones(30, bool), [traits()] * 30, minimum=20) == []


def test_wilson_agrees_with_the_published_example():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: 81 of 263, 15 of 148, 0 of 20.
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson(hits / n, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
