"""`harness-ext enhance`: one subcommand per stage (docs/enhance.md)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness_ext.enhance import preferences_command as cli_preferences
from harness_ext.enhance.command_options import (  # fmt: skip
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
)
from harness_ext.errors import ConfigurationError, HarnessExtError
from harness_ext.terminal import clean


def main(argv: list[str]) -> int:
    """Run a stage. Returns 0 on success, 1 for failures, 2 for invalid settings, 3 if a budget ended the run."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.run(options)
        return status
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except HarnessExtError as error:
        print(f"harness-ext enhance: {clean(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness-ext enhance", description="Make training data with a teacher model.")
    stages = parser.add_subparsers(required=True, metavar="STAGE")

    prepare = stages.add_parser("prepare", help="add prompts to rows")
    prepare.add_argument("input", type=Path, help="a JSON-lines, CSV, TSV or Parquet file, or a save_to_disk folder")
    prepare.add_argument("output", type=Path, help="the JSON-lines file to write")
    prepare.add_argument("--templates", default="creak", help="creak, stories, qa, or a YAML file (default: creak)")
    add_rows(prepare)
    prepare.set_defaults(run=_prepare)

    annotate = stages.add_parser("annotate", help="have a teacher answer the prompts")
    annotate.add_argument("teacher", help="a model (`hf:<folder or name>`, `vllm:<name>`, …), or `embedded`")
    annotate.add_argument("input", type=Path, help="the output of `prepare`")
    annotate.add_argument("output", type=Path, help="the JSON-lines file to write")
    annotate.add_argument("task_type", help="the field with the prompt: cot_text, error_text, fundamental_text, …")
    annotate.add_argument("--templates", help="the templates that made the prompts (default: those `prepare` used)")
    annotate.add_argument("--as_chat", action="store_true", help="send the prompt as a user message")
    annotate.add_argument("--strict", action="store_true", help="exit with status 1 if there were bad rows")
    add_rows(annotate)
    add_seats(annotate)
    add_estimate(annotate)
    annotate.set_defaults(run=_annotate)

    check = stages.add_parser("check", help="report problems in the teacher's replies")
    check.add_argument("input", type=Path, help="the output of `annotate`")
    add_overlap(check)
    check.set_defaults(run=_check)

    finish = stages.add_parser("finish", help="write the data set for training")
    finish.add_argument("input", type=Path, help="the output of `annotate`")
    finish.add_argument("output", type=Path, help="a new folder (save_to_disk)")
    finish.add_argument("--drop", default="", help="drop rows with these flags, separated by commas")
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
    from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate, settings
    from harness_ext.enhance.call_costs import table
    from harness_ext.enhance.checks import summary_lines
    from harness_ext.enhance.running import plan_seats

    templates = templates_of(options)
    plan = plan_seats(
        Annotate,
        {"teacher": options.teacher},
        {**arguments(options), "as_chat": options.as_chat},
        batch_size=options.batch_size,
        device=options.device,
    )
    job = AnnotateJob(
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
    from harness_ext.enhance.row_files import beside
    from harness_ext.records.run_directory import write_json

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
        raise ConfigurationError(["`--drop overlap` needs tasks to compare with: pass `--tasks <task>,…`"])
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
