"""`harness-ext slurm`: prints the batch script of a training run on one or more nodes."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from harness_ext.finetune.args import ConfigError
from harness_ext.terminal import clean

TEMPLATE = Path(__file__).with_name("batch") / "train.sbatch"
# Values in an #SBATCH line: Slurm parses the rest of the line, so a space or a line break would change its meaning.
PLAIN = re.compile(r"[A-Za-z0-9_.:,/%@+-]+")


@dataclass(frozen=True)
class SlurmJob:
    """The job that a batch script submits.

    arguments: arguments of `harness-ext finetune`.
    name: name of the job. Default `finetune`.
    nodes: number of nodes. Default 1.
    gpus: GPUs per node, with one process for each; 0 runs one process per node on the CPU. Default 1.
    cpus: CPUs per process. Default 8.
    time: time limit in Slurm's format. Default `24:00:00`.
    partition: Slurm's partition. Default: the cluster's.
    account: the account to charge. Default: the user's.
    grace: seconds before the time limit at which training is saved. Default 180.
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
    grace: int = 180
    logs: str = "."
    setup: str = ""
    python: str = "python"

    @property
    def processes(self) -> int:
        """Return the number of processes per node: one per GPU, or one without GPUs."""
        return max(self.gpus, 1)

    @property
    def command(self) -> str:
        """Return the command of one process, quoted for the shell."""
        return shlex.join([self.python, "-m", "harness_ext.finetune", *self.arguments])

    def problems(self) -> list[str]:
        """Return what is wrong with the job, one sentence per problem."""
        found = [
            f"--{name} is {getattr(self, name)}; it must be at least {least}."
            for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("grace", 1))
            if getattr(self, name) < least
        ]
        found += [
            f"--{name} is {value!r}; it may only contain letters, digits and _ . : , / % @ + -."
            for name in ("name", "time", "partition", "account", "logs")
            if (value := getattr(self, name)) and not PLAIN.fullmatch(value)
        ]
        if not self.arguments:
            found.append("there is nothing to run: pass the arguments of `harness-ext finetune` after `--`.")
        return found


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
    )
    defaults = SlurmJob(())
    parser.add_argument("--name", default=defaults.name)
    parser.add_argument("--nodes", type=int, default=defaults.nodes)
    parser.add_argument("--gpus", type=int, default=defaults.gpus, help="GPUs per node, one process each (0: CPU only)")
    parser.add_argument("--cpus", type=int, default=defaults.cpus, help="CPUs per process")
    parser.add_argument("--time", default=defaults.time)
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--grace", type=int, default=defaults.grace, help="seconds before the time limit to save at")
    parser.add_argument("--logs", default=defaults.logs, help="existing folder for the output files")
    parser.add_argument("--setup", default="", help="shell lines to run first, such as `module load cuda`")
    parser.add_argument("--python", default=defaults.python)
    try:
        print(render(SlurmJob(tuple(argv[at + 1 :]), **vars(parser.parse_args(argv[:at])))), end="")
    except ConfigError as error:
        print(f"harness-ext slurm: {clean(error)}", file=sys.stderr)
        return 2
    return 0
