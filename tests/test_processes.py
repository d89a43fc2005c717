"""Tests of how a process finds out which of how many it is, under every launcher."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.backends.registry import BackendSpec
from harness_ext.config.run_plan import _devices
from harness_ext.engine.processes import Place, first_host, place_of
from harness_ext.engine.ranks import way_to_join
from harness_ext.errors import ConfigurationError
from harness_ext.finetune.command import main as finetune

NAMES = {
    "torchrun": ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "Open MPI": (
        "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
    ),
    "MVAPICH": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    "MPICH": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", None),
}  # fmt: skip


def launched(launcher: str, nodes: list[int], node: int, local_rank: int) -> dict[str, str]:
    """Return what a launcher sets for one process, given the number of processes on each host."""
    world, rank, local, local_world = NAMES[launcher]
    variables = {world: str(sum(nodes)), rank: str(sum(nodes[:node]) + local_rank), local: str(local_rank)}
    if local_world is not None:
        return {**variables, local_world: str(nodes[node]), "MASTER_ADDR": "first"}
    counts = ",".join(str(n) for n in nodes)
    return {
        **variables, "SLURM_STEP_TASKS_PER_NODE": counts, "SLURM_NODEID": str(node), "SLURM_JOB_ID": "17",
        "SLURM_STEP_NODELIST": "first,second[1-9]",
    }  # fmt: skip


@given(st.data())
def test_every_launcher_says_the_place(data: st.DataObject) -> None:
    launcher = data.draw(st.sampled_from(sorted(NAMES)))
    nodes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).filter(lambda n: sum(n) > 1))
    node = data.draw(st.integers(0, len(nodes) - 1))
    local_rank = data.draw(st.integers(0, nodes[node] - 1))
    place = place_of(launched(launcher, nodes, node, local_rank))
    assert (place.rank, place.world) == (sum(nodes[:node]) + local_rank, sum(nodes))
    assert (place.local_rank, place.local_world) == (local_rank, nodes[node])
    assert place.address in ("first", "127.0.0.1")
    assert len(nodes) == 1 or place.address == "first"
    assert place_of(place.variables()) == place, "a child process finds the same place"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"WORLD_SIZE": "1", "RANK": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"},
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"},  # a batch script
    ],
)
def test_a_process_of_its_own_is_alone(variables: dict[str, str]) -> None:
    assert place_of(variables) == Place()


def test_the_innermost_launcher_decides() -> None:
    outer = launched("srun", [2], 0, 1)
    inner = launched("torchrun", [3], 0, 2)
    assert place_of({**outer, **inner}).rank == 2
    assert place_of({**outer, **launched("Open MPI", [4], 0, 3)}).world == 4


def test_a_batch_script_may_export_the_size_alone() -> None:
    place = place_of(
        {**launched("srun", [2, 2], 1, 0), "WORLD_SIZE": "4", "MASTER_ADDR": "head", "MASTER_PORT": "4000"}
    )
    assert (place.rank, place.world, place.address, place.port) == (2, 4, "head", 4000)


@pytest.mark.parametrize("own", [("PMI_SIZE", "PMI_RANK"), ("WORLD_SIZE", "RANK")])
def test_what_one_launcher_leaves_out_another_one_says(own: tuple[str, str]) -> None:
    """With its plug-in for PMI-2, srun sets MPICH's number and rank too; scripts often export theirs alone."""
    slurm = launched("srun", [1, 2], 1, 1)
    place = place_of({**slurm, own[0]: "3", own[1]: "2"})
    assert place == place_of(slurm)


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "0"}, "RANK is not set"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE=two is not a number"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, "WORLD_SIZE=0 is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "-1", "LOCAL_RANK": "0"}, "RANK=-1 is not a number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "number them from 0"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        (
            {"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
            "MPICH or Intel MPI started processes on several hosts, but MASTER_ADDR is not set",
        ),
    ],
)
def test_a_launch_that_cannot_be_understood_is_refused(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        place_of(variables)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node7,node9", "node7"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[3,5]", "gpu3"),
        ("rack[1-2]n,other", "rack1n"),
        ("a.b.c", "a.b.c"),
    ],
)
def test_the_first_host_of_a_list_is_found(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_jobs_of_one_host_have_different_ports() -> None:
    ports = {place_of({**launched("srun", [2], 0, 0), "SLURM_JOB_ID": str(job)}).port for job in range(50)}
    assert len(ports) > 45
    assert all(10000 <= port < 20000 for port in ports)


def test_training_below_srun_gets_the_variables_that_its_libraries_read(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"PATH": os.environ.get("PATH", ""), **launched("srun", [1, 2], 1, 1)}
    monkeypatch.setattr(os, "environ", environment)
    with suppress(SystemExit):  # the arguments are missing
        finetune(["--no-such-option"])
    assert (environment["RANK"], environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("2", "3", "1")
    assert environment["MASTER_ADDR"] == "first"


def test_a_process_of_several_gets_a_gpu_of_its_own_below_every_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    specs = {"student": BackendSpec("hf", "one", {}), "teacher": BackendSpec("hf", "two", {})}
    monkeypatch.setattr(os, "environ", launched("Open MPI", [2], 0, 1))
    assert _devices(specs, None) == {"student": "cuda", "teacher": "cuda"}
    monkeypatch.setattr(os, "environ", {})
    assert _devices(specs, None) == {"student": "cuda:0", "teacher": "cuda:1"}


@pytest.mark.parametrize(
    ("gpus", "local_world", "how", "local_rank"),
    [
        (0, 2, {"cpu": True, "backend": "gloo"}, "1"),
        (2, 2, {}, "1"),
        (8, 2, {}, "1"),
        (1, 2, {"backend": "gloo"}, "0"),  # NCCL refuses two processes on one GPU
    ],
)
def test_processes_join_with_and_without_gpus(gpus: int, local_world: int, how: object, local_rank: str) -> None:
    found, variables = way_to_join(Place(1, 2, 1, local_world), gpus)
    assert found == how
    assert variables["LOCAL_RANK"] == local_rank
    assert ("ACCELERATE_USE_CPU" in variables) == (gpus == 0)
