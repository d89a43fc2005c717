"""The command `harness-ext view`."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from harness_ext.analysis.find_runs import find_runs
from harness_ext.analysis.scoring.command import add_task_arguments, task_source
from harness_ext.analysis.view.pages import Pages
from harness_ext.analysis.view.places import FindSuites
from harness_ext.analysis.view.server import Server
from harness_ext.analysis.view.viewer import Viewer
from harness_ext.config.run_options import RUNS
from harness_ext.errors import FAILED, OK
from harness_ext.terminal import clean


def main(arguments: Sequence[str], suites: FindSuites) -> int:
    """Serve the pages of runs until Ctrl-C, and return the exit status.

    arguments: the arguments of the command.
    suites: finds the suites below a folder; they are built upon this package.
    """
    args = _parser().parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    problem = None
    if not Path(args.named).expanduser().is_dir() and not find_runs(args.named):
        problem = f"{args.named} is no folder, and no run in {RUNS} has this name or label: name a run or a folder"
    elif importlib.util.find_spec("plotly") is None:
        problem = "plotly, which draws the charts, is not installed: pip install 'harness-ext[report]'"
    if problem is not None:
        print(f"harness-ext view: {clean(problem)}", file=sys.stderr)
        return FAILED
    pages = Pages(task_source(args))
    try:
        server = Server(Viewer(args.named, pages, suites).route, args.port)
    except (OSError, OverflowError) as error:
        print(f"harness-ext view: port {args.port} cannot be used: {clean(error)}. Give another one", file=sys.stderr)
        return FAILED
    server.start()
    print(f"{clean(args.named)} is shown at\n\n    {server.address}\n\nuntil Ctrl-C.", flush=True)
    try:
        pages.work()
    except KeyboardInterrupt:
        print("harness-ext view: ended", file=sys.stderr)
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext view",
        description="Show runs in a browser while they are going on, at an address of this machine alone.",
        epilog="Nothing is written, and nothing leaves the machine. See docs/view.md.",
    )
    parser.add_argument(
        "named", nargs="?", default=str(RUNS), metavar="RUN|FOLDER",
        help=f"a run directory, a label, or a folder of runs and suites (default: {RUNS})",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=0, metavar="N", help="the port (default: any that is free)")
    add_task_arguments(parser)
    return parser
