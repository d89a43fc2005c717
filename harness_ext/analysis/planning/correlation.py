"""The intra-cluster correlation: how alike the questions of a cluster are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def intracluster_correlation(values: Sequence[float], labels: Sequence[Hashable]) -> float | None:
    """Return the correlation of two values of the same cluster, between 0 and 1, or None if nothing can be said.

    values: the values, one per question.
    labels: the cluster of each question.

    This is the estimator of an analysis of variance, for clusters of unequal size (Donner and Koval 1980). Nothing can
    be said if there is a single cluster, if no cluster has two questions, or if all values are equal. A negative
    estimate counts as 0.
    """
    array = np.asarray(values, dtype=np.float64)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    index = np.array([numbers[label] for label in labels], dtype=np.intp)
    sizes = np.bincount(index).astype(np.float64)
    clusters, questions = len(sizes), len(array)
    if clusters < 2 or questions == clusters:
        return None
    means = np.bincount(index, weights=array) / sizes
    between = float(sizes @ (means - array.mean()) ** 2) / (clusters - 1)
    within = float(np.sum((array - means[index]) ** 2)) / (questions - clusters)
    typical = (questions - float(sizes @ sizes) / questions) / (clusters - 1)
    total = between + (typical - 1) * within
    if total <= 1e-12:
        return None
    return float(np.clip((between - within) / total, 0.0, 1.0))
