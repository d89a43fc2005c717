"""`harness-ext slurm`: prints the batch script of a training run on one or more nodes."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.option_help import option_help
from harness_ext.terminal import clean

TEMPLATE = Path(__file__).with_name("batch") / "train.sbatch"
# Values in an #SBATCH line: Slurm parses the rest of the line, so spaces, quotes, backslashes and # would change its
# meaning, and a line break would begin another option.
PLAIN = re.compile(r"[A-Za-z0-9_.:,/%@+=?!&|*~^()\[\]{}<>-]+")
INDEX = re.compile(r"\$SLURM_ARRAY_TASK_ID\b|\$\{SLURM_ARRAY_TASK_ID\}")
# Options of Slurm that are passed on as they are, in their order in the script.
PASSED = (
    "partition", "account", "qos", "mem", "gres", "constraint", "dependency", "array", "mail_user", "mail_type",
)  # fmt: skip
# Slurm's options that the script contains anyway, and what to use instead of an --extra one.
OWN = {
    "job-name": "--name",
    "nodes": "--nodes",
    "ntasks": "--gpus",
    "ntasks-per-node": "--gpus",
    "gpus-per-node": "--gpus",
    "cpus-per-task": "--cpus",
    "time": "--time",
    "output": "--logs",
    "signal": "--grace",
    "requeue": "--restarts",
    "no-requeue": "--restarts 0",
    "open-mode": "nothing: the output of all starts is in one file",
    **{name.replace("_", "-"): f"--{name.replace('_', '-')}" for name in PASSED},
}


@dataclass(frozen=True)
class SlurmJob:
    """The job that a batch script submits.

    arguments: arguments of `harness-ext finetune`; `$SLURM_ARRAY_TASK_ID` in them is the index in an array.
    name: name of the job. Default `finetune`.
    nodes: number of nodes. Default 1.
    gpus: GPUs per node, with one process for each; 0 runs one process per node on the CPU. Default 1.
    cpus: CPUs per process. Default 8.
    time: time limit in Slurm's format. Default `24:00:00`.
    partition: Slurm's partition. Default: the cluster's.
    account: the account to charge. Default: the user's.
    qos: quality of service. Default: the user's.
    mem: memory per node, such as `64G`; 0 is all of it. Default: the cluster's.
    gres: generic resources per node, such as `gpu:a100:4`; GPUs in it must be as many as `gpus`. Default none.
    constraint: features that the nodes must have, such as `a100|h100`. Default none.
    dependency: jobs to wait for, such as `afterok:123`. Default none.
    array: indices of a job array, such as `0-9%2`; one training per index. Default none.
    mail_user: who gets mail. Default: the user who submits.
    mail_type: events to send mail about, such as `END,FAIL,REQUEUE`. Default none.
    extra: further options of sbatch, such as `reservation=week`; may be repeated. Default none.
    grace: seconds before the time limit at which training is saved. Default 180.
    restarts: how often the job may be started again after a preemption or its time limit. Default 100.
    logs: existing folder for the output files. Default: the working directory.
    setup: shell lines to run first, such as `module load cuda`. Default none.
    python: the Python interpreter. Default `python`.
    """

    arguments: tuple[str, ...]
    name: str = "finetune"
    nodes: int = 1
    gpus: int = 1
    cpus: int = 8
    time: str = "24:00:00"
    partition: str = ""
    account: str = ""
    qos: str = ""
    mem: str = ""
    gres: str = ""
    constraint: str = ""
    dependency: str = ""
    array: str = ""
    mail_user: str = ""
    mail_type: str = ""
    extra: tuple[str, ...] = ()
    grace: int = 180
    restarts: int = 100
    logs: str = "."
    setup: str = ""
    python: str = "python"

    @property
    def processes(self) -> int:
        """Return the number of processes per node: one per GPU, or one without GPUs."""
        return max(self.gpus, 1)

    @property
    def command(self) -> str:
        """Return the command of one process, quoted for the shell; of variables, only the array's index remains."""
        words = [self.python, "-m", "harness_ext.finetune", *self.arguments]
        return " ".join(_word(word) if self.array else shlex.quote(word) for word in words)

    @property
    def passed(self) -> list[tuple[str, str]]:
        """Return the options of Slurm that are passed on, with their values."""
        return [(name.replace("_", "-"), value) for name in PASSED if (value := getattr(self, name))]

    @property
    def extra_options(self) -> list[str]:
        """Return the further options, each with its two dashes."""
        return [f"--{one.lstrip('-')}" for one in self.extra]

    @property
    def gpus_in_gres(self) -> int:
        """Return the number of GPUs that `gres` requests per node."""
        gpus = re.findall(r"(?:^|,)(?:gres[:/])?gpu((?::[^:,()]+)*)(?=[,(]|$)", self.gres)
        counts = [parts.rpartition(":")[2] for parts in gpus]
        return sum(int(count) if count.isdecimal() else 1 for count in counts)

    def problems(self) -> list[str]:
        """Return what is wrong with the job, one sentence per problem."""
        least = {"nodes": 1, "gpus": 0, "cpus": 1, "grace": 1, "restarts": 0}
        found = [
            f"--{name} is {getattr(self, name)}; it must be at least {lowest}."
            for name, lowest in least.items()
            if getattr(self, name) < lowest
        ]
        values = [("name", self.name), ("time", self.time), ("logs", self.logs), *self.passed]
        found += [
            f"--{name} is {value!r}; it may not contain spaces, quotes, `#`, `$` or anything else with a meaning in a "
            "batch script."
            for name, value in values
            if value and not PLAIN.fullmatch(value)
        ]
        found += [problem for option in self.extra_options for problem in _extra_problems(option)]
        if self.gpus_in_gres and self.gpus_in_gres != self.gpus:
            found.append(
                f"--gres requests {self.gpus_in_gres} GPUs per node and --gpus {self.gpus}; one process is started per "
                f"GPU. Remedy: --gpus {self.gpus_in_gres}."
            )
        if self.mail_user and not self.mail_type:
            found.append("--mail-user without --mail-type sends nothing. Remedy: --mail-type END,FAIL,REQUEUE.")
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


