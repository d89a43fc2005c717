"""The command `harness-ext`: one table of subcommands, each imported only when it is called.

docs/cli.md lists the commands, their exit statuses and the environment variables.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness_ext import __version__

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A subcommand: where its function is (`module:function`, called with the arguments behind its name), and its help.

    The function returns an exit status (None counts as 0) or raises SystemExit.
    """

    target: str
    help: str

    def load(self) -> Callable[[list[str]], int | None]:
        """Import the command's module and return its function."""
        module, _, function = self.target.partition(":")
        loaded: Callable[[list[str]], int | None] = getattr(importlib.import_module(module), function)
        return loaded


COMMANDS = {
    "lm-eval": Command("harness_ext.cli:lm_eval", "lm-eval's own command line, with plugins loaded in any case"),
    "score": Command("harness_ext.scoring.cli:main", "accuracy a round, flips, oracle and leaks of a run"),
    "show": Command("harness_ext.show:main", "transcripts in the terminal: turns, verdicts, changes, who was right"),
    "compare": Command("harness_ext.compare.cli:main", "runs side by side: paired differences, tests, flips, cost"),
    "estimate": Command("harness_ext.estimate:main", "calls, tokens, time and price of a run, from a few questions"),
    "doctor": Command("harness_ext.doctor:main", "versions, plugins and devices, and what is missing"),
    "enhance": Command("harness_ext.enhance.cli:main", "rationales and preferences from a teacher, for training rows"),
    "finetune": Command("harness_ext.finetune.cli:main", "train a student, a teacher or an adapter"),
    "checkpoints": Command("harness_ext.finetune.checkpoints_cli:main", "accuracy of every epoch of a training"),
    "export": Command("harness_ext.cli:export", "a plain model folder from a training; tables from logged samples"),
    "new-task": Command("harness_ext.newtask.cli:main", "a task of your own from its data: files, and a first run"),
    "slurm": Command("harness_ext.finetune.slurm:main", "a batch script that trains on one or several nodes"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `harness-ext` with `arguments` (default: the process's own) and return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = _parser().parse_args(arguments[:1]).command
    try:
        return COMMANDS[name].load()(arguments[1:]) or OK
    except KeyboardInterrupt:
        print("harness-ext: interrupted", file=sys.stderr)
        return INTERRUPTED


def export(arguments: list[str]) -> int:
    """Export what the first path holds: samples of lm_eval as tables, else a trained model as a folder."""
    from pathlib import Path

    from harness_ext import tables
    from harness_ext.finetune import export as models

    source = next((Path(a) for a in arguments if not a.startswith("-")), None)
    if source is None:
        tables.parser().print_help()
        print("\nor, for a trained model:\n")
    return models.main(arguments) if source is None or not tables.samples_in(source) else tables.main(arguments)


def lm_eval(arguments: list[str]) -> int:
    """Run lm-eval's command line with `arguments`, with plugins loaded whether or not a start-up file did it."""
    from harness_ext import startup

    startup.enforce()
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError as error:
        print(f"harness-ext: lm-eval cannot be imported ({error}).\nRemedy: pip install 'lm_eval[hf]'", file=sys.stderr)
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
        + "\n\n`harness-ext COMMAND --help` tells a command's own arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"harness-ext {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
