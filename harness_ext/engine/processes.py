"""Which of how many processes this one is, as the program that started it says: torchrun, srun, mpirun, …"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from harness_ext.errors import ConfigurationError

DEFAULT_PORT = 29500  # PyTorch's own default
ALONE = "set WORLD_SIZE=1 and RANK=0 to run a single process"


@dataclass(frozen=True)
class Launcher:
    """The environment variables in which a launcher tells each process its place.

    name: the launcher, for messages.
    world: the number of processes.
    rank: the number of this process.
    local_rank: its number among the processes of its host.
    local_world: the number of processes on its host. Default None: the launcher does not say.
    job: what distinguishes the launcher's runs on one host; the port of the process group is derived from it.
    """

    name: str
    world: str
    rank: str
    local_rank: str
    local_world: str | None = None
    job: tuple[str, ...] = ()


# In the order in which they are asked: below `srun torchrun` and `srun mpirun`, Slurm's variables are set, too. Slurm
# sets SLURM_NTASKS and SLURM_PROCID also in a batch script, which is one process, but SLURM_STEP_NUM_TASKS only below
# `srun`. With its plug-in for PMI-2, `srun` sets PMI_SIZE and PMI_RANK as well, but no other variable of MPICH.
LAUNCHERS = (
    Launcher("torchrun or accelerate", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    Launcher(
        "Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE", ("PMIX_NAMESPACE",),
    ),
    Launcher(
        "MVAPICH", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    Launcher("MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Launcher(
        "srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", None, ("SLURM_JOB_ID", "SLURM_STEP_ID"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """The place of this process among all processes of a run.

    rank: its number, from 0. Default 0.
    world: the number of processes. Default 1.
    local_rank: its number among the processes of its host, from 0. Default 0.
    local_world: the number of processes on its host. Default 1.
    address: the host of process 0. Default: this host.
    port: the port on which process 0 waits for the others. Default 29500, as in PyTorch.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT

    def variables(self) -> dict[str, str]:
        """Return the place as the environment variables that torch, accelerate and lm-eval read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def place_of(environment: Mapping[str, str] | None = None) -> Place:
    """Return the place that the launcher assigned to this process; a process without a launcher is alone.

    environment: the environment variables. Default None: those of this process.

    Raises ConfigurationError if the variables contradict each other, or do not say how to reach the other processes.
    """
    environment = os.environ if environment is None else environment
    found = [launcher for launcher in LAUNCHERS if environment.get(launcher.world)]
    if not found:
        return Place()
    launcher, world = found[0], _number(environment, found[0].world)
    if world == 1:
        return Place()
    # Batch scripts often export WORLD_SIZE alone, and let `srun` or `mpirun` number the processes.
    numbered = [one for one in found if one.rank in environment and _number(environment, one.world) == world]
    if not numbered:
        raise ConfigurationError(
            [f"{launcher.world}={world}, but {launcher.rank} is not set: set it for each process, or {ALONE}"]
        )
    first = numbered[0]
    rank = _number(environment, first.rank, least=0)
    if rank >= world:
        raise ConfigurationError(
            [f"{first.rank}={rank}, but there are {world} processes ({first.world}): number them from 0"]
        )
    # Where the first one does not say which number a process has on its host, another one may.
    launcher = next((one for one in numbered if one.local_rank in environment), first)
    if launcher.local_rank not in environment:
        raise ConfigurationError(
            [
                f"{launcher.name} started {world} processes, but {launcher.local_rank} is not set: set it to the "
                f"number of each process on its host, from 0, or {ALONE}"
            ]
        )
    local_world = _local_world(environment, launcher, world)
    return Place(
        rank,
        world,
        _number(environment, launcher.local_rank, least=0),
        local_world,
        _address(environment, launcher, local_world == world),
        _port(environment, launcher),
    )


def _number(environment: Mapping[str, str], name: str, least: int = 1) -> int:
    text = environment[name].strip()
    if not text.isdecimal() or int(text) < least:
        raise ConfigurationError([f"{name}={text} is not a number of {least} or more: correct it, or {ALONE}"])
    return int(text)


def _local_world(environment: Mapping[str, str], launcher: Launcher, world: int) -> int:
    if launcher.local_world is not None and launcher.local_world in environment:
        return _number(environment, launcher.local_world)
    tasks = _tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = environment.get("SLURM_NODEID", "")
    if launcher.local_world is None and node.isdecimal() and int(node) < len(tasks):
        return tasks[int(node)]
    return world


def _tasks_per_node(text: str) -> list[int]:
    """Return Slurm's numbers of tasks per node: `2(x3),1` stands for 2, 2, 2 and 1."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def _address(environment: Mapping[str, str], launcher: Launcher, one_host: bool) -> str:
    if address := environment.get("MASTER_ADDR"):
        return address
    if one_host:
        return Place.address
    if nodes := environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST"):
        return first_host(nodes)
    raise ConfigurationError(
        [
            f"{launcher.name} started processes on several hosts, but MASTER_ADDR is not set: set it to the host of "
            "process 0 (mpirun -x MASTER_ADDR=<host>)"
        ]
    )


def first_host(nodes: str) -> str:
    """Return the first host of a list as Slurm writes it: `gpu07` of `gpu[07-09,12],cpu1`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def _port(environment: Mapping[str, str], launcher: Launcher) -> int:
    if environment.get("MASTER_PORT"):
        port = _number(environment, "MASTER_PORT")
        if port > 65535:
            raise ConfigurationError([f"MASTER_PORT={port} is not a port: use one from 1024 to 65535"])
        return port
    job = "/".join(environment.get(name, "") for name in launcher.job).strip("/")
    # Two jobs on one host must not meet at the same port. Systems hand out ports from a range above these.
    return 10000 + zlib.crc32(job.encode()) % 10000 if job else DEFAULT_PORT
