"""The command `harness-ext report`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness_ext.analysis.compare.command import Compared, add_comparison_arguments, compared
from harness_ext.analysis.report.checkpoint_charts import read_points
from harness_ext.analysis.report.page import PAGE, ReportError, make_report, write_file, write_folder
from harness_ext.analysis.report.records import read_records
from harness_ext.analysis.scoring.command import add_task_arguments, scored_for
from harness_ext.errors import FAILED, OK, USAGE, HarnessExtError
from harness_ext.terminal import clean


def main(arguments: Sequence[str]) -> int:
    """Write a report and return the exit status."""
    args = _parser().parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    started = time.monotonic()
    output: Path = args.output or Path("report" if args.split else "report.html")
    try:
        _check_output(output, args.split)
        points = [point for path in args.checkpoints for point in read_points(path.expanduser())]
        found = compared("report", args)
        if not isinstance(found, Compared):
            print(clean("\n".join(found)), file=sys.stderr)
            return USAGE
        records = read_records(found.runs, lambda run: scored_for("report", run, args))
        report = make_report(args.title or " · ".join(records.runs), found, records, points)
        size = write_folder(report, output) if args.split else write_file(report, output)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext report",
        description="Write runs as a page for a browser: comparison, charts, questions, transcripts side by side.",
        epilog="The page needs no network and no server. See docs/report.md.",
    )
    add_comparison_arguments(parser)
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
    parser.add_argument("--title", metavar="TEXT", help="the title (default: the labels of the runs)")
    add_task_arguments(parser)
    return parser
