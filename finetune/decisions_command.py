"""`harness-ext finetune decisions`: makes rows that teach decisions from the drafts of earlier runs."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.analysis.scoring.command import Scorer, add_task_arguments
from harness_ext.errors import FAILED, OK, USAGE, HarnessExtError
from harness_ext.files import atomic_write, why_no_file
from harness_ext.finetune.decision_runs import Drafts, RunError, add_drafts, refuse_test_rows, split_by_document
from harness_ext.models.reviewing import IS_CORRECT
from harness_ext.terminal import clean, shell_word

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"


def main(arguments: Sequence[str]) -> int:
    """Write the rows and return the exit status."""
    args = _parser().parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    files = [args.output / name for name in (TRAIN, VALIDATION)]
    if problem := _problem(args, files):
        print(f"harness-ext finetune decisions: {clean(problem)}", file=sys.stderr)
        return USAGE
    try:
        drafts = _collect(args)
        train, held_out = split_by_document(drafts.rows, args.validation, args.split_seed)
        if not train or not held_out:
            raise RunError("there are too few documents to hold some out: use a run with more questions")
        args.output.mkdir(parents=True, exist_ok=True)
        for path, rows in zip(files, (train, held_out), strict=True):
            _write(path, rows)
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext finetune decisions: {clean(error)}", file=sys.stderr)
        return FAILED
    print("\n".join(_report(drafts, files, (train, held_out))))
    return OK


def _problem(args: argparse.Namespace, files: Sequence[Path]) -> str:
    for path in files:
        if reason := why_no_file(path):
            return f"{path} cannot be written: {reason}: give another --output"
        if path.exists() and not args.overwrite:
            return f"{path} exists: give --overwrite, or another --output"
    return "" if 0 < args.validation < 1 else "--validation is a share between 0 and 1"


def _collect(args: argparse.Namespace) -> Drafts:
    drafts, scorer = Drafts(), Scorer("finetune decisions", args)
    for given in args.runs:
        run = given.expanduser()
        figures, rows = scorer.scored(run)
        if not args.any_split:
            refuse_test_rows(run, figures)
        add_drafts(drafts, run, figures, rows, args.question, args.metric)
    if drafts.right in (0, len(drafts.rows)):
        kind = "right" if drafts.rows and drafts.right else "wrong"
        raise RunError(
            f"all {len(drafts.rows)} drafts are {kind}, so that they do not show how right and wrong differ: add a "
            "run with more questions, or of another student"
            if drafts.rows
            else "the runs contain no drafts with a score of their own: name runs of protocols that write answers"
        )
    return drafts


def _report(drafts: Drafts, files: Sequence[Path], parts: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = []
    for path, rows in zip(files, parts, strict=True):
        documents = len({row["document"] for row in rows})
        right = sum(row["answer"] for row in rows)
        lines.append(f"{path}: {len(rows)} drafts of {documents} questions, {right} right")
    lines += [f"left out: {number} {reason}" for reason, number in drafts.left_out.items()]
    train, validation = map(shell_word, files)
    return [
        *lines,
        "Train on them with:",
        f"  harness-ext finetune --model <model> --train_file {train} --eval_file {validation} --output_dir <folder>",
    ]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_write(path, private=True) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext finetune decisions",
        description="Make rows that teach a model to decide whether an answer is right: the drafts of earlier runs, "
        "with the task's own score. Runs on test rows are refused.",
        epilog=f"Writes {TRAIN} and {VALIDATION}, which share no question. See docs/finetune.md.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--question", default=IS_CORRECT, metavar="TEXT", help=f"the question (default: {IS_CORRECT})")
    parser.add_argument(
        "--metric", metavar="METRIC[,FILTER]", help="what says which drafts are right, if a task has several metrics"
    )
    parser.add_argument(
        "--validation", type=float, default=0.2, metavar="SHARE",
        help="share of the questions to hold out, on which the temperature is fitted (default: 0.2)",
    )  # fmt: skip
    parser.add_argument("--split_seed", type=int, default=0, help="seed of that choice (default: 0)")
    parser.add_argument("--any_split", action="store_true", help="accept runs that are not about training rows")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_task_arguments(parser)
    return parser
