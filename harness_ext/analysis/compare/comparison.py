"""The comparison itself: turns matched scores into rows of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from harness_ext.analysis.clustering import cluster_of
from harness_ext.analysis.compare.equal_cost import EqualCost, equal_costs
from harness_ext.analysis.compare.matching import Matched
from harness_ext.analysis.compare.pools import Pool, pools_of
from harness_ext.analysis.compare.runs import UNNAMED, CompareError, Metric, QuestionId, Run, mean_usage
from harness_ext.analysis.preregistration.review import Review
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.analysis.statistics.clusters import Clusters, Interval
from harness_ext.analysis.statistics.holm import holm
from harness_ext.analysis.statistics.intervals import mean_interval
from harness_ext.analysis.statistics.jackknife import pseudo_differences, pseudo_values
from harness_ext.analysis.statistics.paired import PairedDifference, estimate, mean_difference, paired_difference
from harness_ext.analysis.statistics.scales import KNOWN, Scale, scale_of
from harness_ext.analysis.statistics.seeds import SeedSpread, seed_spread, with_seeds
from harness_ext.records import Usage

TaskQuestion = tuple[str, QuestionId]


@dataclass(frozen=True)
class Difference(PairedDifference):
    """A run compared with the reference.

    adjusted: the p-value after Holm's correction for the number of runs.
    with_seeds: the interval for other questions and other seeds; None if neither run has repeats.
    planned: whether the comparison was planned before the run; None without a plan.
    planned_p: the p-value after Holm's correction for the planned comparisons alone; None for exploratory ones.
    """

    adjusted: float | None = None
    with_seeds: Interval | None = None
    planned: bool | None = None
    planned_p: float | None = None


@dataclass(frozen=True)
class Seeds:
    """The repeats of a run with different seeds.

    number: how many there are.
    deviation: the standard deviation of the value from seed to seed.
    interval: the interval of the mean over seeds, for other questions and other seeds.
    """

    number: int
    deviation: float
    interval: Interval


@dataclass(frozen=True)
class ComparisonRow:
    """The figures of one run for one pool and metric.

    pool, metric, run: the pool, the metric as `metric,filter`, and the run's label.
    number: how many questions there are.
    value: the value over all questions.
    interval: its confidence interval.
    higher_is_better: the direction of the metric.
    difference: the comparison with the reference; None for the reference itself.
    task_mean, task_deviation: mean and standard deviation over tasks, for pools of several tasks.
    seeds: the spread between seeds; None for a single one.
    cost: the mean cost per question, or None if it is unknown.
    equal_cost: for each measure of cost, the best mix of the other runs at the cost of this one.
    control: for each measure of cost, the best mix of the controls at the cost of this run.
    """

    pool: Pool
    metric: str
    run: str
    number: int
    value: float
    interval: Interval
    higher_is_better: bool
    difference: Difference | None = None
    task_mean: float | None = None
    task_deviation: float | None = None
    seeds: Seeds | None = None
    cost: Usage | None = None
    equal_cost: Mapping[str, EqualCost] = field(default_factory=dict)
    control: Mapping[str, EqualCost] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A complete comparison.

    runs: the labels of the runs, the reference first.
    rows: the figures.
    notes: remarks about what was merged, replaced or left out.
    clusters: the field that defines the clusters, or None.
    controls: the labels of the runs that others are compared with at equal cost.
    """

    runs: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]
    clusters: str | None = None
    controls: tuple[str, ...] = ()


def compare(
    runs: Sequence[Run],
    matched: Matched,
    groups: Mapping[str, Sequence[str]] | None = None,
    cluster: str | None = None,
    controls: Sequence[str] = (),
) -> Comparison:
    """Compare runs with the first of them on the matched questions.

    runs: the runs, the reference first.
    matched: the questions that they have in common.
    groups: pools of tasks in addition to the groups that lm-eval knows. Default none.
    cluster: a field of the documents, a Jinja template over them, or `task`. Questions with the same value are
        resampled together. Default none: each question by itself.
    controls: labels of the runs that each run is compared with at equal cost. Default: the self-consistency runs
        together with the single-model baselines, whose mixes reach the costs in between.

    Raises CompareError if a group names a task that is not compared or a control is no run, and ClusterError if
    documents lack the cluster's field.
    """
    if unknown := [label for label in controls if label not in [run.label for run in runs]]:
        raise CompareError(f"--control {unknown[0]}: the runs are {', '.join(r.label for r in runs)}")
    chosen = tuple(controls) or _self_consistency(runs)
    notes = [note for run in runs for note in run.notes]
    rows: list[ComparisonRow] = []
    labels = cluster_labels(runs[0], matched, cluster) if cluster else None
    for pool in pools_of(runs, matched, groups or {}, notes):
        for metric in dict.fromkeys(m for task in pool.tasks for m in matched.questions[task]):
            if any(metric not in matched.questions[task] for task in pool.tasks):
                notes.append(f"{pool.name}: {metric} is not pooled, because not all of its tasks have it")
                continue
            questions = [(task, q) for task in pool.tasks for q in matched.questions[task][metric]]
            rows += _Block(runs, pool, metric, labels, notes).rows(questions, chosen)
    return Comparison(tuple(r.label for r in runs), tuple(rows), tuple(dict.fromkeys(notes)), cluster, chosen)


