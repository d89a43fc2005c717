"""The comparison of all cells of a suite."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from harness_ext.errors import HarnessExtError
from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.study import Study, read_study
from harness_ext.terminal import shell_word


def report_arguments(study: Path, drop_unmatched: bool) -> list[str]:
    """Return the arguments of `harness-ext report` for the finished cells of a study.

    study: the file of the study.
    drop_unmatched: whether cells that are not finished are left out.

    Raises HarnessExtError if the study has problems, or if cells are not finished and may not be left out.
    """
    found = read_study(study)
    return finished_arguments(found, cells_of(found), Folders(found.folder), drop_unmatched, transcripts=True)


def finished_arguments(
    study: Study, cells: Sequence[Cell], folders: Folders, drop_unmatched: bool, transcripts: bool = False
) -> list[str]:
    """Return what `compare_arguments` returns, after saying on stderr which cells are not finished.

    study, cells, folders: the study, its cells and their folders.
    drop_unmatched: whether such cells are left out.
    transcripts: as for `compare_arguments`. Default False.

    Raises HarnessExtError if no cell is finished, or if some are not and may not be left out.
    """
    evaluations = [cell for cell in cells if isinstance(cell, Evaluation)]
    missing = [cell for cell in evaluations if not folders.of(cell).results.is_dir()]
    for cell in missing:
        print(f"[suite] {cell.title} is not finished", file=sys.stderr)
    if len(missing) == len(evaluations):
        raise HarnessExtError(f"no cell is finished: `harness-ext suite run {shell_word(study.path)}`")
    if missing and not drop_unmatched:
        raise HarnessExtError(
            f"{len(missing)} of {len(evaluations)} cells are not finished: finish them (`harness-ext suite run "
            f"{shell_word(study.path)}`), or give --drop_unmatched to compare what all runs have"
        )
    return compare_arguments(study, cells, folders, transcripts)


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
