"""Sources of rows: files, folders and data sets on the hub, read through `datasets`, and a teacher's targets."""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.columns import relevant_columns
from harness_ext.finetune.encoding import DataError
from harness_ext.finetune.readers import open_source, open_table
from harness_ext.finetune.rows import Rows, Targets, no_rows

SHOWN = 10


def load(args: TrainArgs) -> tuple[Rows, Rows]:
    """Return the training rows and the validation rows (none, if there are no others).

    The validation rows are those of `eval_file`, else the split `eval_split` of the source, else a random share
    `eval_fraction` of the training rows, drawn with the seed. Raises DataError if a source cannot be read or is empty.
    """
    splits = open_source(args.train_file, args.dataset_config)
    train = _training_split(splits, args)
    held_out = None
    if args.eval_file:
        held_out = _validation_split(open_source(args.eval_file, args.dataset_config), args)
    elif args.eval_split in splits and splits[args.eval_split] is not train:
        held_out = splits[args.eval_split]
    elif args.eval_split != TrainArgs.eval_split:
        raise _no_split(args.train_file, "eval_split", args.eval_split, splits)
    for rows in (train, held_out):
        if rows is not None and not len(rows):
            raise no_rows(rows.source)
    if args.teacher_file:
        train = join_targets(train, read_targets(args.teacher_file, args.teacher_column))
    if args.eval_fraction and held_out is None:
        train, held_out = _hold_out(train, args)
    names = relevant_columns(args)
    return train.only(names), (train.select([]) if held_out is None else held_out).only(names)


def _training_split(splits: dict[str, Rows], args: TrainArgs) -> Rows:
    if list(splits) == [""]:
        return splits[""]
    if args.train_split not in splits:
        raise _no_split(args.train_file, "train_split", args.train_split, splits)
    return splits[args.train_split]


def _validation_split(splits: dict[str, Rows], args: TrainArgs) -> Rows:
    for name in ("", args.eval_split, "train"):
        if name in splits:
            return splits[name]
    raise _no_split(args.eval_file, "eval_split", args.eval_split, splits)


def _no_split(source: str, setting: str, wanted: str, splits: dict[str, Rows]) -> DataError:
    names = ", ".join(name for name in splits if name)
    found = f"its splits are {names}" if names else "it has no splits"
    return DataError(f"{source} has no split `{wanted}`; {found}. Remedy: name one of them with `{setting}`.")


def _hold_out(rows: Rows, args: TrainArgs) -> tuple[Rows, Rows]:
    order = list(range(len(rows)))
    random.Random(f"{args.seed} held out").shuffle(order)
    chosen = sorted(order[: round(args.eval_fraction * len(rows))])
    if not 0 < len(chosen) < len(rows):
        raise DataError(
            f"`eval_fraction` {args.eval_fraction} holds out {len(chosen)} of the {len(rows)} rows of {rows.source}, "
            "which leaves none for training or for validation. Remedy: choose another share, or name validation rows "
            "with `eval_file`."
        )
    return rows.without(chosen), rows.select(chosen)


def read_targets(path: str, column: str) -> Targets:
    """Return a teacher's targets by `index`, from a file of rows or a table separated by tabs or commas.

    Raises DataError if a column is missing or an index occurs twice.

    path: the file.
    column: its column with the targets.
    """
    rows = open_table(path)
    positions: dict[str, int] = {}
    for at, (_, entry) in enumerate(rows):
        if not isinstance(entry, dict) or "index" not in entry or column not in entry:
            raise DataError(f"{path} needs the columns `index` and `{column}` (setting `teacher_column`).")
        index = str(entry["index"])
        if index in positions:
            raise DataError(f"{path}: index {index} occurs twice; keep one of its targets.")
        positions[index] = at
    return Targets(rows, column, positions)


def join_targets(rows: Rows, targets: Targets) -> Rows:
    """Return the rows with the targets' column, matched by the row's `index` or else its position in the source.

    A row without a target gets None, which the data report counts. Raises DataError if no row has a target.

    rows: the rows.
    targets: a teacher's targets.
    """
    joined = rows.joined(targets)
    if not any(isinstance(value, dict) and value[targets.column] is not None for _, value in joined):
        raise DataError(
            f"no row of {rows.source} has a target in {targets.rows.source}: the indices there are "
            f"{_first(list(targets.positions))}. Remedy: give the rows the same `index`, or leave out the column, so "
            "that a row's position counts, from 0."
        )
    return joined


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
