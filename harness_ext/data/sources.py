"""Loads rows for task files, from a local folder if one is named and otherwise from the Hugging Face hub.

The environment variable `HARNESS_EXT_DATA` names the folder. It contains one folder per data set, with one file per
split: `<HARNESS_EXT_DATA>/babi/test.jsonl` (or `.csv`, `.tsv`, `.parquet`, or the output of `save_to_disk`). Rows are
checked before a task sees them, because otherwise a wrong field would only show as a low score.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.data.formats import find_split, is_typed, read_rows
from harness_ext.data.hub import is_hub_error, without_waiting
from harness_ext.errors import HarnessExtError
from harness_ext.options import suggest

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

logger = logging.getLogger(__name__)

DATA_VARIABLE = "HARNESS_EXT_DATA"

_LISTED_PROBLEMS = 5
_KIND_NAMES: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts",
    types.NoneType: "null",
    object: "anything",
}


class DataError(HarnessExtError):
    """A data set cannot be loaded, or its rows do not fit the task. The message lists every problem found."""


@dataclass(frozen=True)
class DataSource:
    """Where to find a data set, and the fields of its rows.

    folder: its folder below `HARNESS_EXT_DATA`.
    hub_id: its id on the hub.
    splits: the splits that the task needs.
    fields: the type of each field that the task reads: `str`, `int`, `float`, `bool`, `list[str]`, `object` (anything)
        or a union of these. A field whose union includes `None` may be missing. Other fields are dropped.
    config: its configuration on the hub. Default none.
    hint: advice that error messages append, such as where else to get the data. Default none.
    """

    folder: str
    hub_id: str
    splits: Sequence[str]
    fields: Mapping[str, Any]
    config: str | None = None
    hint: str = ""


def data_folder() -> Path | None:
    """Return the folder that `HARNESS_EXT_DATA` names, or None if it is unset or empty."""
    named = os.environ.get(DATA_VARIABLE, "").strip()
    return Path(named).expanduser().absolute() if named else None


def load_rows(source: DataSource, where: tuple[str, str | int] | None = None) -> DatasetDict:
    """Return the splits of a data set, reduced to the fields of `source`, in their original order.

    source: the data set.
    where: a field and a value; only rows with that value are kept. Default: all rows.

    Raises `DataError` if a file, a split or a field is missing or wrong, or if a split has no rows.
    """
    from datasets import DatasetDict

    folder = data_folder()
    splits = _from_hub(source) if folder is None else _from_folder(source, folder)
    if where is not None:
        splits = {name: _select(rows, where) for name, rows in splits.items()}
    empty = [name for name, rows in splits.items() if not len(rows)]
    if empty:
        wanted = f"rows with {where[0]} = {where[1]!r}" if where else "rows"
        raise _error(source, folder, [f"split {name!r} contains no {wanted}" for name in empty])
    for name, rows in splits.items():
        logger.info("%s: %d %s rows from %s", source.folder, len(rows), name, folder or f"the hub, {source.hub_id}")
    return DatasetDict(splits)


def _select(rows: Dataset, where: tuple[str, str | int]) -> Dataset:
    field, value = where
    return rows.select([i for i, cell in enumerate(rows[field]) if cell == value])


def _from_hub(source: DataSource) -> dict[str, Dataset]:
    try:
        splits = _hub_splits(source.hub_id, source.config)
    # Loading fails in many ways (no network, offline mode, a gated data set, a broken cache), all with the same remedy.
    except Exception as error:
        raise _error(source, None, [f"{type(error).__name__}: {error}"]) from error
    problems = []
    for name in source.splits:
        if name not in splits:
            problems.append(f"split {name!r} is missing; the splits are: {', '.join(map(repr, splits))}")
            continue
        present = splits[name].column_names
        missing = [field for field, kind in source.fields.items() if field not in present and not _optional(kind)]
        if missing:
            listed = ", ".join(map(repr, missing))
            problems.append(f"split {name!r} has no field {listed}; its fields are: {', '.join(map(repr, present))}")
    if problems:
        raise _error(source, None, problems)
    return {name: _reduce(splits[name], source.fields) for name in source.splits}


def _reduce(rows: Dataset, fields: Mapping[str, Any]) -> Dataset:
    for field in fields:
        if field not in rows.column_names:
            rows = rows.add_column(field, [None] * len(rows))
    return rows.select_columns(list(fields))


@functools.cache
def _hub_splits(hub_id: str, config: str | None) -> DatasetDict:
    """Load a data set once per process, because a group of twenty tasks asks for it twenty times."""
    from datasets import load_dataset

    with without_waiting() as fault:
        try:
            return load_dataset(hub_id, config)
        except Exception as error:
            if fault is None or not is_hub_error(error):
                raise
            raise ConnectionError(f"{error}; the hub cannot be reached ({fault})") from error


def _from_folder(source: DataSource, folder: Path) -> dict[str, Dataset]:
    if not folder.is_dir():
        raise _error(source, folder, [f"{folder} is not a folder"])
    if not (folder / source.folder).is_dir() and any(find_split(folder, s)[0].exists() for s in source.splits):
        raise _error(source, folder, [f"{folder} is the folder of a single data set: name its parent folder"])
    found = {name: find_split(folder / source.folder, name) for name in source.splits}
    problems = [problem for _, problem in found.values() if problem]
    splits, more = _read_splits({name: path for name, (path, _) in found.items()}, source.fields)
    if problems or more:
        raise _error(source, folder, [*problems, *more])
    return splits


def load_files(files: Mapping[str, str | Path], fields: Mapping[str, Any]) -> DatasetDict:
    """Return one split per file, with the rows in the order of the file.

    files: the file of each split: JSON lines, CSV, TSV, Parquet, or a folder written by `save_to_disk`.
    fields: the fields to keep and their types, as in `DataSource`. Cells of CSV and TSV files are converted to the type
        of their field; a list is written as JSON.

    Raises `DataError` with all problems.
    """
    from datasets import DatasetDict

    splits, problems = _read_splits({name: Path(path).expanduser() for name, path in files.items()}, fields)
    if problems:
        listed = [f"  - {problem}" for problem in problems]
        foot = f"Fix the files named above: one row per line, with the fields {_field_names(fields)}."
        raise DataError("\n".join(["harness-ext: these rows cannot be used:", *listed, foot]))
    return DatasetDict(splits)


def make_documents(
    splits: Mapping[str, Any], make: Callable[[Mapping[str, Any]], dict[str, Any]], name: str
) -> DatasetDict:
    """Convert every row into a document.

    splits: the rows of each split.
    make: converts a row into a document, and raises ValueError for a row that it cannot convert.
    name: the name of the data in messages.

    Raises `DataError`, which names the first rows that cannot be converted and the reasons.
    """
    from datasets import Dataset, DatasetDict

    made: dict[str, Dataset] = {}
    problems: list[str] = []
    for split, rows in splits.items():
        documents = []
        for number, row in enumerate(rows, start=1):
            try:
                documents.append(make(row))
            except ValueError as error:
                problems.append(f"{name}, split {split!r}, row {number}: {error}")
        made[split] = Dataset.from_list(documents)
    if problems:
        more = [f"and {len(problems) - _LISTED_PROBLEMS} more"] if len(problems) > _LISTED_PROBLEMS else []
        listed = [*problems[:_LISTED_PROBLEMS], *more]
        raise DataError("\n  - ".join(["harness-ext: these rows cannot be turned into questions:", *listed]))
    return DatasetDict(made)


def _read_splits(files: Mapping[str, Path], fields: Mapping[str, Any]) -> tuple[dict[str, Dataset], list[str]]:
    """Return the splits, and what is wrong with their files: at most `_LISTED_PROBLEMS` per file, and a count."""
    from datasets import Dataset
    from pyarrow import ArrowException

    problems: list[str] = []
    splits = {}
    for name, path in files.items():
        rows, found = _read_split(path, name, fields)
        problems += found[:_LISTED_PROBLEMS]
        if len(found) > _LISTED_PROBLEMS:
            problems.append(f"and {len(found) - _LISTED_PROBLEMS} more in {path.name}")
        if not found:
            try:
                splits[name] = Dataset.from_list(rows)
            except ArrowException as error:  # every row is valid by itself, but a field has several types
                problems.append(f"{path} contains a field with different types in different rows ({error})")
    return splits, problems


def _read_split(path: Path, split: str, fields: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of a split, and one problem for each line that is not a row. Blank lines are ignored."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for location, found in read_rows(path, split):
        row = found if isinstance(found, str) else _check_row(found, fields, is_typed(path))
        if not isinstance(row, str):
            rows.append(row)
        else:
            problems.append(f"{path} {location}: {row}" if location else f"{path} {row}")
    if not rows and not problems:
        problems.append(f"{path} contains no rows")
    return rows, problems


def _check_row(row: Mapping[str, Any], fields: Mapping[str, Any], typed: bool) -> dict[str, Any] | str:
    """Return a row reduced to `fields`, or a text that says what is wrong with it."""
    wrong = []
    checked = {}
    for field, kind in fields.items():
        value = row.get(field)
        if field in row and not typed:
            value = _from_text(value, kind)
        checked[field] = value
        if field not in row:
            if not _optional(kind):
                near = suggest(field, [str(name) for name in row])
                wrong.append(f"field {field!r} is missing{near}")
        elif not _fits(value, kind):
            wrong.append(f"field {field!r} must be {_kind_name(kind)}, found {reprlib.repr(value)}")
    return "; ".join(wrong) or checked


def _from_text(text: Any, kind: Any) -> Any:
    """Return a cell of a CSV file converted to the type of its field, or unchanged if it cannot be converted."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    if types.NoneType in kinds and not text:
        return None
    if str in kinds and list[str] not in kinds:
        return text
    try:
        value = json.loads(text.lower() if bool in kinds else text)
    except (ValueError, RecursionError):
        return text
    return value if _fits(value, kind) else text