def _extra_problems(option: str) -> Iterator[str]:
    name, _, value = option.removeprefix("--").partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or (value and not PLAIN.fullmatch(value)):
        yield f"--extra is {option!r}; it must be a long option of sbatch, such as `reservation=week`."
    elif name in OWN:
        yield f"--extra {name}: the script sets --{name} itself. Use {OWN[name]}."


def _word(word: str) -> str:
    """Quote a word for the shell, except for the array's index.

    The shell expands the index within double quotes as it passes the argument on, so whatever it is, it is no code.
    """
    pieces = INDEX.split(word)
    return '"$SLURM_ARRAY_TASK_ID"'.join(shlex.quote(piece) if piece else "" for piece in pieces) or "''"


def render(job: SlurmJob) -> str:
    """Return the batch script. Raises ConfigError with every problem found."""
    from jinja2 import Environment, StrictUndefined

    problems = job.problems()
    if problems:
        raise ConfigError("the job is not valid:\n" + "\n".join(f"  - {one}" for one in problems))
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(job=job)


def main(argv: list[str]) -> int:
    """Print the batch script for the training run described after `--`. Returns 0, or 2 if the job is not valid."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="harness-ext slurm",
        usage="harness-ext slurm [OPTIONS] -- ARGUMENTS OF `harness-ext finetune` > train.sbatch",
        description="Print a batch script for Slurm; submit it with sbatch.",
        allow_abbrev=False,
    )
    texts = option_help(SlurmJob)
    for field in fields(SlurmJob):
        if field.name == "arguments":
            continue
        flag, text = f"--{field.name.replace('_', '-')}", texts.get(field.name, "").replace("%", "%%")
        if field.name == "extra":
            parser.add_argument(flag, action="append", default=[], metavar="OPTION", help=text)
        else:
            kind = type(field.default)
            parser.add_argument(
                flag, type=kind, default=field.default, metavar="N" if kind is int else "TEXT", help=text
            )
    given = vars(parser.parse_args(argv[:at]))
    try:
        print(render(SlurmJob(tuple(argv[at + 1 :]), **{**given, "extra": tuple(given["extra"])})), end="")
    except ConfigError as error:
        print(f"harness-ext slurm: {clean(error)}", file=sys.stderr)
        return 2
    return 0