def reviewed(comparison: Comparison, review: Review) -> Comparison:
    """Return a comparison that says what was planned: in its rows, and in sentences before its other notes."""
    rows = []
    for row in comparison.rows:
        found = review.row(row.pool.name, row.metric, row.run)
        if row.difference is not None and found is not None:
            difference = replace(row.difference, planned=found.is_planned, planned_p=found.adjusted)
            row = replace(row, difference=difference)
        rows.append(row)
    return replace(comparison, rows=tuple(rows), notes=(*review.notes(), *comparison.notes))


def _self_consistency(runs: Sequence[Run]) -> tuple[str, ...]:
    if not any(run.protocol == "self_consistency" for run in runs):
        return ()
    return tuple(run.label for run in runs if run.protocol in ("self_consistency", "baseline"))


@dataclass(frozen=True)
class _Block:
    """The rows of all runs for one pool and metric.

    runs, pool, metric: as in `ComparisonRow`.
    labels: the cluster of each question, or None.
    notes: receives remarks.
    """

    runs: Sequence[Run]
    pool: Pool
    metric: str
    labels: Mapping[TaskQuestion, Any] | None
    notes: list[str]

    def rows(self, questions: Sequence[TaskQuestion], controls: Sequence[str]) -> list[ComparisonRow]:
        """Return the rows, the reference first."""
        found = [self._metric(run, task) for run in self.runs for task in self.pool.tasks]
        if all(_is_mean(metric) for metric in found):
            return self._means(self._with_numbers(questions), controls)
        if len(self.pool.tasks) > 1:
            self.notes.append(f"{self.pool.name}: {self.metric} is not pooled, because it is not a mean over questions")
            return []
        return self._statistics(questions)

    def _metric(self, run: Run, task: str) -> Metric:
        return run.tasks[task].metrics[self.metric]

    def _with_numbers(self, questions: Sequence[TaskQuestion]) -> list[TaskQuestion]:
        """Return the questions that have a number in every run, and note how many have none."""
        without: dict[str, set[TaskQuestion]] = {}
        for run in self.runs:
            bad = {(t, q) for t, q in questions if any(_missing(v) for v in self._metric(run, t).values[q])}
            if bad:
                without[run.label] = bad
        if not without:
            return list(questions)
        excluded = set().union(*without.values())
        counts = ", ".join(f"{len(bad)} of {label}" for label, bad in without.items())
        self.notes.append(
            f"{self.pool.name}: {self.metric} is not a number for {counts}: "
            f"{len(excluded)} of {len(questions)} questions are left out of all runs"
        )
        return [question for question in questions if question not in excluded]

    def _means(self, questions: Sequence[TaskQuestion], controls: Sequence[str]) -> list[ComparisonRow]:
        if not questions:
            return []
        repeats = [[[_number(v) for v in self._metric(run, t).values[q]] for t, q in questions] for run in self.runs]
        values = [[fmean(each) for each in found] for found in repeats]
        names = [self.labels[question] for question in questions] if self.labels else None
        scale = scale_of(self.metric.rpartition(",")[0], [v for found in values for v in found])
        spreads = [seed_spread(found) if len({len(each) for each in found}) == 1 else None for found in repeats]
        higher = self._metric(self.runs[0], self.pool.tasks[0]).higher_is_better
        tasks = list(dict.fromkeys(task for task, _ in questions))
        rows: list[ComparisonRow] = []
        for run, found, spread in zip(self.runs, values, spreads, strict=True):
            mean = estimate(found, scale, names)
            cost = _cost(run, questions)
            row = ComparisonRow(
                self.pool, self.metric, run.label, len(found), mean.value, mean.interval, higher, cost=cost
            )
            if len(self.pool.tasks) > 1:
                means = [fmean(v for v, q in zip(found, questions, strict=True) if q[0] == t) for t in tasks]
                row = replace(row, task_mean=fmean(means), task_deviation=stdev(means) if len(means) > 1 else math.nan)
            if spread is not None:
                both = _clipped(with_seeds(mean.value, mean.interval, Clusters.of(found, names), [spread]), scale)
                row = replace(row, seeds=Seeds(spread.seeds, spread.deviation, both))
            if rows:
                seeds = [s for s in (spreads[0], spread) if s is not None]
                row = replace(row, difference=_difference(values[0], found, scale, names, seeds))
            rows.append(row)
        rows = _adjusted(rows)
        costs, span = [row.cost for row in rows], None if scale is None else scale[1] - scale[0]
        mixes = equal_costs(controls, [r.run for r in rows], values, costs, names, higher, span)
        return [replace(row, equal_cost=mix.best, control=mix.control) for row, mix in zip(rows, mixes, strict=True)]

    def _statistics(self, questions: Sequence[TaskQuestion]) -> list[ComparisonRow]:
        """Return the rows of a metric that is a function of all questions together (`f1`, `bleu`, `perplexity`)."""
        task, name = self.pool.tasks[0], self.metric.rpartition(",")[0]
        metric = self._metric(self.runs[0], task)
        function = _aggregation(metric.aggregation, name)
        if function is None:
            self.notes.append(
                f"{task}: {self.metric} is left out: it is not a mean over questions, and its aggregation "
                f"({metric.aggregation[:60]!r}) is the task's own code"
            )
            return []
        names = [self.labels[question] for question in questions] if self.labels else None
        items = [[v for t, q in questions for v in self._metric(run, t).values[q][:1]] for run in self.runs]
        undefined = [run.label for run, found in zip(self.runs, items, strict=True) if math.isnan(function(found))]
        if undefined:
            self.notes.append(f"{task}: {self.metric} is left out: it is not a number for {', '.join(undefined)}")
            return []
        scale = KNOWN.get(name)
        pulls = [pseudo_values(found, function, names) for found in items]
        rows: list[ComparisonRow] = []
        for run, found, pull in zip(self.runs, items, pulls, strict=True):
            interval = mean_interval(pull, scale)
            row = ComparisonRow(
                self.pool, self.metric, run.label, len(found), function(found), interval, metric.higher_is_better,
                cost=_cost(run, questions),
            )  # fmt: skip
            if rows:
                changes = pseudo_differences(pulls[0], pull)
                test = "sign-flip test of jackknife values" + (" over clusters" if names else "")
                change = mean_difference(changes, None if scale is None else scale[1] - scale[0], test)
                row = replace(row, difference=Difference(**_fields(change)))
            rows.append(row)
        return _adjusted(rows)


