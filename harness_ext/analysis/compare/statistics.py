"""Intervals and paired tests that are valid for small samples. Pure functions over numpy arrays.

The methods were chosen by simulation (`benchmarks/intervals.py`; see docs/compare.md):

- shares: the Clopper-Pearson interval, and the exact McNemar test for pairs of shares;
- all other means, including paired differences: the t-interval after adding one imagined question at each end of the
  scale, as Bonett and Price (2012) do for paired shares, and a studentised paired bootstrap as the test.

Textbook t and bootstrap intervals cover the true value far too rarely when few questions differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 9999
FEWER = 1999  # resamples for tens of thousands of distinct clusters
_CELLS = 4_000_000  # random numbers drawn at once, which bounds the memory


@dataclass(frozen=True)
class Interval:
    """A confidence interval, its ends included."""

    low: float
    high: float


@dataclass(frozen=True)
class Clusters:
    """Values summed by cluster: questions that share something (a story, a template), so that their errors correlate.

    sums: the sum of the values of each cluster.
    sizes: the number of questions of each cluster.

    Without clusters, each question is its own cluster.
    """

    sums: Floats
    sizes: Floats

    @classmethod
    def of(cls, values: Sequence[float] | Floats, labels: Sequence[Any] | None = None) -> Clusters:
        """Sum values by label. Without labels, each value is its own cluster."""
        array = np.asarray(values, dtype=np.float64)
        if labels is None:
            return cls(array, np.ones(len(array)))
        numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        index = np.array([numbers[label] for label in labels])
        return cls(np.bincount(index, weights=array).astype(np.float64), np.bincount(index).astype(np.float64))

    @property
    def mean(self) -> float:
        """Return the mean over questions."""
        return float(self.sums.sum() / self.sizes.sum())

    def with_ends(self, low: float, high: float) -> Clusters:
        """Return the sample with one more cluster of mean size at each end of the scale.

        If all differences in the sample are 0, its spread is 0 and a t-interval has no width, although the next
        question might differ. The two imagined clusters keep the spread positive and move the mean slightly inwards.
        """
        size = self.sizes.mean()
        return Clusters(np.append(self.sums, [low * size, high * size]), np.append(self.sizes, [size, size]))


def standard_error(clusters: Clusters) -> float:
    """Return the cluster-robust standard error of the mean: the usual one if each question is its own cluster."""
    return float(_errors(np.ones((1, len(clusters.sums))), clusters.sums, clusters.sizes)[0])


def share_interval(successes: int, number: int, level: float = 1 - ALPHA) -> Interval:
    """Return the Clopper-Pearson interval of a share, which covers at least `level` for any sample size."""
    found = stats.binomtest(successes, number).proportion_ci(level, method="exact")
    return Interval(float(found.low), float(found.high))


def mean_interval(clusters: Clusters, low: float, high: float, level: float = 1 - ALPHA) -> Interval:
    """Return the interval of a mean, clipped to the scale.

    clusters: the values.
    low, high: the ends of the scale on which the values lie.
    level: the confidence level. Default 0.95.
    """
    if len(clusters.sums) < 2:
        return Interval(low, high)
    wide = clusters.with_ends(low, high)
    # The imagined clusters carry no information, so they do not count as degrees of freedom.
    half = stats.t.ppf((1 + level) / 2, len(clusters.sums) - 1) * standard_error(wide)
    return Interval(float(max(low, wide.mean - half)), float(min(high, wide.mean + half)))


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    gained, lost: how many questions went from wrong to right and from right to wrong.
    """
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def bootstrap_test(clusters: Clusters, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Return the two-sided p-value of the hypothesis that a mean of paired differences is 0.

    clusters: the differences.
    seed: seed of the resampling. Default 0.
    resamples: how many resamples to draw. Default 9999.

    Studentised bootstrap over clusters: Efron and Tibshirani (1993), section 16.4, with cluster-robust errors.
    """
    number = len(clusters.sums)
    # Differences of scores take few distinct values. Instead of drawing every cluster, each resample draws how often
    # each distinct (sum, size) occurs, which is multinomial and needs far less memory.
    kinds, counts = np.unique(np.stack([clusters.sums, clusters.sizes]), axis=1, return_counts=True)
    sums, sizes = kinds
    if number < 2 or not np.any(sums):
        return 1.0
    if len(counts) == 1:
        return float(2.0 ** (1 - number))  # all differences are equal, so no resample has any spread: the sign test
    mean, error = clusters.mean, standard_error(clusters)
    if len(counts) * resamples > _CELLS * 10:
        resamples = FEWER
    random = np.random.default_rng(seed)
    extreme = done = 0
    while done < resamples:
        rows = min(resamples - done, max(1, _CELLS // len(counts)))
        drawn = random.multinomial(number, counts / number, size=rows).astype(np.float64)
        shifts = np.abs(drawn @ sums / (drawn @ sizes) - mean)
        # Compares |shift| / error of the resample with |mean| / error of the sample. Multiplying by the resample's
        # error instead of dividing by it avoids a division by zero, and makes a resample without spread count as
        # extreme, which is conservative. The factor just below 1 keeps ties from being lost to rounding.
        extreme += int(np.sum(shifts >= abs(mean / error) * _errors(drawn, sums, sizes) * (1 - 1e-12)))
        done += rows
    return (extreme + 1) / (resamples + 1)


def bootstrap_statistic(
    first: Sequence[Any], second: Sequence[Any] | None, statistic: Callable[[list[Any]], float], seed: int = 0,
    resamples: int = 999, level: float = 1 - ALPHA,
) -> tuple[Interval, float | None]:  # fmt: skip
    """Return the bootstrap interval of a statistic of all questions together (`f1`, `bleu`), or of a paired difference.

    first: the items of one run, question by question.
    second: the items of another run. If given, the result is the interval of `second` - `first` and the p-value of the
        hypothesis that the difference is 0; otherwise the p-value is None.
    statistic: computes the statistic from items.
    seed: seed of the resampling. Default 0.
    resamples: how many resamples to draw. Default 999.
    level: the confidence level. Default 0.95.
    """
    random = np.random.default_rng(seed)
    found = np.empty(resamples)
    for i in range(resamples):
        drawn = random.integers(len(first), size=len(first))
        value = statistic([first[j] for j in drawn])
        found[i] = value if second is None else statistic([second[j] for j in drawn]) - value
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    if second is None:
        return Interval(float(low), float(high)), None
    below, above = int(np.sum(found <= 0)), int(np.sum(found >= 0))
    return Interval(float(low), float(high)), min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down method, in the given order."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    worst = 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = worst
    return [float(p) for p in adjusted]


def mcnemar_power(number: int, discordant: float, difference: float, alpha: float = ALPHA) -> float:
    """Return the power of the exact McNemar test.

    number: how many questions there are.
    discordant: the share of questions on which the runs differ; at least `difference`.
    difference: the difference of the two shares.
    alpha: the significance level. Default 0.05.
    """
    # The number of discordant pairs is random. The power is the mean, over its binomial distribution, of the power of
    # the test given that number.
    fewest, most = stats.binom.ppf([1e-12, 1 - 1e-12], number, discordant)
    pairs = np.arange(fewest, most + 1)
    chances = stats.binom.pmf(pairs, number, discordant)
    # For each number of discordant pairs: the largest count of the rarer direction that is still significant. `ppf` may
    # be one too high, because the binomial distribution is discrete. -1 means that no count is significant.
    critical = stats.binom.ppf(alpha / 2, pairs, 0.5)
    critical = np.where(2 * stats.binom.cdf(critical, pairs, 0.5) > alpha, critical - 1, critical)
    up = (1 + difference / discordant) / 2 if discordant else 0.5
    rejects = stats.binom.cdf(critical, pairs, 1 - up) + stats.binom.sf(pairs - critical - 1, pairs, 1 - up)
    return float(np.sum(chances * np.where(critical >= 0, rejects, 0.0)))


def detectable_share(number: int, discordant: float, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest difference of paired shares that the exact McNemar test detects, or None if it detects none.

    number: how many questions there are. With fewer than six, not even the largest difference is significant.
    discordant: the observed share of questions on which the runs differ.
    alpha: the significance level. Default 0.05.
    power: the probability with which the difference is detected. Default 0.8.
    """

    def excess_power(difference: float) -> float:
        # A difference larger than the observed share of discordant questions needs that many discordant questions.
        return mcnemar_power(number, max(discordant, difference), difference, alpha) - power

    if number < 1 or excess_power(1.0) < 0:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if excess_power(middle) >= 0 else (middle, high)
    return high


def detectable_mean(clusters: Clusters, span: float, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest mean difference that is detected, given the spread of the differences, or None if none is.

    clusters: the paired differences.
    span: the largest difference that a question can have.
    alpha: the significance level. Default 0.05.
    power: the probability with which the difference is detected. Default 0.8.

    Miller (2024), arXiv 2411.00640, section 5, with Student's t and the standard error of `mean_interval`.
    """
    degrees = len(clusters.sums) - 1
    if degrees < 1:
        return None
    factor = stats.t.ppf(1 - alpha / 2, degrees) + stats.t.ppf(power, degrees)
    found = float(factor * standard_error(clusters.with_ends(-span, span)))
    return found if found <= span else None


def _errors(counts: Floats, sums: Floats, sizes: Floats) -> Floats:
    """Return the standard errors of the ratio of sums to sizes.

    counts: how often each cluster occurs, one row per resample.
    sums, sizes: the sum and the size of each cluster.
    """
    number, totals = counts.sum(axis=1), counts @ sizes
    means = counts @ sums / totals
    squares = counts @ sums**2 - 2 * means * (counts @ (sums * sizes)) + means**2 * (counts @ sizes**2)
    return np.asarray(np.sqrt(np.maximum(squares, 0) * number / (number - 1)) / totals)


def is_binary(values: Sequence[float]) -> bool:
    """Return whether all values are 0 or 1."""
    return all(value in (0.0, 1.0) for value in values)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation of values, or NaN for fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
