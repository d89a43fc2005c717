"""Runs the cells of a suite on this machine: one process for each group of cells with the same models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from harness_ext.engine.endings import COMMAND, same_command
from harness_ext.engine.progress import as_clock
from harness_ext.errors import ConfigurationError, HarnessExtError
from harness_ext.suite.cells import Cell
from harness_ext.suite.folders import Folders, last_lines
from harness_ext.suite.grouping import Group, group_cells

LOOK_EVERY = 0.5  # seconds
LINE_EVERY = 15.0  # seconds
GRACE = 60.0  # seconds that a process has to write its summary after a signal
ATTEMPTS = 2  # starts of a process that ends without saying anything about a cell


def prepare(path: Path, cells: Sequence[Cell], folders: Folders) -> None:
    """Check the cells that have no folder yet, in a process of its own, and create their folders.

    path: the file of the study.
    cells: its cells.
    folders: the folders of the suite.

    Raises ConfigurationError with all problems at once. Nothing was created then.
    """
    create(cells, folders, check_new(path, cells, folders))


def create(cells: Sequence[Cell], folders: Folders, models: Mapping[str, Sequence[str]]) -> None:
    """Create the folders of the cells that were checked. `models`: what `check_new` returned."""
    for cell in cells:
        if cell.digest in models:
            folders.of(cell).create(cell, models[cell.digest])


def check_new(path: Path, cells: Sequence[Cell], folders: Folders) -> dict[str, list[str]]:
    """Check the cells that have no folder yet, in a process of its own.

    path: the file of the study.
    cells: its cells.
    folders: the folders of the suite.

    Returns what identifies the models of each of them, by its digest. Raises ConfigurationError with all problems at
    once.
    """
    new = [cell for cell in cells if not folders.of(cell).description]
    if not new:
        return {}
    names = [cell.digest for cell in new]
    done = subprocess.run(command("check", str(path), *names, "--json"), stdout=subprocess.PIPE, text=True, check=False)
    try:
        found = json.loads(done.stdout.splitlines()[-1])  # libraries may have printed something before
    except (ValueError, IndexError) as error:
        raise HarnessExtError(
            f"the cells could not be checked: the check ended with status {done.returncode}"
        ) from error
    if found["problems"]:
        raise ConfigurationError(found["problems"])
    models: dict[str, list[str]] = found["models"]
    return models


def command(*arguments: str) -> list[str]:
    """Return the command that runs `harness-ext suite` with the interpreter of this process."""
    return [sys.executable, "-m", "harness_ext", "suite", *arguments]


@dataclass
class _Process:
    """A process that runs cells.

    group: the group that the cells belong to.
    cells: the cells.
    process: the process.
    output: where it prints what does not belong to a cell.
    """

    group: Group
    cells: tuple[Cell, ...]
    process: subprocess.Popen[bytes]
    output: Path


@dataclass
class Runner:
    """Runs cells until each one is finished or has failed.

    path: the file of the study.
    cells: all cells of the study; those that are not in `wanted` only count if others need them.
    folders: the folders of the suite; those of the cells exist.
    wanted: the digests of the cells to run.
    jobs: how many processes may run at the same time. Default 1.
    overlap: whether groups with a common model may run at the same time. Default false.
    stream: where to print progress. Default: standard error.
    clock: returns the time in seconds. Default: the system's monotonic clock.
    """

    path: Path
    cells: Sequence[Cell]
    folders: Folders
    wanted: frozenset[str]
    jobs: int = 1
    overlap: bool = False
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        chosen = [cell for cell in self.cells if cell.digest in self.wanted]
        self._groups = group_cells(chosen, {cell.digest: self.folders.of(cell).models for cell in chosen})
        self._open = {cell.digest for cell in chosen}  # neither finished nor failed in this run
        self._failed: set[str] = set()
        self._starts: dict[str, int] = {}
        self._started_at: dict[str, float] = {}
        self._pids: set[int] = set()  # of all processes that this run has started
        self._running: list[_Process] = []
        self._started = self._said = self.clock()

    def run(self) -> list[Cell]:
        """Run the cells, and return those that failed. A signal ends the processes first."""
        for cell in self.cells:
            for line in self.folders.of(cell).damaged:
                self._say(line)
        try:
            self._settle()
            self._line()
            while self._open:
                self._reap()
                self._settle()
                self._launch()
                if self.clock() - self._said >= LINE_EVERY:
                    self._line()
                if self._open:
                    time.sleep(LOOK_EVERY)
        finally:
            self._end_all()
        self._line()
        return [cell for cell in self.cells if cell.digest in self._failed]

    # -- what is finished ------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Take note of what is finished, has failed, or cannot run because another cell has failed."""
        for cell in self.cells:
            if cell.digest not in self._open:
                continue
            folder = self.folders.of(cell)
            if folder.results.is_dir():
                self._close(cell, "finished")
                continue
            failure = folder.failure
            if failure is not None and self._attempted(cell) and folder.runner is None:
                self._fail(cell, failure.lines)
            for other in cell.needs:
                if other.digest in self._failed or (other.digest not in self._open and not self._is_finished(other)):
                    self._fail(cell, (f"it needs {other.title}, which is not finished",))
                    break

    def _is_finished(self, cell: Cell) -> bool:
        return self.folders.of(cell).results.is_dir()

    def _attempted(self, cell: Cell) -> bool:
        """Return whether a process of this run has begun the cell's latest attempt.

        A process that an earlier, killed run has left may begin one too, until it notices that it is alone.
        """
        attempt = self.folders.of(cell).attempt
        since = self._started_at.get(cell.digest, float("inf"))
        return attempt is not None and attempt.pid in self._pids and attempt.started >= since

    def _close(self, cell: Cell, what: str) -> None:
        self._open.discard(cell.digest)
        if cell.digest in self._starts and what == "finished":
            self._say(f"{cell.title}: finished")
            self._line()

    def _fail(self, cell: Cell, lines: Sequence[str]) -> None:
        if cell.digest not in self._open:
            return
        self._close(cell, "failed")
        self._failed.add(cell.digest)
        self._say(f"{cell.title}: FAILED")
        for line in lines:
            self._say(f"  {line}")

    def _reap(self) -> None:
        """Look at the processes that have ended, and at the cells that they had not finished."""
        for one in [one for one in self._running if one.process.poll() is not None]:
            self._running.remove(one)
            status = one.process.returncode
            begun = [cell for cell in one.cells if self._attempted(cell)]
            for cell in one.cells:
                folder = self.folders.of(cell)
                if self._is_finished(cell) or (cell in begun and folder.failure is not None):
                    continue
                if cell not in begun and (begun or folder.runner is not None):
                    # Another cell ended the process before this one's turn, or another process has the cell.
                    self._starts[cell.digest] = 0
                elif cell in begun or self._starts[cell.digest] >= ATTEMPTS:
                    how = f"signal {-status}" if status < 0 else f"status {status}"
                    last = last_lines(folder.log if cell in begun else one.output, 4)
                    lines = [f"its process ended with {how}", *last]
                    folder.fail(lines)
                    self._fail(cell, lines)

    # -- what runs -------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Start as many processes as may run."""
        for group in self._groups:
            if len(self._running) >= self.jobs:
                return
            if any(
                one.group is group or (not self.overlap and one.group.models & group.models) for one in self._running
            ):
                continue
            if cells := self._ready(group):
                self._start(group, cells)

    def _ready(self, group: Group) -> tuple[Cell, ...]:
        """Return the cells of a group that can run now: what they need is finished, or comes before them."""
        ready: list[Cell] = []
        for cell in group.cells:
            if cell.digest not in self._open:
                continue
            if self.folders.of(cell).runner is not None:
                continue  # another process still has it, such as one that an earlier run has left
            if all(other in ready or self._is_finished(other) for other in cell.needs):
                ready.append(cell)
        return tuple(ready)

    def _start(self, group: Group, cells: tuple[Cell, ...]) -> None:
        started = time.time()
        for cell in cells:
            self._starts[cell.digest] = self._starts.get(cell.digest, 0) + 1
            self._started_at[cell.digest] = started
        output = self.folders.root / f"process-{time.strftime('%Y%m%d-%H%M%S')}-{len(self._starts)}.log"
        with output.open("ab") as file:
            # A session of its own, so that Ctrl-C reaches this process alone, which then ends the others in order.
            process = subprocess.Popen(
                command("cell", str(self.path), *(cell.digest for cell in cells), "--parent", str(os.getpid())),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                env={**os.environ, COMMAND: same_command() or ""},
            )  # fmt: skip
        self._pids.add(process.pid)
        self._running.append(_Process(group, cells, process, output))
        self._say(f"started {', '.join(cell.title for cell in cells)}")

    def _end_all(self) -> None:
        """End the processes, which write their summaries first."""
        for one in self._running:
            with suppress(ProcessLookupError):
                one.process.terminate()
        deadline = time.monotonic() + GRACE
        for one in self._running:
            try:
                one.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()

    # -- what is shown ---------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        with suppress(BrokenPipeError):
            print(f"[suite] {text}", file=self.stream, flush=True)

    def _line(self) -> None:
        """Print the state of the whole suite as one line."""
        self._said = self.clock()
        done = sum(self._is_finished(cell) for cell in self.cells)
        parts = [f"{done}/{len(self.cells)} cells finished"]
        if self._failed:
            parts.append(f"{len(self._failed)} failed")
        for cell in self.cells:
            folder = self.folders.of(cell)
            if cell.digest not in self._open or folder.runner is None:
                continue
            size = folder.size
            asked = f" {folder.answered}/{size.questions} questions" if size is not None else ""
            parts.append(f"{cell.title}{asked or ' is starting'}")
        left = seconds_left(self.cells, self.folders, self._open, self.jobs)
        time_left = "" if left is None or not self._open else f", about {as_clock(left)} left"
        self._say(f"{'; '.join(parts)} ({as_clock(self.clock() - self._started)}{time_left})")


def seconds_left(
    cells: Sequence[Cell], folders: Folders, open_cells: set[str] | frozenset[str], jobs: int
) -> float | None:
    """Return about how long the cells that are not finished will take; None if nothing is known about one of them.

    cells: the cells of the study.
    folders: their folders.
    open_cells: the digests of the cells that are not finished.
    jobs: how many run at the same time.

    A cell that runs takes what its rate says. One that does not is taken to last as long as the finished cells of its
    setting did on average, or else as all of them did.
    """
    now, total = time.time(), 0.0
    durations = {cell.digest: folders.of(cell).duration for cell in cells if folders.of(cell).results.is_dir()}
    known = [(cell.setting, d) for cell in cells if (d := durations.get(cell.digest)) is not None]
    for cell in cells:
        if cell.digest not in open_cells:
            continue
        folder = folders.of(cell)
        left = folder.seconds_left(now) if folder.runner is not None else None
        if left is None:
            alike = [d for setting, d in known if setting == cell.setting] or [d for _, d in known]
            if not alike:
                return None
            left = sum(alike) / len(alike)
        total += left
    return total / max(1, jobs)
