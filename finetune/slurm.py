"""`harness-ext slurm`: the batch script of a training, for one node or several."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from harness_ext.finetune.args import ConfigError

TEMPLATE = Path(__file__).with_name("batch") / "train.sbatch"
# What stands in an #SBATCH line: Slurm takes the rest of the line, so a blank or a line break would change its meaning.
PLAIN = re.compile(r"[A-Za-z0-9_.:,/%@+-]+")


@dataclass(frozen=True)
class Job:
    """What a batch script asks Slurm for. `grace` is how many seconds before the end of `time` training is saved."""

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
        """Return the processes of a node: one a GPU, one without GPUs."""
        return max(self.gpus, 1)

    @property
    def command(self) -> str:
        """Return the command of one process, quoted for the shell."""
        return shlex.join([self.python, "-m", "harness_ext.finetune", *self.arguments])

    def problems(self) -> list[str]:
        """Return what is wrong with the job, one sentence each."""
        found = [
            f"--{name} is {getattr(self, name)}; it must be at least {least}."
            for name, least in (("nodes", 1), ("gpus", 0), ("cpus", 1), ("grace", 1))
            if getattr(self, name) < least
        ]
        found += [
            f"--{name} is {value!r}; only letters, digits and _ . : , / % @ + - can stand there."
            for name in ("name", "time", "partition", "account", "logs")
            if (value := getattr(self, name)) and not PLAIN.fullmatch(value)
        ]
        if not self.arguments:
            found.append("there is nothing to run: put the arguments of `harness-ext finetune` behind `--`.")
        return found


def render(job: Job) -> str:
    """Return the batch script. Raises ConfigError naming every problem."""
    from jinja2 import Environment, StrictUndefined

    problems = job.problems()
    if problems:
        raise ConfigError("no batch script:\n" + "\n".join(f"  - {one}" for one in problems))
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(job=job)


def main(argv: list[str]) -> int:
    """Print the batch script that runs the training behind `--`. Returns 0, or 2 when something is wrong."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="harness-ext slurm",
        usage="harness-ext slurm [OPTIONS] -- ARGUMENTS OF `harness-ext finetune` > train.sbatch",
        description="Print a batch script for Slurm; submit it with sbatch.",
    )
    defaults = Job(())
    parser.add_argument("--name", default=defaults.name)
    parser.add_argument("--nodes", type=int, default=defaults.nodes)
    parser.add_argument("--gpus", type=int, default=defaults.gpus, help="of a node; one process each (0: a CPU run)")
    parser.add_argument("--cpus", type=int, default=defaults.cpus, help="of a process")
    parser.add_argument("--time", default=defaults.time)
    parser.add_argument("--partition", default="")
    parser.add_argument("--account", default="")
    parser.add_argument("--grace", type=int, default=defaults.grace, help="seconds kept for saving before time is up")
    parser.add_argument("--logs", default=defaults.logs, help="folder of the output files; it must exist")
    parser.add_argument("--setup", default="", help="shell lines that come first, such as `module load cuda`")
    parser.add_argument("--python", default=defaults.python)
    try:
        print(render(Job(tuple(argv[at + 1 :]), **vars(parser.parse_args(argv[:at])))), end="")
    except ConfigError as error:
        print(f"harness-ext slurm: {error}", file=sys.stderr)
        return 2
    return 0
