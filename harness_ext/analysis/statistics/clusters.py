"""The data of all statistics: values summed by cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.05
ROUNDING = 1e-12  # the relative error that the sum of many floats can have


@dataclass(frozen=True)
class Interval:
    """A confidence interval, its ends included. NaN ends mean that the data allow none."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Clusters:
    """Values summed by cluster: questions that share something (a story, a template), so that their errors correlate.

    sums: the sum of the values of each cluster.
    sizes: the number of questions of each cluster.
    squares: the sum of the squares of all values.
    tied: the share of questions that have the most frequent value: near 1 if few questions differ, near 0 for graded
        scores.

    Without clusters, each question is its own cluster.
    """

    sums: Floats
    sizes: Floats
    squares: float
    tied: float

    @classmethod
    def of(cls, values: Sequence[float] | Floats, labels: Sequence[Any] | None = None) -> Clusters:
        """Sum values by label. Without labels, each value is its own cluster."""
        array = np.asarray(values, dtype=np.float64)
        squares = float(np.sum(array**2))
        tied = float(np.unique(np.round(array, 9), return_counts=True)[1].max() / len(array))
        if labels is None:
            return cls(array, np.ones(len(array)), squares, tied)
        numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
        index = np.array([numbers[label] for label in labels], dtype=np.intp)
        sums = np.bincount(index, weights=array).astype(np.float64)
        # Sums like 0.1 + 0.2 - 0.3 are 0.
        sums[np.abs(sums) <= ROUNDING * np.bincount(index, weights=np.abs(array))] = 0.0
        return cls(sums, np.bincount(index).astype(np.float64), squares, tied)

    @property
    def number(self) -> int:
        """Return the number of clusters."""
        return len(self.sums)

    @property
    def questions(self) -> float:
        """Return the number of questions."""
        return float(self.sizes.sum())

    @property
    def mean(self) -> float:
        """Return the mean over questions."""
        return float(self.sums.sum() / self.questions)

    @property
    def variance(self) -> float:
        """Return the variance of the values around their mean, as if the questions were independent."""
        return max(0.0, self.squares / self.questions - self.mean**2)

    @property
    def standard_error(self) -> float:
        """Return the cluster-robust standard error of the mean (CR1): the usual one if each question is a cluster."""
        if self.number < 2:
            return float("nan")
        residuals = self.sums - self.mean * self.sizes
        return float(np.sqrt(np.sum(residuals**2) * self.number / (self.number - 1)) / self.questions)

    @property
    def design_effect(self) -> float:
        """Return by how much the clusters raise the variance of the mean: between 1 and the mean size of a cluster.

        Kish (1965). It is also the number of questions of a cluster that go up or down together. If no value differs
        from the mean, there is nothing to estimate it from, and a whole cluster is assumed to go together.
        """
        largest = self.questions / self.number
        if self.variance <= 1e-12 * max(1.0, self.squares / self.questions):
            return largest
        residuals = self.sums - self.mean * self.sizes
        return float(np.clip(np.sum(residuals**2) / self.questions / self.variance, 1.0, largest))
