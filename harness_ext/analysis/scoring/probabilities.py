"""How good stated probabilities are: discrimination, error and calibration, with intervals.

A statistic is a function of weights: for a matrix with one row per sample and one column per observation, it returns
one value per sample, NaN where it is undefined. With equal weights it is the statistic of all observations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness_ext.analysis.statistics.clusters import Clusters, Interval
from harness_ext.analysis.statistics.jackknife import pseudo_values
from harness_ext.analysis.statistics.scales import Scale
from harness_ext.decisions.calibration import SMALLEST

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

CALIBRATION_ERROR = "ece"
DRAWS = 999
MOST_BINS = 10
_UNIT = (0.0, 1.0)
ROWS_PER_BIN = 10  # with fewer, chance alone makes a large calibration error
_CELLS = 4_000_000  # weights in memory at once


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    value: the figure; None if it is undefined.
    low, high: the ends of the interval; None if the observations allow none.
    reason: why there is no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class Figure:
    """A statistic of which more is known than how it is computed.

    function: the statistic.
    scale: its least and its greatest value. Default None: unknown.
    values: the values whose mean it is. Default None: it is no mean.
    """

    function: Statistic
    scale: Scale | None = None
    values: Floats | None = None

    def __call__(self, weights: Floats) -> Floats:
        return self.function(weights)


@dataclass(frozen=True)
class Bin:
    """Observations with similar probabilities.

    rows: how many there are.
    low, high: the smallest and the largest of their probabilities.
    stated: the mean of their probabilities.
    right: the share of them that came true.
    """

    rows: int
    low: float
    high: float
    stated: float
    right: float


def mean(values: Sequence[float] | Floats, scale: Scale | None = None) -> Figure:
    """Return the statistic that is the mean of the values, whose least and greatest possible value are `scale`."""
    array = _floats(values)

    def statistic(weights: Floats) -> Floats:
        return np.asarray(weights @ array / weights.sum(axis=1))

    return Figure(statistic, scale, array)


def area_under_roc(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Figure:
    """Return the area under the ROC curve: the chance that a true outcome was given the higher probability.

    Equal probabilities count half. The area is undefined unless there are both true and false outcomes.
    """
    stated, true = _floats(probabilities), _floats(outcomes)
    order = np.argsort(stated, kind="stable")
    _, starts = np.unique(stated[order], return_index=True)

    def statistic(weights: Floats) -> Floats:
        ordered = weights[:, order]
        positive = np.add.reduceat(ordered * true[order], starts, axis=1)
        negative = np.add.reduceat(ordered * (1 - true[order]), starts, axis=1)
        below = np.cumsum(negative, axis=1) - negative
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        won = (positive * (below + negative / 2)).sum(axis=1)
        return np.asarray(np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))

    return Figure(statistic, _UNIT)


def roc_curve(probabilities: Sequence[float], outcomes: Sequence[bool]) -> list[tuple[float, float, float]]:
    """Return the points of the ROC curve, from the highest threshold to the lowest.

    Each point is the share of the false outcomes and the share of the true ones whose probability reaches a threshold,
    and the threshold. Empty unless there are both true and false outcomes.
    """
    stated, true = _floats(probabilities), _floats(outcomes)
    trues = float(true.sum())
    falses = len(true) - trues
    if not trues or not falses:
        return []
    points = [(0.0, 0.0, 1.0)]
    for threshold in np.unique(stated)[::-1]:
        reached = stated >= threshold
        hits = float(true[reached].sum())
        points.append(((float(reached.sum()) - hits) / falses, hits / trues, float(threshold)))
    return points


def squared_error(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Figure:
    """Return the Brier score: the mean squared difference of probabilities and outcomes."""
    return mean((_floats(probabilities) - _floats(outcomes)) ** 2, _UNIT)


def log_loss(probabilities: Sequence[float]) -> Figure:
    """Return the mean negative natural logarithm of the probabilities that were given to what came true.

    Probabilities below 1e-12 count as 1e-12, since a single 0 would make the mean infinite.
    """
    return mean(-np.log(np.clip(_floats(probabilities), SMALLEST, 1)))


def calibration_error(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Figure:
    """Return the expected calibration error: the mean distance of stated probability and share of true outcomes.

    It is taken over the bins of `reliability`, weighted by their rows; the bins do not depend on the weights. Chance
    alone keeps the two apart: `error_by_chance` says how far.
    """
    numbers = _bins(_floats(probabilities))
    members = np.eye(int(numbers.max()) + 1)[numbers]
    gaps = members * (_floats(probabilities) - _floats(outcomes))[:, None]

    def statistic(weights: Floats) -> Floats:
        return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1))

    return Figure(statistic, _UNIT)


def error_by_chance(probabilities: Sequence[float], seed: int = 0, draws: int = DRAWS) -> float | None:
    """Return the mean calibration error that these probabilities would show if every one of them were right.

    probabilities: the stated probabilities.
    seed: the seed of the outcomes that are drawn from them. Default 0.
    draws: how often outcomes are drawn for all of them. Default 999.

    Returns None without probabilities.
    """
    stated = _floats(probabilities)
    if not len(stated):
        return None
    random = np.random.default_rng(seed)
    numbers = _bins(stated)
    members = np.eye(int(numbers.max()) + 1)[numbers]
    total, done = 0.0, 0
    while done < draws:
        size = min(draws - done, max(1, _CELLS // len(stated)))
        gaps = ((random.random((size, len(stated))) < stated) - stated) @ members
        total += float(np.abs(gaps).sum()) / len(stated)
        done += size
    return total / draws


def reliability(probabilities: Sequence[float], outcomes: Sequence[bool]) -> list[Bin]:
    """Return the observations in up to ten bins of about equal size, by probability, with ten rows or more in each.

    Equal probabilities share a bin, so that the bins do not depend on the order of the rows.
    """
    stated, true = _floats(probabilities), _floats(outcomes)
    if not len(stated):
        return []
    numbers = _bins(stated)
    found = []
    for number in range(int(numbers.max()) + 1):
        inside = stated[numbers == number]
        found.append(
            Bin(
                len(inside),
                float(inside.min()),
                float(inside.max()),
                float(inside.mean()),
                float(true[numbers == number].mean()),
            )
        )
    return found


def estimates(statistics: Mapping[str, Statistic], clusters: Sequence[Hashable]) -> dict[str, Estimate]:
    """Return each statistic of a sample with its 95 % interval.

    statistics: the statistics, by name.
    clusters: the cluster of each observation. Observations of one question belong together, since they are not
        independent.

    Means have the interval of `harness_ext.analysis.statistics.paired.estimate`, which is Clopper and Pearson's for
    shares of independent observations; all other statistics that of the mean of their jackknife values. An interval
    always has a width: if the observations allow none, the estimate says why.
    """
    return {name: _estimate(statistic, list(clusters)) for name, statistic in statistics.items()}


def _estimate(statistic: Statistic, clusters: list[Hashable]) -> Estimate:
    from harness_ext.analysis.statistics.intervals import mean_interval
    from harness_ext.analysis.statistics.paired import estimate

    number, distinct = len(clusters), len(set(clusters))
    value = float(statistic(np.ones((1, number)))[0]) if number else np.nan
    if np.isnan(value):
        return Estimate(None)
    if distinct < 2:
        return Estimate(value, reason="a single document says nothing about others")
    labels = clusters if distinct < number else None
    interval: Interval | None
    if not isinstance(statistic, Figure) or statistic.values is None:
        interval = _jackknifed(statistic, number, labels)
    elif statistic.scale == _UNIT:
        interval = estimate(list(statistic.values), _UNIT, labels).interval
    else:  # values of 0 and 1 on another scale are no shares
        interval = mean_interval(Clusters.of(statistic.values, labels), statistic.scale)
    if interval is None:
        return Estimate(value, reason="without one of the documents it would be undefined")
    if np.isnan(interval.low):
        return Estimate(value, reason="the documents do not differ")
    return Estimate(value, interval.low, interval.high)


def _jackknifed(statistic: Statistic, number: int, labels: Sequence[Hashable] | None) -> Interval | None:
    """Return the interval of a statistic that is no mean; None if it is undefined for a part of the observations."""
    from harness_ext.analysis.statistics.intervals import NONE, mean_interval

    def of_some(observations: Sequence[int]) -> float:
        weights = np.zeros((1, number))
        weights[0, list(observations)] = 1
        return float(statistic(weights)[0])

    found = pseudo_values(range(number), of_some, labels)
    if np.isnan(found.sums).any():
        return None
    scale = statistic.scale if isinstance(statistic, Figure) else None
    # Near the ends of the scale the jackknife's spread is too small: of 60 observations with an area of 0.96, its
    # intervals covered the area in 83 % of samples, and with the full weight of the imagined observations in 93 %.
    interval = mean_interval(replace(found, tied=1.0), scale)
    return interval if interval.low < interval.high else NONE


def binary_statistics(probabilities: Sequence[float], outcomes: Sequence[bool]) -> dict[str, Statistic]:
    """Return the statistics of the probabilities of events that did or did not come true.

    They are `auroc`, `brier`, `nll` (negative log-likelihood) and `ece` (expected calibration error).
    """
    stated, true = _floats(probabilities), _floats(outcomes)
    return {
        "auroc": area_under_roc(probabilities, outcomes),
        "brier": squared_error(probabilities, outcomes),
        "nll": log_loss(list(np.where(true > 0, stated, 1 - stated))),
        CALIBRATION_ERROR: calibration_error(probabilities, outcomes),
    }


def _bins(stated: Floats) -> NDArray[np.int64]:
    """Return the number of each observation's bin, from 0, without gaps."""
    wanted = min(MOST_BINS, max(1, len(stated) // ROWS_PER_BIN))
    _, groups, counts = np.unique(stated, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - counts / 2  # of each group of equal probabilities, in ranks
    _, numbers = np.unique((middles * wanted / len(stated)).astype(int), return_inverse=True)
    return np.asarray(numbers[groups], dtype=np.int64)


def _floats(values: Sequence[float] | Sequence[bool] | Floats) -> Floats:
    return np.asarray(values, dtype=np.float64)
