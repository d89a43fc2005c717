"""Finds the questions that all runs have in common, and what does not match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness_ext.analysis.compare.differences import differing_settings, unknown_settings
from harness_ext.analysis.compare.runs import CompareError, QuestionId, Run

SHOWN = 5


@dataclass(frozen=True)
class Matched:
    """The questions to compare.

    questions: the questions by task and `metric,filter`, in the order of the task's data.
    left_out: one sentence for everything that did not match.
    differences: one sentence for each setting in which the runs differ.
    unknown: one sentence for each run that does not record all settings.
    """

    questions: dict[str, dict[str, tuple[QuestionId, ...]]]
    left_out: tuple[str, ...]
    differences: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def match(runs: Sequence[Run], tasks: Sequence[str] = (), metrics: Sequence[str] = ()) -> Matched:
    """Match runs by task, metric, filter, document number and document hash.

    runs: the runs.
    tasks: the tasks to compare. Default all.
    metrics: the metrics to compare, as `metric` or `metric,filter`. Default all.

    Raises CompareError if the runs have no question in common.
    """
    every = list(dict.fromkeys(task for run in runs for task in run.tasks if not tasks or task in tasks))
    missing = [task for task in tasks if task not in every]
    left_out = [f"no run has task {task}" for task in missing]
    questions: dict[str, dict[str, tuple[QuestionId, ...]]] = {}
    for task in every:
        lacking = [run.label for run in runs if task not in run.tasks]
        if lacking:
            left_out.append(f"{task}: not in {', '.join(lacking)}")
            continue
        left_out += _unmatched_documents(task, runs)
        names = dict.fromkeys(name for run in runs for name in run.tasks[task].metrics if _wanted(name, metrics))
        for name in names:
            without = [run.label for run in runs if name not in run.tasks[task].metrics]
            if without:
                left_out.append(f"{task}: {name} not in {', '.join(without)}")
                continue
            sets = [run.tasks[task].metrics[name].values for run in runs]
            shared = [q for q in sets[0] if all(q in found for found in sets[1:])]
            if shared:
                questions.setdefault(task, {})[name] = tuple(sorted(shared))
        left_out += _without_values(task, runs, [name for name in names if _everywhere(task, name, runs)])
    if not questions:
        reasons = "\n".join(f"  - {line}" for line in left_out) or "  - no task has any of the requested metrics"
        raise CompareError(f"these runs have no question in common:\n{reasons}")
    return Matched(questions, tuple(left_out), differing_settings(runs, questions), unknown_settings(runs, questions))


def _wanted(name: str, metrics: Sequence[str]) -> bool:
    return not metrics or name in metrics or name.rpartition(",")[0] in metrics


def _unmatched_documents(task: str, runs: Sequence[Run]) -> list[str]:
    """Describe the documents of a task that are not in every run."""
    found = [set(run.tasks[task].documents) for run in runs]
    shared = set.intersection(*found)
    lines: list[str] = []
    for run, questions in zip(runs, found, strict=True):
        unshared = sorted(questions - shared)
        if not unshared:
            continue
        numbers = {doc_id for other in found for doc_id, _ in other - questions}
        changed = [doc_id for doc_id, _ in unshared if doc_id in numbers]
        missing = [doc_id for doc_id, _ in unshared if doc_id not in numbers]
        if changed:
            lines.append(f"{task}: {len(changed)} documents of {run.label} differ in other runs ({_some(changed)})")
        if missing:
            lines.append(f"{task}: {len(missing)} documents of {run.label} are not in every run ({_some(missing)})")
    return lines


def _everywhere(task: str, metric: str, runs: Sequence[Run]) -> bool:
    return all(metric in run.tasks[task].metrics for run in runs)


def _without_values(task: str, runs: Sequence[Run], metrics: Sequence[str]) -> list[str]:
    """Describe the questions that are in every run and yet have no value in one of them."""
    shared = set.intersection(*(set(run.tasks[task].documents) for run in runs))
    lines: dict[str, list[str]] = {}
    for run in runs:
        for name in metrics:
            others = {q for other in runs for q in other.tasks[task].metrics[name].values}
            incomplete = set(run.tasks[task].incomplete.get(name, ()))
            unscored = (others & shared) - set(run.tasks[task].metrics[name].values) - incomplete
            for numbers, reason in ((incomplete, "lack the answer of a repeat"), (unscored, "have no value")):
                if numbers:
                    some = _some(sorted(doc_id for doc_id, _ in numbers))
                    line = f"{task}: {len(numbers)} questions of {run.label} {reason} ({some})"
                    lines.setdefault(line, []).append(name)
    # Most of the time this concerns all metrics, which need not be named then.
    return [
        line if len(names) == len(metrics) else f"{line} of {', '.join(n.removesuffix(',none') for n in names)}"
        for line, names in lines.items()
    ]


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return "doc_id " + ", ".join(map(str, numbers[:SHOWN])) + more
