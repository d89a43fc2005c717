"""The command `harness-ext`: a table of subcommands, each of which is imported only when it is called.

docs/cli.md lists the commands, their exit statuses and the environment variables.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from harness_ext import __version__
from harness_ext.errors import FAILED, INTERRUPTED, OK, TERMINATED, Interrupted, Terminated
from harness_ext.terminal import clean


@dataclass(frozen=True)
class Command:
    """A subcommand.

    target: its function, as `module:function` below `harness_ext`. The function is called with the arguments after the
        command's name; it returns an exit status (None means 0) or raises SystemExit.
    help: its line in `harness-ext --help`.
    """

    target: str
    help: str

    def load(self) -> Callable[[list[str]], int | None]:
        """Import the command's module and return its function."""
        module, _, function = self.target.partition(":")
        loaded: Callable[[list[str]], int | None] = getattr(importlib.import_module(f"harness_ext.{module}"), function)
        return loaded


COMMANDS = {
    "lm-eval": Command("cli:lm_eval", "run lm-eval's own command line with the plugins loaded"),
    "score": Command(
        "analysis.scoring.command:main", "score every answer of a run: accuracy per round, flips, oracle, leaks"
    ),
    "calibrate": Command("analysis.calibrate:main", "fit what makes the probabilities of verdicts honest"),
    "train-gate": Command("analysis.debate_gate:main", "fit what predicts whether a debate is worth it"),
    "show": Command("analysis.show:main", "print transcripts: turns, verdicts, changes, correctness"),
    "compare": Command("analysis.compare.command:main", "compare runs: paired differences, tests, flips, cost"),
    "report": Command("cli:report", "write runs as a page: charts, questions, transcripts"),
    "view": Command("cli:view", "show runs and suites in a browser while they are going on"),
    "plan": Command(
        "analysis.planning.command:main", "how many questions a claim needs, what they cost, and the plan as a file"
    ),
    "estimate": Command(
        "analysis.estimate:main", "estimate calls, tokens, time and price of a run from a few questions"
    ),
    "suite": Command("suite.command:main", "run many evaluations that one file describes, and compare them"),
    "read": Command("reading.command:main", "how replies are read, and by which rule"),
    "doctor": Command("cli.doctor:main", "report versions, plugins and devices, and what is missing"),
    "enhance": Command("enhance.command:main", "add rationales and preferences from a teacher to training rows"),
    "finetune": Command("finetune.command:main", "train a student, a teacher or an adapter"),
    "checkpoints": Command("finetune.checkpoints_command:main", "evaluate every epoch of a training run"),
    "export": Command("cli:export", "export runs to other tools, or a trained model as a plain folder"),
    "new-task": Command("cli.new_task.command:main", "create the files of a task from your data and try it out"),
    "new-protocol": Command("cli.new_protocol:main", "create a package with a protocol of your own and its test"),
    "prompts": Command("cli.prompts:main", "print the prompts of a protocol, or write them as files to edit"),
    "slurm": Command("finetune.slurm:main", "write a batch script for training on one or more nodes"),
}


def run() -> NoReturn:
    """Run `harness-ext` as this process, and end the process with its exit status."""
    try:
        status = main()
    except Terminated:
        status = TERMINATED
    if status in (INTERRUPTED, TERMINATED):
        # A thread may still compute. If it came back to Python while that shuts down, Python before 3.14 would end the
        # thread in the middle of a library's C++ code, and with it the process, by SIGABRT and with its status.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness-ext` with `arguments` (default: those of the process) and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = _parser().parse_args(arguments[:1]).command
    try:
        return COMMANDS[name].load()(arguments[1:]) or OK
    except KeyboardInterrupt as error:
        if not isinstance(error, Interrupted):  # the run has said how to continue
            print("harness-ext: interrupted", file=sys.stderr)
        return INTERRUPTED


def export(arguments: list[str]) -> int:
    """Export runs in a format (`--to`), or what the first path contains: lm-eval samples as tables, or a model."""
    from pathlib import Path

    from harness_ext.analysis.compare.run_directories import is_run
    from harness_ext.analysis.exports import command as runs
    from harness_ext.bridge import exports as tables
    from harness_ext.finetune import export_model as models

    if any(a == "--to" or a.startswith("--to=") for a in arguments):
        return runs.main(arguments)
    source = next((Path(a) for a in arguments if not a.startswith("-")), None)
    if source is None:
        runs.make_parser().print_help()
        print("\nor, for samples of lm-eval:\n")
        tables.parser().print_help()
        print("\nor, for a trained model:\n")
    elif is_run(source):
        return runs.main(arguments)  # which asks for the format
    return models.main(arguments) if source is None or not tables.samples_in(source) else tables.main(arguments)


def report(arguments: list[str]) -> int:
    """Write a report of runs, and of suites, about which the package of reports does not know."""
    from harness_ext.analysis.report.command import main
    from harness_ext.suite.collecting import report_arguments

    return main(arguments, report_arguments)


def view(arguments: list[str]) -> int:
    """Show runs and suites in a browser."""
    from harness_ext.analysis.view.command import main
    from harness_ext.suite.viewing import suites_below

    return main(arguments, suites_below)


def lm_eval(arguments: list[str]) -> int:
    """Run lm-eval's command line with `arguments`, loading the plugins even without the start-up file."""
    from harness_ext.bridge import startup

    startup.enforce()
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        print(
            f"harness-ext: lm-eval cannot be imported ({clean(error)}).\nRemedy: pip install 'lm_eval[hf]'",
            file=sys.stderr,
        )
        return FAILED
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
    return OK


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="harness-ext",
        usage="harness-ext COMMAND [ARGUMENTS …]",
        description="Multi-agent protocols as models of the lm-evaluation-harness.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
        + "\n\nRun `harness-ext COMMAND --help` for the arguments of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"harness-ext {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    return parser


if __name__ == "__main__":
    run()
