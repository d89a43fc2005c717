"""`harness-ext enhance`: one subcommand a stage; docs/enhance.md describes them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness_ext.enhance import cli_preferences
from harness_ext.enhance.cli_options import (
    STOPPED,
    add_estimate,
    add_overlap,
    add_rows,
    add_seats,
    arguments,
    assumptions,
    pairs,
    say,
    templates_of,
)  # fmt: skip
from harness_ext.errors import ConfigurationError, HarnessExtError


def main(argv: list[str]) -> int:
    """Run a stage. Returns 0; 2 for wrong settings, 1 for failures, 3 when a budget ended the run."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
        return status
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except HarnessExtError as error:
        print(f"harness-ext enhance: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness-ext enhance", description="Data from a teacher.")
    stages = parser.add_subparsers(required=True, metavar="STAGE")

    prepare = stages.add_parser("prepare", help="add prompts to rows")
    prepare.add_argument("input", type=Path, help="JSON lines, CSV, TSV, Parquet, or a save_to_disk folder")
    prepare.add_argument("output", type=Path, help="JSON lines")
    prepare.add_argument("--templates", default="creak", help="creak, stories, qa, or a YAML file (default: creak)")
    add_rows(prepare)
    prepare.set_defaults(run=_prepare)

    annotate = stages.add_parser("annotate", help="let a teacher answer the prompts")
    annotate.add_argument("teacher", help="a model (`hf:<folder or name>`, `vllm:<name>`, …), or `embedded`")
    annotate.add_argument("input", type=Path, help="what `prepare` wrote")
    annotate.add_argument("output", type=Path, help="JSON lines")
    annotate.add_argument("task_type", help="the field with the prompt: cot_text, error_text, fundamental_text, …")
    annotate.add_argument("--templates", help="the templates that made the prompts (default: those `prepare` used)")
    annotate.add_argument("--as_chat", action="store_true", help="send the prompt as a user's message")
    annotate.add_argument("--strict", action="store_true", help="end with status 1 when rows were bad")
    add_rows(annotate)
    add_seats(annotate)
    add_estimate(annotate)
    annotate.set_defaults(run=_annotate)

    check = stages.add_parser("check", help="report what is wrong with what the teacher wrote")
    check.add_argument("input", type=Path, help="what `annotate` wrote")
    add_overlap(check)
    check.set_defaults(run=_check)

    finish = stages.add_parser("finish", help="make the data set that training reads")
    finish.add_argument("input", type=Path, help="what `annotate` wrote")
    finish.add_argument("output", type=Path, help="a new folder (save_to_disk)")
    finish.add_argument("--drop", default="", help="leave out rows with these flags, parted by commas")
    add_overlap(finish)
    finish.set_defaults(run=_finish)

    cli_preferences.add(stages)
    return parser


def _prepare(options: argparse.Namespace) -> int:
    from harness_ext.enhance.prepare import prepare
    from harness_ext.enhance.templates import load_templates

    manifest = prepare(options.input, options.output, load_templates(options.templates), options.split, options.limit)
    say(manifest["counts"], options.output)
    return 0


def _annotate(options: argparse.Namespace) -> int:
    from harness_ext.enhance import forecast
    from harness_ext.enhance.annotate import Annotate, Job, annotate, settings
    from harness_ext.enhance.checks import summary_lines
    from harness_ext.enhance.estimate import table
    from harness_ext.enhance.running import plan_seats

    templates = templates_of(options)
    plan = plan_seats(
        Annotate,
        {"teacher": options.teacher},
        {**arguments(options), "as_chat": options.as_chat},
        batch_size=options.batch_size,
        device=options.device,
    )
    job = Job(
        options.input, options.output, options.task_type, settings(templates, pairs(options.gen_kwargs)), templates,
        options.split, options.limit, options.seed,
    )  # fmt: skip
    if options.estimate:
        print(table(forecast.annotation(job, plan, assumptions(options))))
        return 0
    result = annotate(job, plan)
    say(result["counts"], options.output)
    if stopped := result.get("stopped"):
        print(f"[harness-ext] {stopped}\n[harness-ext] finished rows: {options.output}.partial", file=sys.stderr)
        return STOPPED
    for line in summary_lines(result["checks"]):
        print(f"[harness-ext] {line}", file=sys.stderr)
    return 1 if options.strict and result["counts"]["bad"] else 0


def _check(options: argparse.Namespace) -> int:
    from harness_ext.enhance.checks import report, summary_lines
    from harness_ext.enhance.rows import beside
    from harness_ext.rundir import write_json

    checked = report(options.input, _overlap_of(options))
    write_json(beside(options.input, "report.json"), checked)
    for line in summary_lines(checked):
        print(line)
    print(f"lines by flag: {beside(options.input, 'report.json')}")
    return 0


def _finish(options: argparse.Namespace) -> int:
    from harness_ext.enhance.postprocess import finish

    drop = [name for name in options.drop.split(",") if name]
    if "overlap" in drop and not options.tasks:
        raise ConfigurationError(["`--drop overlap` needs the tasks to compare with: `--tasks <task>,…`"])
    found = _overlap_of(options)
    manifest = finish(options.input, options.output, drop, found["lines"] if found else ())
    say(manifest["counts"], options.output)
    return 0


def _overlap_of(options: argparse.Namespace) -> Mapping[str, Any] | None:
    if not options.tasks:
        return None
    from harness_ext.enhance.checks import flags_of
    from harness_ext.enhance.overlap import overlap, task_documents

    rows, _, _ = flags_of(options.input)
    documents = task_documents([t for t in options.tasks.split(",") if t], options.include_path)
    return overlap(rows, documents, options.ngram)
