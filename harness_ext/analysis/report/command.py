"""The command `harness-ext report`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness_ext.analysis.compare.command import Compared, add_comparison_arguments, compared
from harness_ext.analysis.report.checkpoint_charts import read_points
from harness_ext.analysis.report.page import PAGE, ReportError, make_report, write_file, write_folder
from harness_ext.analysis.report.records import read_records
from harness_ext.analysis.scoring.command import Scorer, add_task_arguments
from harness_ext.errors import FAILED, OK, USAGE, ConfigurationError, HarnessExtError
from harness_ext.terminal import clean

SuiteArguments = Callable[[Path, bool], list[str]]
"""Returns the arguments that stand for a suite, given its file and whether what is not finished is left out."""


def main(arguments: Sequence[str], suite_arguments: SuiteArguments | None = None) -> int:
    """Write a report and return the exit status.

    arguments: the arguments of the command.
    suite_arguments: resolves `--suite`, since suites are built upon this package. Default None: there is no `--suite`.
    """
    parser = _parser(suite_arguments is not None)
    args = parser.parse_intermixed_args(list(arguments))  # `*` takes runs after options only this way
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    started = time.monotonic()
    output: Path = args.output or Path("report" if args.split else "report.html")
    try:
        _check_output(output, args.split)
        if suite_arguments is not None and args.suite is not None:
            # The suite comes first, so that the reader's own --reference wins.
            suite = suite_arguments(args.suite, args.drop_unmatched)
            args = parser.parse_intermixed_args([*suite, *arguments])
        if not args.runs:
            parser.error("name a run" + ("" if suite_arguments is None else ", or a study (--suite STUDY)"))
        points = [point for path in args.checkpoints for point in read_points(path.expanduser())]
        scorer = Scorer("report", args)
        found = compared("report", args, scorer.score)
        if not isinstance(found, Compared):
            print(clean("\n".join(found)), file=sys.stderr)
            return USAGE
        records = read_records(found.runs, scorer.scored)
        study: Path | None = getattr(args, "suite", None)
        title = args.title or (" · ".join(records.runs) if study is None else study.stem)
        report = make_report(title, found, records, points)
        size = write_folder(report, output) if args.split else write_file(report, output)
    except ConfigurationError as error:  # the study's
        print("\n".join(["harness-ext report:", *(f"  - {problem}" for problem in error.problems)]), file=sys.stderr)
        return USAGE
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext report: {clean(error)}", file=sys.stderr)
        return FAILED
    page = output / PAGE if args.split else output
    print(
        f"{page}: {len(found.runs)} runs, {len(report.questions)} questions, {size / 1e6:.1f} MB, "
        f"{time.monotonic() - started:.0f} s"
    )
    return OK


def _check_output(output: Path, split: bool) -> None:
    """Raise ReportError if a report cannot be written here, before anything is read."""
    import importlib.util

    if split and output.exists() and not output.is_dir():
        raise ReportError(f"--output {output} is a file, and --split writes a folder: give another path")
    if split and output.is_dir() and any(output.iterdir()) and not (output / PAGE).is_file():
        raise ReportError(f"--output {output} is a folder with other files: give a new one, or that of a report")
    if not split and output.is_dir():
        raise ReportError(f"--output {output} is a folder: give a file such as {output / 'report.html'}, or --split")
    if not output.absolute().parent.is_dir():
        raise ReportError(f"--output {output}: there is no folder {output.parent}: make it, or give another path")
    if importlib.util.find_spec("plotly") is None:
        raise ReportError("plotly, which draws the charts, is not installed: pip install 'harness-ext[report]'")


def _parser(suites: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext report",
        description="Write runs as a page for a browser: comparison, charts, questions, transcripts side by side.",
        epilog="The page needs no network and no server. See docs/report.md.",
    )
    add_comparison_arguments(parser, "*")
    if suites:
        parser.add_argument(
            "--suite", type=Path, metavar="STUDY", help="the cells of this study of `harness-ext suite`, too"
        )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the file, or the folder with --split (default: report.html)"
    )
    parser.add_argument(
        "--split", action="store_true", help="write a folder, whose transcripts are loaded only when they are opened"
    )
    parser.add_argument(
        "--checkpoints", action="append", default=[], type=Path, metavar="FOLDER",
        help="also show the epochs of this training, as `harness-ext checkpoints` scored them (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--title", metavar="TEXT", help="the title (default: the name of the study, or the labels of the runs)"
    )
    add_task_arguments(parser)
    return parser
