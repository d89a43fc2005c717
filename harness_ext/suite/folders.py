"""The folders of cells: what is in them, and what that says about a cell's state.

Everything that a cell's state depends on is a file in its folder, so that any process can find out, at any time, what
is finished, and nothing has to be kept up to date elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness_ext.errors import StoreError
from harness_ext.files import make_private_folder
from harness_ext.records.run_directory import write_json
from harness_ext.records.run_lock import RunLock, in_use_by, lock_output
from harness_ext.suite.cells import Cell
from harness_ext.suite.noted import DamagedFileError, Record, read_record
from harness_ext.terminal import outside

State = Literal["finished", "running", "failed", "interrupted", "waiting"]

TAIL = 20_000  # bytes of a log in which its last lines are looked for


@dataclass(frozen=True)
class Description:
    """What the folder of a cell says about it.

    title, coordinates, identity: those of the cell. Default: nothing.
    models: what identifies the models that it loads. Default: none.
    created: when the folder was made, in seconds since 1970. Default 0.
    """

    title: str = ""
    coordinates: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    created: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """An attempt to run a cell.

    number: counts the attempts, from 1.
    started: the time in seconds since 1970.
    known: how many questions an earlier attempt had answered. Default 0.
    pid: the number of the process that makes it. Default 0: it was not noted.
    """

    number: int
    started: float
    known: int = 0
    pid: int = 0


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed.

    attempt: its number.
    lines: the last lines of the error.
    """

    attempt: int
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class End:
    """The end of an attempt that finished its cell.

    seconds: how long it took. Default None: unknown.
    """

    seconds: float | None = None


@dataclass(frozen=True)
class Size:
    """How much a cell asks.

    questions: the number of questions, which a protocol's transcripts count.
    documents: the number of documents.
    answered: how many questions are answered, where no transcripts count them. Default 0.
    """

    questions: int
    documents: int
    answered: int = 0


FILES = {
    "cell.json": Description, "attempt.json": Attempt, "failure.json": Failure, "finished.json": End, "size.json": Size,
}  # fmt: skip


