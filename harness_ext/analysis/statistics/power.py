"""The power of the tests: the difference that a sample detects."""

from __future__ import annotations

import numpy as np
from scipy import stats

from harness_ext.analysis.statistics.clusters import ALPHA, Clusters, Floats
from harness_ext.analysis.statistics.sign_flip import squared_limit

POWER = 0.8
_STUDIES = 400  # simulated studies
_DRAWN = 100_000  # clusters in all of them
_LISTED = 10  # up to this many clusters, all ways of flipping are listed


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


def detectable_mean(clusters: Clusters, span: float | None, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Return the smallest mean difference that the sign-flip test over clusters detects, or None if it detects none.

    clusters: the paired differences.
    span: the largest difference that a question can have, or None if that is unknown.
    alpha: the significance level. Default 0.05.
    power: the probability with which the difference is detected. Default 0.8.

    Simulated: studies without a difference are drawn from the clusters with random signs, a difference is added, and
    the test is applied. Where most questions have the same value (`Clusters.tied`), some of them go up by `span`, which
    adds to the spread; graded scores all go up a little.
    """
    number = clusters.number
    if 2.0 ** (1 - number) >= alpha:
        return None  # not even if all clusters agree
    studies = _Studies(clusters, span)
    most = span if span is not None else clusters.standard_error * 50
    if not most or studies.power(most, alpha) < power:
        return None
    low, high = 0.0, most
    while high - low > 1e-3 * most:
        middle = (low + high) / 2
        low, high = (low, middle) if studies.power(middle, alpha) >= power else (middle, high)
    return high


def raised(
    sums: Floats, sizes: Floats, difference: float, span: float | None, tied: float, random: np.random.Generator
) -> Floats:
    """Return the sums of clusters to which a mean difference was added.

    sums, sizes: the sums and the sizes of the clusters, in any shape.
    difference: the mean difference.
    span: the largest difference that a question can have, or None if that is unknown.
    tied: the share of questions with the most frequent value (`Clusters.tied`). That part of the difference consists of
        questions that go up by `span`; the other part raises all questions. Without a span there is no such part.
    random: draws the questions that go up.
    """
    tied = tied if span else 0.0
    found = sums + (1 - tied) * difference * sizes
    if span:
        found = found + span * random.binomial(sizes.astype(int), min(1.0, tied * difference / span))
    return np.round(found, 9)


class _Studies:
    """Simulated studies like a given one.

    clusters: the paired differences of the given study.
    span: the largest difference that a question can have, or None.
    """

    def __init__(self, clusters: Clusters, span: float | None) -> None:
        random = np.random.default_rng(0)
        number = clusters.number
        times = int(np.clip(_DRAWN // number, 50, _STUDIES))
        drawn = random.integers(number, size=(times, number))
        self.sums = clusters.sums[drawn] * random.choice([-1.0, 1.0], size=drawn.shape)
        self.sizes = clusters.sizes[drawn]
        self.span = span
        self.tied = clusters.tied

    def power(self, difference: float, alpha: float) -> float:
        """Return how often the test finds a difference."""
        # The same seed for every difference, so that a larger one is found more often.
        random = np.random.default_rng(1)
        sums = raised(self.sums, self.sizes, difference, self.span, self.tied, random)
        number = sums.shape[1]
        if number <= _LISTED:
            return float(np.mean(_listed(sums, self.sizes) < alpha))
        limit = squared_limit(number, alpha)
        enough = 2.0 ** (1.0 - np.count_nonzero(sums, axis=1)) < alpha
        return float(np.mean(enough & (sums.sum(axis=1) ** 2 >= limit * np.sum(sums**2, axis=1))))


def _listed(sums: Floats, sizes: Floats) -> Floats:
    """Return the p-value of each row by listing all ways of flipping; see `sign_flip`."""
    weighted = sums * (1 + 1e-6 / sizes)
    number = sums.shape[1]
    signs = 1.0 - 2.0 * ((np.arange(2 ** (number - 1))[:, None] >> np.arange(number)) & 1)
    observed = np.abs(weighted.sum(axis=1)) - 1e-9 * np.abs(weighted).sum(axis=1)
    return np.asarray(np.mean(np.abs(weighted @ signs.T) >= observed[:, None], axis=1))
