"""Tab-separated tables of a run in the format of other evaluations, written row by row as questions finish.

A task has a table if an installed package declares one for it in the entry-point group `harness_ext.tables`, under the
task's name or its first part (`scienceqa` covers `scienceqa_qtch`). The models of this package write it during the run;
for every other model, `harness-ext export` writes it from the samples that `lm_eval --log_samples` saves.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.errors import HarnessExtError, StoreError
from harness_ext.files import atomic_write, csv_cell, make_private_folder, open_to_append, read_csv_cell
from harness_ext.terminal import clean

Document = Mapping[str, Any]
TableRow = dict[str, str]


@dataclass(frozen=True)
class Table:
    """The layout of a task's table.

    columns: the column names.
    key: the columns that identify a row.
    file: `file(doc, label)` returns the table's path below the output folder.
    rows: `rows(doc_id, doc, reply)` returns the rows of one document.
    closing: turns all rows into those of a second table, `<file>_metrics`, rewritten each time the run ends. Default
        none.
    """

    columns: tuple[str, ...]
    key: tuple[str, ...]
    file: Callable[[Document, str], str]
    rows: Callable[[int, Document, str], Sequence[Mapping[str, Any]]]
    closing: Callable[[Sequence[TableRow]], Sequence[Mapping[str, Any]]] | None = None


@functools.cache
def table_of(task: str) -> Table | None:
    """Return a task's table, or None if it has none."""
    from importlib.metadata import entry_points

    points = [p for p in entry_points(group="harness_ext.tables") if f"{task}_".startswith(f"{p.name}_")]
    if not points:
        return None
    table: Table = max(points, key=lambda p: len(p.name)).load()
    return table


class Tables:
    """The tables of one run.

    Runs can be resumed: rows that exist are not written again, and a partial row left by a killed process is replaced.

    folder: the output folder.
    label: the name of the run in file names.
    rank: the rank of this process in a distributed run. Every rank writes its own files, which `merge` combines.
        Default 0.
    private: whether only their owner can read the files, as those of a run. Default False: as the umask says.
    """

    def __init__(self, folder: Path, label: str, rank: int = 0, private: bool = False) -> None:
        self.folder, self.label, self.rank, self.private = folder, label, rank, private
        self._files: dict[Path, tuple[Table, set[tuple[str, ...]]]] = {}
        self.written: dict[Path, str] = {}  # the tables that this process has added rows to, and their tasks

    def add(self, task: str, doc_id: int, doc: Any, reply: str) -> None:
        """Append the rows of one document.

        task: the task's name; without a table for it, nothing is written.
        doc_id, doc: the document and its number in the task's data.
        reply: the final answer.

        Raises StoreError if the file cannot be written.
        """
        table = table_of(task)
        if table is None:
            return
        path = self.folder / table.file(doc, self.label)
        self.written.setdefault(path, task)
        self._append(self._part(path, self.rank), table, table.rows(doc_id, doc, reply))

    def merge(self, world: int = 1, written: Iterable[Mapping[Path, str]] = ()) -> None:
        """Add the rows of the other `world - 1` processes and write the closing tables. Only rank 0 calls this.

        world: the number of processes. Default 1.
        written: the attribute `written` of each process: there can be tables that another one alone has written to.
            Default: this process's own.

        Raises StoreError if a file cannot be written.
        """
        tasks = {path: task for part in (self.written, *written) for path, task in part.items()}
        for path, table in ((path, table_of(task)) for path, task in tasks.items()):
            if table is None:
                continue
            for rank in range(1, world):
                part = self._part(path, rank)
                if part.exists():
                    self._append(path, table, _read(part, table))
            if table.closing is not None:
                rows = table.closing(_read(path, table))
                stem = path.stem.removesuffix("_results")
                columns = tuple(dict.fromkeys(name for row in rows for name in row))
                metrics = path.with_name(f"{stem}_metrics.csv")
                try:
                    _write(metrics, columns, rows, self.private)
                except OSError as error:
                    raise _unwritable(metrics, error) from error

    @staticmethod
    def _part(path: Path, rank: int) -> Path:
        return path.with_name(f"{path.stem}.{rank}{path.suffix}") if rank else path

    def _append(self, path: Path, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            if path not in self._files:
                self._files[path] = (table, self._open(path, table))
            known = self._files[path][1]
            new = [row for row in rows if _key(row, table) not in known]
            with open_to_append(path, newline="") as file:
                file.write("".join(_line([row.get(name, "") for name in table.columns]) for row in new))
            known.update(_key(row, table) for row in new)
        except OSError as error:
            raise _unwritable(path, error) from error

    def _open(self, path: Path, table: Table) -> set[tuple[str, ...]]:
        if self.private:
            make_private_folder(path.parent)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        rows = _read(path, table) if path.exists() else []
        _write(path, table.columns, rows, self.private)
        return {_key(row, table) for row in rows}


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path} cannot be written: {error}. Make room on the disk, then run the same command again")


