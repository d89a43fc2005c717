"""The spread between repeats with different seeds, and intervals that account for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness_ext.analysis.statistics.clusters import ALPHA, Clusters, Interval


@dataclass(frozen=True)
class SeedSpread:
    """How much a mean over questions varies from seed to seed.

    seeds: the number of seeds.
    deviation: the standard deviation of the means of single seeds.
    variance: the variance that the choice of the seeds adds to the mean over all of them, apart from what the questions
        add in any case.
    """

    seeds: int
    deviation: float
    variance: float


def seed_spread(values: Sequence[Sequence[float]]) -> SeedSpread | None:
    """Return the spread between seeds, or None if there is only one.

    values: for each question, its value with each seed; all questions have the same seeds in the same order.

    Crossed random effects of questions and seeds (Searle, Casella and McCulloch 1992, Variance Components, chapter 4):
    the variance of the seeds' means contains the noise of single answers, which the spread over questions contains
    already, so that it is subtracted.
    """
    table = np.asarray(values, dtype=np.float64)
    questions, seeds = table.shape
    if seeds < 2:
        return None
    means = table.mean(axis=0)
    between = float(np.var(means, ddof=1))
    noise = 0.0
    if questions > 1:
        residuals = table - table.mean(axis=1, keepdims=True) - means + table.mean()
        noise = float(np.sum(residuals**2) / ((questions - 1) * (seeds - 1)))
    return SeedSpread(seeds, math.sqrt(between), max(0.0, (between - noise / questions) / seeds))


def with_seeds(
    value: float, interval: Interval, clusters: Clusters, spreads: Sequence[SeedSpread], level: float = 1 - ALPHA
) -> Interval:
    """Return an interval for other questions and other seeds, from one for other questions.

    value: the mean, or the difference of two means.
    interval: its interval over questions.
    clusters: the values that it was computed from, each the mean over the seeds.
    spreads: the spread between seeds of each run that is part of the value.
    level: the confidence level of `interval`. Default 0.95.

    The interval becomes wider by the ratio of the standard errors and of the quantiles of Student's distribution, whose
    degrees of freedom are Satterthwaite's (1946).
    """
    questions = clusters.standard_error**2
    added = sum(spread.variance for spread in spreads)
    if added == 0 or math.isnan(interval.low):
        return interval
    both = questions + added
    weights = [(questions, clusters.number - 1), *((s.variance, s.seeds - 1) for s in spreads)]
    degrees = both**2 / sum(variance**2 / degrees for variance, degrees in weights if variance)
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * math.sqrt(both)
    plain = float(stats.t.ppf((1 + level) / 2, clusters.number - 1)) * math.sqrt(questions)
    wider = half - plain
    if wider <= 0:
        return interval
    return Interval(interval.low - wider, interval.high + wider)
