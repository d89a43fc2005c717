"""The power of comparisons whose questions form clusters, or have graded values: by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from harness_ext.analysis.planning.assumptions import Assumption, spread
from harness_ext.analysis.planning.models import MOST, Power
from harness_ext.analysis.planning.simulation import Draw, Ints, changing_answers, simulated_power
from harness_ext.analysis.statistics.clusters import Clusters, Floats
from harness_ext.analysis.statistics.power import raised

_MOST_CLUSTERS = 100_000
_STEP = 1.25  # by which a guess is corrected
_PRECISION = 100  # a number is found up to this part of it, which is less than the simulation's own uncertainty
LARGEST = 1000  # questions per cluster, where the number of clusters is fixed


@dataclass(frozen=True)
class ClusterShape:
    """How questions form clusters.

    sizes: the sizes that clusters have, each as often as the others.
    number: how many clusters there are, if that is fixed: then more questions mean larger clusters. Default None: more
        questions mean more clusters.
    """

    sizes: tuple[int, ...]
    number: int | None = None

    @property
    def mean(self) -> float:
        """Return the mean size of a cluster."""
        return sum(self.sizes) / len(self.sizes)

    def clusters(self, questions: int) -> int:
        """Return how many clusters a number of questions has; only complete ones count."""
        if self.number is not None:
            return min(self.number, questions)
        return questions * len(self.sizes) // sum(self.sizes)

    def questions(self, clusters: int) -> int:
        """Return how many questions a number of clusters has."""
        return -(-clusters * sum(self.sizes) // len(self.sizes))

    def draw(self, questions: int, studies: int, random: np.random.Generator) -> Ints:
        """Return the sizes of the clusters of some studies, one column per study."""
        clusters = self.clusters(questions)
        if self.number is None:
            # Integers are drawn even if there is one size only, so that what is drawn next does not depend on it.
            return np.array(self.sizes, dtype=np.int64)[random.integers(len(self.sizes), size=(clusters, studies))]
        even = np.full((clusters, studies), questions // max(1, clusters), dtype=np.int64)
        even[: questions % max(1, clusters)] += 1
        return even


@dataclass(frozen=True)
class ClusteredAnswers:
    """Right and wrong answers in clusters, and the sign-flip test over clusters.

    assumption: how many questions change.
    baseline: the share of right answers of the reference.
    shape: how questions form clusters.
    icc: the intra-cluster correlation of the differences.
    alpha: the significance level.
    seed: the seed of the simulation.
    """

    assumption: Assumption
    baseline: float
    shape: ClusterShape
    icc: float
    alpha: float
    seed: int

    def power(self, questions: int, gain: float) -> Power:
        """Return the simulated power."""
        clusters = self.shape.clusters(questions)
        return simulated_power(partial(self._draw, questions, gain), clusters, self.alpha) if clusters else Power(0.0)

    def needed(self, gain: float, power: float) -> int | None:
        """Return the smallest number of questions whose simulated power is at least `power`, or None.

        It is None if there is none up to `MOST`, or, if the number of clusters is fixed, up to `LARGEST` questions in
        each.
        """
        shape, variance = self.shape, spread(self.assumption.share(self.baseline, gain), gain)
        z = float(stats.norm.isf(self.alpha / 2) + stats.norm.ppf(power))
        if shape.number is None:
            mean = sum(size**2 for size in shape.sizes) / sum(shape.sizes)
            guess = z**2 * variance * (1 + (mean - 1) * self.icc) / gain**2 / shape.mean
            return _fewest_clusters(self, shape, gain, power, guess)
        left = gain**2 / z**2 - variance * self.icc / shape.number
        guess = variance * (1 - self.icc) / left if left > 0 else math.inf
        most = min(MOST, LARGEST * shape.number)

        def is_enough(questions: int) -> bool:
            return self.power(questions, gain).value >= power

        return fewest(is_enough, guess, shape.number, most) if is_enough(most) else None

    def clusters(self, questions: int) -> int | None:
        """Return how many clusters there are."""
        return self.shape.clusters(questions)

    def _draw(self, questions: int, gain: float, studies: int, block: int) -> tuple[Floats, Ints]:
        generators = [np.random.default_rng([self.seed, block, part]) for part in range(5)]
        sizes = self.shape.draw(questions, studies, generators[4])
        share = self.assumption.share(self.baseline, gain)
        return changing_answers(sizes, gain, share, self.icc, generators[:4]), sizes


@dataclass(frozen=True)
class PilotDifferences:
    """Differences like those of a pilot, and the sign-flip test: for graded values, and for means over repeats.

    differences: the differences of the pilot, by cluster.
    span: the largest difference that a question can have, or None if that is unknown.
    is_clustered: whether the clusters are more than single questions.
    alpha: the significance level.
    seed: the seed of the simulation.

    Clusters are drawn from the pilot's, with random signs, and the gain is added as in `detectable_mean`.
    """

    differences: Clusters
    span: float | None
    is_clustered: bool
    alpha: float
    seed: int

    @property
    def shape(self) -> ClusterShape:
        """Return how questions form clusters."""
        return ClusterShape(tuple(int(size) for size in self.differences.sizes))

    def power(self, questions: int, gain: float) -> Power:
        """Return the simulated power."""
        clusters = self.shape.clusters(questions)
        draw: Draw = partial(self._draw, clusters, gain)
        return simulated_power(draw, clusters, self.alpha) if clusters else Power(0.0)

    def needed(self, gain: float, power: float) -> int | None:
        """Return the smallest number of questions whose simulated power is at least `power`, or None if none has it."""
        z = float(stats.norm.isf(self.alpha / 2) + stats.norm.ppf(power))
        variance = float(np.mean(self.differences.sums**2)) / self.shape.mean**2
        return _fewest_clusters(self, self.shape, gain, power, z**2 * variance / gain**2)

    def clusters(self, questions: int) -> int | None:
        """Return how many clusters there are; None if questions are independent."""
        return self.shape.clusters(questions) if self.is_clustered else None

    def _draw(self, clusters: int, gain: float, studies: int, block: int) -> tuple[Floats, Ints]:
        generators = [np.random.default_rng([self.seed, block, part]) for part in range(3)]
        chosen = generators[0].integers(self.differences.number, size=(clusters, studies))
        signs = 1.0 - 2.0 * generators[1].integers(2, size=chosen.shape)
        sizes = self.differences.sizes[chosen]
        sums = self.differences.sums[chosen] * signs
        sums = raised(sums, sizes, gain, self.span, self.differences.tied, generators[2])
        return sums, sizes.astype(np.int64)


def _fewest_clusters(
    model: ClusteredAnswers | PilotDifferences, shape: ClusterShape, gain: float, power: float, guess: float
) -> int | None:
    def is_enough(clusters: int) -> bool:
        return model.power(shape.questions(clusters), gain).value >= power

    found = fewest(is_enough, guess, 1, min(_MOST_CLUSTERS, int(MOST / shape.mean)))
    return None if found is None else shape.questions(found)


def fewest(is_enough: Callable[[int], bool], guess: float, least: int, most: int) -> int | None:
    """Return the smallest number for which `is_enough`, up to a relative precision of 1 %, or None if there is none.

    is_enough: is false for small numbers and true for large ones.
    guess: about where it changes.
    least, most: the smallest and the largest number.
    """
    high, low = math.ceil(min(max(guess, least), most)), least - 1
    if is_enough(high):
        while high > least:
            lower = max(least, int(high / _STEP))
            if not is_enough(lower):
                low = lower
                break
            high = lower
    else:
        while not is_enough(high):
            if high == most:
                return None
            low, high = high, min(most, math.ceil(high * _STEP))
    while high - low > max(1, high // _PRECISION):
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
