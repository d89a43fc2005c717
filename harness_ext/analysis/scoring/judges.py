"""How a judge that compares texts is influenced by their order and their length, and how often it is right.

Zheng et al. (2023, arXiv 2306.05685) and Wang et al. (2023, arXiv 2305.17926) describe both influences, and Shi et al.
(2024, arXiv 2406.07791) the figures of position; here they have intervals and tests. Where a judge saw the same texts
in both orders, each comparison is its own control: without an influence of the order, a text is chosen as often when
it stands first as when it stands last, however good it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from math import log, log2
from typing import Any

import numpy as np

from harness_ext.analysis.scoring.probabilities import Floats, Statistic, estimates
from harness_ext.decisions.calibration import SMALLEST


@dataclass(frozen=True)
class Showing:
    """One order in which a judge saw the texts of a comparison.

    order: the position of the text at each place.
    choice: the chosen place; None if the judge chose none, or could not be read.
    probabilities: the probability of each place, None for those that are unknown. Default: the judge stated none.
    """

    order: tuple[int, ...]
    choice: int | None
    probabilities: tuple[float | None, ...] = ()

    @property
    def known(self) -> tuple[float, ...] | None:
        """Return the probabilities, or None unless all of them are known."""
        found = tuple(p for p in self.probabilities if p is not None)
        return found if len(found) == len(self.order) else None


@dataclass(frozen=True)
class Comparison:
    """A comparison of texts by a judge.

    source: the document or prompt that it is about. Comparisons with the same source are not independent.
    lengths: the length of each text, in characters.
    showings: the orders in which the judge saw them: one, or two of which the second is the reverse of the first.
    preferred: the position of the text that was preferred in the end; None if none was.
    right: whether each text is right. Default None: unknown.
    """

    source: Hashable
    lengths: tuple[int, ...]
    showings: tuple[Showing, ...]
    preferred: int | None
    right: tuple[bool, ...] | None = None

    @property
    def decided(self) -> bool:
        """Return whether the judge chose a text in every order."""
        return all(showing.choice is not None for showing in self.showings)

    @property
    def chosen(self) -> list[int]:
        """Return the position of the text that was chosen in each order in which one was."""
        return [showing.order[showing.choice] for showing in self.showings if showing.choice is not None]

    def share(self, holds: Callable[[Showing, int], bool]) -> float:
        """Return the share of the orders whose choice has a property, which is a function of order and chosen place."""
        held = [holds(showing, showing.choice) for showing in self.showings if showing.choice is not None]
        return sum(held) / len(self.showings)


def judge_figures(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return how order and length influenced a judge's choices; None without comparisons.

    comparisons: the comparisons.

    The figures are:

    comparisons, both_orders: how many there are, and how many of them were shown in both orders.
    decisions, undecided: in how many orders the judge chose a text, and in how many it did not.
    without_verdict: how many comparisons have no preferred text.
    position: what `position_figures` returns.
    length: what `length_figures` returns.
    """
    if not comparisons:
        return None
    shown = sum(len(one.showings) for one in comparisons)
    decisions = sum(len(one.chosen) for one in comparisons)
    return {
        "comparisons": len(comparisons),
        "both_orders": sum(len(one.showings) > 1 for one in comparisons),
        "decisions": decisions,
        "undecided": shown - decisions,
        "without_verdict": sum(one.preferred is None for one in comparisons),
        "position": position_figures(comparisons),
        "length": length_figures(comparisons),
    }


