"""The command that runs cells of a suite, one after another in one process."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness_ext.errors import FAILED, OK, HarnessExtError, StoreError
from harness_ext.suite.cells import Cell, Evaluation, TrainingCell
from harness_ext.suite.folders import CellFolder, Folders
from harness_ext.terminal import clean, outside

LAST_LINES = 5


def run_cells(
    cells: Sequence[Cell], folders: Folders, parent: int | None = None,
    servers: Mapping[str, Mapping[str, Path]] | None = None,
) -> int:  # fmt: skip
    """Run cells and return the exit status: 1 if one of them failed.

    cells: the cells, whose folders exist.
    folders: the folders of the suite.
    parent: the process without which this one ends; None for none.
    servers: the files with the addresses of servers that other processes run, by the seats that use them, by the
        digests of the cells. Default None: there are none.

    A failure does not stop the other cells, unless it is an error that this package did not expect. That may have left
    the process in a bad state (a GPU without memory, for example), so the rest is left to a new process.
    """
    from harness_ext.backends.kept import backends_kept
    from harness_ext.bridge import startup
    from harness_ext.engine.endings import ends_by_signal
    from harness_ext.serving.shared import servers_shared

    if parent is not None:
        _end_with(parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    status = OK
    with ends_by_signal(), backends_kept():
        startup.enforce()
        from harness_ext.suite.evaluating import Evaluator

        evaluator = Evaluator()
        for number, cell in enumerate(cells, start=1):
            folder = folders.of(cell)
            if folder.state == "finished":
                print(f"[suite] {cell.title} is finished", file=sys.stderr)
                continue
            with servers_shared((servers or {}).get(cell.digest, {})):
                expected = _run_cell(cell, folder, folders, evaluator)
            gc.collect()  # a run directory is locked as long as its model exists
            if expected is None:
                continue
            status = FAILED
            if not expected and number < len(cells):
                print(f"[suite] {len(cells) - number} cells were not started: start them again", file=sys.stderr)
                break
    return status


def _run_cell(cell: Cell, folder: CellFolder, folders: Folders, evaluator: object) -> bool | None:
    """Run a cell. Return None if it is finished, and otherwise whether this package expects failures like its own."""
    from harness_ext.suite.evaluating import Evaluator
    from harness_ext.suite.train import train

    assert isinstance(evaluator, Evaluator)
    print(f"[suite] {cell.title}: see {folder.log}", file=sys.stderr)
    for other in cell.needs:
        if folders.of(other).state != "finished":
            print(f"[suite] {cell.title} needs {other.title}, which is not finished: run that first", file=sys.stderr)
            return True
    try:
        lock = folder.lock()
    except StoreError as error:
        print(f"[suite] {cell.title}: {error}", file=sys.stderr)
        return True
    failure: Exception | None = None
    try:
        attempt = folder.begin()
        with _logged(folder.log):
            print(f"[suite] attempt {attempt.number}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}", file=sys.stderr)
            try:
                if isinstance(cell, TrainingCell):
                    train(cell, folder)
                elif isinstance(cell, Evaluation):
                    evaluator.run(cell, folders)
            except Exception as error:
                failure = error
                traceback.print_exc()
            except SystemExit as error:
                if type(error) is not SystemExit:
                    raise  # a signal
                failure = HarnessExtError(f"the evaluation ended with status {error.code}")
        if failure is not None:
            folder.fail(_last_lines(failure))
            print(f"[suite] {cell.title} failed: {folder.failure.lines[-1] if folder.failure else ''}", file=sys.stderr)
    finally:
        lock.release()
    return None if failure is None else isinstance(failure, HarnessExtError)


def _last_lines(error: Exception) -> list[str]:
    """Return what an error says: its first line, which has its type, and the last ones if there are many."""
    text = clean(error) if isinstance(error, HarnessExtError) else f"{type(error).__name__}: {clean(error)}"
    lines = [outside(line) for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines if len(lines) <= LAST_LINES else [lines[0], "…", *lines[2 - LAST_LINES :]]


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Append to a file what this process and its libraries print within the block, whatever they print it with."""
    from harness_ext.files import open_to_append

    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open_to_append(path) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _end_with(parent: int) -> None:
    """Let this process end, as by SIGTERM, soon after its parent has."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="harness-ext suite", daemon=True).start()
