"""How many questions change between two runs, in both directions: what the size of a comparison depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Assumption:
    """An assumption about the share of the questions that change.

    name: it, in words.
    of: returns the share, given the gain.
    """

    name: str
    of: Callable[[float], float]

    def share(self, baseline: float, gain: float) -> float:
        """Return the share that changes, at least the gain and at most what the baseline allows.

        baseline: the share of right answers of the reference.
        gain: how much larger that of the run is.
        """
        return min(max(self.of(gain), gain), most_that_change(baseline, gain))

    def is_possible(self, baseline: float, gain: float) -> bool:
        """Return whether the baseline allows that many changes."""
        return self.of(gain) <= most_that_change(baseline, gain) + 1e-9


def most_that_change(baseline: float, gain: float) -> float:
    """Return the largest share of the questions that can change.

    baseline: the share of right answers of the reference.
    gain: how much larger that of the run is.

    Whatever gets worse must have been right, and is wrong then.
    """
    return gain + 2 * max(0.0, min(baseline, 1 - baseline - gain))


def only_gains() -> Assumption:
    """Return the least that can change: what was right stays right."""
    return Assumption("only gains: nothing that was right gets wrong", lambda gain: gain)


def twice_the_gain() -> Assumption:
    """Return an assumption in between: for every three questions that get right, one gets wrong."""
    return Assumption("twice the gain: three gains for each loss", lambda gain: 2 * gain)


def independent_answers(baseline: float) -> Assumption:
    """Return the share that changes if being right in one run says nothing about being right in the other.

    baseline: the share of right answers of the reference.
    """

    def of(gain: float) -> float:
        other = baseline + gain
        return baseline * (1 - other) + other * (1 - baseline)

    return Assumption("independent answers: p(1-q) + q(1-p)", of)


def this_share(share: float, name: str) -> Assumption:
    """Return the assumption that a given share of the questions changes.

    share: the share.
    name: where it comes from, in words.
    """
    return Assumption(name, lambda gain: max(share, gain))


def spread(share: float, gain: float) -> float:
    """Return the variance of a question's difference, which is 1, 0 or -1.

    share: the share of the questions that change.
    gain: the mean difference.
    """
    return share - gain**2