def position_figures(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return how the order of the texts influenced a judge's choices; None if no comparison was decided.

    Only comparisons that were decided in every order count; where there are some that were shown in both orders, only
    these. The figures are:

    comparisons, orders: how many comparisons count, and in how many orders each was shown.
    first: the share of decisions for the text that stood first.
    expected: the share that the swapped order implies if the order has no influence, 0.5 for two texts.
    effect: half the difference between the shares of the first and of the last place, which is `first` - `expected`.
    probability: the same difference of the mean probabilities of the first and the last place; null if some
        probabilities are unknown in every comparison.

    For comparisons in both orders, also:

    consistent: the share of comparisons in which both decisions are for the same text ("position consistency").
    first_both, last_both: the shares of comparisons in which both decisions are for the first or for the last place.
    """
    usable = _usable(comparisons)
    if not usable:
        return None
    first = [one.share(lambda showing, place: place == 0) for one in usable]
    last = [one.share(lambda showing, place: place == len(showing.order) - 1) for one in usable]
    figures = {
        "comparisons": len(usable),
        "orders": len(usable[0].showings),
        **_against(first, last, usable, "first"),
        "probability": _probability(usable),
    }
    if len(usable[0].showings) == 1:
        return figures
    return {
        **figures,
        "consistent": _share([len(set(one.chosen)) == 1 for one in usable], usable),
        "first_both": _share([value == 1 for value in first], usable),
        "last_both": _share([value == 1 for value in last], usable),
    }


def length_figures(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return how the length of the texts influenced a judge's choices; None if no comparison was decided.

    The comparisons are those of `position_figures`, without those in which several texts are the longest or the
    shortest. The figures are:

    comparisons, equal: how many comparisons count, and how many are left out because their texts are equally long.
    longest: the share of decisions for the longest text.
    expected: the share if the longest and the shortest text were chosen equally often, 0.5 for two texts.
    effect: half the difference between the shares of the longest and the shortest text.
    slope: by how much the log-odds (natural logarithm) of the longer of two texts rise when it becomes twice as long as
        the shorter one, by least squares through the origin, with an interval over sources. Null unless the
        probabilities of some pairs are known.

    A judge that prefers the longer text may be right: `accuracy_figures` tells a taste for length from good judgement.
    """
    usable = _usable(comparisons)
    unequal = [one for one in usable if _extreme(one, max) is not None and _extreme(one, min) is not None]
    if not usable:
        return None
    figures: dict[str, Any] = {"comparisons": len(unequal), "equal": len(usable) - len(unequal)}
    if not unequal:
        return figures
    longest = [one.chosen.count(_position(one, max)) / len(one.showings) for one in unequal]
    shortest = [one.chosen.count(_position(one, min)) / len(one.showings) for one in unequal]
    return {**figures, **_against(longest, shortest, unequal, "longest"), "slope": _slope(unequal)}


def accuracy_figures(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return how often a judge is right; None if there is no comparison of right texts with wrong ones.

    comparisons: the comparisons. Those whose texts are all right, all wrong, or of unknown correctness are left out.

    The figures are:

    comparisons, without_verdict: how many there are, and how many of them have no preferred text.
    accuracy: the share of the others in which a right text is preferred.
    chance: the mean share of right texts among the shown ones.
    right_longest, right_shortest: the accuracy where the only right text is the longest, and where it is the shortest.
    right_first, right_last: the accuracy of the decisions in orders in which the only right text stood first, and last.
    """
    known = [one for one in comparisons if one.right is not None and 0 < sum(one.right) < len(one.right)]
    if not known:
        return None
    judged = [one for one in known if one.preferred is not None]
    single = [one for one in known if _right(one) is not None]

    def by_length(which: Callable[[Sequence[int]], int]) -> dict[str, Any] | None:
        found = [one for one in single if one.preferred is not None and _extreme(one, which) == _right(one)]
        return _share([one.preferred == _right(one) for one in found], found)

    def by_place(place: int) -> dict[str, Any] | None:
        found = [
            (one, showing)
            for one in single
            for showing in one.showings
            if showing.choice is not None and showing.order[place] == _right(one)
        ]
        return _share([s.order[s.choice or 0] == _right(one) for one, s in found], [one for one, _ in found])

    return {
        "comparisons": len(known),
        "without_verdict": len(known) - len(judged),
        "accuracy": _share([bool(one.right and one.right[one.preferred or 0]) for one in judged], judged),
        "chance": sum(sum(one.right or ()) / len(one.right or (0,)) for one in known) / len(known),
        "right_longest": by_length(max),
        "right_shortest": by_length(min),
        "right_first": by_place(0),
        "right_last": by_place(-1),
    }


def _usable(comparisons: Sequence[Comparison]) -> list[Comparison]:
    decided = [one for one in comparisons if one.decided]
    return [one for one in decided if len(one.showings) > 1] or decided


def _right(comparison: Comparison) -> int | None:
    """Return the position of the only right text, or None if there are several."""
    right = comparison.right or ()
    return right.index(True) if sum(right) == 1 else None


def _extreme(comparison: Comparison, which: Callable[[Sequence[int]], int]) -> int | None:
    """Return the position of the longest or shortest text, or None if there are several."""
    lengths = comparison.lengths
    return lengths.index(which(lengths)) if lengths.count(which(lengths)) == 1 else None


def _position(comparison: Comparison, which: Callable[[Sequence[int]], int]) -> int:
    return comparison.lengths.index(which(comparison.lengths))


def _labels(comparisons: Sequence[Comparison]) -> list[Hashable] | None:
    """Return the sources of comparisons, or None if all are different, so that exact methods apply."""
    sources = [one.source for one in comparisons]
    return sources if len(set(sources)) < len(sources) else None


def _share(held: Sequence[bool], comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    return _mean([float(value) for value in held], comparisons) if held else None


def _mean(values: Sequence[float], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the mean of one value per comparison, with its interval: the exact one for independent shares."""
    from harness_ext.analysis.statistics.paired import estimate

    found = estimate(values, (0.0, 1.0), _labels(comparisons))
    return {"rows": len(values), "value": found.value, "low": found.interval.low, "high": found.interval.high}


def _against(
    these: Sequence[float], those: Sequence[float], comparisons: Sequence[Comparison], name: str
) -> dict[str, Any]:
    """Return the mean share of some texts, what it is expected to be, and half its distance from that of others."""
    halves = [(a - b) / 2 for a, b in zip(these, those, strict=True)]
    expected = sum(a + b for a, b in zip(these, those, strict=True)) / 2 / len(comparisons)
    return {name: _mean(these, comparisons), "expected": expected, "effect": _effect(halves, comparisons)}


def _effect(values: Sequence[float], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the mean of values between -0.5 and 0.5 that are symmetric around 0 if there is no influence.

    For comparisons of two texts in both orders with different sources, the test is the exact McNemar test.
    """
    from harness_ext.analysis.statistics.clusters import Clusters
    from harness_ext.analysis.statistics.intervals import difference_interval
    from harness_ext.analysis.statistics.sign_flip import sign_flip_test

    clusters = Clusters.of(values, _labels(comparisons))
    p_value = sign_flip_test(clusters)
    interval = difference_interval(clusters, 0.5, p_value)
    return {"rows": len(values), "value": clusters.mean, "low": interval.low, "high": interval.high, "p": p_value}


def _probability(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    found = [one for one in comparisons if all(showing.known is not None for showing in one.showings)]
    if not found:
        return None
    halves = [
        sum((known[0] - known[-1]) / 2 for showing in one.showings if (known := showing.known)) / len(one.showings)
        for one in found
    ]
    return _effect(halves, found)


def _slope(comparisons: Sequence[Comparison]) -> dict[str, Any] | None:
    """Return the slope of log-odds over the binary logarithm of the ratio of lengths, for pairs with probabilities."""
    pairs = [
        one
        for one in comparisons
        if len(one.lengths) == 2 and min(one.lengths) > 0 and all(showing.known is not None for showing in one.showings)
    ]
    if not pairs:
        return None
    ratios = np.array([log2(max(one.lengths) / min(one.lengths)) for one in pairs])
    odds = np.array([_log_odds(one, _position(one, max)) for one in pairs])
    found = estimates({"slope": _through_origin(ratios, odds)}, [one.source for one in pairs])["slope"]
    return {"rows": len(pairs), **asdict(found)}


def _log_odds(comparison: Comparison, position: int) -> float:
    """Return a text's log-odds, as the mean over the orders, in which a constant advantage of a place cancels out."""
    odds = []
    for showing in comparison.showings:
        share = (showing.known or ())[showing.order.index(position)]
        share = min(max(share, SMALLEST), 1 - SMALLEST)
        odds.append(log(share / (1 - share)))
    return sum(odds) / len(odds)


def _through_origin(x: Floats, y: Floats) -> Statistic:
    def statistic(weights: Floats) -> Floats:
        return np.asarray((weights @ (x * y)) / (weights @ x**2))

    return statistic
