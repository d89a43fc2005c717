"""`harness-ext enhance`: one subcommand per stage (docs/enhance.md)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness_ext.enhance import preferences_command as cli_preferences
from harness_ext.enhance.command_options import (  # fmt: skip
    STOPPED,
    add_contamination,
    add_estimate,
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

if TYPE_CHECKING:
    from harness_ext.enhance.contamination.findings import Findings


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

    check = stages.add_parser("check", help="report problems in a teacher's replies; find evaluation documents in rows")
    check.add_argument("input", type=Path, help="the output of `annotate` or, with `--tasks`, any file of rows")
    add_contamination(check)
    check.add_argument("--fields", default="", help="fields to compare, separated by commas (default: all)")
    check.add_argument("--output", type=Path, help="the file for what is found (default: <input>.contamination.json)")
    check.add_argument("--strict", action="store_true", help="exit with status 1 if a row contains a document")
    add_rows(check)
    check.set_defaults(run=_check)

    finish = stages.add_parser("finish", help="write the data set for training")
    finish.add_argument("input", type=Path, help="the output of `annotate`")
    finish.add_argument("output", type=Path, help="a new folder (save_to_disk)")
    finish.add_argument("--drop", default="", help="drop rows with these flags, separated by commas")
    finish.add_argument(
        "--cut_replies", default="unfinished", choices=("unfinished", "drop", "finished"),
        help="replies that the token limit cut off: train them without teaching to stop there, leave them out, or "
        "treat them as complete (default: unfinished)",
    )  # fmt: skip
    add_contamination(finish)
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
    from harness_ext.enhance.row_files import check_field, check_output
    from harness_ext.enhance.running import plan_seats

    check_output(options.output)
    check_field(options.input, options.task_type, options.split, options.limit)
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
    from harness_ext.enhance.checks import is_annotated, report, summary_lines
    from harness_ext.enhance.row_files import beside, check_writable
    from harness_ext.records.run_directory import write_json

    annotated = is_annotated(options.input)
    if not annotated and not options.tasks:
        raise ConfigurationError(
            [
                f"{options.input} has no manifest of `annotate`, so only evaluation documents can be looked for in it: "
                "pass `--tasks <task>,…`, or name a file that `annotate` wrote"
            ]
        )
    target = options.output or beside(options.input, "contamination.json")
    for path in [*([beside(options.input, "report.json")] if annotated else []), *([target] if options.tasks else [])]:
        check_writable(path)
    found = _contamination_of(options, _listed(options.fields), options.split, options.limit)
    if annotated:
        checked = report(options.input, found)
        write_json(beside(options.input, "report.json"), checked)
        for line in summary_lines(checked):
            print(clean(line))
        print(f"lines by flag: {beside(options.input, 'report.json')}")
    if found is None:
        return 0
    try:
        write_json(target, found.to_json())
    except OSError as error:
        problem = f"{target} cannot be written: {error}. Name another file with `--output`"
        raise ConfigurationError([problem]) from error
    for line in found.lines():
        print(clean(line))
    print(f"everything that was found: {target}")
    return 1 if options.strict and found.contaminated else 0


def _finish(options: argparse.Namespace) -> int:
    from harness_ext.enhance.checks import CONTAMINATION
    from harness_ext.enhance.postprocess import CutReplies, check_new, finish

    check_new(options.output)
    drop = _listed(options.drop)
    if not options.tasks and (named := [flag for flag in drop if flag in CONTAMINATION]):
        raise ConfigurationError([f"`--drop {named[0]}` needs tasks to compare with: pass `--tasks <task>,…`"])
    manifest = finish(options.input, options.output, drop, _contamination_of(options), options.cut_replies)
    say(manifest["counts"], options.output)
    for line in CutReplies(**manifest["cut_replies"]).lines(manifest["counts"]["read"]):
        print(f"[harness-ext] {line}", file=sys.stderr)
    return 0


def _contamination_of(
    options: argparse.Namespace, fields: Sequence[str] = (), split: str = "train", limit: int | None = None
) -> Findings | None:
    if not options.tasks:
        return None
    from harness_ext.enhance.contamination.documents import task_documents
    from harness_ext.enhance.contamination.search import search_file
    from harness_ext.enhance.contamination.settings import SearchSettings

    settings = SearchSettings(options.ngram, options.similarity)
    if problems := settings.problems("--"):
        raise ConfigurationError(problems)
    if not options.input.exists():
        raise ConfigurationError([f"{options.input} is missing"])
    documents = task_documents(_listed(options.tasks), options.include_path)
    return search_file(options.input, documents, settings, fields, split, limit)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
