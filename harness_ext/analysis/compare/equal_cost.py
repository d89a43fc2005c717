"""The best that other runs reach at the cost of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from harness_ext.analysis.statistics.clusters import Clusters, Interval
from harness_ext.analysis.statistics.intervals import difference_interval
from harness_ext.records import Usage
from harness_ext.records.costs import amount

MEASURES: dict[str, Callable[[Usage], float | None]] = {
    "output tokens": lambda usage: amount(usage, "output_tokens"),
    "tokens": lambda usage: amount(usage, "tokens"),
    "thinking tokens": lambda usage: usage.thinking_tokens,
    "FLOPs": lambda usage: amount(usage, "flops"),
    "price": lambda usage: amount(usage, "price"),
    "seconds": lambda usage: usage.seconds,
}


@dataclass(frozen=True)
class EqualCost:
    """The best mix of other runs that costs no more per question than a run, and the run's difference from it.

    cost: the run's cost per question.
    value: the value of the mix.
    of: the other run, or the two that each answer a share of the questions (`a 40%, b 60%`) at the same cost.
    difference: the run's value minus that of the mix.
    interval: the paired interval of the difference. It does not account for picking the best of several mixes.
    """

    cost: float
    value: float
    of: str
    difference: float
    interval: Interval


@dataclass(frozen=True)
class Mixes:
    """What other runs reach at the cost of a run, for each measure of cost.

    best: the best mix of all other runs.
    control: the best mix of the controls; empty for the controls themselves.

    An entry is missing if all those runs cost more, or if the run's cost is unknown.
    """

    best: dict[str, EqualCost] = field(default_factory=dict)
    control: dict[str, EqualCost] = field(default_factory=dict)


def equal_costs(
    controls: Sequence[str], labels: Sequence[str], values: Sequence[Sequence[float]], costs: Sequence[Usage | None],
    clusters: Sequence[Any] | None, higher: bool, span: float | None,
) -> list[Mixes]:  # fmt: skip
    """Return, for each run, what the others reach at its cost.

    controls: the labels of the controls.
    labels: the labels of the runs.
    values: the values of each run, question by question.
    costs: the mean cost per question of each run, or None if it is unknown. Runs of unknown cost are part of no mix.
    clusters: the cluster of each question, or None.
    higher: whether higher values are better.
    span: the width of the metric's scale, or None if it is unknown.
    """
    found = [Mixes() for _ in labels]
    means = [fmean(v) for v in values]

    def mix(i: int, budget: float, others: Sequence[tuple[int, float]]) -> EqualCost | None:
        best = _best(others, budget, means, higher)
        if best is None:
            return None
        j, k, share = best
        mixed = [share * a + (1 - share) * b for a, b in zip(values[j], values[k], strict=True)]
        name = labels[j] if j == k else f"{labels[j]} {share:.0%}, {labels[k]} {1 - share:.0%}"
        changes = Clusters.of([a - b for a, b in zip(values[i], mixed, strict=True)], clusters)
        return EqualCost(budget, fmean(mixed), name, changes.mean, difference_interval(changes, span))

    for measure, read in MEASURES.items():
        known = [(i, cost) for i, u in enumerate(costs) if u is not None and (cost := read(u)) is not None]
        if not any(cost for _, cost in known):
            continue  # nothing was spent: nobody thought, or the runs took no time
        for i, budget in known:
            others = [(j, cost) for j, cost in known if j != i]
            if (best := mix(i, budget, others)) is not None:
                found[i].best[measure] = best
            if labels[i] in controls:
                continue
            if (best := mix(i, budget, [(j, cost) for j, cost in others if labels[j] in controls])) is not None:
                found[i].control[measure] = best
    return found


def _best(
    others: Sequence[tuple[int, float]], budget: float, means: Sequence[float], higher: bool
) -> tuple[int, int, float] | None:
    """Return the best mix within the budget: two runs (the same one twice if it is used alone), and the first's share.

    others: the runs that may be mixed, with their costs.
    budget: the highest cost allowed.
    means: the mean value of each run.
    higher: whether higher values are better.

    A random share of the questions can be answered by one run and the rest by another, which is a system that anyone
    could use. So the points on the line between two runs count as well: the convex hull of Kapoor et al. (2024), arXiv
    2407.01502.
    """
    sign = 1 if higher else -1
    candidates = [(sign * means[j], -cost, j, j, 1.0) for j, cost in others if cost <= budget]
    for j, low in others:
        for k, high in others:
            if low <= budget < high:
                share = (high - budget) / (high - low)
                candidates.append((sign * (share * means[j] + (1 - share) * means[k]), -budget, j, k, share))
    return max(candidates)[2:] if candidates else None
