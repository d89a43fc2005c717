"""Rows for task files: from a local folder when one is named, else from the Hugging Face hub.

The environment variable `HARNESS_EXT_DATA` names the folder; it holds one folder a data set and in it one file a split:
`<HARNESS_EXT_DATA>/babi/test.jsonl` (or `.csv`, `.tsv`, `.parquet`, or what `save_to_disk` wrote). Rows are checked
before a task sees them, because a wrong field would otherwise show only as a low score.
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

from harness_ext.errors import HarnessExtError
from harness_ext.formats import find_split, is_typed, read_rows
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
    """A data set cannot be had, or its rows are not what the task needs. The message lists every problem found."""


@dataclass(frozen=True)
class DataSource:
    """Where a data set lies and what its rows hold.

    `folder` is its name below `HARNESS_EXT_DATA`, `hub_id` and `config` its address on the hub, `splits` the splits
    that the task needs. `fields` maps each field the task reads to its type: `str`, `int`, `float`, `bool`,
    `list[str]`, `object` (anything), or a union of these; a field whose union holds `None` may be absent. Other fields
    are dropped. `hint` is what messages add about ways round a missing file.
    """

    folder: str
    hub_id: str
    splits: Sequence[str]
    fields: Mapping[str, Any]
    config: str | None = None
    hint: str = ""


def data_folder() -> Path | None:
    """Return the folder that `HARNESS_EXT_DATA` names, or None where it is unset or empty."""
    named = os.environ.get(DATA_VARIABLE, "").strip()
    return Path(named).expanduser().absolute() if named else None


def load_rows(source: DataSource, where: tuple[str, str | int] | None = None) -> DatasetDict:
    """Return the splits of a data set, reduced to the fields of `source`, in their original order.

    `where=(field, value)` keeps the rows whose field has this value. Raises `DataError` where a file, a field or a
    split is missing or wrong, or where no row is left.
    """
    from datasets import DatasetDict

    folder = data_folder()
    splits = _from_hub(source) if folder is None else _from_folder(source, folder)
    if where is not None:
        splits = {name: _select(rows, where) for name, rows in splits.items()}
    empty = [name for name, rows in splits.items() if not len(rows)]
    if empty:
        wanted = f"row with {where[0]} = {where[1]!r}" if where else "row"
        raise _error(source, folder, [f"split {name!r} holds no {wanted}" for name in empty])
    for name, rows in splits.items():
        logger.info("%s: %d %s rows from %s", source.folder, len(rows), name, folder or f"the hub, {source.hub_id}")
    return DatasetDict(splits)


def _select(rows: Dataset, where: tuple[str, str | int]) -> Dataset:
    field, value = where
    return rows.select([i for i, cell in enumerate(rows[field]) if cell == value])


def _from_hub(source: DataSource) -> dict[str, Dataset]:
    try:
        splits = _hub_splits(source.hub_id, source.config)
    # A hub fails in many ways (no network, offline mode, a gate, a broken cache); the remedy is the same for all.
    except Exception as error:
        raise _error(source, None, [f"{type(error).__name__}: {error}"]) from error
    problems = []
    for name in source.splits:
        if name not in splits:
            problems.append(f"split {name!r} is missing; there are: {', '.join(map(repr, splits))}")
            continue
        there = splits[name].column_names
        missing = [field for field, kind in source.fields.items() if field not in there and not _optional(kind)]
        if missing:
            listed = ", ".join(map(repr, missing))
            problems.append(f"split {name!r} lacks {listed}; there are: {', '.join(map(repr, there))}")
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
    """Ask the hub once a process: a group of twenty tasks reads one data set twenty times."""
    from datasets import load_dataset

    return load_dataset(hub_id, config)


def _from_folder(source: DataSource, folder: Path) -> dict[str, Dataset]:
    if not folder.is_dir():
        raise _error(source, folder, [f"{folder} is not a folder"])
    if not (folder / source.folder).is_dir() and any(find_split(folder, s)[0].exists() for s in source.splits):
        raise _error(source, folder, [f"{folder} is the folder of one data set; name the folder above it"])
    found = {name: find_split(folder / source.folder, name) for name in source.splits}
    problems = [problem for _, problem in found.values() if problem]
    splits, more = _read_splits({name: path for name, (path, _) in found.items()}, source.fields)
    if problems or more:
        raise _error(source, folder, [*problems, *more])
    return splits


def load_files(files: Mapping[str, str | Path], fields: Mapping[str, Any]) -> DatasetDict:
    """Return one split a file, reduced to `fields` (see `DataSource`), in the files' own order.

    `files` maps a split's name to a file of JSON lines, CSV, TSV or Parquet, or to a folder of `save_to_disk`. In CSV
    every cell is text: it is read as the field's type, a list from its JSON form. Raises `DataError` with all problems.
    """
    from datasets import DatasetDict

    splits, problems = _read_splits({name: Path(path).expanduser() for name, path in files.items()}, fields)
    if problems:
        listed = [f"  - {problem}" for problem in problems]
        foot = f"Mend the files named above. One row a line, with the fields {_field_names(fields)}."
        raise DataError("\n".join(["harness-ext: these rows cannot be used:", *listed, foot]))
    return DatasetDict(splits)


def make_documents(
    splits: Mapping[str, Any], make: Callable[[Mapping[str, Any]], dict[str, Any]], name: str
) -> DatasetDict:
    """Return every row as the document that `make` makes of it. Raises `DataError` that names the first rows for which
    `make` raises ValueError, with its reason; `name` is what messages call the data."""
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
        raise DataError("\n  - ".join(["harness-ext: these rows cannot be asked:", *listed]))
    return DatasetDict(made)


def _read_splits(files: Mapping[str, Path], fields: Mapping[str, Any]) -> tuple[dict[str, Dataset], list[str]]:
    """Return the splits and what is wrong with their files; of one file at most `_LISTED_PROBLEMS`, and a count."""
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
            except ArrowException as error:  # a field of several types, each row fine by itself
                problems.append(f"{path} holds a field with different types in different rows ({error})")
    return splits, problems


def _read_split(path: Path, split: str, fields: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a split's rows, and one problem a line that is not a row. Blank lines are no rows and no problem."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for place, found in read_rows(path, split):
        row = found if isinstance(found, str) else _check_row(found, fields, is_typed(path))
        if not isinstance(row, str):
            rows.append(row)
        else:
            problems.append(f"{path} {place}: {row}" if place else f"{path} {row}")
    if not rows and not problems:
        problems.append(f"{path} holds no row")
    return rows, problems


def _check_row(row: Mapping[str, Any], fields: Mapping[str, Any], typed: bool) -> dict[str, Any] | str:
    """Return a row reduced to its fields, or what is wrong with it."""
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
    """Return a cell of a CSV file as the type that its field wants, or as it stands where it is none."""
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
        # Arrow holds 64 bits.
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (bool, types.NoneType):
        return isinstance(value, kind)
    if kind is object:
        return True
    raise TypeError(f"a field's type must be one of {', '.join(_KIND_NAMES.values())} or a union, not {kind!r}")


def _is_unicode(text: str) -> bool:
    """Tell whether text can be written: JSON may hold half a surrogate pair, which no file takes."""
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
        place = f"the hub ({source.hub_id})"
        remedy = f"Check the connection, or set {DATA_VARIABLE} to a folder that holds {files}"
    else:
        place = f"{DATA_VARIABLE}={folder}"
        remedy = f"Put {files} there, or unset {DATA_VARIABLE} to load {source.hub_id} from the hub"
    head = f"harness-ext: data set {source.folder!r} cannot be used from {place}:"
    foot = f"{remedy}. One JSON object a line (or .csv, .tsv, .parquet), with the fields {_field_names(source.fields)}."
    foot = f"{foot} {source.hint}".rstrip()
    return DataError("\n".join([head, *(f"  - {problem}" for problem in problems), foot]))
