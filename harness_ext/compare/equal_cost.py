"""What the other runs are worth at one run's cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from harness_ext.compare import statistics as st
from harness_ext.costs import amount
from harness_ext.records import Usage

MEASURES: dict[str, Callable[[Usage], float | None]] = {
    "output tokens": lambda usage: amount(usage, "output_tokens"),
    "tokens": lambda usage: amount(usage, "tokens"),
    "FLOPs": lambda usage: amount(usage, "flops"),
    "price": lambda usage: amount(usage, "price"),
    "seconds": lambda usage: usage.seconds,
}


@dataclass(frozen=True)
class EqualCost:
    """The best that the other runs reach at no more than a run's cost a question, and the run's difference to it.

    `of` names the run, or the two of which a share of the questions each is answered by (`a 40 %, b 60 %`), which costs
    as much. The difference's interval is paired; it does not count that the best of several was picked.
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
    """Return for each run, by measure of cost, what the others reach at its cost; nothing where they all cost more, or
    where a run's cost is unknown (that run is then no alternative).

    Answering a random share of the questions by one run and the rest by another is a system that anyone could run, so
    between two runs the line between them counts: the convex hull of Kapoor et al. (2024), arXiv 2407.01502.
    """
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
    """Return two runs (twice the same for one alone) and the first's share, of the best mixture within the budget."""
    sign = 1 if higher else -1
    candidates = [(sign * means[j], -cost, j, j, 1.0) for j, cost in others if cost <= budget]
    for j, low in others:
        for k, high in others:
            if low <= budget < high:
                share = (high - budget) / (high - low)
                candidates.append((sign * (share * means[j] + (1 - share) * means[k]), -budget, j, k, share))
    return max(candidates)[2:] if candidates else None
