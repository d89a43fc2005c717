"""How good stated probabilities are: discrimination, error and calibration, with bootstrap intervals.

A statistic is a function of weights: for a matrix with one row per resample and one column per observation, it returns
one value per resample, NaN where it is undefined. With equal weights it is the statistic of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness_ext.decisions.calibration import SMALLEST

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

CALIBRATION_ERROR = "ece"
RESAMPLES = 999
MOST_BINS = 10
ROWS_PER_BIN = 10  # with fewer, chance alone makes a large calibration error
_CELLS = 4_000_000  # weights in memory at once


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    value: the figure; None if it is undefined.
    low, high: the ends of the interval; None if fewer than two questions, or no resample, have the figure.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


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


def mean(values: Sequence[float] | Floats) -> Statistic:
    """Return the statistic that is the mean of the values."""
    array = _floats(values)

    def statistic(weights: Floats) -> Floats:
        return np.asarray(weights @ array / weights.sum(axis=1))

    return statistic


def area_under_roc(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Statistic:
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

    return statistic


def squared_error(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Statistic:
    """Return the Brier score: the mean squared difference of probabilities and outcomes."""
    return mean((_floats(probabilities) - _floats(outcomes)) ** 2)


def log_loss(probabilities: Sequence[float]) -> Statistic:
    """Return the mean negative natural logarithm of the probabilities that were given to what came true.

    Probabilities below 1e-12 count as 1e-12, since a single 0 would make the mean infinite.
    """
    return mean(-np.log(np.clip(_floats(probabilities), SMALLEST, 1)))


def calibration_error(probabilities: Sequence[float], outcomes: Sequence[bool]) -> Statistic:
    """Return the expected calibration error: the mean distance of stated probability and share of true outcomes.

    It is taken over the bins of `reliability`, weighted by their rows. The bins are those of the sample in every
    resample. Chance alone keeps the two apart: `error_by_chance` says how far.
    """
    numbers = _bins(_floats(probabilities))
    members = np.eye(int(numbers.max()) + 1)[numbers]
    gaps = members * (_floats(probabilities) - _floats(outcomes))[:, None]

    def statistic(weights: Floats) -> Floats:
        return np.asarray(np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1))

    return statistic


def error_by_chance(probabilities: Sequence[float], seed: int = 0, draws: int = RESAMPLES) -> float | None:
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


def estimates(
    statistics: Mapping[str, Statistic],
    clusters: Sequence[Hashable],
    biased: Collection[str] = (),
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
    """Return each statistic of a sample with the 95 % percentile interval of a bootstrap over clusters.

    statistics: the statistics, by name.
    clusters: the cluster of each observation. Observations of one question belong together, since they are not
        independent.
    biased: the statistics that are larger in resamples than in the sample. Their intervals are moved by the mean
        difference, but not below 0. Default: none.
    seed: the seed of the resampling. Default 0.
    resamples: how many resamples to draw. Default 999.

    Resamples for which a statistic is undefined are left out of its interval.
    """
    numbers = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    if not numbers:
        return {name: Estimate(None) for name in statistics}
    index = np.array([numbers[label] for label in clusters])
    values = {name: _number(statistic(np.ones((1, len(index))))[0]) for name, statistic in statistics.items()}
    if len(numbers) < 2:
        return {name: Estimate(value) for name, value in values.items()}
    random = np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {name: [] for name in statistics}
    done = 0
    while done < resamples:
        size = min(resamples - done, max(1, _CELLS // len(index)))
        drawn = random.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=size)
        weights = drawn[:, index].astype(np.float64)
        for name, statistic in statistics.items():
            found[name].append(statistic(weights))
        done += size
    return {name: _estimate(values[name], np.concatenate(parts), name in biased) for name, parts in found.items()}


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


def _estimate(value: float | None, drawn: Floats, biased: bool) -> Estimate:
    known = drawn[~np.isnan(drawn)]
    if value is None or not len(known):
        return Estimate(value)
    low, high = np.quantile(known, [0.025, 0.975])
    if biased:
        bias = known.mean() - value
        low, high = max(0.0, low - bias), high - bias
    return Estimate(value, float(low), float(high))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _floats(values: Sequence[float] | Sequence[bool] | Floats) -> Floats:
    return np.asarray(values, dtype=np.float64)