@dataclass(frozen=True)
class CellFolder:
    """The folder of a cell. A damaged file in it counts as missing (`damaged`).

    path: the folder, which need not exist.
    """

    path: Path

    @property
    def records(self) -> Path:
        """Return the run directory of a protocol."""
        return self.path / "records"

    @property
    def training(self) -> Path:
        """Return the folder into which a training writes."""
        return self.path / "training"

    @property
    def results(self) -> Path:
        """Return the folder of lm-eval's results. It exists only once they are complete."""
        return self.path / "results"

    @property
    def unfinished_results(self) -> Path:
        """Return the folder to which lm-eval's results are written before it gets its name."""
        return self.path / "results.part"

    @property
    def log(self) -> Path:
        """Return the file with everything that the cell's attempts have printed."""
        return self.path / "log.txt"

    @property
    def config(self) -> Path:
        """Return the file that runs the cell with `lm_eval run --config`."""
        return self.path / "lm_eval.yaml"

    @cached_property
    def description(self) -> Description | None:
        """Return what the folder says about its cell; None if it does not exist."""
        return self._noted("cell.json", Description)

    @property
    def models(self) -> tuple[str, ...]:
        """Return what identifies the models that the cell loads."""
        return () if self.description is None else self.description.models

    @property
    def damaged(self) -> list[str]:
        """Return a line for each file of the folder that is damaged: what is wrong with it, and what to do."""
        found = []
        for name, kind in FILES.items():
            try:
                read_record(self.path / name, kind)
            except DamagedFileError as error:
                remedy = "`suite run` writes it anew" if name == "cell.json" else "delete it"
                found.append(f"{error}. It counts as missing, and nothing else is lost: {remedy}")
        return found

    def create(self, cell: Cell, models: Sequence[str]) -> None:
        """Create the folder of a cell that was checked. `models` identifies what it loads."""
        make_private_folder(self.path)
        description = {
            "title": cell.title, "coordinates": cell.coordinates, "identity": cell.identity(), "models": list(models),
            "created": time.time(),
        }  # fmt: skip
        write_json(self.path / "cell.json", description, private=True)

    def lock(self) -> RunLock:
        """Return the lock of the cell, which this process then holds. Raises StoreError if another one runs it."""
        return lock_output(self.path / "cell.json")

    @property
    def runner(self) -> str | None:
        """Return the process that runs the cell, or None."""
        holder = in_use_by(self.path / "cell.json")
        return None if holder is None else f"process {holder.pid} on {outside(holder.host)}"

    # -- attempts --------------------------------------------------------------------------------------------------

    @property
    def attempt(self) -> Attempt | None:
        """Return the latest attempt, or None."""
        return self._noted("attempt.json", Attempt)

    def begin(self) -> Attempt:
        """Note that an attempt begins, and return it. Raises StoreError if the folder cannot be written."""
        last = self.attempt
        found = Attempt(1 if last is None else last.number + 1, time.time(), self.answered, os.getpid())
        self._write("attempt.json", asdict(found))
        return found

    @property
    def failure(self) -> Failure | None:
        """Return why the latest attempt failed; None if it did not."""
        found, last = self._noted("failure.json", Failure), self.attempt
        if found is None or last is None or found.attempt != last.number:
            return None
        return Failure(last.number, tuple(map(outside, found.lines)))

    def fail(self, lines: Sequence[str]) -> None:
        """Note that the latest attempt failed. Raises StoreError if the folder cannot be written."""
        last = self.attempt or self.begin()
        self._write("failure.json", asdict(Failure(last.number, tuple(lines))))

    @property
    def duration(self) -> float | None:
        """Return how many seconds the attempt took that finished the cell, or None."""
        end = self._noted("finished.json", End)
        return None if end is None else end.seconds

    def finish(self) -> None:
        """Give the complete results their name, which makes the cell finished."""
        last = self.attempt
        self._write("finished.json", asdict(End(None if last is None else time.time() - last.started)))
        self.unfinished_results.rename(self.results)

    @property
    def state(self) -> State:
        """Return the state of the cell."""
        if self.results.is_dir():
            return "finished"
        if self.runner is not None:
            return "running"
        if self.failure is not None:
            return "failed"
        return "waiting" if self.attempt is None else "interrupted"

    # -- questions -------------------------------------------------------------------------------------------------

    @property
    def size(self) -> Size | None:
        """Return how much the cell asks; None as long as lm-eval has not built its requests."""
        return self._noted("size.json", Size)

    def note_size(self, size: Size) -> None:
        """Note how much the cell asks."""
        self._write("size.json", asdict(size))

    @property
    def answered(self) -> int:
        """Return how many questions are answered.

        A line of a transcript is a question; one that failed and was answered later has two lines, so the number is
        exact only as long as nothing failed.
        """
        size, lines = self.size, 0
        for path in self.records.glob("transcripts*.jsonl"):
            with path.open("rb") as file:
                lines += sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        if not lines:
            return 0 if size is None else size.answered
        return lines if size is None else min(lines, size.questions)

    @property
    def failed_questions(self) -> int:
        """Return how many questions of a protocol have no answer."""
        from harness_ext.records.run_directory import read_transcripts

        return sum(transcript.failure is not None for transcript in read_transcripts(self.records))

    def seconds_left(self, now: float) -> float | None:
        """Return how long a running cell will still take, judged by what it has answered so far; None if unknown."""
        last, size = self.attempt, self.size
        done = self.answered
        if last is None or size is None or done <= last.known:
            return None
        return (now - last.started) / (done - last.known) * (size.questions - done)

    def _noted(self, name: str, kind: type[Record]) -> Record | None:
        try:
            return read_record(self.path / name, kind)
        except DamagedFileError:
            return None

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        try:
            write_json(self.path / name, data, private=True)
        except OSError as error:
            raise StoreError(
                f"{self.path / name} cannot be written: {error}. Make room, then run the same command again"
            ) from error


@dataclass
class Folders:
    """The folders of a suite.

    root: the folder of the suite.
    """

    root: Path
    _found: dict[str, Path] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.root.is_dir():
            for path in sorted(self.root.iterdir()):
                if (path / "cell.json").is_file():
                    self._found.setdefault(path.name.rpartition("-")[2], path)

    def of(self, cell: Cell) -> CellFolder:
        """Return a cell's folder. A cell that was only renamed keeps the folder that it had."""
        return CellFolder(self._found.get(cell.digest, self.root / cell.name))

    def changes(self, cells: Sequence[Cell]) -> list[str]:
        """Return, for each cell without a folder that had one with other fields, what was changed."""
        current = {cell.digest for cell in cells}
        before: dict[tuple[tuple[str, str], ...], CellFolder] = {}
        older = [CellFolder(path) for digest, path in self._found.items() if digest not in current]
        described = [(one.description, one) for one in older if one.description is not None]
        for description, folder in sorted(described, key=lambda one: one[0].created):
            before[tuple(sorted(description.coordinates.items()))] = folder
        lines = []
        for cell in cells:
            there = before.get(tuple(sorted(cell.coordinates.items())))
            if cell.digest not in self._found and there is not None and there.description is not None:
                fields = "; ".join(differences(there.description.identity, cell.identity()))
                lines.append(
                    f"{cell.title} was changed ({fields}), so it is another cell; the former one stays in {there.path}"
                )
        return lines


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what differs between two identities, field by field."""
    found: list[str] = []
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new and (name in before) == (name in after):
            continue
        if prefix == "control." or (prefix, name) == ("trained.", "by"):
            found.append(f"the cell that `{prefix}{name}` refers to was changed")
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{name}.")
        else:
            was = f"was {outside(old, 80)}" if name in before else "was not given"
            now = f"is {outside(new, 80)}" if name in after else "is no longer given"
            found.append(f"`{prefix}{name}` {was}, {now}")
    return found


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log that are not empty, safe to print; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [outside(line) for line in text.splitlines() if line.strip()][-count:]
