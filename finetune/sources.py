"""Sources of rows: JSON-lines files, `datasets.save_to_disk` folders, and a teacher's targets joined to them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.encoding import DataError

Rows: TypeAlias = "list[tuple[str, Any]]"


def read_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (`line <n>`, parsed JSON) for every line that is not blank. Raises DataError if a line is not JSON."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}, line {number} is not JSON: {error}") from None


def read_folder(path: str | Path) -> dict[str, Iterable[tuple[str, Any]]]:
    """Return the splits of a `save_to_disk` folder, each as pairs (`row <n>`, row).

    A data set without splits is returned as `train`. Raises DataError if the folder contains no data set.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(path))
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path} is not a `datasets.save_to_disk` folder: {error}") from None
    splits = dict(loaded) if isinstance(loaded, DatasetDict) else {"train": loaded}
    return {name: ((f"row {at}", row) for at, row in enumerate(rows)) for name, rows in splits.items()}


def load(args: TrainArgs) -> tuple[Rows, Rows]:
    """Return the training rows and the validation rows (an empty list if there are none).

    The validation rows are those of `eval_file`, else the folder's `validation` split, else a random share
    `eval_fraction` of the training rows, drawn with the seed. Raises DataError if a source cannot be read.
    """
    train, held_out = _source(args.train_file)
    if args.eval_file:
        held_out = _source(args.eval_file, prefer="validation")[0]
    elif args.eval_fraction and not held_out:
        order = list(range(len(train)))
        random.Random(f"{args.seed} held out").shuffle(order)
        chosen = set(order[: round(args.eval_fraction * len(train))])
        held_out = [row for at, row in enumerate(train) if at in chosen]
        train = [row for at, row in enumerate(train) if at not in chosen]
    if args.teacher_file:
        train = join_targets(train, read_targets(args.teacher_file, args.teacher_column), args.teacher_column)
    return train, held_out


def _source(path: str, prefer: str = "train") -> tuple[Rows, Rows]:
    if not Path(path).is_dir():
        return list(read_rows(path)), []
    splits = read_folder(path)
    name = prefer if prefer in splits else "train"
    if name not in splits:
        raise DataError(f"{path} has no split `{prefer}`; its splits are {', '.join(splits)}.")
    return list(splits[name]), list(splits.get("validation", ())) if name == "train" else []


def read_targets(path: str | Path, column: str) -> dict[str, str]:
    """Return a teacher's targets by `index`, from a JSON-lines file or a tab-separated table.

    Raises DataError if a column is missing or an index occurs twice.
    """
    if str(path).endswith((".jsonl", ".json")):
        entries: Iterable[Any] = (row for _, row in read_rows(path))
    else:
        csv.field_size_limit(2**31 - 1)
        with open(path, encoding="utf-8", newline="") as table:
            entries = list(csv.DictReader(table, delimiter="\t"))
    found: dict[str, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or "index" not in entry or column not in entry:
            raise DataError(f"{path} needs the columns `index` and `{column}` (setting `teacher_column`).")
        index = str(entry["index"])
        if index in found:
            raise DataError(f"{path}: index {index} occurs twice; keep one of its targets.")
        found[index] = entry[column] or ""
    return found


def join_targets(rows: Rows, targets: dict[str, str], column: str) -> Rows:
    """Return the rows with `column` taken from `targets`, matched by the row's `index` or else its position.

    A row without a target gets None, which the data report counts.

    rows: the rows, with their labels.
    targets: the targets by index.
    column: the column that receives the target.
    """
    return [
        (label, {**row, column: targets.get(str(row.get("index", at)))} if isinstance(row, dict) else row)
        for at, (label, row) in enumerate(rows)
    ]