def _key(row: Mapping[str, Any], table: Table) -> tuple[str, ...]:
    return tuple(csv_cell(row[name]) for name in table.key)


def _line(cells: Sequence[Any]) -> str:
    """Return a row in the format of the original evaluations: tabs between cells, every cell quoted.

    Replies of models are no formulas for whoever opens the table in a spreadsheet (see `csv_cell`).
    """
    line = io.StringIO()
    csv.writer(line, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(map(csv_cell, cells))
    return line.getvalue()


def _read(path: Path, table: Table) -> list[TableRow]:
    """Return the complete rows of a file."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        text = file.read()
    csv.field_size_limit(10**9)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    whole = rows if text.endswith('"\n') else rows[:-1]
    return [
        dict(zip(table.columns, map(read_csv_cell, row), strict=True))
        for row in whole[1:]
        if len(row) == len(table.columns)
    ]


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], private: bool) -> None:
    """Write a table atomically."""
    with atomic_write(path, errors="replace", private=private) as file:
        file.write(_line(columns))
        file.writelines(_line([row.get(name, "") for name in columns]) for row in rows)


def samples_in(source: Path) -> list[Path]:
    """Return the sample files of `lm_eval --log_samples` at a path: the file itself, or all files in a folder."""
    if source.is_file():
        return [source] if source.name.startswith("samples_") else []
    return sorted(source.rglob("samples_*.jsonl"))


def export(samples: Sequence[Path], output: Path, label: str | None = None) -> list[Path]:
    """Write the tables of logged samples and return their paths.

    samples: the sample files.
    output: the folder for the tables.
    label: the model's name in the tables. Default: the name of the folder that holds lm-eval's results.

    Raises HarnessExtError if a file is not a sample log, or if none of the tasks has a table.
    """
    made: list[Path] = []
    for file in samples:
        task = file.stem.removeprefix("samples_").rpartition("_")[0]
        if table_of(task) is None:
            continue
        tables = Tables(output, label or file.absolute().parent.name.rpartition("__")[2])
        for sample in sorted(_samples(file), key=lambda s: int(s["doc_id"])):
            reply = sample["resps"][0]
            tables.add(task, int(sample["doc_id"]), sample["doc"], str(reply[0] if isinstance(reply, list) else reply))
        tables.merge()
        made += tables._files
    if not made:
        names = ", ".join(file.name for file in samples)
        raise HarnessExtError(
            f"no task in {names} has a table: export samples of ScienceQA or of bAbI conversations, which have one"
        )
    return made


def _samples(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            sample["doc_id"], sample["doc"], sample["resps"][0]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise HarnessExtError(
                f"{file} line {number} is not an lm-eval sample ({type(error).__name__}: {error}): "
                "name a file written by `lm_eval --log_samples --output_path …`"
            ) from error
        yield sample


def parser() -> argparse.ArgumentParser:
    """Return the argument parser of `harness-ext export` for samples."""
    made = argparse.ArgumentParser(
        prog="harness-ext export", description="Write the tables of logged samples (ScienceQA, bAbI conversations)."
    )
    made.add_argument("source", type=Path, help="an lm-eval file `samples_….jsonl`, or a folder of such files")
    made.add_argument("output", type=Path, help="the folder for the tables")
    made.add_argument("--label", help="the model's name in the tables; default: the name of lm-eval's folder")
    return made


def main(arguments: Sequence[str]) -> int:
    """Export samples and return the exit status."""
    options = parser().parse_args(list(arguments))
    try:
        for path in export(samples_in(options.source), options.output, options.label):
            print(path)
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext export: {clean(error)}", file=sys.stderr)
        return 1
    return 0
