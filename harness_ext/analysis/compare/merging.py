"""Merges the evaluations of one model into a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness_ext.analysis.compare.differences import differences
from harness_ext.analysis.compare.runs import (
    CompareError,
    Evaluation,
    Metric,
    QuestionId,
    Repeat,
    Run,
    TaskScores,
    mean_usage,
)
from harness_ext.records import Usage


def merge(evaluations: Sequence[Evaluation], label: str) -> Run:
    """Merge evaluations of one model, task by task.

    Of results with equal seeds, the one with the most questions counts, and the newest of these. Results with different
    seeds are repeats. A file or folder that is named twice counts once.

    Raises CompareError if they belong to different models, or measured a task with different settings.
    """
    if len({e.model for e in evaluations}) > 1:
        listed = "\n".join(f"  - {e.source}" for e in evaluations)
        raise CompareError(
            f"{label!r} names results of different models or settings:\n{listed}\nGive each its own label"
        )
    ordered, notes = _once(evaluations, label)
    ordered.sort(key=lambda e: e.when)
    notes += [note for e in ordered for note in e.notes]
    tasks: dict[str, TaskScores] = {}
    for task in dict.fromkeys(name for e in ordered for name in e.tasks):
        found = [e for e in ordered if task in e.tasks]
        _check_settings(label, task, found)
        chosen: dict[tuple[Any, ...], Evaluation] = {}
        for one in found:
            other = chosen.get(one.seeds)
            if other is None or _count(one, task) >= _count(other, task):
                chosen[one.seeds] = one
        notes += [
            f"{label}, {task}: {_described(chosen[e.seeds], task)} replaces {_described(e, task)}, which has the same "
            "seeds"
            for e in found
            if chosen[e.seeds] is not e
        ]
        kept = [chosen[seeds] for seeds in sorted(chosen, key=_in_order)]
        if len(kept) > 1:
            notes.append(f"{label}, {task}: mean of {len(kept)} repeats with different seeds")
        tasks[task] = _merged(kept, task)
    groups = {name: members for e in ordered for name, members in e.groups.items()}
    return Run(label, tasks, groups, tuple(e.source for e in ordered), tuple(notes), ordered[0].protocol)


def _once(evaluations: Sequence[Evaluation], label: str) -> tuple[list[Evaluation], list[str]]:
    """Return each evaluation once, and notes about those that are there again."""
    found: dict[str, Evaluation] = {}
    again = [one for one in evaluations if found.setdefault(os.path.realpath(one.source), one) is not one]
    return list(found.values()), [f"{label}: {one.source} is named twice and counts once" for one in again]


def _check_settings(label: str, task: str, found: Sequence[Evaluation]) -> None:
    names = dict.fromkeys(name for e in found for name in e.tasks[task].metrics)
    differing = differences({e.source: e.tasks[task].settings for e in found}, names)
    if differing:
        lines = "\n".join(f"  - {line}" for line in differing)
        raise CompareError(
            f"{label!r} has results of {task} with different settings:\n{lines}\n"
            "Name the files that belong together, or give those with other settings another label"
        )


def _count(evaluation: Evaluation, task: str) -> int:
    return len(evaluation.tasks[task].documents)


def _described(evaluation: Evaluation, task: str) -> str:
    count = _count(evaluation, task)
    return f"{evaluation.source} ({count} question{'' if count == 1 else 's'})"


def _in_order(seeds: tuple[Any, ...]) -> list[tuple[bool, float, str]]:
    """Return a key that sorts seeds by number, whatever a file has in their place."""
    return [
        (not isinstance(seed, int | float), float(seed) if isinstance(seed, int | float) else 0.0, str(seed))
        for seed in seeds
    ]


def _merged(evaluations: Sequence[Evaluation], task: str) -> TaskScores:
    """Merge repeats of a task: collect the values of each question in the order of the repeats, and average its costs.

    evaluations: the evaluations, in the order of their seeds.
    task: the task.
    """
    found = [e.tasks[task] for e in evaluations]
    metrics: dict[str, Metric] = {}
    incomplete: dict[str, tuple[QuestionId, ...]] = {}
    for name in dict.fromkeys(name for scores in found for name in scores.metrics):
        parts = [scores.metrics.get(name) for scores in found]
        questions = dict.fromkeys(q for part in parts if part for q in part.values)
        questions |= dict.fromkeys(q for scores in found for q in scores.incomplete.get(name, ()))
        # A question belongs to the metric if any repeat has it, and must then have a value in each.
        complete = [q for q in questions if all(part is not None and q in part.values for part in parts)]
        if lacking := tuple(sorted(set(questions) - set(complete))):
            incomplete[name] = lacking
        known = [part for part in parts if part is not None]
        metrics[name] = replace(
            known[0],
            values={q: tuple(v for part in known for v in part.values[q]) for q in complete},
            total=known[0].total if len(found) == 1 else None,
            repeats=tuple(
                Repeat(e.seeds, draw)
                for e, part in zip(evaluations, parts, strict=True)
                if part is not None
                for draw in range(_draws(part))
            ),
        )
    return TaskScores(
        metrics,
        {q: document for scores in found for q, document in scores.documents.items()},
        _costs(found),
        found[0].two_way,
        tuple(settings for scores in found for settings in scores.settings),
        incomplete,
    )


def _draws(metric: Metric) -> int:
    """Return how many values each question of an evaluation has."""
    return len(next(iter(metric.values.values()), ()))


def _costs(found: Sequence[TaskScores]) -> Mapping[QuestionId, Usage] | None:
    """Return the mean cost of each question over repeats; it is unknown if that of one repeat is."""
    costs = [scores.costs for scores in found if scores.costs is not None]
    if len(costs) < len(found):
        return None
    shared = [q for q in costs[0] if all(q in part for part in costs[1:])]
    return {q: mean_usage([part[q] for part in costs]) for q in shared} if len(costs) > 1 else costs[0]
