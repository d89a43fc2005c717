"""The test of paired differences: under the hypothesis that two runs are alike, every difference may change its sign.

The p-value is the share of all ways of flipping the signs of the clusters whose sum is at least as far from 0 as the
observed one (Fisher 1935, The Design of Experiments, section 21). For right and wrong answers without clusters this is
the exact McNemar test.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import reduce

import numpy as np
from scipy import optimize, special, stats

from harness_ext.analysis.statistics.clusters import ROUNDING, Clusters, Floats

_LISTED = 20  # up to this many differing clusters, all ways of flipping are listed
_STEPS = 200_000_000  # the most additions for a distribution on a lattice
_FINEST = 1000  # the largest denominator of values that are taken for fractions


def sign_flip_test(clusters: Clusters) -> float:
    """Return the two-sided p-value of the hypothesis that a mean of paired differences is 0.

    clusters: the differences.

    Without differences the p-value is 1. It is exact if at most 20 clusters differ, and if the differences are
    fractions with a common denominator, as those of shares and of means over repeats are. For other values it is
    Robinson's (1982) saddlepoint approximation, whose relative error is below a few per cent however small the p-value
    is. Nothing is drawn at random, and no p-value has a floor.
    """
    differing = clusters.sums != 0
    sums, sizes = clusters.sums[differing], clusters.sizes[differing]
    if not len(sums):
        return 1.0
    if np.all(np.abs(sums) == np.abs(sums[0])):
        return float(stats.binomtest(int(np.sum(sums > 0)), len(sums)).pvalue)
    if len(sums) <= _LISTED:
        return _listed(sums, sizes)
    lattice = _on_lattice(sums)
    if lattice is None:
        return _saddlepoint(np.abs(sums), abs(float(sums.sum())))
    if np.sum(np.abs(lattice)) * len(lattice) <= _STEPS:
        return _convolved(lattice)
    # Flipped sums of whole numbers differ by 2 at least; half of that is the correction for continuity.
    return _saddlepoint(np.abs(lattice), abs(float(lattice.sum())) - 1)


def squared_limit(number: int, alpha: float) -> float:
    """Return the limit above which the square of the test's statistic is significant, approximately.

    number: the number of clusters.
    alpha: the significance level.

    The statistic T is the sum of the clusters' sums, divided by the root of the sum of their squares. For equal
    clusters, it and Student's t are related by t² = T² (n - 1) / (n - T²).
    """
    quantile = float(stats.t.ppf(1 - alpha / 2, number - 1)) ** 2
    return quantile * number / (quantile + number - 1)


def _listed(sums: Floats, sizes: Floats) -> float:
    """Return the p-value from all ways of flipping."""
    # Whole numbers have many equal sums, which makes the test of a few clusters needlessly conservative. Among equal
    # sums, the one with the larger mean of cluster means counts as more extreme; any order fixed in advance is valid.
    weighted = sums * (1 + 1e-6 / sizes)
    flipped = np.zeros(1)
    for value in weighted[1:]:  # the sign of the first value can stay, because the test is two-sided
        flipped = np.concatenate([flipped + value, flipped - value])
    observed = abs(float(weighted.sum()))
    slack = ROUNDING * float(np.sum(np.abs(weighted)))
    return float(np.mean(np.abs(flipped + weighted[0]) >= observed - slack))


def _on_lattice(sums: Floats) -> Floats | None:
    """Return the values divided by their greatest common divisor, or None if they are not fractions."""
    distinct, places = np.unique(sums, return_inverse=True)
    fractions = [Fraction(float(value)).limit_denominator(_FINEST) for value in distinct]
    if any(abs(float(f) - value) > ROUNDING for f, value in zip(fractions, distinct, strict=True)):
        return None
    denominator = math.lcm(*(f.denominator for f in fractions))
    if denominator > _FINEST:
        return None
    whole = [int(f * denominator) for f in fractions]
    divisor = reduce(math.gcd, whole)
    return np.array([value // divisor for value in whole], dtype=np.float64)[places]


def _convolved(whole: Floats) -> float:
    """Return the p-value of whole numbers by adding one cluster after the other to the distribution of the sum."""
    steps = np.abs(whole).astype(int)
    most = int(steps.sum())
    chances = np.zeros(2 * most + 1)
    chances[most] = 1.0
    for step in np.sort(steps):
        added = np.zeros_like(chances)
        added[step:] += chances[: len(chances) - step] / 2
        added[: len(chances) - step] += chances[step:] / 2
        chances = added
    observed = abs(int(whole.sum()))
    return 1.0 if observed == 0 else min(1.0, 2 * float(chances[most + observed :].sum()))


def _saddlepoint(sizes: Floats, observed: float) -> float:
    """Return the two-sided tail of the sum of `sizes` with random signs by the formula of Lugannani and Rice (1980)."""
    kinds, counts = np.unique(sizes, return_counts=True)
    most = float(kinds @ counts)
    least = 2.0 ** (1 - len(sizes))  # the p-value if all signs agree
    if observed <= ROUNDING * most:
        return 1.0
    if observed >= most * (1 - ROUNDING):
        return least

    def slope(theta: float) -> float:
        return float(counts @ (kinds * np.tanh(theta * kinds))) - observed

    end = 1 / float(kinds.max())
    while slope(end) < 0:
        end *= 2
        if end > 1e6 / float(kinds.min()):
            return least
    theta = float(optimize.brentq(slope, 0.0, end))
    scaled = theta * kinds
    cumulant = float(counts @ (np.logaddexp(scaled, -scaled) - math.log(2)))
    root = math.sqrt(max(0.0, 2 * (theta * observed - cumulant)))
    curved = theta * math.sqrt(float(counts @ ((kinds / np.cosh(np.minimum(scaled, 300.0))) ** 2)))
    if root < 1e-4 or curved == 0.0:
        return 1.0 if root < 1e-4 else least
    # Mills' ratio keeps the relative accuracy where the normal tail itself is smaller than any float.
    mills = math.sqrt(math.pi / 2) * float(special.erfcx(root / math.sqrt(2)))
    tail = math.exp(-root * root / 2) / math.sqrt(2 * math.pi) * (mills + 1 / curved - 1 / root)
    return min(1.0, max(least, 2 * tail))
