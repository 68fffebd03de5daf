"""Gate: from frames that an old and a new model both judged, is the new one worse, not worse, or is it open? Pure.

On most frames the two agree, and there it does not matter who is right. Where they differ an operator says what it is.
Two tests run side by side, and both may be looked at after every frame, for ever (Ville's inequality: a process that
stays fair in the mean gets above 1 / error with no more than that chance, whenever one looks):

harm: of the settled differences, does the new model lose more than half? The likelihood of a losing share above one
    half, each equally likely, over that of one half. For a new model that is as good or better it is above 1 / error
    with no more chance than `error`: so seldom is an equal model taken for a worse one.
safety: is the new model wrong on less than `margin` more of all frames than the old one? A gambler bets that it is:
    each frame multiplies his money by 1 + bet * (margin - x), where x is 1 for a frame that the new model breaks, -1
    for one that it mends and 0 for others; he spreads it over many sizes of bets. Were the new model worse by the
    margin he would not gain; so seldom as `error` is such a model let through. What nobody has settled yet counts as
    broken.

Source: Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", 2023; Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", 2024.
"""

from dataclasses import dataclass
from math import exp, lgamma, log, log1p
from typing import Literal

BETS = 30
"""Sizes of bets, evenly spaced in their logarithm: what an operator has to label depends little on their number."""
LEAST_BET, MOST_BET = 0.01, 0.9
"""Shares of the largest bet that cannot ruin the gambler at once."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What is known of frames that both models judged.

    frames: all of them. broken: drawn differences where the old model was right and the new one wrong; mended: the
    other way round; tied: settled, but neither was right, or nobody could tell. open: drawn, and not settled. share: of
    all differences that are drawn to be settled, by chance; those that are not drawn are among the frames alone.
    """

    frames: int = 0
    broken: int = 0
    mended: int = 0
    tied: int = 0
    open: int = 0
    share: float = 1.0

    @property
    def settled(self) -> int:
        """Labels that this took."""
        return self.broken + self.mended + self.tied


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the pairs say. harm, safety: how strongly, as factors; a side is proven from 1 / error on."""

    verdict: Literal["worse", "safe", "open"]
    harm: float
    safety: float


def judge(pairs: Pairs, *, margin: float, error: float) -> Judgement:
    """Judge by all pairs so far; harm goes first. margin, error: above 0, below 1."""
    harm, safety = harm_of(pairs.broken, pairs.mended), safety_of(pairs, margin)
    if harm >= 1 / error:
        return Judgement("worse", harm, safety)
    return Judgement("safe" if safety >= 1 / error else "open", harm, safety)


def harm_of(broken: int, mended: int) -> float:
    """How much better a losing share above one half explains these differences than one half does.

    The integral over p from 1/2 to 1 of 2 (2p)^broken (2(1-p))^mended. The distribution function of the beta
    distribution there is that of a binomial one: the sum of comb(count + 1, i) for i up to broken, over (count + 1)
    comb(count, broken). Summed as ratios of neighbours, since whole numbers would have thousands of digits.
    """
    size = broken + mended + 1
    if broken <= mended:
        return _tail(size, broken, -1) / (mended + 1)
    # All of 2^size but the upper side, so that terms shrink from the first on.
    whole = exp(min(700.0, size * log(2) - lgamma(size + 1) + lgamma(broken + 1) + lgamma(mended + 2)))
    return (whole - _tail(size, broken, 1) + 1) / (mended + 1)


def safety_of(pairs: Pairs, margin: float) -> float:
    """The mean of the gambler's money over all sizes of bets, from 1 at the start."""
    worst = pairs.broken + pairs.open
    neutral = max(0, pairs.frames - worst - pairs.mended)
    step = 1 / pairs.share
    most = 1 / (step - margin)
    total = 0.0
    for number in range(BETS):
        bet = most * LEAST_BET * (MOST_BET / LEAST_BET) ** (number / (BETS - 1))
        total += exp(
            min(
                700.0,  # beyond what floats hold it does not matter any more
                neutral * log1p(bet * margin)
                + pairs.mended * log1p(bet * (margin + step))
                + worst * log1p(bet * (margin - step)),
            )
        )
    return total / BETS


def _tail(size: int, start: int, step: int) -> float:
    """The sum of comb(size, i) / comb(size, start) for i from start, by steps of 1 or -1, to the end."""
    total, term, at = 0.0, 1.0, start
    while term > total * 1e-17:
        total += term
        term *= (size - at) / (at + 1) if step > 0 else at / (size - at + 1)
        at += step
    return total
