"""The power of a comparison as a function of the number of questions and of the gain, and its inverse functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness_ext.analysis.planning.assumptions import Assumption
from harness_ext.analysis.statistics.power import mcnemar_power

MOST = 1_000_000  # questions; larger numbers are reported as more than that
_AHEAD = 50  # how many larger numbers are checked


@dataclass(frozen=True)
class Power:
    """The probability of finding a gain.

    value: the probability.
    error: the standard error of its simulation; None if it is exact.
    """

    value: float
    error: float | None = None


class Model(Protocol):
    """How the data of a comparison arise, and how they are tested."""

    def power(self, questions: int, gain: float) -> Power:
        """Return the probability of finding a gain with a number of questions."""
        ...

    def needed(self, gain: float, power: float) -> int | None:
        """Return how many questions find a gain with a power; None if there is no such number up to `MOST`."""
        ...

    def clusters(self, questions: int) -> int | None:
        """Return how many clusters a number of questions belongs to; None if questions are independent."""
        ...


@dataclass(frozen=True)
class IndependentQuestions:
    """Questions that are right or wrong, independently of each other, and the exact McNemar test.

    assumption: how many of them change.
    baseline: the share of right answers of the reference.
    alpha: the significance level.
    """

    assumption: Assumption
    baseline: float
    alpha: float

    def power(self, questions: int, gain: float) -> Power:
        """Return the exact power."""
        return Power(mcnemar_power(questions, self.assumption.share(self.baseline, gain), gain, self.alpha))

    def needed(self, gain: float, power: float) -> int | None:
        """Return the smallest number of questions from which on the power is at least `power`.

        The test is discrete, and where nearly all questions change, its power can fall slightly when a question is
        added. So this is not the first number with that power, but the number after the last one without it. It is
        None if that is above `MOST`.
        """

        def is_enough(questions: int) -> bool:
            return self.power(questions, gain).value >= power

        return first_to_stay(is_enough, MOST, _AHEAD)

    def clusters(self, questions: int) -> int | None:
        """Return None: there are no clusters."""
        return None


def first_to_stay(is_enough: Callable[[int], bool], most: int, ahead: int) -> int | None:
    """Return the smallest number from 1 to `most` from which on `is_enough` is true, or None if there is none.

    is_enough: is false for small numbers and true for large ones. In between it may change back, but not after `ahead`
        true values in a row.
    most: the largest number to return.
    ahead: how many larger numbers have to be true as well.
    """
    high = 1
    while not is_enough(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2  # not enough, or 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    number = high + 1
    while number <= high + ahead:
        if not is_enough(number):
            high = number + 1
        number += 1
    return high if high <= most else None


def smallest_gain(model: Model, questions: int, most: float, power: float) -> float | None:
    """Return the smallest gain that a number of questions finds, or None if it does not find the largest one.

    model: the comparison.
    questions: the number of questions.
    most: the largest possible gain.
    power: the probability with which it has to be found.

    It is rounded up to four significant digits, of which a simulated one is good for three at most.
    """
    if most <= 0 or (largest := model.power(questions, most)).value < power:
        return None
    low, high = 0.0, most
    while high - low > high * (2e-4 if largest.error is None else 2e-3):
        middle = (low + high) / 2
        low, high = (low, middle) if model.power(questions, middle).value >= power else (middle, high)
    scale = 10.0 ** (3 - math.floor(math.log10(high)))
    return min(most, math.ceil(high * scale) / scale)


def least_clusters(alpha: float) -> int:
    """Return the smallest number of clusters with which the sign-flip test can be significant at all."""
    return math.floor(1 - math.log2(alpha)) + 1
