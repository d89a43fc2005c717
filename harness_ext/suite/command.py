"""The command `harness-ext suite`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from harness_ext.engine.endings import again, ends_by_signal
from harness_ext.engine.processes import place_of
from harness_ext.errors import FAILED, OK, USAGE, ConfigurationError, HarnessExtError
from harness_ext.files import make_private_folder
from harness_ext.records.run_lock import lock_output
from harness_ext.slurm.queue import NoQueueError
from harness_ext.suite.cells import Cell
from harness_ext.suite.expanding import expand
from harness_ext.suite.folders import Folders
from harness_ext.suite.showing import cell_states, count_of, find_cell, print_status
from harness_ext.suite.slurm_records import InQueue, damaged_records, in_queue
from harness_ext.suite.study import Study, read_study
from harness_ext.suite.submit_command import add_options, submit
from harness_ext.terminal import clean, safe_text, shell_word

CHECKING = ("cell", "check", "plan", "run", "submit")


def main(arguments: Sequence[str]) -> int:
    """Run `harness-ext suite` and return its exit status."""
    if arguments and arguments[0].endswith((".yaml", ".yml")):  # `harness-ext suite study.yaml`
        arguments = ["run", *arguments]
    args, rest = _parser().parse_known_args(list(arguments))
    if rest and args.action not in ("collect", "report"):
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if args.action == "task":
            return _task(args)
        if args.action == "serve":
            return _serve(args)
        if args.action == "report":
            return _report(args, rest)
        if args.action == "check":
            return _check(args)
        study, cells = _read(args)
        folders = Folders(study.folder)
        if args.action == "cell":
            return _cell(cells, folders, args)
        if args.action == "plan":
            return _plan(study, cells, folders, args)
        if args.action == "status":
            return _status(cells, folders, args)
        if args.action == "logs":
            return _logs(cells, folders, args)
        if args.action == "collect":
            return _collect(study, cells, folders, rest)
        if args.action == "submit":
            return submit(study, cells, folders, args)
        return _run(cells, folders, args)
    except ConfigurationError as error:
        print(
            clean("\n".join(["harness-ext suite:", *(f"  - {problem}" for problem in error.problems)])), file=sys.stderr
        )
        return USAGE
    except (HarnessExtError, OSError) as error:
        print(f"harness-ext suite: {clean(error)}", file=sys.stderr)
        return FAILED


def _read(args: argparse.Namespace) -> tuple[Study, tuple[Cell, ...]]:
    """Return a study and its cells. Raises ConfigurationError with all problems at once.

    Before cells are run, these include what is wrong with models and tasks, also if the file has problems.
    """
    study = read_study(args.study)
    cells, problems = expand(study)
    if problems and args.action in CHECKING:
        from harness_ext.suite.checks import check_cells

        try:
            check_cells(cells, study.groups)
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return study, cells


def _run(cells: Sequence[Cell], folders: Folders, args: argparse.Namespace) -> int:
    from harness_ext.suite.running import Runner, prepare

    for line in folders.changes(cells):
        print(f"[suite] {clean(line)}", file=sys.stderr)
    with ends_by_signal(again("to continue from here")):
        if args.action == "retry":
            wanted = [cell for cell in cells if folders.of(cell).state in ("failed", "interrupted")]
            if not wanted:
                print("[suite] no cell has failed or was interrupted", file=sys.stderr)
                return OK
        else:
            wanted = list(cells)
            prepare(args.study, cells, folders)
        make_private_folder(folders.root)
        lock = lock_output(folders.root / "suite")
        try:
            chosen = frozenset(cell.digest for cell in wanted)
            failed = Runner(args.study, cells, Folders(folders.root), chosen, args.jobs, args.overlap).run()
        finally:
            lock.release()
    if failed:
        print(
            f"[suite] {count_of(failed)} failed: `harness-ext suite retry {shell_word(args.study)}` runs them again",
            file=sys.stderr,
        )
        return FAILED
    return OK


def _cell(cells: Sequence[Cell], folders: Folders, args: argparse.Namespace) -> int:
    from harness_ext.suite.running import prepare
    from harness_ext.suite.worker import run_cells

    _check_alone()
    chosen = [find_cell(cells, folders, text) for text in args.cells]
    needed = {cell.digest: cell for one in chosen for cell in (*one.needs, one)}
    prepare(args.study, list(needed.values()), folders)
    return run_cells(chosen, Folders(folders.root), args.parent)


def _task(args: argparse.Namespace) -> int:
    from harness_ext.suite.slurm_task import run_task

    _check_alone()
    return run_task(args.list, args.index, args.since)


def _serve(args: argparse.Namespace) -> int:
    from harness_ext.suite.slurm_servers import serve

    return serve(args.list)


def _check_alone() -> None:
    if place_of().world > 1:
        raise ConfigurationError(
            ["cells run in one process, but a launcher has started several: give the job one task (`--ntasks=1`)"]
        )


def _check(args: argparse.Namespace) -> int:
    from harness_ext.suite.checks import check_cells

    try:
        study, cells = _read(args)
        report: dict[str, Any] = {"problems": [], "models": check_cells(cells, study.groups, args.cells)}
    except ConfigurationError as error:
        if not args.json:
            raise
        report = {"problems": error.problems, "models": {}}
    print(json.dumps(report) if args.json else f"{count_of(report['models'])}, no problems found")
    return USAGE if report["problems"] else OK


def _plan(study: Study, cells: Sequence[Cell], folders: Folders, args: argparse.Namespace) -> int:
    from harness_ext.suite.checks import check_cells
    from harness_ext.suite.forecasting import forecast, forecast_json, print_plan

    pilots = {}
    for text in args.pilot:
        setting, equals, path = text.partition("=")
        if not equals:
            raise ConfigurationError([f"--pilot {text}: expected SETTING=RUN"])
        pilots[setting] = Path(path).expanduser()
    with redirect_stdout(sys.stderr):  # libraries may print something
        if new := [cell.digest for cell in cells if not folders.of(cell).description]:
            check_cells(cells, study.groups, new)
        found = forecast(cells, folders, pilots)
    if args.json:
        print(json.dumps(forecast_json(cells, folders, found), indent=2, ensure_ascii=False))
        return OK
    for line in folders.changes(cells):
        print(clean(line))
    print_plan(cells, folders, found)
    return OK


def _status(cells: Sequence[Cell], folders: Folders, args: argparse.Namespace) -> int:
    jobs = InQueue()
    try:
        jobs = in_queue(folders.root)
    except NoQueueError as error:
        print(f"[suite] what follows is from the folders of the cells alone: {error}", file=sys.stderr)
    for line in damaged_records(folders.root):
        print(f"[suite] {line}", file=sys.stderr)
    if args.json:
        print(json.dumps(cell_states(cells, folders, jobs.cells), indent=2, ensure_ascii=False))
        return OK
    for line in folders.changes(cells):
        print(clean(line))
    print_status(cells, folders, jobs, args.study)
    return OK


def _logs(cells: Sequence[Cell], folders: Folders, args: argparse.Namespace) -> int:
    folder = folders.of(find_cell(cells, folders, args.cell))
    if not folder.log.is_file():
        raise HarnessExtError(f"{folder.path.name} has not been run yet, so it has no log")
    lines = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        for line in lines[-args.lines :] if args.lines else lines:
            print(safe_text(line.rpartition("\r")[2]))
    except BrokenPipeError:
        # In `suite logs STUDY CELL | head`, the reader is gone. Python would say so once more when it ends.
        sys.stderr.close()
    return OK


def _collect(study: Study, cells: Sequence[Cell], folders: Folders, rest: list[str]) -> int:
    from harness_ext.analysis.compare.command import main as compare
    from harness_ext.suite.collecting import finished_arguments

    return compare([*finished_arguments(study, cells, folders, "--drop_unmatched" in rest), *rest])


def _report(args: argparse.Namespace, rest: list[str]) -> int:
    from harness_ext.analysis.report.command import main as report
    from harness_ext.suite.collecting import report_arguments

    return report(["--suite", str(args.study), *rest], report_arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext suite",
        description="Run many evaluations that are described in one file, and compare them.",
        epilog="See docs/suite.md.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text.capitalize() + ".", allow_abbrev=False)
        action.add_argument("study", type=Path, metavar="STUDY", help="the YAML file of the study")
        return action

    for name, text in (
        ("run", "run every cell that is not finished"),
        ("retry", "run the cells that have failed or were interrupted"),
    ):
        action = add(name, text)
        action.add_argument("--jobs", type=_count, default=1, metavar="N", help="processes at a time (default: 1)")
        action.add_argument(
            "--overlap", action="store_true",
            help="let cells with a common model run at the same time, although both may then pay for the same call",
        )  # fmt: skip
    action = add("plan", "list the cells and what they will take")
    action.add_argument(
        "--pilot", action="append", default=[], metavar="SETTING=RUN", help="a run that shows what a setting takes"
    )
    action.add_argument("--json", action="store_true", help="print JSON")
    add("status", "show what is finished, from the folders of the cells").add_argument(
        "--json", action="store_true", help="print JSON"
    )
    action = add("logs", "print what a cell has printed")
    action.add_argument("cell", metavar="CELL", help="its number, or a part of its name")
    action.add_argument("--lines", type=_count, metavar="N", help="only the last N lines")
    add("collect", "compare the cells; further arguments are those of `harness-ext compare`")
    add("report", "write the cells as a page for a browser; further arguments are those of `harness-ext report`")
    add_options(add("submit", "run every cell that is not finished as jobs of Slurm"))
    action = actions.add_parser("task", help="run a task of a job array, as the scripts of `submit` do")
    action.add_argument("list", type=Path, metavar="LIST", help="the file that lists the cells of each task")
    action.add_argument("index", type=int, metavar="INDEX", help="which task")
    action.add_argument("--since", type=float, help=argparse.SUPPRESS)
    action = actions.add_parser("serve", help="run a server that cells share, as the scripts of `submit` do")
    action.add_argument("list", type=Path, metavar="FILE", help="the file that describes the server")
    action = add("check", "find problems in a study without running anything")
    action.add_argument("cells", nargs="*", help=argparse.SUPPRESS)
    action.add_argument("--json", action="store_true", help="print JSON")
    action = add("cell", "run single cells in this process, as a job of a cluster does")
    action.add_argument("cells", nargs="+", metavar="CELL", help="the number of the cell, or a part of its name")
    action.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a whole number above 0")
    return number
