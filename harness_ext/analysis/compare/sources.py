"""Reads what the command line names as runs of a comparison."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.merging import merge
from harness_ext.analysis.compare.results_files import DATE, read_results
from harness_ext.analysis.compare.run_directories import ScoreRun, is_run, read_run_directory
from harness_ext.analysis.compare.runs import CompareError, Evaluation, Run


def read_runs(arguments: Sequence[str], score: ScoreRun) -> list[Run]:
    """Return the runs that command line arguments name, in their order.

    arguments: `PATH` or `LABEL=PATH`, where the path is a run directory, a results file, or a folder of these. Paths
        with the same label are one run. A path without a label is a run of its own, or, if it is a folder, one for each
        model and its settings.
    score: called with each run directory whose scores are missing or older than its transcripts.

    Raises CompareError if a path cannot be read.
    """
    found: dict[tuple[Any, ...], list[Evaluation]] = {}
    for number, argument in enumerate(arguments):
        label, path = _labelled(argument)
        for evaluation in _evaluations(path, score):
            found.setdefault((label,) if label else (number, evaluation.model), []).append(evaluation)
    names = {key[0] for key in found if len(key) == 1}  # a label that the user gave belongs to no other run
    runs: list[Run] = []
    named: dict[str, Run] = {}
    for key, evaluations in found.items():
        if len(key) == 1:
            runs.append(merge(evaluations, key[0]))
            continue
        name = _free(evaluations[0].label, names)
        names.add(name)
        run = merge(evaluations, name)
        if name != evaluations[0].label:
            run = replace(run, notes=(_numbered(run, named.get(key[1])), *run.notes))
        named.setdefault(key[1], run)
        runs.append(run)
    return runs


def _free(label: str, taken: Container[str]) -> str:
    """Return a label that is not taken: the given one if possible, or else one with a number."""
    return next(name for n in count(1) if (name := label if n == 1 else f"{label} #{n}") not in taken)


def _numbered(run: Run, same: Run | None) -> str:
    """Return a note that says what a numbered label stands for.

    run: the run with the label.
    same: an earlier run of the same model and settings, if there is one.
    """
    note = f"{run.label} is {', '.join(run.sources)}"
    if same is None:
        return note
    if _seeds(run) == _seeds(same):
        return f"{note}: the same model, settings and seeds as {same.label}"
    return (
        f"{note}: {same.label} with other seeds. To average them as repeats of one run, give both the same label "
        "(LABEL=PATH LABEL=PATH)"
    )


def _seeds(run: Run) -> set[Any]:
    return {
        repeat.seeds for task in run.tasks.values() for metric in task.metrics.values() for repeat in metric.repeats
    }


def _labelled(argument: str) -> tuple[str, Path]:
    label, equals, path = argument.partition("=")
    if equals and not Path(argument).expanduser().exists():
        return label, Path(path).expanduser()
    return "", Path(argument).expanduser()


def _evaluations(path: Path, score: ScoreRun) -> Iterator[Evaluation]:
    if path.is_file() and path.suffix == ".json":
        yield read_results(path)
    elif is_run(path):
        yield read_run_directory(path, score)
    elif path.is_dir():
        results = sorted((p for p in path.rglob("*.json") if DATE.search(p.name)), key=lambda p: p.name)
        runs = sorted(p for p in path.rglob("*/") if is_run(p))
        if not results and not runs:
            raise CompareError(
                f"{path} contains neither lm-eval results (results_<time>.json) nor the transcripts of a run: name a "
                "folder that does"
            )
        if not results:
            yield from (read_run_directory(run, score) for run in runs)
            return
        found = [read_results(file) for file in results]
        # The run directories that belong to the results would only repeat them.
        others = [run for run in runs if run.name not in {one.run for one in found}]
        if others:
            note = f"{path}: {', '.join(map(str, others))} not read, because the folder also contains lm-eval results"
            found[0] = replace(found[0], notes=(*found[0].notes, f"{note}: name run directories to compare them"))
        yield from found
    else:
        raise CompareError(f"{path} is neither a folder nor an lm-eval results file: name one of these")
