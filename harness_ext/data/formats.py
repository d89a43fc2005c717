"""Reads files of rows: JSON lines, CSV, Parquet, and folders written by `save_to_disk` of `datasets`.

Each reader yields `(location, row)`: the location in the file, such as `line 3`, and a mapping, or a text that says why
there is no row at that location. Rows are not checked here but in `harness_ext.data.sources`.
"""

from __future__ import annotations

import csv
import io
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

Found = tuple[str, Mapping[str, Any] | str]

_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, split: str | None = None) -> Iterator[Found]:
    """Yield the rows of a file or folder, whose format follows from its suffix.

    path: the file or folder.
    split: the split to read from a saved DatasetDict. Other formats ignore it.
    """
    if not path.exists():
        return iter([("", "is missing")])
    if path.is_dir() and path.suffix not in READERS:
        return _saved(path, split)
    reader = READERS.get(path.suffix)
    if reader is None:
        return iter([("", f"has an unknown format: use {', '.join(READERS)} or a folder written by save_to_disk")])
    try:
        return reader(path)
    except OSError as error:
        return iter([("", f"cannot be read: {error.strerror or error}")])


def find_split(folder: Path, split: str) -> tuple[Path, str]:
    """Return the path of a split in a data set's folder, and what is wrong with it ("" if nothing).

    The split may be `<split>.jsonl`, `.csv`, `.tsv` or `.parquet`, a saved Dataset in `<split>/`, or part of a saved
    DatasetDict in the folder itself.
    """
    found = [folder / f"{split}{suffix}" for suffix in READERS if (folder / f"{split}{suffix}").exists()]
    found += [folder / split] if (folder / split / "dataset_info.json").is_file() else []
    if not found and (folder / "dataset_dict.json").is_file():
        return folder, ""
    if len(found) > 1:
        listed = ", ".join(p.name for p in found)
        return found[0], f"{folder} contains split {split!r} more than once ({listed}): keep one"
    return (found[0] if found else folder / f"{split}.jsonl"), ""


def is_typed(path: Path) -> bool:
    """Return whether the format keeps the types of values; in CSV and TSV every cell is text."""
    return path.suffix not in (".csv", ".tsv")


def _json_lines(path: Path) -> Iterator[Found]:
    return _lines(path.open("rb"))  # opened here, so that `read_rows` reports a file that cannot be


def _lines(file: BinaryIO) -> Iterator[Found]:
    # In bytes, lines end at line feeds only. Text would also end at U+2028 and similar characters, which JSON strings
    # may contain.
    with file:
        for number, line in enumerate(file, start=1):
            row = (line.removeprefix(_BOM) if number == 1 else line).removesuffix(b"\n")
            if row.strip():
                yield f"line {number}", _json_row(row)


def _json_row(line: bytes) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 text (byte {error.start + 1}: {error.reason})"
    except RecursionError:
        return "JSON nested too deeply"
    except ValueError as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"expected a JSON object, found {reprlib.repr(row)}"


def _separated(path: Path) -> Iterator[Found]:
    return _records(path.read_bytes().removeprefix(_BOM), "\t" if path.suffix == ".tsv" else ",")


def _records(content: bytes, delimiter: str) -> Iterator[Found]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield f"line {line}", f"not UTF-8 text ({error.reason}): save the file as UTF-8"
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        location = f"line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield location, f"not valid CSV ({error})"
            return
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = [name.strip() for name in cells]
            if len(set(header)) < len(header) or "" in header:
                yield location, f"the header has an empty or repeated name: {', '.join(map(repr, header))}"
                return
        elif len(cells) != len(header):
            yield (
                location,
                f"{len(cells)} cells, but the header has {len(header)}: quote cells that contain {delimiter!r}",
            )
        else:
            yield location, dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow
    import pyarrow.parquet

    if path.is_dir():
        raise IsADirectoryError(None, "Is a directory")
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        return iter([("", f"is not a Parquet file ({error})")])
    return ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1))


def _saved(path: Path, split: str | None) -> Iterator[Found]:
    from datasets import DatasetDict, load_from_disk

    try:
        rows = load_from_disk(str(path))
    except Exception as error:  # for a damaged folder, the library may raise anything
        return iter([("", f"is not a folder written by save_to_disk ({type(error).__name__}: {error})")])
    if isinstance(rows, DatasetDict):
        if split not in rows:
            return iter([("", f"has no split {split!r}; its splits are: {', '.join(map(repr, rows))}")])
        rows = rows[split]
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": _json_lines,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
