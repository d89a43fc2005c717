"""The command `harness-ext compare`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness_ext.analysis.compare.comparison import Comparison, compare, reviewed
from harness_ext.analysis.compare.equal_cost import MEASURES
from harness_ext.analysis.compare.matching import Matched, match
from harness_ext.analysis.compare.rendering import FORMATS, formatted, to_terminal
from harness_ext.analysis.compare.run_directories import ScoreRun
from harness_ext.analysis.compare.runs import CompareError, Run
from harness_ext.analysis.compare.sources import read_runs
from harness_ext.analysis.preregistration.plan import Plan
from harness_ext.analysis.preregistration.review import planned_notes
from harness_ext.analysis.preregistration.start_times import start_times
from harness_ext.analysis.scoring.command import Scorer, add_task_arguments
from harness_ext.errors import FAILED, OK, USAGE, HarnessExtError
from harness_ext.records.chat import repair
from harness_ext.terminal import clean

_SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown"}


def main(arguments: Sequence[str]) -> int:
    """Compare runs and return the exit status."""
    parser = _parser()
    args = parser.parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    outputs = [(path, _SUFFIXES.get(path.suffix)) for path in args.output]
    if unknown := [str(path) for path, kind in outputs if kind is None]:
        parser.error(f"--output {unknown[0]}: the file name must end in one of {', '.join(_SUFFIXES)}")

    try:
        found = compared("compare", args, Scorer("compare", args).score)
        if isinstance(found, list):
            print(clean("\n".join(found)), file=sys.stderr)
            return USAGE
        comparison, matched = found.comparison, found.matched
        cost = args.cost.replace("_", " ") if args.cost else None
        if args.format == "table":
            to_terminal(comparison, cost)
        else:
            sys.stdout.write(repair(formatted(comparison, args.format, cost)))
        for path, kind in outputs:
            path.write_text(repair(formatted(comparison, str(kind), cost)), encoding="utf-8")
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext compare: {clean(error)}", file=sys.stderr)
        return FAILED
    if matched.left_out:
        print(f"harness-ext compare: left out:\n{clean(_list(matched.left_out))}", file=sys.stderr)
    return OK


@dataclass(frozen=True)
class Compared:
    """What the arguments of a command that compares runs lead to.

    runs: the runs, the reference first.
    matched: the questions that they have in common.
    comparison: the comparison.
    plan: the plan that it was reviewed by, or None.
    """

    runs: tuple[Run, ...]
    matched: Matched
    comparison: Comparison
    plan: Plan | None


def compared(command: str, args: argparse.Namespace, score: ScoreRun) -> Compared | list[str]:
    """Read the runs that a command line names, match and compare them.

    command: the command's name, as it is typed after `harness-ext`.
    args: its arguments, among them those of `add_comparison_arguments`.
    score: called with each run directory whose scores are missing or older than its transcripts.

    Returns messages, which say why nothing was compared and what to do, if the runs do not match. Raises
    HarnessExtError if a run or the plan cannot be read.
    """
    plan = Plan.read(args.plan) if args.plan else None
    runs = read_runs(args.runs, score)
    reference = args.reference or (plan.reference if plan else None)
    if reference is not None:
        first = [run for run in runs if run.label == reference]
        if not first:
            raise CompareError(f"--reference {reference}: the runs are {', '.join(r.label for r in runs)}")
        runs = first + [run for run in runs if run is not first[0]]
    matched = match(runs, args.task, args.metric)
    if refusals := _refusals(command, matched, args.drop_unmatched, args.allow_different_settings):
        return refusals
    groups = (dict(plan.groups) if plan else {}) | dict(_group(text) for text in args.group)
    cluster = args.cluster or (plan.cluster if plan else None)
    comparison = compare(runs, matched, groups, cluster, args.control)
    different = tuple(f"different settings: {line}" for line in matched.differences)
    comparison = replace(comparison, notes=(*different, *comparison.notes, *matched.unknown))
    if plan:
        review = planned_notes(plan, comparison, start_times({run.label: run.sources for run in runs}))
        comparison = reviewed(comparison, review)
    return Compared(tuple(runs), matched, comparison, plan)


def _refusals(command: str, matched: Matched, drop_unmatched: bool, allow_different_settings: bool) -> list[str]:
    """Return the messages that say why nothing is compared, and what to do.

    command: the command's name.
    matched: what matches, and what does not.
    drop_unmatched, allow_different_settings: the options that accept it.
    """
    reasons: list[str] = []
    if matched.left_out and not drop_unmatched:
        reasons.append(
            f"harness-ext {command}: nothing was compared, because these do not match:\n{_list(matched.left_out)}\n"
            "Give --drop_unmatched to leave them out, or --task to select what to compare"
        )
    if matched.differences and not allow_different_settings:
        reasons.append(
            f"harness-ext {command}: nothing was compared, because the runs have different settings:\n"
            f"{_list(matched.differences)}\n"
            "Repeat a run with the other's settings, or give --allow_different_settings to compare them all the same"
        )
    return reasons


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"  - {line}" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext compare",
        description="Compare runs question by question: values, paired differences, tests, flips and cost.",
        epilog="See docs/compare.md.",
    )
    add_comparison_arguments(parser)
    parser.add_argument("--format", choices=["table", *FORMATS], default="table", help="output format")
    parser.add_argument(
        "--output", action="append", default=[], type=Path, metavar="FILE", help="also write .json, .csv or .md"
    )
    parser.add_argument(
        "--cost", choices=[name.replace(" ", "_") for name in MEASURES], metavar="MEASURE",
        help=f"what equal cost means: {', '.join(name.replace(' ', '_') for name in MEASURES)} (default: the first of "
        "price, FLOPs, tokens and output tokens that is known)",
    )  # fmt: skip
    add_task_arguments(parser)
    return parser


def add_comparison_arguments(parser: argparse.ArgumentParser, nargs: str = "+") -> None:
    """Add the arguments that say which runs to compare, and how.

    parser: the parser of the command.
    nargs: how many runs there are, as in argparse. Default `+`: at least one.
    """
    parser.add_argument(
        "runs", nargs=nargs, metavar="[LABEL=]RUN",
        help="a run directory, an lm-eval results file, or a folder of these; the first one is the reference",
    )  # fmt: skip
    parser.add_argument("--reference", metavar="LABEL", help="the run to compare with (default: the first)")
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="only this task (repeatable)")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="METRIC[,FILTER]", help="only this metric (repeatable)"
    )
    parser.add_argument(
        "--group", action="append", default=[], metavar="NAME=TASK,TASK", help="also pool these tasks (repeatable)"
    )
    parser.add_argument(
        "--cluster", metavar="FIELD",
        help="resample questions together that share this field of their document (or a Jinja template over it, "
        "or `task`)",
    )  # fmt: skip
    parser.add_argument(
        "--plan", type=Path, metavar="FILE",
        help="say what was planned in this file of `harness-ext plan`, what is exploratory, and what deviates",
    )  # fmt: skip
    parser.add_argument("--drop_unmatched", action="store_true", help="leave out what some runs do not have")
    parser.add_argument(
        "--allow_different_settings", action="store_true",
        help="compare runs that were measured differently (shots, chat template, generation settings, …), and say so",
    )  # fmt: skip
    parser.add_argument(
        "--control", action="append", default=[], metavar="LABEL",
        help="compare each run with this one at equal cost (repeatable: also with mixes; default: self-consistency "
        "runs and baselines)",
    )  # fmt: skip


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, tasks = text.partition("=")
    if not name or not tasks:
        raise CompareError(f"--group {text}: expected NAME=TASK,TASK")
    return name, tuple(tasks.split(","))
