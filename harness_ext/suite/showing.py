"""The state of a suite as text, from the folders of its cells alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from harness_ext.engine.progress import as_clock
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.slurm.queue import Queued
from harness_ext.suite.cells import Cell
from harness_ext.suite.folders import Folders, State
from harness_ext.suite.running import seconds_left
from harness_ext.suite.slurm_records import InQueue
from harness_ext.terminal import outside, shell_word


def cell_states(cells: Sequence[Cell], folders: Folders, queue: Mapping[str, Queued]) -> list[dict[str, Any]]:
    """Return the state of each cell as JSON values: what `suite status --json` prints.

    cells: the cells.
    folders: their folders.
    queue: the jobs of Slurm that run cells, by the digests of the cells.
    """
    now, rows = time.time(), []
    for index, cell in enumerate(cells):
        folder, job = folders.of(cell), queue.get(cell.digest)
        size, failure = folder.size, folder.failure
        state = state_in_queue(folder.state, job)
        rows.append(
            {
                "index": index, "cell": folder.path.name, "title": cell.title, "folder": str(folder.path),
                "state": state,
                "answered": folder.answered, "questions": None if size is None else size.questions,
                "failed_questions": folder.failed_questions, "attempt": folder.attempt.number if folder.attempt else 0,
                "seconds": folder.duration if state == "finished" else None,
                "seconds_left": folder.seconds_left(now) if state == "running" else None,
                "error": list(failure.lines) if failure is not None and state == "failed" else [],
                "damaged": folder.damaged,
                "job": None if job is None else {"name": job.name, "state": job.state, "reason": job.reason},
            }
        )  # fmt: skip
    return rows


def print_status(cells: Sequence[Cell], folders: Folders, on_slurm: InQueue, study: Path) -> None:
    """Print the state of each cell, and that of the suite below. `study`: the file of the study."""
    from harness_ext.terminal import console, print_table

    rows = cell_states(cells, folders, on_slurm.cells)
    out = console()
    head = ("cell", "no.", "state", "questions", "failed", "time", "left", *(("job",) if on_slurm.cells else ()))
    print_table(out, "", head, ((*_row(row), *([_job(row)] if on_slurm.cells else [])) for row in rows))
    counts = Counter(row["state"] for row in rows)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    open_cells = {cell.digest for cell, row in zip(cells, rows, strict=True) if row["state"] != "finished"}
    left = seconds_left(cells, folders, open_cells, 1)
    if open_cells:
        states += f"; time left in one process: {'unknown' if left is None else 'about ' + as_clock(left)}"
    out.print(f"{count_of(cells)}: {states}")
    if not folders.root.is_dir():
        out.print(
            f"There is no folder {folders.root.absolute()}: nothing was run yet, or it was run in another working "
            "directory, to which the path of the folder is relative.",
            soft_wrap=True,
        )
    for name, job in on_slurm.others.items():
        out.print(f"job {job.name} ({name}): {_waiting(job.state, job.reason)}")
    for row in rows:
        if row["error"]:
            # Each is one line, so that the command can be copied however long its path is.
            said = f"\n{row['title']} failed (`harness-ext suite logs {shell_word(study)} {row['index']}` shows more):"
            for line in (said, *(f"  {line}" for line in row["error"])):
                out.print(line, soft_wrap=True)

    damaged = [line for row in rows for line in row["damaged"]]
    for line in [*([""] if damaged else []), *damaged]:
        out.print(line, soft_wrap=True)  # it is one line, however long its path is


STATES = (*get_args(State), "queued", "held", "requeued")


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    asked = "" if row["questions"] is None else f"{row['answered']}/{row['questions']}"
    times = ("" if row[key] is None else as_clock(row[key]) for key in ("seconds", "seconds_left"))
    return (row["title"], str(row["index"]), row["state"], asked, str(row["failed_questions"] or ""), *times)


def state_in_queue(state: str, job: Queued | None) -> str:
    """Return the state of a cell, given that in its folder and the job that runs it, or None.

    The folder says whether the cell is finished or running now. Of another one it only says how its last attempt ended,
    and the queue when the next one will come.
    """
    if job is None or state in ("finished", "running"):
        return state
    if job.kind == "running":  # another cell of the same task runs
        return state if state == "failed" else "queued"
    return job.kind


def _job(row: dict[str, Any]) -> str:
    job = row["job"]
    return "" if job is None else f"{job['name']} {_waiting(job['state'], job['reason'])}"


def _waiting(state: str, reason: str) -> str:
    return outside(state.lower() if reason in ("None", "") else f"{state.lower()} ({reason})")


def find_cell(cells: Sequence[Cell], folders: Folders, text: str) -> Cell:
    """Return the cell that a user means: by number, by digest, by the name of its folder, or by a part of that.

    Raises ConfigurationError if there is none, or more than one.
    """
    if text.isdecimal() and int(text) < len(cells):
        return cells[int(text)]
    names = {folders.of(cell).path.name: cell for cell in cells}
    exact = [cell for name, cell in names.items() if text in (name, cell.digest, cell.title)]
    found = exact or [cell for name, cell in names.items() if text in name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(
            [f"`{outside(text)}` fits {len(found)} cells: name one of {', '.join(names_of(found, folders))}"]
        )
    raise ConfigurationError(
        [
            f"there is no cell `{outside(text)}`{suggest(text, list(names))}: the study has cells 0 to "
            f"{len(cells) - 1}, which `harness-ext suite status` lists. A cell is another one once its settings, "
            "prompts or task files are changed"
        ]
    )


def count_of(cells: Sequence[object]) -> str:
    """Return how many cells there are, in words."""
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"


def names_of(cells: Sequence[Cell], folders: Folders) -> list[str]:
    """Return the names of the folders of cells."""
    return [folders.of(cell).path.name for cell in cells]
