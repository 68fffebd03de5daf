"""The gate by its word: both guarantees hold under looks after every frame, for ever, and both sides can be proven."""

from fractions import Fraction
from functools import cache
from math import comb, isfinite, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.gate import Pairs, harm_of, judge, safety_of

MARGIN, ERROR = 0.02, 0.05
COUNTS = st.integers(0, 400)
SHARES = st.floats(0.05, 1.0)


@st.composite
def pairs(draw):
    broken, mended, tied, waiting = (draw(st.integers(0, 60)) for _ in range(4))
    more = draw(st.integers(0, 5000))
    return Pairs(broken + mended + tied + waiting + more, broken, mended, tied, waiting, draw(SHARES))


def changed(one, **by):
    """The same pairs with some counts more or less."""
    fields = {name: getattr(one, name) for name in ("frames", "broken", "mended", "tied", "open", "share")}
    return Pairs(**{**fields, **{name: fields[name] + more for name, more in by.items()}})


# -- harm


@pytest.mark.parametrize(
    ("broken", "mended"), [(0, 0), (1, 0), (0, 1), (5, 2), (2, 5), (20, 20), (40, 13), (13, 40), (300, 260), (260, 300)]
)
def test_harm_is_the_integral_that_the_docstring_names(broken, mended):
    p = np.linspace(0.5, 1.0, 400_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(broken > 0, broken * np.log(2 * p), 0) + (mended * np.log(2 * (1 - p)) if mended else 0.0)
    wanted = np.trapezoid(2 * np.exp(logs), p)
    assert harm_of(broken, mended) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("broken", "mended"), [(0, 0), (7, 3), (3, 7), (50, 50), (51, 50), (400, 700), (700, 400)])
def test_harm_is_the_ratio_of_whole_numbers(broken, mended):
    count = broken + mended
    exact = Fraction(sum(comb(count + 1, one) for one in range(broken + 1)), (count + 1) * comb(count, broken))
    assert harm_of(broken, mended) == pytest.approx(float(min(exact, Fraction(10**300))), rel=1e-9)


@given(COUNTS, COUNTS)
def test_one_more_that_it_breaks_speaks_more_against_it_and_one_that_it_mends_less(broken, mended):
    here = harm_of(broken, mended)
    assert harm_of(broken + 1, mended) > here > harm_of(broken, mended + 1) > 0


# -- safety


@given(pairs())
def test_what_is_open_counts_as_broken(one):
    as_broken = changed(one, broken=one.open, open=-one.open)
    assert safety_of(one, MARGIN) == safety_of(as_broken, MARGIN)


@given(pairs(), st.floats(0.001, 0.5))
def test_safety_grows_with_good_frames_and_shrinks_with_bad_ones(one, margin):
    here = safety_of(one, margin)
    if not 1e-290 < here < 1e290:
        return
    assert safety_of(changed(one, frames=1), margin) > here
    assert safety_of(changed(one, frames=1, mended=1), margin) > safety_of(changed(one, frames=1, tied=1), margin)
    assert safety_of(changed(one, frames=1, broken=1), margin) < here
    if one.open:
        assert safety_of(changed(one, open=-1, tied=1), margin) > here, "settled as neither"
        assert safety_of(changed(one, open=-1, mended=1), margin) > here


@given(pairs(), st.floats(0.001, 0.2))
def test_a_wider_margin_is_proven_sooner(one, margin):
    assert safety_of(one, margin * 2) >= safety_of(one, margin) * (1 - 1e-12)


def test_nothing_seen_proves_nothing():
    got = judge(Pairs(), margin=MARGIN, error=ERROR)
    assert (got.verdict, got.harm, got.safety) == ("open", 1.0, 1.0)


def test_frames_without_a_difference_prove_it_safe_after_a_while():
    assert judge(Pairs(100), margin=MARGIN, error=ERROR).verdict == "open"
    assert judge(Pairs(400), margin=MARGIN, error=ERROR).verdict == "safe"
    assert judge(Pairs(400, open=8), margin=MARGIN, error=ERROR).verdict == "open", "until somebody says what they are"


def test_harm_goes_first():
    got = judge(Pairs(1_000_000, broken=40, mended=5), margin=0.5, error=ERROR)
    assert got.safety > 1 / ERROR
    assert got.verdict == "worse"


# -- the two guarantees, looked at after every frame

SEEDS, FRAMES = 300, 3000


def at_most(error, seeds=SEEDS):
    """More than this would not be chance (four standard deviations)."""
    return seeds * error + 4 * sqrt(seeds * error * (1 - error))


def histories(breaks, mends, share=1.0):
    """For each seed the pairs so far, at each moment at which a verdict can become true: before and after each draw."""
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        kind = rng.choice(3, FRAMES, p=[1 - breaks - mends, breaks, mends])
        drawn = rng.random(FRAMES) < share
        broken = mended = 0
        looks = []
        for frame in np.nonzero((kind > 0) & drawn)[0]:
            # Between two drawn differences safety only grows and harm stays: a look at the last of these frames is one
            # at all of them.
            looks.append(Pairs(int(frame), broken, mended, share=share))
            broken, mended = broken + int(kind[frame] == 1), mended + int(kind[frame] == 2)
            looks.append(Pairs(int(frame) + 1, broken, mended, share=share))
        looks.append(Pairs(FRAMES, broken, mended, share=share))
        yield looks


cached_harm = cache(harm_of)


def share_of(rate, found):
    return sum(any(found(one) for one in looks) for looks in histories(*rate))


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_an_equal_model_is_seldom_taken_for_a_worse_one(share):
    false = share_of((0.05, 0.05, share), lambda one: cached_harm(one.broken, one.mended) >= 1 / ERROR)
    assert false <= at_most(ERROR)


@pytest.mark.parametrize("share", [1.0, 0.4])
@pytest.mark.parametrize("mends", [0.0, 0.01])
def test_a_model_that_is_worse_by_the_margin_is_seldom_let_through(mends, share):
    false = share_of((mends + MARGIN, mends, share), lambda one: safety_of(one, MARGIN) >= 1 / ERROR)
    assert false <= at_most(ERROR)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_what_is_plainly_worse_is_found_and_what_is_as_good_gets_through(share):
    worse = share_of((0.08, 0.01, share), lambda one: cached_harm(one.broken, one.mended) >= 1 / ERROR)
    assert worse > 0.95 * SEEDS
    good = share_of((0.005, 0.01, share), lambda one: safety_of(one, MARGIN) >= 1 / ERROR)
    assert good > 0.95 * SEEDS


def test_without_the_weights_a_share_would_let_a_worse_model_through():
    """The same histories, taken as if all differences had been asked about: the guarantee above is not for free."""
    false = share_of((MARGIN + 0.01, 0.01, 0.4), lambda one: safety_of(changed(one, share=0.6), MARGIN) >= 1 / ERROR)
    assert false > at_most(ERROR)


# -- what no fleet should send


@pytest.mark.parametrize(
    "one",
    [
        Pairs(100_000, 5000, 5000),
        Pairs(100_000, 10_000, 0),
        Pairs(100_000, 0, 10_000),
        Pairs(2**53, 0, 0),
        Pairs(2**60, 2**30, 2**30, 2**30, 2**53),
        Pairs(2**53, 2**53, 0),
        Pairs(0, 10, 10, 10, 10),
    ],
)
def test_huge_and_odd_counts_are_judged_and_stay_finite(one):
    got = judge(one, margin=MARGIN, error=ERROR)
    assert isfinite(got.harm)
    assert isfinite(got.safety)
    assert got.safety >= 0
