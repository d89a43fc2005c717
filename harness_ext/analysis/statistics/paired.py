"""A value with its interval, and a paired difference with its interval, test and detectable difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.analysis.statistics.clusters import Clusters, Interval
from harness_ext.analysis.statistics.intervals import difference_interval, mean_interval, share_interval
from harness_ext.analysis.statistics.power import detectable_mean, detectable_share
from harness_ext.analysis.statistics.scales import Scale, is_binary
from harness_ext.analysis.statistics.sign_flip import sign_flip_test


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and its confidence interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences.

    value: the mean difference.
    interval: its confidence interval, which contains 0 exactly if the p-value is 0.05 or more.
    p_value: the p-value of no difference.
    test: the name of the test.
    up, down: how many questions have a higher and a lower value; None for statistics that are no mean over questions.
    detectable: the smallest difference that a sample of this size detects with power 0.8, or None.
    """

    value: float
    interval: Interval
    p_value: float
    test: str
    up: int | None
    down: int | None
    detectable: float | None


def estimate(values: Sequence[float], scale: Scale | None, labels: Sequence[Any] | None = None) -> Estimate:
    """Return the mean of values and its interval: Clopper-Pearson for shares, otherwise `mean_interval`.

    values: the values, one per question.
    scale: the least and the greatest possible value, or None if that is unknown.
    labels: the cluster of each question. Default: each question is its own cluster.
    """
    clusters = Clusters.of(values, labels)
    if labels is None and _is_share(scale, values):
        return Estimate(clusters.mean, share_interval(round(sum(values)), len(values)))
    return Estimate(clusters.mean, mean_interval(clusters, scale))


def paired_difference(
    first: Sequence[float], second: Sequence[float], scale: Scale | None, labels: Sequence[Any] | None = None
) -> PairedDifference:
    """Compare two runs question by question; the difference is `second` - `first`.

    first, second: the values of each run, in the same order of questions.
    scale: the least and the greatest possible value, or None if that is unknown.
    labels: the cluster of each question. Default: each question is its own cluster.
    """
    changes = [b - a for a, b in zip(first, second, strict=True)]
    span = None if scale is None else scale[1] - scale[0]
    clusters = Clusters.of(changes, labels)
    up, down = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    if labels is None and _is_share(scale, first) and _is_share(scale, second):
        detectable = detectable_share(len(changes), (up + down) / len(changes))
        return _tested(clusters, span, "exact McNemar test", up, down, detectable)
    test = "sign-flip test" + (" over clusters" if labels is not None else "")
    return _tested(clusters, span, test, up, down, detectable_mean(clusters, span))


def mean_difference(clusters: Clusters, span: float | None, test: str) -> PairedDifference:
    """Return the mean of differences that are already summed by cluster.

    clusters: the differences.
    span: the largest difference that a question can have, or None if that is unknown.
    test: the name of the test.
    """
    return _tested(clusters, span, test, None, None, detectable_mean(clusters, span))


def _tested(
    clusters: Clusters, span: float | None, test: str, up: int | None, down: int | None, detectable: float | None
) -> PairedDifference:
    p_value = sign_flip_test(clusters)
    interval = difference_interval(clusters, span, p_value)
    return PairedDifference(clusters.mean, interval, p_value, test, up, down, detectable)


def _is_share(scale: Scale | None, values: Sequence[float]) -> bool:
    # A loss may happen to be 0 or 1 on every question, but it is no share of right answers.
    return scale == (0, 1) and is_binary(values)
