"""The command `harness-ext compare`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness_ext.analysis.compare.comparison import compare, reviewed
from harness_ext.analysis.compare.equal_cost import MEASURES
from harness_ext.analysis.compare.matching import Matched, match
from harness_ext.analysis.compare.rendering import FORMATS, formatted, to_terminal
from harness_ext.analysis.compare.runs import CompareError
from harness_ext.analysis.compare.sources import read_runs
from harness_ext.analysis.preregistration.plan import Plan
from harness_ext.analysis.preregistration.review import planned_notes
from harness_ext.analysis.preregistration.start_times import start_times
from harness_ext.analysis.scoring.command import add_task_arguments, score_for
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
        plan = Plan.read(args.plan) if args.plan else None
        runs = read_runs(args.runs, lambda run: score_for("compare", run, args))
        reference = args.reference or (plan.reference if plan else None)
        if reference is not None:
            found = [run for run in runs if run.label == reference]
            if not found:
                raise CompareError(f"--reference {reference}: the runs are {', '.join(r.label for r in runs)}")
            runs = found + [run for run in runs if run is not found[0]]
        matched = match(runs, args.task, args.metric)
        if refusals := _refusals(matched, args.drop_unmatched, args.allow_different_settings):
            print(clean("\n".join(refusals)), file=sys.stderr)
            return USAGE
        groups = (dict(plan.groups) if plan else {}) | dict(_group(text) for text in args.group)
        cluster = args.cluster or (plan.cluster if plan else None)
        comparison = compare(runs, matched, groups, cluster, args.control)
        different = tuple(f"different settings: {line}" for line in matched.differences)
        comparison = replace(comparison, notes=(*different, *comparison.notes, *matched.unknown))
        if plan:
            review = planned_notes(plan, comparison, start_times({run.label: run.sources for run in runs}))
            comparison = reviewed(comparison, review)
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


def _refusals(matched: Matched, drop_unmatched: bool, allow_different_settings: bool) -> list[str]:
    """Return the messages that say why nothing is compared, and what to do.

    matched: what matches, and what does not.
    drop_unmatched, allow_different_settings: the options that accept it.
    """
    reasons: list[str] = []
    if matched.left_out and not drop_unmatched:
        reasons.append(
            f"harness-ext compare: nothing was compared, because these do not match:\n{_list(matched.left_out)}\n"
            "Give --drop_unmatched to leave them out, or --task to select what to compare"
        )
    if matched.differences and not allow_different_settings:
        reasons.append(
            "harness-ext compare: nothing was compared, because the runs have different settings:\n"
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
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]RUN",
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
    parser.add_argument("--format", choices=["table", *FORMATS], default="table", help="output format")
    parser.add_argument(
        "--output", action="append", default=[], type=Path, metavar="FILE", help="also write .json, .csv or .md"
    )
    parser.add_argument(
        "--control", action="append", default=[], metavar="LABEL",
        help="compare each run with this one at equal cost (repeatable: also with mixes; default: self-consistency "
        "runs and baselines)",
    )  # fmt: skip
    parser.add_argument(
        "--cost", choices=[name.replace(" ", "_") for name in MEASURES], metavar="MEASURE",
        help=f"what equal cost means: {', '.join(name.replace(' ', '_') for name in MEASURES)} (default: the first of "
        "price, FLOPs, tokens and output tokens that is known)",
    )  # fmt: skip
    add_task_arguments(parser)
    return parser


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, tasks = text.partition("=")
    if not name or not tasks:
        raise CompareError(f"--group {text}: expected NAME=TASK,TASK")
    return name, tuple(tasks.split(","))
