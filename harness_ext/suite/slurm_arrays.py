"""Which cells run in which job arrays, and which arrays wait for which."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness_ext.suite.cells import Cell
from harness_ext.suite.grouping import group_cells
from harness_ext.suite.slurm_options import SuiteJob, job_of


@dataclass(frozen=True)
class CellArray:
    """A job array, each task of which runs cells one after another in one process.

    name: the name of its files, `cells-1` and so on.
    job: the options of the job.
    tasks: the cells of each task, by its index.
    after: the names of the arrays that must have ended before it starts.
    """

    name: str
    job: SuiteJob
    tasks: tuple[tuple[Cell, ...], ...]
    after: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """Return the cells of all tasks."""
        return [cell for task in self.tasks for cell in task]


def arrays_of(
    cells: Sequence[Cell], options: Mapping[str, Mapping[str, Any]], models: Mapping[str, Sequence[str]],
    elsewhere: Collection[str], name: str,
) -> list[CellArray]:  # fmt: skip
    """Divide cells into job arrays.

    cells: the cells to run. Whatever they need is among them or in `elsewhere`.
    options: the `slurm` field of each cell, by its digest.
    models: what identifies the models of each cell, by its digest.
    elsewhere: the digests of the cells that are finished, or that other jobs run.
    name: the name of the jobs, unless the options give one.

    Cells with the same options are in the same array. Those that share models are one task, as they are one process of
    `suite run`, unless `cells_per_task` divides them. A cell that needs one of another task is in a later array.
    """
    arrays: list[CellArray] = []
    left, there = list(cells), dict.fromkeys(elsewhere, "")  # the array of each cell that runs, or has run, by digest
    while left:
        begun: dict[str, str] = {}
        for text in dict.fromkeys(_text(options[cell.digest]) for cell in left):
            alike = [cell for cell in left if _text(options[cell.digest]) == text]
            job = job_of(options[alike[0].digest], name)
            tasks = [_ready(task, there) for task in _tasks(alike, models, job.cells_per_task)]
            tasks = [task for task in tasks if task]
            if not tasks:
                continue
            title = f"cells-{len(arrays) + 1}"
            begun |= {cell.digest: title for task in tasks for cell in task}
            needed = [other.digest for task in tasks for cell in task for other in cell.needs]
            after = tuple(dict.fromkeys(there[digest] for digest in needed if there.get(digest)))
            limit = "" if job.max_running is None else f"%{job.max_running}"
            job = replace(job, array=("0" if len(tasks) == 1 else f"0-{len(tasks) - 1}") + limit)
            arrays.append(CellArray(title, job, tuple(tasks), after))
        assert begun, "cells need each other in a circle"
        there |= begun
        left = [cell for cell in left if cell.digest not in there]
    return arrays


def _tasks(cells: Sequence[Cell], models: Mapping[str, Sequence[str]], most: int | None) -> list[Sequence[Cell]]:
    """Return the cells that would share a process if nothing had to wait, at most `most` in each."""
    groups = [group.cells for group in group_cells(cells, models)]
    return [group[i : i + (most or len(group))] for group in groups for i in range(0, len(group), most or len(group))]


def _ready(cells: Sequence[Cell], there: Collection[str]) -> tuple[Cell, ...]:
    """Return the cells of a task for which everything that they need is there, or comes before them."""
    ready: list[Cell] = []
    for cell in cells:
        before = {other.digest for other in ready}
        if all(other.digest in there or other.digest in before for other in cell.needs):
            ready.append(cell)
    return tuple(ready)


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True, default=str)
