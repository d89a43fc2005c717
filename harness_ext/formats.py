"""Files of rows: JSON lines, CSV, Parquet, and folders written by `datasets`' `save_to_disk`.

Each reader yields `(place, row)`, where `place` says where in the file the row stands and `row` is a mapping, or a text
that says why there is no row there. Rows are not checked here; see `harness_ext.data`.
"""

from __future__ import annotations

import csv
import io
import json
import reprlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Found = tuple[str, Mapping[str, Any] | str]

_BOM = b"\xef\xbb\xbf"


def read_rows(path: Path, split: str | None = None) -> Iterator[Found]:
    """Yield what a file or a folder holds, told by its name's ending; `split` picks one of a saved DatasetDict."""
    if not path.exists():
        return iter([("", "is missing")])
    if path.is_dir() and path.suffix not in READERS:
        return _saved(path, split)
    reader = READERS.get(path.suffix)
    if reader is None:
        return iter([("", f"is of no known format; known are {', '.join(READERS)} and save_to_disk folders")])
    try:
        return reader(path)
    except OSError as error:
        return iter([("", f"cannot be read: {error.strerror or error}")])


def find_split(folder: Path, split: str) -> tuple[Path, str]:
    """Return where a data set's folder holds a split, and what is wrong with that ("" if nothing is).

    Looked for: `<split>.jsonl`, `.csv`, `.tsv`, `.parquet`, a saved Dataset in `<split>/`, or a saved DatasetDict in
    the folder itself.
    """
    there = [folder / f"{split}{ending}" for ending in READERS if (folder / f"{split}{ending}").exists()]
    there += [folder / split] if (folder / split / "dataset_info.json").is_file() else []
    if not there and (folder / "dataset_dict.json").is_file():
        return folder, ""
    if len(there) > 1:
        return there[0], f"{folder} holds split {split!r} more than once ({', '.join(p.name for p in there)}): keep one"
    return (there[0] if there else folder / f"{split}.jsonl"), ""


def is_typed(path: Path) -> bool:
    """Tell whether the format keeps types; in CSV every cell is text."""
    return path.suffix not in (".csv", ".tsv")


def _json_lines(path: Path) -> Iterator[Found]:
    content = path.read_bytes().removeprefix(_BOM)
    # Split at line feeds only: JSON text may hold U+2028 and the like, where `str.splitlines` would cut.
    lines = enumerate(content.split(b"\n"), start=1)
    return ((f"line {number}", _json_row(line)) for number, line in lines if line.strip())


def _json_row(line: bytes) -> Mapping[str, Any] | str:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"no UTF-8 text (byte {error.start + 1}: {error.reason})"
    except RecursionError:
        return "JSON nested too deeply"
    except ValueError as error:
        return f"no JSON ({error})"
    return row if isinstance(row, dict) else f"a JSON object is needed, found {reprlib.repr(row)}"


def _separated(path: Path) -> Iterator[Found]:
    return _records(path.read_bytes().removeprefix(_BOM), "\t" if path.suffix == ".tsv" else ",")


def _records(content: bytes, delimiter: str) -> Iterator[Found]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        yield f"line {line}", f"no UTF-8 text ({error.reason}): save the file as UTF-8"
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield place, f"no CSV ({error})"
            return
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = [name.strip() for name in cells]
            if len(set(header)) < len(header) or "" in header:
                yield place, f"the header has an empty or a repeated name: {', '.join(map(repr, header))}"
                return
        elif len(cells) != len(header):
            yield place, f"{len(cells)} cells, but the header has {len(header)}: quote cells that hold {delimiter!r}"
        else:
            yield place, dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[Found]:
    import pyarrow
    import pyarrow.parquet

    if path.is_dir():
        raise IsADirectoryError(None, "Is a directory")
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        return iter([("", f"is no Parquet file ({error})")])
    return ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), start=1))


def _saved(path: Path, split: str | None) -> Iterator[Found]:
    from datasets import DatasetDict, load_from_disk

    try:
        rows = load_from_disk(str(path))
    except Exception as error:  # whatever a damaged folder makes the library raise
        return iter([("", f"is no folder of save_to_disk ({type(error).__name__}: {error})")])
    if isinstance(rows, DatasetDict):
        if split not in rows:
            return iter([("", f"holds no split {split!r}; there are: {', '.join(map(repr, rows))}")])
        rows = rows[split]
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    ".jsonl": _json_lines,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
