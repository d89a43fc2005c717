"""Batch scripts are compared with golden files and run with stand-ins for Slurm's commands; finetune.sh likewise."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.slurm import SlurmJob, main, render

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
TEN = ["model", "data", "8", "1", "6e-06", "10", "cot_tail", "NAME", "store dir", "project"]
JOBS = {
    "one_node": SlurmJob(tuple(TEN), gpus=4, partition="gpu", time="08:00:00"),
    "several_nodes": SlurmJob(
        ("--config", "run.yaml"),
        name="big",
        nodes=3,
        gpus=8,
        account="a1",
        setup="module load cuda\n. env/bin/activate",
    ),
}


@pytest.mark.parametrize("name", JOBS)
def test_scripts_match_the_golden_files(name: str) -> None:
    path = GOLDEN / f"finetune_{name}.sbatch"
    found = render(JOBS[name])
    if os.environ.get("HARNESS_EXT_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def stand_in(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (143, False), (138, True)])
def test_the_script_starts_every_process_and_requeues_at_the_time_limit(
    status: int, requeued: bool, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    stand_in(
        tmp_path, "python", f'echo "python $RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR $*" >> {said}; exit {status}'
    )
    stand_in(tmp_path, "srun", 'shift; export SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NTASKS_PER_NODE=4; "$@"')
    stand_in(
        tmp_path, "scontrol", f'if [ "$1" = show ]; then echo node7; echo node8; else echo "scontrol $*" >> {said}; fi'
    )
    script = tmp_path / "train.sbatch"
    script.write_text(render(SlurmJob(("--config", "my run.yaml"), nodes=2, gpus=4)), encoding="utf-8")
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_NTASKS": "8"}
    env.update(SLURM_JOB_NODELIST="node[7-8]", SLURM_CPUS_PER_TASK="8")
    done = subprocess.run(["bash", str(script)], env=env, check=False, timeout=240)
    assert done.returncode == status
    lines = said.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "python 5/8 1 node7 -m harness_ext.finetune --config my run.yaml"
    assert lines[1:] == (["scontrol requeue 77"] if requeued else [])


def test_values_that_slurm_would_misread_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        render(SlurmJob((), nodes=0, name="a b", partition="gpu\n#SBATCH --mem=1"))
    for part in ("--nodes is 0", "'a b'", "--partition", "nothing to run"):
        assert part in str(caught.value)
    assert main(["--nodes", "2"]) == 2
    assert "after `--`" in capsys.readouterr().err
    assert main(["--nodes", "2", "--gpus", "0", "--", "--config", "run.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "--gpus-per-node" not in printed
    assert "#SBATCH --ntasks-per-node=1" in printed


def finetune_sh(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    stand_in(tmp_path, "python", 'printf "%s|" "$@"')
    clean = {key: value for key, value in os.environ.items() if key not in ("RANK", "NPROC", "CUDA_VISIBLE_DEVICES")}
    return subprocess.run(
        ["bash", str(ROOT / "finetune" / "finetune.sh"), *arguments],
        env={**clean, "PYTHON": str(tmp_path / "python"), **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_the_shell_script_starts_one_process_per_gpu_from_any_folder(tmp_path: Path) -> None:
    passed = "|".join(TEN)
    assert finetune_sh(tmp_path, *TEN, NPROC="1").stdout == f"-m|harness_ext.finetune|{passed}|"
    assert finetune_sh(tmp_path, *TEN, CUDA_VISIBLE_DEVICES="3").stdout == f"-m|harness_ext.finetune|{passed}|"
    several = finetune_sh(tmp_path, *TEN, "--adapter", "lora", CUDA_VISIBLE_DEVICES="0,1,2").stdout
    assert several == (
        f"-m|torch.distributed.run|--nproc_per_node|3|--standalone|-m|harness_ext.finetune|{passed}|--adapter|lora|"
    )
    nodes = finetune_sh(tmp_path, *TEN, NPROC="2", NNODES="2", NODE_RANK="1", MASTER_ADDR="node7").stdout
    assert "--nnodes|2|--node_rank|1|--master_addr|node7|--master_port|29500|" in nodes
    assert finetune_sh(tmp_path, *TEN, NPROC="2", RANK="1").stdout == f"-m|harness_ext.finetune|{passed}|"


def test_the_shell_script_reports_what_is_missing(tmp_path: Path) -> None:
    done = finetune_sh(tmp_path)
    assert done.returncode == 2
    assert "{model_path} {dataset_path}" in done.stderr
    done = finetune_sh(tmp_path, *TEN, NPROC="2", NNODES="2", NODE_RANK="1")
    assert done.returncode != 0
    assert "MASTER_ADDR" in done.stderr