def _fits(value: object, kind: Any) -> bool:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(_fits(value, choice) for choice in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        (item_kind,) = typing.get_args(kind)
        return isinstance(value, list) and all(_fits(item, item_kind) for item in value)
    if kind is str:
        return isinstance(value, str) and _is_unicode(value)
    if kind is int:
        # Arrow, which stores the rows, has 64-bit integers.
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (bool, types.NoneType):
        return isinstance(value, kind)
    if kind is object:
        return True
    raise TypeError(f"a field's type must be one of {', '.join(_KIND_NAMES.values())} or a union, not {kind!r}")


def _is_unicode(text: str) -> bool:
    """Return whether text can be encoded: JSON may contain lone surrogates, which UTF-8 cannot represent."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _optional(kind: Any) -> bool:
    return types.NoneType in typing.get_args(kind)


def _kind_name(kind: Any) -> str:
    if kind in _KIND_NAMES:
        return _KIND_NAMES[kind]
    return " or ".join(_kind_name(choice) for choice in typing.get_args(kind))


def _field_names(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{field} ({_kind_name(kind)})" for field, kind in fields.items())


def _error(source: DataSource, folder: Path | None, problems: Sequence[str]) -> DataError:
    files = ", ".join(f"{source.folder}/{name}.jsonl" for name in source.splits)
    if folder is None:
        origin = f"the hub ({source.hub_id})"
        remedy = f"Check the connection, or set {DATA_VARIABLE} to a folder that contains {files}"
    else:
        origin = f"{DATA_VARIABLE}={folder}"
        remedy = f"Put {files} there, or unset {DATA_VARIABLE} to load {source.hub_id} from the hub"
    head = f"harness-ext: data set {source.folder!r} cannot be loaded from {origin}:"
    form = f"One JSON object per line (or .csv, .tsv, .parquet), with the fields {_field_names(source.fields)}."
    foot = f"{remedy}. {form} {source.hint}".rstrip()
    return DataError("\n".join([head, *(f"  - {problem}" for problem in problems), foot]))
