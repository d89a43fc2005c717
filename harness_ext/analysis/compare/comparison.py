"""The comparison itself: turns matched scores into rows of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from harness_ext.analysis.compare import statistics as st
from harness_ext.analysis.compare.equal_cost import EqualCost, equal_costs
from harness_ext.analysis.compare.matching import Matched
from harness_ext.analysis.compare.runs import UNNAMED, CompareError, Metric, QuestionId, Run, mean_usage
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.records import Usage

TaskQuestion = tuple[str, QuestionId]


@dataclass(frozen=True)
class Pool:
    """Questions that are analysed together.

    name: the name of the pool.
    tasks: the tasks whose questions it contains.
    two_way: whether a verdict alone reveals the answer in all of them. Default false.
    """

    name: str
    tasks: tuple[str, ...]
    two_way: bool = False


@dataclass(frozen=True)
class Difference:
    """A run compared with the reference.

    value: the mean difference.
    interval: its confidence interval.
    p_value: the p-value of no difference.
    test: the name of the test.
    up, down: how many questions have a higher and a lower value than in the reference.
    detectable: the smallest difference that a sample of this size detects with power 0.8, or None.
    adjusted: the p-value after Holm's correction for the number of runs.
    """

    value: float
    interval: st.Interval
    p_value: float
    test: str
    up: int
    down: int
    detectable: float | None
    adjusted: float | None = None


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
    cost: the mean cost per question, or None if it is unknown.
    equal_cost: for each measure of cost, the best that the other runs reach at the cost of this one.
    """

    pool: Pool
    metric: str
    run: str
    number: int
    value: float
    interval: st.Interval
    higher_is_better: bool
    difference: Difference | None = None
    task_mean: float | None = None
    task_deviation: float | None = None
    cost: Usage | None = None
    equal_cost: Mapping[str, EqualCost] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A complete comparison.

    runs: the labels of the runs, the reference first.
    rows: the figures.
    notes: remarks about what was merged, replaced or left out.
    clusters: the field that defines the clusters, or None.
    """

    runs: tuple[str, ...]
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...]
    clusters: str | None = None


def compare(
    runs: Sequence[Run],
    matched: Matched,
    groups: Mapping[str, Sequence[str]] | None = None,
    cluster: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare runs with the first of them on the matched questions.

    runs: the runs, the reference first.
    matched: the questions that they have in common.
    groups: pools of tasks in addition to the groups that lm-eval knows. Default none.
    cluster: a field of the documents, a Jinja template over them, or `task`. Questions with the same value are
        resampled together. Default none: each question by itself.
    seed: seed of the bootstrap. Default 0.

    Raises CompareError if a group names a task that is not compared, or if documents lack the cluster's field.
    """
    notes = [note for run in runs for note in run.notes]
    rows: list[ComparisonRow] = []
    labels = _labels(runs[0], matched, cluster) if cluster else None
    for pool in _pools(runs, matched, groups or {}, notes):
        for metric in dict.fromkeys(m for task in pool.tasks for m in matched.questions[task]):
            if any(metric not in matched.questions[task] for task in pool.tasks):
                notes.append(f"{pool.name}: {metric} is not pooled, because not all of its tasks have it")
                continue
            questions = [(task, q) for task in pool.tasks for q in matched.questions[task][metric]]
            rows += _rows(runs, pool, metric, questions, labels, seed, notes)
    return Comparison(tuple(r.label for r in runs), tuple(rows), tuple(dict.fromkeys(notes)), cluster)


