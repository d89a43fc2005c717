"""Statistics of all questions together (`f1`, `bleu`, `perplexity`), made accessible to the tests of means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness_ext.analysis.statistics.clusters import Clusters

GROUPS = 200


def pseudo_differences(first: Clusters, second: Clusters) -> Clusters:
    """Return the differences of the pseudo-values of two runs, whose mean is the difference of their statistics.

    first, second: the pseudo-values of each run, of the same questions with the same labels.
    """
    sums = second.sums - first.sums
    changes = sums / first.sizes
    tied = 1.0 if np.ptp(changes) == 0 else 0.0
    return Clusters(sums, first.sizes, float(first.sizes @ changes**2), tied)


def pseudo_values(
    items: Sequence[Any],
    statistic: Callable[[list[Any]], float],
    labels: Sequence[Any] | None = None,
    groups: int = GROUPS,
) -> Clusters:
    """Return the jackknife's pseudo-values of a statistic, whose mean is the statistic itself.

    items: the items of a run, one per question.
    statistic: computes the statistic from items.
    labels: the cluster of each question. Default: each question is its own cluster.
    groups: the statistic is computed at most this many times. Default 200. If there are more clusters, several of them
        form a group that is left out together, every 200th in the same group.

    A pseudo-value says how far a group of questions pulls the statistic up or down, so that a statistic which is no
    mean is treated like one: Tukey (1958); for groups of unequal size Busing, Meijer and van der Leeden (1999).
    """
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))} if labels is not None else {}
    places = [numbers[label] for label in labels] if labels is not None else list(range(len(items)))
    members: dict[int, list[int]] = {}
    for item, place in enumerate(places):
        members.setdefault(place % groups, []).append(item)
    total = len(items)
    whole = statistic(list(items))
    if len(members) < 2:
        return Clusters(np.array([whole * total]), np.array([float(total)]), whole**2 * total, 1.0)
    sizes = np.array([float(len(group)) for group in members.values()])
    without = np.array(
        [statistic([items[i] for i in range(total) if i not in left]) for left in map(set, members.values())]
    )
    values = total / sizes * whole - (total / sizes - 1) * without
    values += (
        whole - float(sizes @ values) / total
    )  # the pseudo-values correct the bias; the statistic is not corrected
    tied = 1.0 if np.ptp(values) == 0 else 0.0
    return Clusters(sizes * values, sizes, float(sizes @ values**2), tied)
