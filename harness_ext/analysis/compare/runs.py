"""The data that a comparison works on: the scores and the cost of a run, question by question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness_ext.analysis.compare.settings import TaskSettings
from harness_ext.errors import HarnessExtError
from harness_ext.records import Usage

QuestionId = tuple[int, str]
"""The number of a document in its task's data, and lm-eval's hash of it."""
UNNAMED = "unnamed"
"""Stands for an aggregation whose name is not in the source."""


class CompareError(HarnessExtError):
    """Runs cannot be read or compared. The message says which, and what to do."""


class Repeat(NamedTuple):
    """One of several answers to every question.

    seeds: the seeds of its evaluation (Python, numpy, torch, few-shot examples); None stands for unknown ones.
    draw: its number among the answers of the evaluation, for tasks that ask each question several times.
    """

    seeds: tuple[Any, ...]
    draw: int


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    values: the values of each question, one per repeat: numbers if the metric is their mean, or else the inputs of its
        aggregation. They are as the source has them, and may be NaN or None. In a run, every question has a value for
        each of `repeats`, in their order.
    higher_is_better: the direction of the metric. Default true.
    aggregation: lm-eval's name of the aggregation. Default `mean`.
    total: the metric over all questions as the source reports it. Default unknown.
    repeats: what the values of a question belong to. Default none: not part of a run yet.
    """

    values: Mapping[QuestionId, tuple[Any, ...]]
    higher_is_better: bool = True
    aggregation: str = "mean"
    total: float | None = None
    repeats: tuple[Repeat, ...] = ()


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task in one evaluation.

    metrics: the metrics by `metric,filter`.
    documents: the documents by question.
    costs: the cost of each question, or None if it is unknown.
    two_way: whether a verdict alone reveals the answer. Default false.
    settings: how the values were measured, for each file or run directory that they come from. Default unknown.
    incomplete: for each metric, the questions that lack the answer of a repeat and so have no values. Default none.
    """

    metrics: Mapping[str, Metric]
    documents: Mapping[QuestionId, Any]
    costs: Mapping[QuestionId, Usage] | None = None
    two_way: bool = False
    settings: tuple[TaskSettings, ...] = (TaskSettings(),)
    incomplete: Mapping[str, tuple[QuestionId, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One results file or run directory.

    source: its path.
    label: the label that it suggests for its run.
    model: identifies model and settings; results with the same value belong together.
    seeds: the seeds, which distinguish the repeats of one model, as in `Repeat`.
    when: its time, to find the newer of two.
    tasks: the scores by task.
    groups: the tasks of each group.
    notes: remarks for the report.
    run: the name of the run directory that a results file of this package belongs to. Default None.
    protocol: the name of the protocol, as for `lm_eval --model`; None for models that are not of this package.
    """

    source: str
    label: str
    model: str
    seeds: tuple[Any, ...]
    when: float
    tasks: Mapping[str, TaskScores]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    run: str | None = None
    protocol: str | None = None


@dataclass(frozen=True)
class Run:
    """One run of a comparison: the merged evaluations of one model.

    label: its label.
    tasks: the scores by task.
    groups: the tasks of each group.
    sources: the paths of its evaluations.
    notes: remarks for the report.
    protocol: the name of the protocol; None for models that are not of this package. Default None.
    """

    label: str
    tasks: Mapping[str, TaskScores]
    groups: Mapping[str, tuple[str, ...]]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()
    protocol: str | None = None


def mean_usage(usages: list[Usage]) -> Usage:
    """Return the mean of usages; counts may become fractions."""
    total = Usage.total(usages)
    scaled: dict[str, Any] = {
        name: None if (value := getattr(total, name)) is None else value / len(usages)
        for name in Usage.__dataclass_fields__
    }
    return Usage(**scaled)
