"""Looks for the documents of evaluation tasks in the rows that a training learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness_ext.enhance.contamination.findings import Findings
from harness_ext.enhance.contamination.search import search
from harness_ext.enhance.contamination.settings import SearchSettings
from harness_ext.enhance.row_files import FileRow
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.encoding import BadRow, DataError, Preference, Row, parse
from harness_ext.finetune.rows import Rows
from harness_ext.terminal import shell_word


def find_contamination(args: TrainArgs, rows: Rows) -> Findings | None:
    """Return which training rows contain documents of `contamination_tasks`; None if no tasks are named.

    What is compared are the texts that the method reads and learns, not a row's other columns. Rows that cannot be
    trained on are left out: the data report counts them.

    args: the run's settings.
    rows: the training rows, with their labels.

    Raises ConfigurationError if the documents of a task cannot be loaded.
    """
    if not args.contamination_tasks:
        return None
    from harness_ext.enhance.contamination.documents import task_documents

    names = [name.strip() for name in args.contamination_tasks.split(",") if name.strip()]
    documents = task_documents(names, args.contamination_include_path or None)
    settings = SearchSettings(args.contamination_ngram, args.contamination_similarity)
    return search(_learned(args, rows), documents, settings, args.train_file)


def refuse(args: TrainArgs, found: Findings) -> None:
    """Raise DataError if rows contain documents and `contamination` is `stop`."""
    if args.contamination == "stop" and found.contaminated:
        names = ", ".join(task.task for task in found.tasks if any(task.rows.values()))
        raise DataError(
            f"{found.contaminated} of {found.rows} rows of {args.train_file} contain documents of {names}, so that "
            f"scores on them would be too high. `harness-ext enhance check {shell_word(args.train_file)} --tasks "
            f"{args.contamination_tasks}` lists them all. Remove these rows, or set `contamination: warn` to train on "
            "them all the same."
        )


def _learned(args: TrainArgs, rows: Rows) -> Iterator[FileRow]:
    for label, value in rows:
        try:
            row = parse(value, args)
        except BadRow:
            continue
        yield FileRow(label, _texts(row))


def _texts(row: Row | Preference) -> dict[str, Any]:
    """Return the texts of a row by name, without what only structures it."""
    return {name: value for name, value in vars(row).items() if value}
