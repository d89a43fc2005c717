"""The best that the other runs reach at the cost of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness_ext.analysis.compare import statistics as st
from harness_ext.records import Usage
from harness_ext.records.costs import amount

MEASURES: dict[str, Callable[[Usage], float | None]] = {
    "output tokens": lambda usage: amount(usage, "output_tokens"),
    "tokens": lambda usage: amount(usage, "tokens"),
    "FLOPs": lambda usage: amount(usage, "flops"),
    "price": lambda usage: amount(usage, "price"),
    "seconds": lambda usage: usage.seconds,
}


@dataclass(frozen=True)
class EqualCost:
    """The best mix of the other runs that costs no more per question than a run, and the run's difference from it.

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
    interval: st.Interval


def equal_costs(
    labels: Sequence[str], values: Sequence[Sequence[float]], costs: Sequence[Usage | None],
    clusters: Sequence[Any] | None, higher: bool, span: float,
) -> list[dict[str, EqualCost]]:  # fmt: skip
    """Return, for each run and measure of cost, the best mix of the other runs at its cost.

    labels: the labels of the runs.
    values: the values of each run, question by question.
    costs: the mean cost per question of each run, or None if it is unknown.
    clusters: the cluster of each question, or None.
    higher: whether higher values are better.
    span: the width of the metric's scale.

    An entry is missing if all other runs cost more, or if the run's cost is unknown. Runs of unknown cost are not part
    of any mix.
    """
    # A random share of the questions can be answered by one run and the rest by another, which is a system that anyone
    # could use. So the points on the line between two runs count as well: the convex hull of Kapoor et al. (2024),
    # arXiv 2407.01502.
    found: list[dict[str, EqualCost]] = [{} for _ in labels]
    for measure, read in MEASURES.items():
        known = [(i, cost) for i, u in enumerate(costs) if u is not None and (cost := read(u)) is not None]
        for i, budget in known:
            others = [(j, cost) for j, cost in known if j != i]
            best = _best(others, budget, [fmean(v) for v in values], higher)
            if best is None:
                continue
            j, k, share = best
            mixed = [share * a + (1 - share) * b for a, b in zip(values[j], values[k], strict=True)]
            name = labels[j] if j == k else f"{labels[j]} {share:.0%}, {labels[k]} {1 - share:.0%}"
            changes = st.Clusters.of([a - b for a, b in zip(values[i], mixed, strict=True)], clusters)
            interval = st.mean_interval(changes, -span, span)
            found[i][measure] = EqualCost(budget, fmean(mixed), name, changes.mean, interval)
    return found


def _best(
    others: Sequence[tuple[int, float]], budget: float, means: Sequence[float], higher: bool
) -> tuple[int, int, float] | None:
    """Return the best mix within the budget: two runs (the same one twice if it is used alone), and the first's share.

    others: the runs that may be mixed, with their costs.
    budget: the highest cost allowed.
    means: the mean value of each run.
    higher: whether higher values are better.
    """
    sign = 1 if higher else -1
    candidates = [(sign * means[j], -cost, j, j, 1.0) for j, cost in others if cost <= budget]
    for j, low in others:
        for k, high in others:
            if low <= budget < high:
                share = (high - budget) / (high - low)
                candidates.append((sign * (share * means[j] + (1 - share) * means[k]), -budget, j, k, share))
    return max(candidates)[2:] if candidates else None
