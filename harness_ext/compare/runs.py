"""What is compared: a run's scores, question by question, and what each question cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_ext.errors import HarnessExtError
from harness_ext.records import Usage

Question = tuple[int, str]
"""A document's number in its task's data, and lm-eval's hash of it."""
UNNAMED = "unnamed"
"""Stands for an aggregation that a source does not name."""


class CompareError(HarnessExtError):
    """Runs cannot be read or compared; the message says which, and what to do."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task: its values by question, one for each repeat. `aggregation` is lm-eval's name of it; `total`
    is what the source itself says the metric is over all its questions. Values are numbers where the metric is their
    mean; else what its aggregation takes."""

    values: Mapping[Question, tuple[Any, ...]]
    higher_is_better: bool = True
    aggregation: str = "mean"
    total: float | None = None


@dataclass(frozen=True)
class TaskScores:
    """One task of one evaluation. `metrics` by `metric,filter`; `costs` is None where nothing is known of them,
    `two_way` says that a verdict gives the answer away."""

    metrics: Mapping[str, Metric]
    documents: Mapping[Question, Any]
    costs: Mapping[Question, Usage] | None = None
    two_way: bool = False
    shots: int | None = None
    version: Any = None


@dataclass(frozen=True)
class Evaluation:
    """One results file or run directory. `model` tells models and settings apart, `seeds` their repeats, `when` which
    of two is newer."""

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
    """One column of a comparison: evaluations of one model, merged."""

    label: str
    tasks: Mapping[str, TaskScores]
    groups: Mapping[str, tuple[str, ...]]
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()


def merge(evaluations: list[Evaluation], label: str) -> Run:
    """Merge evaluations of one model: with equal seeds the newest result of a task wins, others are repeats.

    Raises CompareError where they are of different models or settings.
    """
    if len({e.model for e in evaluations}) > 1:
        listed = "\n".join(f"  - {e.source}" for e in evaluations)
        raise CompareError(f"{label!r} names results of different models or settings:\n{listed}\nGive each its label")
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
                f"{label!r} has results of {task} with different settings; name the files with labels:\n{listed}"
            )
        if len(found) > 1:
            notes.append(f"{label}, {task}: mean of {len(found)} repeats with different seeds")
        tasks[task] = _repeats(found)
    groups = {name: members for e in evaluations for name, members in e.groups.items()}
    return Run(label, tasks, groups, tuple(e.source for e in evaluations), tuple(notes))


def _repeats(found: list[TaskScores]) -> TaskScores:
    """Return repeats of a task as one: their values side by side, their costs averaged."""
    first = found[0]
    if len(found) == 1:
        return first
    metrics = {}
    for name in first.metrics:
        parts = [t.metrics[name] for t in found if name in t.metrics]
        questions = dict.fromkeys(q for part in parts for q in part.values)
        values = {q: tuple(v for part in parts for v in part.values.get(q, ())) for q in questions}
        metrics[name] = Metric(values, parts[0].higher_is_better, parts[0].aggregation)
    costs: dict[Question, Usage] | None = None
    if all(t.costs is not None for t in found):
        costs = {}
        for question in dict.fromkeys(q for t in found for q in t.costs or ()):
            known = [t.costs[question] for t in found if t.costs and question in t.costs]
            costs[question] = mean_usage(known)
    documents = {q: d for t in found for q, d in t.documents.items()}
    return TaskScores(metrics, documents, costs, first.two_way, first.shots, first.version)


def mean_usage(usages: list[Usage]) -> Usage:
    """Return the mean of usages: counts may become fractions."""
    total = Usage.total(usages)
    scaled: dict[str, Any] = {
        name: None if (value := getattr(total, name)) is None else value / len(usages)
        for name in Usage.__dataclass_fields__
    }
    return Usage(**scaled)
