"""`--to csv` and `--to parquet`: questions, turns and scores as tables, one file each for all runs together."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import (
    WRONG_FIELDS,
    ExportedRun,
    ExportError,
    atomic_binary,
    damaged,
    plain_values,
)
from harness_ext.analysis.tables import QUESTIONS, SCORES, TURNS, TYPES, question_rows, score_rows, turn_rows
from harness_ext.files import atomic_write, csv_cell
from harness_ext.terminal import outside

Rows = Callable[[ExportedRun], Iterator[dict[str, Any]]]
RUN = {"run": "the name of the run's folder", "label": "the run's label"}
TABLES: Mapping[str, tuple[Mapping[str, str], Rows]] = {
    "questions": (QUESTIONS, lambda run: question_rows(run.path)),
    "turns": (TURNS, lambda run: turn_rows(run.path)),
    "scores": (SCORES, lambda run: _score_rows(run)),
}
"""Each table's columns, and what yields its rows."""
BATCH = 1000  # rows that are in memory at once


def write_csv(runs: Sequence[ExportedRun], output: Path, _: ExportOptions) -> list[str]:
    """Write `questions.csv`, `turns.csv` and, if the runs have scores, `scores.csv` into the output folder.

    No cell is a formula for a spreadsheet (see `csv_cell`); what is unknown is empty. Returns what to tell the user.
    """
    lines = []
    for name in names_of(runs):
        path, count = output / f"{name}.csv", 0
        try:
            with atomic_write(path, private=True) as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns_of(name))
                for row in rows_of(name, runs):
                    writer.writerow(["" if value is None else csv_cell(value) for value in row.values()])
                    count += 1
        except OSError as error:
            raise ExportError(f"{path} cannot be written: {error}. Make room, or give another folder (`-o`)") from error
        lines.append(f"{path}: {count} rows")
    return lines


def write_parquet(runs: Sequence[ExportedRun], output: Path, _: ExportOptions) -> list[str]:
    """Write `questions.parquet`, `turns.parquet` and, if the runs have scores, `scores.parquet`. Returns as above."""
    return [f"{output / name}.parquet: {count} rows" for name, count in parquet_files(runs, output)]


def parquet_files(runs: Sequence[ExportedRun], output: Path) -> Iterator[tuple[str, int]]:
    """Write each table as a Parquet file of the output folder, and yield its name and its number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    for name in names_of(runs):
        schema = pa.schema([(column, types[TYPES.get(column, str)]) for column in columns_of(name)])
        path, count = output / f"{name}.parquet", 0
        rows = rows_of(name, runs)
        with atomic_binary(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            while batch := list(islice(rows, BATCH)):
                try:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                except (pa.ArrowException, OverflowError) as error:
                    raise ExportError(
                        f"a record is not of the type of its column in {name}.parquet ({outside(error)}): --to csv "
                        "takes any value"
                    ) from error
                count += len(batch)
        yield name, count


def names_of(runs: Sequence[ExportedRun]) -> list[str]:
    """Return the tables that these runs have."""
    return [name for name in TABLES if name != "scores" or any(run.figures for run in runs)]


def columns_of(name: str) -> list[str]:
    """Return the columns of a table."""
    return [*RUN, *TABLES[name][0]]


def rows_of(name: str, runs: Sequence[ExportedRun]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, in the order of its columns, with every text made safe."""
    columns, rows = TABLES[name]
    for run in runs:
        about = {"run": run.name, "label": run.label}
        for row in rows(run):
            yield about | {column: plain_values(row[column]) for column in columns}


def _score_rows(run: ExportedRun) -> Iterator[dict[str, Any]]:
    for line in run.score_lines():
        try:
            yield from score_rows([line])
        except WRONG_FIELDS as error:
            raise damaged(run.path, error) from error
