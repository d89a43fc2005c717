"""What a task of a job array does: it runs cells one after another."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from harness_ext.errors import FAILED, OK, HarnessExtError, Terminated
from harness_ext.suite.cells import Cell
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.running import command
from harness_ext.suite.slurm_servers import comes_back
from harness_ext.suite.study import read_study
from harness_ext.suite.worker import run_cells
from harness_ext.terminal import outside


def run_task(path: Path, index: int, since: float | None = None) -> int:
    """Run the cells of a task that are not finished, and return the exit status: 1 if one of them is not finished then.

    path: the file that lists the cells of the array's tasks.
    index: which task.
    since: when the task began, in seconds since 1970. What has failed since then is not tried again. Default: now.

    After an error that may have left the process in a bad state, a new process takes its place for the other cells,
    with the same number, so that signals still reach it. Raises Terminated, so that the task is queued again, if a cell
    has failed and a server that it shares with other jobs is gone, but will come back. Raises HarnessExtError if the
    list does not fit the study.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digests, study = content["tasks"][index], read_study(Path(content["study"]))
        servers = {digest: {seat: Path(p) for seat, p in own.items()} for digest, own in content["servers"].items()}
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise HarnessExtError(f"{path} lists no task {index} ({outside(error)}): submit the study again") from error
    cells, folders = {cell.digest: cell for cell in cells_of(study)}, Folders(study.folder)
    if missing := [digest for digest in digests if digest not in cells]:
        raise HarnessExtError(
            f"{path} names the cell {outside(missing[0])}, which the study does not have: a file that it names was "
            "changed. Submit the study again"
        )
    begin = time.time() if since is None else since
    wanted = [cells[digest] for digest in digests if not _attempted(folders, cells[digest], begin)]
    run_cells(wanted, folders, servers=servers)
    failed = [cell for cell in wanted if folders.of(cell).state == "failed"]
    if any(comes_back(path) for cell in failed for path in servers.get(cell.digest, {}).values()):
        raise Terminated
    rest = [cell for cell in wanted if not _attempted(folders, cell, begin) and _can_run(folders, cell)]
    if 0 < len(rest) < len(wanted):
        sys.stdout.flush()
        sys.stderr.flush()
        again = command("task", str(path), str(index), "--since", repr(begin))
        os.execv(again[0], again)
    return OK if all(folders.of(cells[digest]).state == "finished" for digest in digests) else FAILED


def _attempted(folders: Folders, cell: Cell, since: float) -> bool:
    attempt = folders.of(cell).attempt
    return attempt is not None and attempt.started >= since


def _can_run(folders: Folders, cell: Cell) -> bool:
    finished = [folders.of(other).state == "finished" for other in (*cell.needs, cell)]
    return all(finished[:-1]) and not finished[-1]
