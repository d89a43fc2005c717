"""`harness-ext slurm`: prints the batch script of a training run on one or more nodes."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.option_help import option_help
from harness_ext.slurm.job import Job
from harness_ext.slurm.job import render as job_script
from harness_ext.terminal import clean

TEMPLATE = Path(__file__).with_name("batch") / "train.sbatch"
INDEX = re.compile(r"\$SLURM_ARRAY_TASK_ID\b|\$\{SLURM_ARRAY_TASK_ID\}")


@dataclass(frozen=True)
class SlurmJob(Job):
    """The job that a batch script submits.

    arguments: arguments of `harness-ext finetune`; `$SLURM_ARRAY_TASK_ID` in them is the index in an array.
    name: name of the job. Default `finetune`.
    gpus: GPUs per node, with one process for each; 0 runs one process per node on the CPU. Default 1.
    array: indices of a job array, such as `0-9%2`; one training per index. Default none.

    Its other options are those of every batch job.
    """

    arguments: tuple[str, ...]
    name: str = field(default="finetune", kw_only=True)

    @property
    def processes(self) -> int:
        """Return the number of processes per node: one per GPU, or one without GPUs."""
        return max(self.gpus, 1)

    @property
    def command(self) -> str:
        """Return the command of one process, quoted for the shell; of variables, only the array's index remains."""
        words = [self.python, "-m", "harness_ext.finetune", *self.arguments]
        return " ".join(_word(word) if self.array else shlex.quote(word) for word in words)

    def wrong(self) -> list[str]:
        """Return what is wrong with the job and its arguments, one sentence per problem."""
        found = self.problems(lambda name: f"--{name.replace('_', '-')}")
        if not self.arguments:
            found.append("there is nothing to run: pass the arguments of `harness-ext finetune` after `--`.")
        return found + list(self._array_problems())

    def _array_problems(self) -> Iterator[str]:
        indexed = any(INDEX.search(one) for one in self.arguments)
        if self.array and self.arguments and not indexed:
            yield (
                "--array would run the same training several times, because no argument after `--` contains "
                "$SLURM_ARRAY_TASK_ID. Remedy: '--output_dir=runs/$SLURM_ARRAY_TASK_ID', in single quotes."
            )
        if indexed and not self.array:
            yield "$SLURM_ARRAY_TASK_ID is only set in an array. Remedy: --array 0-9."


def _word(word: str) -> str:
    """Quote a word for the shell, except for the array's index.

    The shell expands the index within double quotes as it passes the argument on, so whatever it is, it is no code.
    """
    pieces = INDEX.split(word)
    return '"$SLURM_ARRAY_TASK_ID"'.join(shlex.quote(piece) if piece else "" for piece in pieces) or "''"


def render(job: SlurmJob) -> str:
    """Return the batch script. Raises ConfigError with every problem found."""
    if problems := job.wrong():
        raise ConfigError("the job is not valid:\n" + "\n".join(f"  - {one}" for one in problems))
    return job_script(
        TEMPLATE,
        job,
        signal="USR1",
        saved="the training is saved, and the same command resumes it.",
        continues="the training continues from its last checkpoint",
        restarts_option="harness-ext slurm --restarts",
    )


def main(argv: list[str]) -> int:
    """Print the batch script for the training run described after `--`. Returns 0, or 2 if the job is not valid."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="harness-ext slurm",
        usage="harness-ext slurm [OPTIONS] -- ARGUMENTS OF `harness-ext finetune` > train.sbatch",
        description="Print a batch script for Slurm; submit it with sbatch.",
        allow_abbrev=False,
    )
    texts = option_help(Job) | option_help(SlurmJob)
    for option in fields(SlurmJob):
        if option.name == "arguments":
            continue
        flag, text = f"--{option.name.replace('_', '-')}", texts.get(option.name, "").replace("%", "%%")
        if option.name == "extra":
            parser.add_argument(flag, action="append", default=[], metavar="OPTION", help=text)
        else:
            kind = type(option.default)
            parser.add_argument(
                flag, type=kind, default=option.default, metavar="N" if kind is int else "TEXT", help=text
            )
    given = vars(parser.parse_args(argv[:at]))
    try:
        print(render(SlurmJob(tuple(argv[at + 1 :]), **{**given, "extra": tuple(given["extra"])})), end="")
    except ConfigError as error:
        print(f"harness-ext slurm: {clean(error)}", file=sys.stderr)
        return 2
    return 0