def _difference(
    first: Sequence[float], second: Sequence[float], scale: Scale | None, names: Sequence[Any] | None,
    seeds: Sequence[SeedSpread],
) -> Difference:  # fmt: skip
    found = paired_difference(first, second, scale, names)
    if not seeds:
        return Difference(**_fields(found))
    changes = Clusters.of([b - a for a, b in zip(first, second, strict=True)], names)
    both = with_seeds(found.value, found.interval, changes, seeds)
    span = None if scale is None else (scale[0] - scale[1], scale[1] - scale[0])
    return Difference(**_fields(found), with_seeds=_clipped(both, span))


def _fields(found: PairedDifference) -> dict[str, Any]:
    return {**asdict(found), "interval": found.interval}


def _clipped(interval: Interval, scale: Scale | None) -> Interval:
    return interval if scale is None else Interval(max(scale[0], interval.low), min(scale[1], interval.high))


def _adjusted(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Adjust the p-values of all comparisons with the reference by Holm's method."""
    adjusted = iter(holm([row.difference.p_value for row in rows if row.difference is not None]))
    return [
        replace(row, difference=replace(row.difference, adjusted=next(adjusted))) if row.difference else row
        for row in rows
    ]


def _missing(value: Any) -> bool:
    number = numeric(value)
    return number is None or math.isnan(number)


def _number(value: Any) -> float:
    number = numeric(value)
    assert number is not None
    return float(number)


def _is_mean(metric: Metric) -> bool:
    """Return whether a metric is the mean of numbers, judging by its aggregation and by the total in its source.

    Single values may be missing (None or NaN), as long as the others are numbers.
    """
    values = [v for values in metric.values.values() for v in values]
    known = [float(n) for v in values if (n := numeric(v)) is not None and not math.isnan(n)]
    if len(known) + sum(v is None or isinstance(v, float) for v in values if _missing(v)) < len(values):
        return False
    if not known or metric.total is None or metric.aggregation == "mean" or math.isnan(metric.total):
        return metric.aggregation in ("mean", UNNAMED)
    return abs(fmean(known) - metric.total) <= 1e-6 * max(1.0, abs(metric.total))


def _aggregation(name: str, metric: str) -> Callable[[list[Any]], float] | None:
    """Return lm-eval's aggregation of that name, or the metric's default aggregation if it is unnamed."""
    import lm_eval.api.metrics  # noqa: F401  (registers them)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_AGGREGATION_REGISTRY

    known = {n: f for key, f in AGGREGATION_REGISTRY.items() for n in (key, getattr(f, "__name__", key))}
    function = METRIC_AGGREGATION_REGISTRY.get(metric, None) if name == UNNAMED else known.get(name)
    return None if function is None else lambda items: float(function(items))


def _cost(run: Run, questions: Sequence[TaskQuestion]) -> Usage | None:
    usages = []
    for task, question in questions:
        costs = run.tasks[task].costs
        if costs is None or question not in costs:
            return None
        usages.append(costs[question])
    return mean_usage(usages)


def cluster_labels(run: Run, matched: Matched, cluster: str) -> dict[TaskQuestion, Any]:
    """Return the cluster of each question of a comparison; see `cluster_of`."""
    return {
        (task, question): cluster_of(cluster, task, run.tasks[task].documents[question])
        for task, metrics in matched.questions.items()
        for question in dict.fromkeys(q for questions in metrics.values() for q in questions)
    }
