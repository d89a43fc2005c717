"""The comparison of all cells of a suite."""

from __future__ import annotations

from collections.abc import Sequence

from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.folders import Folders
from harness_ext.suite.study import Study


def compare_arguments(study: Study, cells: Sequence[Cell], folders: Folders) -> list[str]:
    """Return the arguments of `harness-ext compare` for the finished cells of a study.

    Cells that differ in their task or their seed alone are one run: other tasks of it, or repeats.
    """
    evaluations = [cell for cell in cells if isinstance(cell, Evaluation)]
    finished = [cell for cell in evaluations if folders.of(cell).results.is_dir()]
    arguments = [f"{cell.label}={folders.of(cell).results}" for cell in finished]
    if study.reference is not None:
        arguments += ["--reference", study.reference]
    for name, tasks in study.groups.items():
        arguments += ["--group", f"{name}={','.join(tasks)}"]
    for metric in study.metrics:
        arguments += ["--metric", metric]
    if study.cluster is not None:
        arguments += ["--cluster", study.cluster]
    for folder in dict.fromkeys(cell.options.include_path for cell in finished):
        if folder is not None:
            arguments += ["--include_path", folder]
    return arguments
