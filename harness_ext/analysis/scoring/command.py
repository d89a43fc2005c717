"""The command `harness-ext score`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.analysis.scoring.decision_report import print_choices, print_decisions
from harness_ext.analysis.scoring.judge_report import print_judge
from harness_ext.analysis.scoring.score import FIGURES, SCORES, Scored, read_scored, score_run
from harness_ext.analysis.scoring.task_documents import TaskManagers, TaskSource
from harness_ext.errors import FAILED, OK, HarnessExtError
from harness_ext.terminal import clean, console, safe_line

if TYPE_CHECKING:
    from rich.console import Console


def add_task_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where to find tasks."""
    group = parser.add_argument_group("where to find tasks (as for lm_eval)")
    group.add_argument(
        "--include_path",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder of task files (default: the run's)",
    )
    group.add_argument(
        "--tasks", type=lambda s: s.split(","), default=[], metavar="NAMES",
        help="groups or YAML files to load (default: what the run loaded)",
    )  # fmt: skip
    group.add_argument("--metadata", type=json.loads, default={}, metavar="JSON", help="for tasks that need metadata")
    group.add_argument(
        "--seed", type=_seeds, default=(0, 1234, 1234), metavar="N[,N,N]",
        help="the run's seeds (Python, numpy, torch), for tasks that shuffle (default: 0,1234,1234)",
    )  # fmt: skip
    group.add_argument("--confirm_run_unsafe_code", action="store_true", help="allow tasks that run a model's code")


def task_source(args: argparse.Namespace) -> TaskSource:
    """Return the task source that these arguments describe."""
    return TaskSource(
        tuple(args.include_path), tuple(args.tasks), args.metadata, args.seed, args.confirm_run_unsafe_code
    )


class Scorer:
    """Scores run directories for a command, which builds lm-eval's list of tasks once for all of them.

    command: the command's name, as it is typed after `harness-ext`.
    args: the command's arguments, among them those of `add_task_arguments`.
    """

    def __init__(self, command: str, args: argparse.Namespace) -> None:
        self._command = command
        self._source = task_source(args)
        self._managers = TaskManagers(self._source)

    def score(self, run: Path) -> None:
        """Score a run directory, and say so on stderr."""
        print(f"harness-ext {self._command}: scoring {run} (as `harness-ext score` does)", file=sys.stderr)
        score_run(run, self._source, self._managers)

    def scored(self, run: Path) -> Scored:
        """Return what `read_scored` returns, after scoring the run if necessary."""
        scored = read_scored(run)
        if scored is None:
            self.score(run)
            scored = read_scored(run)
            assert scored is not None
        return scored


def main(arguments: Sequence[str]) -> int:
    """Score runs and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="harness-ext score",
        description="Score every answer of a run with the task's own filters and metrics.",
        epilog=f"Writes {SCORES} and {FIGURES} into the run directory. See docs/score.md.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    add_task_arguments(parser)
    args = parser.parse_args(list(arguments))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    source = task_source(args)
    managers = TaskManagers(source)
    failed = False
    for run in args.runs:
        try:
            report(run, score_run(run, source, managers))
        except HarnessExtError as error:
            print(f"harness-ext score: {clean(error)}", file=sys.stderr)
            failed = True
    return FAILED if failed else OK


def report(run: Path, result: Mapping[str, Any]) -> None:
    """Print the figures of a scored run."""
    out = console()
    out.print(f"{safe_line(str(result['label']))}: {safe_line(str(run))}")
    two_way = {n: f for n, f in result["tasks"].items() if f["two_way"]}
    other = {n: f for n, f in result["tasks"].items() if not f["two_way"]}
    for pool, tasks in (("other tasks", other), ("two-way tasks", two_way)):
        if tasks:
            title = "Two-way tasks: a rejection alone reveals the right answer" if tasks is two_way else ""
            _print_tasks(out, title, tasks, result["pools"].get(pool))
    failed = sum(f["failed"] for f in result["tasks"].values())
    if failed:
        out.print(f'{failed} questions have no answer and were scored as ""; repeat the run to try them again')


def _print_tasks(out: Console, title: str, tasks: Mapping[str, Any], pool: Mapping[str, Any] | None) -> None:
    from rich import box
    from rich.table import Table

    shown = {**tasks, f"all {len(tasks)} together": pool} if pool else tasks
    votes = any("vote" in m for f in shown.values() for m in f["metrics"].values())
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("task", "metric"):
        table.add_column(name, overflow="fold")
    names = ["docs", "draft", *(["vote 0", "any of 0"] if votes else []), "final", "w→r", "r→w", "oracle"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("by round", overflow="fold")
    for task, figures in shown.items():
        for metric, m in figures["metrics"].items():
            flips = m.get("flips", {})
            table.add_row(
                safe_line(task), safe_line(metric.removesuffix(",none")), str(figures["documents"]),
                _show(m["first_draft"]), *((_show(m.get("vote")), _show(m.get("vote_oracle"))) if votes else ()),
                _show(m["final"]), str(flips.get("wrong_to_right", "—")), str(flips.get("right_to_wrong", "—")),
                _show(m.get("oracle")), " ".join(map(_show, m["rounds"])),
            )  # fmt: skip
    out.print(table)
    for name, figures in ((n, f) for n, f in shown.items() if pool is None or f is pool):
        for metric, m in figures["metrics"].items():
            if len(ends := m.get("ends", {})) > 1:
                parts = (
                    f"{end} {e['questions']} ({_show(e['before'])} → {_show(e['after'])})" for end, e in ends.items()
                )
                out.print(safe_line(f"{name}, {metric.removesuffix(',none')}, by end: {', '.join(parts)}"))
            print_decisions(out, f"{name}, {metric.removesuffix(',none')}", m)
        print_choices(out, name, figures["choices"])
        judged = {m.removesuffix(",none"): f["judge"] for m, f in figures["metrics"].items() if "judge" in f}
        print_judge(out, name, figures["judge"], judged)
    hints = [f["hints"] for f in tasks.values()]
    total = {key: sum(h[key] for h in hints) for key in hints[0]}
    if total["rejecting_reviews"]:
        out.print(
            f"{total['rejecting_reviews']} rejecting reviews: {total['naming_the_answer']} name the gold answer, "
            f"{total['leaking_the_answer']} of these although the draft did not contain it (leaks)"
        )
    if total["unread"]:
        out.print(f"{total['unread']} questions have a long text as gold answer: their hints were not judged")


def _show(value: Any) -> str:
    return "—" if value is None else f"{value:.3f}"


def _seeds(text: str) -> tuple[int, int, int]:
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) < 3:
        raise argparse.ArgumentTypeError("expected one number, or three or more separated by commas")
    return numbers[0], numbers[1], numbers[2]
