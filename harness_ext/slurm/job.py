"""The options of a batch job, and its script."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Values in an #SBATCH line: Slurm parses the rest of the line, so spaces, quotes, backslashes and # would change its
# meaning, and a line break would begin another option.
PLAIN = re.compile(r"[A-Za-z0-9_.:,/%@+=?!&|*~^()\[\]{}<>-]+")
# Options of Slurm that are passed on as they are, in their order in the script.
PASSED = (
    "partition", "account", "qos", "mem", "gres", "constraint", "dependency", "array", "mail_user", "mail_type",
)  # fmt: skip
# Slurm's options that the script contains anyway, and what to use instead of an `extra` one.
OWN = {
    "job-name": "name",
    "nodes": "nodes",
    "ntasks": "gpus",
    "ntasks-per-node": "gpus",
    "gpus-per-node": "gpus",
    "cpus-per-task": "cpus",
    "time": "time",
    "output": "logs",
    "signal": "grace",
    "requeue": "restarts",
    "no-requeue": "restarts",
    **{name.replace("_", "-"): name for name in PASSED},
}
LEAST = {"nodes": 1, "gpus": 0, "cpus": 1, "grace": 1, "restarts": 0}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A batch job.

    name: name of the job. Default `harness-ext`.
    nodes: number of nodes. Default 1.
    gpus: GPUs per node. Default 1.
    cpus: CPUs per process. Default 8.
    time: time limit in Slurm's format. Default `24:00:00`.
    partition: Slurm's partition. Default: the cluster's.
    account: the account to charge. Default: the user's.
    qos: quality of service. Default: the user's.
    mem: memory per node, such as `64G`; 0 is all of it. Default: the cluster's.
    gres: generic resources per node, such as `gpu:a100:4`; GPUs in it must be as many as `gpus`. Default none.
    constraint: features that the nodes must have, such as `a100|h100`. Default none.
    dependency: jobs to wait for, such as `afterok:123`. Default none.
    array: indices of a job array, such as `0-9%2`. Default none.
    mail_user: who gets mail. Default: the user who submits.
    mail_type: events to send mail about, such as `END,FAIL,REQUEUE`. Default none.
    extra: further options of sbatch, such as `reservation=week`; may be repeated. Default none.
    grace: seconds before the time limit at which the job is asked to save and end. Default 180.
    restarts: how often the job may be started again after a preemption or its time limit. Default 100.
    logs: existing folder for the output files. Default: the working directory.
    setup: shell lines to run first, such as `module load cuda`. Default none.
    python: the Python interpreter. Default `python`.
    """

    name: str = "harness-ext"
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
        """Return the number of processes per node."""
        return 1

    @property
    def setup_lines(self) -> list[str]:
        """Return the shell lines that prepare the environment of the job."""
        return [self.setup] if self.setup else []

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

    def problems(self, spelled: Callable[[str], str]) -> list[str]:
        """Return what is wrong with the job, one sentence per problem.

        spelled: returns how the user gives an option, by its name (`--mail-user`).
        """
        found = [
            f"{spelled(name)} is {getattr(self, name)}; it must be at least {lowest}."
            for name, lowest in LEAST.items()
            if getattr(self, name) < lowest
        ]
        values = {"name": self.name, "time": self.time, "logs": self.logs}
        values |= {name: getattr(self, name) for name in PASSED}
        found += [
            f"{spelled(name)} is {value!r}; it may not contain spaces, quotes, `#`, `$` or anything else with a "
            "meaning in a batch script."
            for name, value in values.items()
            if value and not PLAIN.fullmatch(value)
        ]
        found += [problem for option in self.extra_options for problem in _extra_problems(option, spelled)]
        if self.gpus_in_gres and self.gpus_in_gres != self.gpus:
            found.append(
                f"{spelled('gres')} requests {self.gpus_in_gres} GPUs per node and {spelled('gpus')} {self.gpus}: give "
                f"the same number. Remedy: {spelled('gpus')} {self.gpus_in_gres}."
            )
        if self.mail_user and not self.mail_type:
            found.append(
                f"{spelled('mail_user')} without {spelled('mail_type')} sends nothing. Remedy: {spelled('mail_type')} "
                "END,FAIL,REQUEUE."
            )
        return found


def _extra_problems(option: str, spelled: Callable[[str], str]) -> Iterator[str]:
    name, _, value = option.removeprefix("--").partition("=")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or (value and not PLAIN.fullmatch(value)):
        yield (f"{spelled('extra')} is {option!r}; it must be a long option of sbatch, such as `reservation=week`.")
    elif name == "open-mode":
        yield f"{spelled('extra')} {name}: the output of all starts is in one file. Leave it out."
    elif name in OWN:
        value = " 0" if name == "no-requeue" else ""
        yield f"{spelled('extra')} {name}: the script sets --{name} itself. Use {spelled(OWN[name])}{value}."


def render(template: Path, job: Job, **values: Any) -> str:
    """Return a batch script.

    template: the template, which extends `job.sbatch`.
    job: the job, which has no problems.
    values: further values for the template.
    """
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined

    folders = (template.parent, Path(__file__).parent)
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template.name).render(job=job, **values)
