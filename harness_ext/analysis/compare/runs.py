"""The data that a comparison works on: the scores and the cost of a run, question by question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_ext.errors import HarnessExtError
from harness_ext.records import Usage

QuestionId = tuple[int, str]
"""The number of a document in its task's data, and lm-eval's hash of it."""
UNNAMED = "unnamed"
"""Stands for an aggregation whose name is not in the source."""


class CompareError(HarnessExtError):
    """Runs cannot be read or compared. The message says which, and what to do."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    values: the values of each question, one per repeat: numbers if the metric is their mean, or else the inputs of its
        aggregation.
    higher_is_better: the direction of the metric. Default true.
    aggregation: lm-eval's name of the aggregation. Default `mean`.
    total: the metric over all questions as the source reports it. Default unknown.
    """

    values: Mapping[QuestionId, tuple[Any, ...]]
    higher_is_better: bool = True
    aggregation: str = "mean"
    total: float | None = None


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task in one evaluation.

    metrics: the metrics by `metric,filter`.
    documents: the documents by question.
    costs: the cost of each question, or None if it is unknown.
    two_way: whether a verdict alone reveals the answer. Default false.
    shots, version: the task's number of few-shot examples and its version. Default unknown.
    """

    metrics: Mapping[str, Metric]
    documents: Mapping[QuestionId, Any]
    costs: Mapping[QuestionId, Usage] | None = None
    two_way: bool = False
    shots: int | None = None
    version: Any = None


@dataclass(frozen=True)
class Evaluation:
    """One results file or run directory.

    source: its path.
    label: the label that it suggests for its run.
    model: identifies model and settings; results with the same value belong together.
    seeds: the seeds, which distinguish the repeats of one model.
    when: its time, to find the newer of two.
    tasks: the scores by task.
    groups: the tasks of each group.
    notes: remarks for the report.
    """

    source: str
    label: str
    model: str
    seeds: tuple[Any, ...]
    when: float
    tasks: Mapping[str, TaskScores]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run of a comparison: the merged evaluations of one model.

    label: its label.
    tasks: the scores by task.
    groups: the tasks of each group.
    sources: the paths of its evaluations.
    notes: remarks for the report.
    """

    label: str
    tasks: Mapping[str, TaskScores]
    groups: Mapping[str, tuple[str, ...]]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()


def merge(evaluations: list[Evaluation], label: str) -> Run:
    """Merge evaluations of one model. With equal seeds the newest result of a task wins; with different seeds they are
    repeats.

    Raises CompareError if they belong to different models or settings.
    """
    if len({e.model for e in evaluations}) > 1:
        listed = "\n".join(f"  - {e.source}" for e in evaluations)
        raise CompareError(
            f"{label!r} names results of different models or settings:\n{listed}\nGive each its own label"
        )
    evaluations = sorted(evaluations, key=lambda e: e.when)
    notes = [note for e in evaluations for note in e.notes]
    tasks: dict[str, TaskScores] = {}
    for task in dict.fromkeys(name for e in evaluations for name in e.tasks):
        newest: dict[tuple[Any, ...], Evaluation] = {}
        for evaluation in evaluations:
            if task in evaluation.tasks:
                if evaluation.seeds in newest:
                    notes.append(f"{label}, {task}: {evaluation.source} replaces {newest[evaluation.seeds].source}")
                newest[evaluation.seeds] = evaluation
        found = [e.tasks[task] for e in newest.values()]
        if len({(t.shots, str(t.version)) for t in found}) > 1:
            listed = "\n".join(f"  - {e.source}: {e.tasks[task].shots} shots" for e in newest.values())
            raise CompareError(
                f"{label!r} has results of {task} with different settings: give the files different labels:\n{listed}"
            )
        if len(found) > 1:
            notes.append(f"{label}, {task}: mean of {len(found)} repeats with different seeds")
        tasks[task] = _repeats(found)
    groups = {name: members for e in evaluations for name, members in e.groups.items()}
    return Run(label, tasks, groups, tuple(e.source for e in evaluations), tuple(notes))


def _repeats(found: list[TaskScores]) -> TaskScores:
    """Merge repeats of a task: collect their values for each question, and average their costs."""
    first = found[0]
    if len(found) == 1:
        return first
    metrics = {}
    for name in first.metrics:
        parts = [t.metrics[name] for t in found if name in t.metrics]
        questions = dict.fromkeys(q for part in parts for q in part.values)
        values = {q: tuple(v for part in parts for v in part.values.get(q, ())) for q in questions}
        metrics[name] = Metric(values, parts[0].higher_is_better, parts[0].aggregation)
    costs: dict[QuestionId, Usage] | None = None
    if all(t.costs is not None for t in found):
        costs = {}
        for question in dict.fromkeys(q for t in found for q in t.costs or ()):
            known = [t.costs[question] for t in found if t.costs and question in t.costs]
            costs[question] = mean_usage(known)
    documents = {q: d for t in found for q, d in t.documents.items()}
    return TaskScores(metrics, documents, costs, first.two_way, first.shots, first.version)


def mean_usage(usages: list[Usage]) -> Usage:
    """Return the mean of usages; counts may become fractions."""
    total = Usage.total(usages)
    scaled: dict[str, Any] = {
        name: None if (value := getattr(total, name)) is None else value / len(usages)
        for name in Usage.__dataclass_fields__
    }
    return Usage(**scaled)
