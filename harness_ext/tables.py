"""Tables of a run in the form that other evaluations read: tab-separated files, a row as each question finishes.

A task has a table when an installed package names one for it (entry-point group `harness_ext.tables`, the name a
task's own or its first part: `scienceqa` serves `scienceqa_qtch`). Our models write it while they run; for every other
model `harness-ext export` writes it from the samples that `lm_eval --log_samples` leaves.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.errors import HarnessExtError, StoreError
from harness_ext.files import whole_file

Doc = Mapping[str, Any]
Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """What a task's table looks like.

    `file(doc, label)` is its path below the output folder, `rows(doc_id, doc, reply)` the rows of one document,
    `columns` their names, of which `key` tell a row from every other. `closing`, if any, turns all rows into those of a
    second table, `<file>_metrics`, made anew each time the run ends.
    """

    columns: tuple[str, ...]
    key: tuple[str, ...]
    file: Callable[[Doc, str], str]
    rows: Callable[[int, Doc, str], Sequence[Mapping[str, Any]]]
    closing: Callable[[Sequence[Row]], Sequence[Mapping[str, Any]]] | None = None


@functools.cache
def table_of(task: str) -> Table | None:
    """Return a task's table, or None where it has none."""
    from importlib.metadata import entry_points

    points = [p for p in entry_points(group="harness_ext.tables") if f"{task}_".startswith(f"{p.name}_")]
    if not points:
        return None
    table: Table = max(points, key=lambda p: len(p.name)).load()
    return table


class Tables:
    """The tables of one run, below `folder`. A row that is there already is not written again, so that a run may
    resume; half a row that a killed process left is written anew. `rank`: see `merge`."""

    def __init__(self, folder: Path, label: str, rank: int = 0) -> None:
        self.folder, self.label, self.rank = folder, label, rank
        self._files: dict[Path, tuple[Table, set[tuple[str, ...]]]] = {}

    def add(self, task: str, doc_id: int, doc: Any, reply: str) -> None:
        """Append a document's rows, durably. Does nothing for a task without a table. Raises StoreError."""
        table = table_of(task)
        if table is None:
            return
        path = self.folder / table.file(doc, self.label)
        self._append(self._part(path, self.rank), table, table.rows(doc_id, doc, reply))

    def merge(self, world: int) -> None:
        """Take over what the other processes of a distributed run wrote, and write the closing tables; rank 0's."""
        for path, (table, _) in list(self._files.items()):
            for rank in range(1, world):
                part = self._part(path, rank)
                if part.exists():
                    self._append(path, table, _read(part, table))
            if table.closing is not None:
                rows = table.closing(_read(path, table))
                stem = path.stem.removesuffix("_results")
                columns = tuple(dict.fromkeys(name for row in rows for name in row))
                _write(path.with_name(f"{stem}_metrics.csv"), columns, rows)

    @staticmethod
    def _part(path: Path, rank: int) -> Path:
        return path.with_name(f"{path.stem}.{rank}{path.suffix}") if rank else path

    def _append(self, path: Path, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        try:
            if path not in self._files:
                self._files[path] = (table, self._open(path, table))
            known = self._files[path][1]
            new = [row for row in rows if _key(row, table) not in known]
            with path.open("a", encoding="utf-8", errors="replace", newline="") as file:
                file.write("".join(_line([row.get(name, "") for name in table.columns]) for row in new))
            known.update(_key(row, table) for row in new)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error}. Make room and run the same command again") from error

    def _open(self, path: Path, table: Table) -> set[tuple[str, ...]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = _read(path, table) if path.exists() else []
        _write(path, table.columns, rows)
        return {_key(row, table) for row in rows}


def _key(row: Mapping[str, Any], table: Table) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in table.key)


def _line(cells: Sequence[Any]) -> str:
    """Return a row as the originals write it: tabs between cells, every cell quoted."""
    line = io.StringIO()
    csv.writer(line, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _read(path: Path, table: Table) -> list[Row]:
    """Return a file's whole rows."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        text = file.read()
    csv.field_size_limit(10**9)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    whole = rows if text.endswith('"\n') else rows[:-1]
    return [dict(zip(table.columns, row, strict=True)) for row in whole[1:] if len(row) == len(table.columns)]


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table so that it is there whole or not at all."""
    with whole_file(path, errors="replace") as file:
        file.write(_line(columns))
        file.writelines(_line([row.get(name, "") for name in columns]) for row in rows)


def samples_in(source: Path) -> list[Path]:
    """Return the files of `lm_eval --log_samples` that a path means: itself, or those in a folder."""
    if source.is_file():
        return [source] if source.name.startswith("samples_") else []
    return sorted(source.rglob("samples_*.jsonl"))


def export(samples: Sequence[Path], output: Path, label: str | None = None) -> list[Path]:
    """Write the tables of logged samples below `output` and return their paths.

    `label` names the model; by default the folder in which lm-eval put its results. Raises HarnessExtError with cause
    and remedy where a file is no such log, or no task in it has a table.
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
        tables.merge(1)
        made += tables._files
    if not made:
        names = ", ".join(file.name for file in samples)
        raise HarnessExtError(f"no task of {names} has a table; ScienceQA's and bAbI's conversations have one")
    return made


def _samples(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            sample["doc_id"], sample["doc"], sample["resps"][0]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise HarnessExtError(
                f"{file} line {number} is no sample of lm-eval ({type(error).__name__}: {error}): "
                "name a file that `lm_eval --log_samples --output_path …` wrote"
            ) from error
        yield sample


def parser() -> argparse.ArgumentParser:
    """Return the parser of `harness-ext export` for samples."""
    made = argparse.ArgumentParser(
        prog="harness-ext export", description="Write the tables of logged samples (ScienceQA, bAbI conversations)."
    )
    made.add_argument("source", type=Path, help="a file `samples_….jsonl` of lm_eval, or a folder with such files")
    made.add_argument("output", type=Path, help="the folder for the tables")
    made.add_argument("--label", help="the model's name in the tables; default: the name of lm-eval's folder")
    return made


def main(arguments: Sequence[str]) -> int:
    """Export samples; return the exit status."""
    options = parser().parse_args(list(arguments))
    try:
        for path in export(samples_in(options.source), options.output, options.label):
            print(path)
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext export: {error}", file=sys.stderr)
        return 1
    return 0