def _rows(
    runs: Sequence[Run], pool: Pool, metric: str, questions: Sequence[TaskQuestion],
    labels: Mapping[TaskQuestion, Any] | None, seed: int, notes: list[str],
) -> list[ComparisonRow]:  # fmt: skip
    measured = [[run.tasks[task].metrics[metric] for task in pool.tasks] for run in runs]
    higher = measured[0][0].higher_is_better
    odd = [m for found in measured for m in found if not _is_mean(m)]
    if odd:
        if len(pool.tasks) > 1:
            notes.append(f"{pool.name}: {metric} is not pooled, because it is not a mean over questions")
            return []
        return _corpus_rows(runs, pool, metric, questions, higher, notes)
    values = [
        [fmean(float(numeric(v) or 0.0) for v in run.tasks[t].metrics[metric].values[q]) for t, q in questions]
        for run in runs
    ]
    names = [labels[question] for question in questions] if labels else None
    everything = [v for found in values for v in found]
    low, high = _scale(everything)
    binary = st.is_binary(everything) and names is None
    rows: list[ComparisonRow] = []
    for run, found in zip(runs, values, strict=True):
        interval = (
            st.share_interval(round(sum(found)), len(found))
            if binary
            else st.mean_interval(st.Clusters.of(found, names), low, high)
        )
        row = ComparisonRow(
            pool, metric, run.label, len(found), fmean(found), interval, higher, cost=_cost(run, questions)
        )
        if len(pool.tasks) > 1:
            means = [fmean(v for v, q in zip(found, questions, strict=True) if q[0] == task) for task in pool.tasks]
            row = replace(row, task_mean=fmean(means), task_deviation=st.spread(means))
        if rows:
            row = replace(row, difference=_difference(values[0], found, names, high - low, binary, seed))
        rows.append(row)
    rows = _adjusted(rows)
    costs = [row.cost for row in rows]
    equal = equal_costs([r.label for r in runs], values, costs, names, higher, high - low)
    return [replace(row, equal_cost=found) for row, found in zip(rows, equal, strict=True)]


def _difference(
    first: Sequence[float], second: Sequence[float], names: Sequence[Any] | None, span: float, binary: bool, seed: int
) -> Difference:
    changes = [b - a for a, b in zip(first, second, strict=True)]
    clusters = st.Clusters.of(changes, names)
    up, down = sum(c > 0 for c in changes), sum(c < 0 for c in changes)
    return Difference(
        fmean(changes),
        st.mean_interval(clusters, -span, span),
        st.mcnemar(up, down) if binary else st.bootstrap_test(clusters, seed),
        "exact McNemar" if binary else "paired bootstrap" + (" over clusters" if names else ""),
        up,
        down,
        st.detectable_share(len(changes), (up + down) / len(changes)) if binary else st.detectable_mean(clusters, span),
    )


def _corpus_rows(
    runs: Sequence[Run], pool: Pool, metric: str, questions: Sequence[TaskQuestion], higher: bool, notes: list[str]
) -> list[ComparisonRow]:
    """Return the rows of a metric that is a function of all questions together (`f1`, `bleu`, `perplexity`)."""
    task = pool.tasks[0]
    function = _aggregation(runs[0].tasks[task].metrics[metric].aggregation, metric.rpartition(",")[0])
    if function is None:
        notes.append(
            f"{task}: {metric} is left out: it is not a mean over questions, and its aggregation "
            f"({runs[0].tasks[task].metrics[metric].aggregation[:60]!r}) is the task's own code"
        )
        return []
    items = [[v for t, q in questions for v in run.tasks[t].metrics[metric].values[q][:1]] for run in runs]
    rows: list[ComparisonRow] = []
    for run, found in zip(runs, items, strict=True):
        interval, _ = st.bootstrap_statistic(found, None, function)
        row = ComparisonRow(
            pool, metric, run.label, len(found), function(found), interval, higher, cost=_cost(run, questions)
        )
        if rows:
            between, p_value = st.bootstrap_statistic(items[0], found, function)
            change = function(found) - function(items[0])
            p = 1.0 if p_value is None else p_value
            row = replace(row, difference=Difference(change, between, p, "paired bootstrap", 0, 0, None))
        rows.append(row)
    return _adjusted(rows)


