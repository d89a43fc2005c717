"""What a pilot says about a planned comparison: accuracy, how many questions change, clusters and costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness_ext.analysis.clustering import cluster_of
from harness_ext.analysis.compare.matching import match
from harness_ext.analysis.compare.run_directories import ScoreRun
from harness_ext.analysis.compare.runs import CompareError, QuestionId, Run
from harness_ext.analysis.compare.sources import read_runs
from harness_ext.analysis.planning.correlation import intracluster_correlation
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.analysis.statistics.clusters import Clusters, Interval
from harness_ext.analysis.statistics.paired import estimate
from harness_ext.analysis.statistics.scales import is_binary, scale_of
from harness_ext.records import Usage

_FEW_CLUSTERS = 30  # with fewer, an intra-cluster correlation is hardly more than a guess


@dataclass(frozen=True)
class Selection:
    """What to take from a pilot.

    tasks: the tasks, or groups of tasks. Default: the only task.
    metrics: the metric, as `metric` or `metric,filter`. Default: the only one.
    groups: the tasks of groups that the runs do not know. Default none.
    cluster: what defines the clusters, as for `compare --cluster`. Default: questions are independent.
    """

    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class Pilot:
    """What a pilot says.

    runs: the labels of its runs, the reference first.
    tasks: its tasks.
    metric: its metric, as `metric,filter`.
    number: how many questions its runs have in common.
    baseline: the mean of the reference; of a metric that is better when lower, 1 minus the mean.
    is_binary: whether all values are right or wrong.
    changed: how many questions differ between its two runs; None for one run.
    changed_interval: the 95 % interval of their share; None for one run.
    differences: the paired differences by cluster; None for one run.
    span: the largest difference that a question can have; None if that is unknown.
    sizes: the sizes of its clusters; None without clusters.
    icc: the intra-cluster correlation of the differences, or for one run that of its values; None without clusters, or
        if the pilot does not show any.
    usages: for each run whose costs are known, what each question cost.
    notes: remarks about what was left out, and about what the pilot cannot say.
    """

    runs: tuple[str, ...]
    tasks: tuple[str, ...]
    metric: str
    number: int
    baseline: float
    is_binary: bool
    changed: int | None
    changed_interval: Interval | None
    differences: Clusters | None
    span: float | None
    sizes: tuple[int, ...] | None
    icc: float | None
    usages: Mapping[str, tuple[Usage, ...]]
    notes: tuple[str, ...]


def read_pilot(arguments: Sequence[str], selection: Selection, score: ScoreRun) -> Pilot:
    """Read a pilot of one or two runs.

    arguments: `PATH` or `LABEL=PATH`, as for `compare`; the reference first.
    selection: what to take from it.
    score: called with each run directory whose scores are missing or older than its transcripts.

    Raises CompareError if it cannot be read, or if the selection fits nothing or several metrics or tasks, and
    ClusterError if its documents do not say which cluster they belong to.
    """
    runs = read_runs(arguments, score)
    if len(runs) > 2:
        raise CompareError(
            f"--from names {len(runs)} runs ({', '.join(run.label for run in runs)}): name one, or a reference and "
            "another"
        )
    tasks = _tasks(runs, selection)
    matched = match(runs, tasks, selection.metrics)
    if absent := [task for task in tasks if task not in matched.questions]:
        raise CompareError(f"--from: the runs have no scores of {', '.join(absent)}: choose other tasks with --task")
    metric = _only_metric(matched.questions)
    questions = [(task, q) for task in matched.questions for q in matched.questions[task][metric]]
    return _pilot(runs, metric, questions, selection.cluster, [*_notes(runs), *matched.left_out, *matched.differences])


def _pilot(
    runs: Sequence[Run], metric: str, questions: Sequence[tuple[str, QuestionId]], cluster: str | None, notes: list[str]
) -> Pilot:
    kept = [(t, q) for t, q in questions if all(_value(run, t, metric, q) is not None for run in runs)]
    if len(kept) < len(questions):
        notes.append(f"{len(questions) - len(kept)} of {len(questions)} questions have no number as {metric}")
    if len(kept) < 2:
        raise CompareError(
            f"--from: {metric} is a number for {len(kept)} questions, and a pilot needs 2: choose another --metric"
        )
    values = [[float(_value(run, t, metric, q) or 0.0) for t, q in kept] for run in runs]
    higher = runs[0].tasks[kept[0][0]].metrics[metric].higher_is_better
    everything = [value for found in values for value in found]
    scale, binary = scale_of(metric.rpartition(",")[0], everything), is_binary(everything)
    labels = [cluster_of(cluster, t, runs[0].tasks[t].documents[q]) for t, q in kept] if cluster else None
    differences, changed, interval = None, None, None
    varying = values[0]
    if len(runs) == 2:
        varying = [b - a for a, b in zip(*values, strict=True)]
        differences = Clusters.of(varying, labels)
        changed = sum(change != 0 for change in varying)
        interval = estimate([float(change != 0) for change in varying], (0.0, 1.0), labels).interval
    mean = fmean(values[0])
    if binary and not higher:
        notes.append(f"{metric} is better when lower: the share of right answers is 1 minus its mean")
    icc = intracluster_correlation(varying, labels) if labels else None
    notes += _cluster_notes(labels, icc, len(runs))
    return Pilot(
        tuple(run.label for run in runs),
        tuple(dict.fromkeys(task for task, _ in kept)),
        metric,
        len(kept),
        1 - mean if binary and not higher else mean,
        binary,
        changed,
        interval,
        differences,
        None if scale is None else scale[1] - scale[0],
        tuple(Counter(labels).values()) if labels else None,
        icc,
        {run.label: usages for run in runs if (usages := _usages(run, kept))},
        tuple(dict.fromkeys(notes)),
    )


def _tasks(runs: Sequence[Run], selection: Selection) -> list[str]:
    """Return the tasks that are selected, with groups resolved."""
    groups = {name: members for run in runs for name, members in run.groups.items()} | dict(selection.groups or {})
    if selection.tasks:
        return list(dict.fromkeys(t for name in selection.tasks for t in groups.get(name, (name,))))
    shared = [task for task in runs[0].tasks if all(task in run.tasks for run in runs)]
    if len(shared) != 1:
        names = ", ".join(shared) or "none in common"
        raise CompareError(f"--from: the tasks of the runs are {names}: choose with --task; several are taken together")
    return shared


def _only_metric(questions: Mapping[str, Mapping[str, object]]) -> str:
    shared = [name for name in next(iter(questions.values())) if all(name in found for found in questions.values())]
    if len(shared) != 1:
        names = "; ".join(shared) or "none in common"
        raise CompareError(f"--from: the metrics of {', '.join(questions)} are {names}: choose one with --metric")
    return shared[0]


def _value(run: Run, task: str, metric: str, question: QuestionId) -> float | None:
    """Return the mean of a question's values over repeats, or None if one of them is no number."""
    numbers = [numeric(value) for value in run.tasks[task].metrics[metric].values[question]]
    known = [number for number in numbers if number is not None and not math.isnan(number)]
    return fmean(known) if numbers and len(known) == len(numbers) else None


def _usages(run: Run, questions: Sequence[tuple[str, QuestionId]]) -> tuple[Usage, ...]:
    """Return what each question cost; nothing if that is unknown for one of them."""
    found = [(run.tasks[task].costs or {}).get(question) for task, question in questions]
    known = tuple(usage for usage in found if usage is not None)
    return known if len(known) == len(found) else ()


def _notes(runs: Sequence[Run]) -> list[str]:
    return [note for run in runs for note in run.notes]


def _cluster_notes(labels: Sequence[Hashable] | None, icc: float | None, runs: int) -> list[str]:
    if labels is None:
        return []
    number, found = len(set(labels)), []
    if number < _FEW_CLUSTERS:
        found.append(
            f"the pilot has {number} clusters: an intra-cluster correlation from fewer than {_FEW_CLUSTERS} is hardly "
            "more than a guess; compare with other values of --icc"
        )
    if icc is not None and runs == 1:
        found.append(
            "the intra-cluster correlation is that of the reference's own values, because one run has no differences; "
            "that of differences is often smaller"
        )
    return found
