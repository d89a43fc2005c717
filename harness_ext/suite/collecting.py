"""The comparison of all cells of a suite."""

from __future__ import annotations

from collections.abc import Sequence

from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.folders import Folders
from harness_ext.suite.study import Study


def compare_arguments(
    study: Study, cells: Sequence[Cell], folders: Folders, transcripts: bool = False
) -> list[str]:  # fmt: skip
    """Return the arguments of `harness-ext compare` for the finished cells of a study.

    study, cells, folders: the study, its cells and their folders.
    transcripts: whether a cell is given by its run directory, which has transcripts, where it has one, instead of by
        its results. Default False.

    Cells that differ in their task or their seed alone are one run: other tasks of it, or repeats.
    """
    evaluations = [cell for cell in cells if isinstance(cell, Evaluation)]
    finished = [cell for cell in evaluations if folders.of(cell).results.is_dir()]
    arguments = []
    for cell in finished:
        folder = folders.of(cell)
        has_records = transcripts and folder.records.is_dir()
        arguments.append(f"{cell.label}={folder.records if has_records else folder.results}")
    if study.reference is not None:
        arguments += ["--reference", study.reference]
    for name, tasks in study.groups.items():
        arguments += ["--group", f"{name}={','.join(tasks)}"]
    for metric in study.metrics:
        arguments += ["--metric", metric]
    if study.cluster is not None:
        arguments += ["--cluster", study.cluster]
    for include in dict.fromkeys(cell.options.include_path for cell in finished):
        if include is not None:
            arguments += ["--include_path", include]
    return arguments