def _adjusted(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Adjust the p-values of all comparisons with the reference by Holm's method."""
    found = [row.difference for row in rows if row.difference is not None]
    adjusted = iter(st.holm([d.p_value for d in found])) if found else iter(())
    return [
        replace(row, difference=replace(row.difference, adjusted=next(adjusted))) if row.difference else row
        for row in rows
    ]


def _is_mean(metric: Metric) -> bool:
    """Return whether a metric is the mean of numbers, judging by its aggregation and by the total in its source."""
    numbers = [numeric(v) for values in metric.values.values() for v in values]
    if any(n is None or n != n for n in numbers):
        return False
    if metric.total is None or metric.aggregation == "mean":
        return metric.aggregation in ("mean", UNNAMED)
    return abs(fmean(n for n in numbers if n is not None) - metric.total) <= 1e-6 * max(1.0, abs(metric.total))


def _aggregation(name: str, metric: str) -> Callable[[list[Any]], float] | None:
    """Return lm-eval's aggregation of that name, or the metric's default aggregation if it is unnamed."""
    import lm_eval.api.metrics  # noqa: F401  (registers them)
    from lm_eval.api.registry import AGGREGATION_REGISTRY, METRIC_AGGREGATION_REGISTRY

    known = {n: f for key, f in AGGREGATION_REGISTRY.items() for n in (key, getattr(f, "__name__", key))}
    function = METRIC_AGGREGATION_REGISTRY.get(metric) if name == UNNAMED else known.get(name)
    return None if function is None else lambda items: float(function(items))


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the scale of the values: 0 to 1, 0 to 100, or else the smallest and the largest value."""
    low, high = min(values), max(values)
    if low >= 0:
        return (0.0, 1.0) if high <= 1 else (0.0, 100.0) if high <= 100 else (low, high)
    return low, high


def _cost(run: Run, questions: Sequence[TaskQuestion]) -> Usage | None:
    usages = []
    for task, question in questions:
        costs = run.tasks[task].costs
        if costs is None or question not in costs:
            return None
        usages.append(costs[question])
    return mean_usage(usages)


def _pools(runs: Sequence[Run], matched: Matched, groups: Mapping[str, Sequence[str]], notes: list[str]) -> list[Pool]:
    """Return a pool for every task, for every group whose tasks are all compared, and for two-way and other tasks.

    runs: the runs.
    matched: the questions that they have in common.
    groups: the user's groups.
    notes: receives a note about each group that cannot be shown.

    Raises CompareError if one of the user's groups names a task that is not compared.
    """
    tasks = list(matched.questions)
    two_way = {t for t in tasks if all(run.tasks[t].two_way for run in runs)}
    named = {name: members for run in runs for name, members in run.groups.items()} | dict(groups)
    for name, members in named.items():
        missing = [task for task in members if task not in tasks]
        if missing and name in groups:
            raise CompareError(
                f"--group {name}: the comparison does not include {', '.join(missing)}: choose from {', '.join(tasks)}"
            )
        if missing and set(members) & set(tasks):
            notes.append(f"group {name} is not shown: {len(missing)} of its tasks are not compared")
    pools = [Pool(task, (task,), task in two_way) for task in tasks]
    several = [(n, tuple(m)) for n, m in named.items() if len(m) > 1 and set(m) <= set(tasks)]
    if len(tasks) > 1 and not any(set(m) == set(tasks) for _, m in several):
        several.append(("all tasks", tuple(tasks)))
    if two_way and len(two_way) < len(tasks):
        several += [
            ("two-way tasks", tuple(t for t in tasks if t in two_way)),
            ("other tasks", tuple(t for t in tasks if t not in two_way)),
        ]
    return pools + [Pool(n, m, set(m) <= two_way) for n, m in several if len(m) > 1]


def _labels(run: Run, matched: Matched, cluster: str) -> dict[TaskQuestion, Any]:
    """Return the cluster of each question; equal values in different tasks are different clusters."""
    from lm_eval.utils import apply_template

    labels: dict[TaskQuestion, Any] = {}
    for task, metrics in matched.questions.items():
        for question in dict.fromkeys(q for questions in metrics.values() for q in questions):
            doc = run.tasks[task].documents[question]
            if cluster == "task":
                labels[task, question] = task
            elif isinstance(doc, Mapping) and cluster in doc:
                labels[task, question] = (task, str(doc[cluster]))
            elif "{{" in cluster or "{%" in cluster:
                labels[task, question] = (task, apply_template(cluster, doc))
            else:
                fields = ", ".join(map(str, doc)) if isinstance(doc, Mapping) else "none"
                raise CompareError(
                    f"--cluster {cluster}: the documents of {task} have no such field; their fields are: {fields}"
                )
    return labels
