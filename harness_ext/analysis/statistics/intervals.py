"""Confidence intervals of shares, of means and of paired differences."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from harness_ext.analysis.statistics.clusters import ALPHA, Clusters, Interval
from harness_ext.analysis.statistics.scales import Scale
from harness_ext.analysis.statistics.sign_flip import sign_flip_test, squared_limit

_HALF = 0.5  # the weight of the imagined questions at the ends of the scale
NONE = Interval(math.nan, math.nan)


def share_interval(successes: int, number: int, level: float = 1 - ALPHA) -> Interval:
    """Return the Clopper-Pearson interval of a share, which covers at least `level` for any sample size."""
    found = stats.binomtest(successes, number).proportion_ci(level, method="exact")
    return Interval(float(found.low), float(found.high))


def mean_interval(clusters: Clusters, scale: Scale | None, level: float = 1 - ALPHA) -> Interval:
    """Return the interval of a mean.

    clusters: the values.
    scale: the least and the greatest value that a question can have, or None if that is unknown.
    level: the confidence level. Default 0.95.

    The interval contains the means m for which the statistic of the sign-flip test, the sum of the deviations from m
    divided by the root of the sum of their squares, is not significant; the sums are over clusters. For that, the
    distribution of the statistic is approximated by Student's, so that the limits are the roots of a quadratic equation
    (Fieller 1954). Because the squares are taken around m instead of around the sample's mean, the interval is reliable
    for few clusters of unequal size.

    If few values differ, the sample says little about the spread of those that it does not contain. Therefore half a
    question is added at each end of the scale, as Agresti and Min (2005) do for paired shares, times the number of
    questions of a cluster that go together (`Clusters.design_effect`), and times the share of questions with the most
    frequent value: graded scores, all of which differ, need no such help. Without a scale nothing is added.

    Returns NaN as limits if there is no scale and no spread, or only one cluster.
    """
    low, high = scale if scale is not None else (-math.inf, math.inf)
    number = clusters.number
    if number < 2:
        return Interval(low, high) if scale is not None else NONE
    sums, sizes = clusters.sums, clusters.sizes
    if scale is not None:
        weight = _HALF * clusters.tied * clusters.design_effect
        sums = np.append(sums, [weight * low, weight * high])
        sizes = np.append(sizes, [weight, weight])
    limit = squared_limit(number, 1 - level)
    total, questions = float(sums.sum()), float(sizes.sum())
    square = questions**2 - limit * float(sizes @ sizes)
    linear = total * questions - limit * float(sums @ sizes)
    constant = total**2 - limit * float(sums @ sums)
    if square <= 0:
        return Interval(low, high) if scale is not None else NONE
    root = math.sqrt(max(0.0, linear**2 - square * constant))
    if scale is None and root <= 1e-9 * max(1.0, abs(linear)):
        return NONE
    mean = clusters.mean
    return Interval(
        max(low, min(mean, (linear - root) / square)),
        min(high, max(mean, (linear + root) / square)),
    )


def difference_interval(
    clusters: Clusters, span: float | None, p_value: float | None = None, level: float = 1 - ALPHA
) -> Interval:
    """Return the interval of a mean of paired differences, which contains 0 exactly if the test does not reject it.

    clusters: the differences.
    span: the largest difference that a question can have, or None if that is unknown.
    p_value: the p-value of `sign_flip_test`. Default: it is computed.
    level: the confidence level. Default 0.95.

    It is the interval of `mean_interval`, except that the exact distribution of the test decides whether 0 is in it.
    Where that distribution and its approximation disagree, the interval ends at 0.
    """
    p = sign_flip_test(clusters) if p_value is None else p_value
    found = mean_interval(clusters, None if span is None else (-span, span), level)
    low, high = found.low, found.high
    if math.isnan(low):
        return found
    if p >= 1 - level:
        return Interval(min(low, 0.0), max(high, 0.0))
    if clusters.mean > 0:
        return Interval(max(low, float(np.nextafter(0.0, 1.0))), high)
    return Interval(low, min(high, float(np.nextafter(0.0, -1.0))))
