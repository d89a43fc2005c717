"""Batch scripts are compared with golden files and run with stand-ins for Slurm's commands; finetune.sh likewise."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    "array": SlurmJob(
        ("--config", "run.yaml", "--seed", "$SLURM_ARRAY_TASK_ID", "--output_dir=my runs/${SLURM_ARRAY_TASK_ID}"),
        gpus=2,
        qos="low",
        mem="64G",
        gres="gpu:a100:2",
        constraint="[rack1|rack2]&ib",
        dependency="afterok:12?afterany:13",
        array="0-9%2",
        mail_user="someone@example.org",
        mail_type="END,FAIL,REQUEUE",
        extra=("reservation=week", "--exclusive"),
        grace=60,
        restarts=5,
    ),
}
RUNNING, LIMIT = "JobState=RUNNING Reason=None", "JobState=COMPLETING Reason=TimeLimit"
ENDING = "JobState=COMPLETING Reason=None"


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


def run_script(job: SlurmJob, folder: Path, status: int = 0, *facts: str, **variables: str) -> list[str]:
    """Run a batch script with stand-ins for Slurm and Python, and return what these were called with.

    facts: what Slurm says about the job, each time it is asked; the last one from then on.
    """
    said = folder / "said"
    (folder / "facts").write_text("\n".join(facts) + "\n", encoding="utf-8")
    stand_in(folder, "python", f'echo "python $RANK/$WORLD_SIZE $LOCAL_RANK $MASTER_ADDR" >> {said}\n'
             f'printf "<%s>" "$@" >> {said}; echo >> {said}; exit {status}')  # fmt: skip
    stand_in(folder, "srun", 'shift; export SLURM_PROCID=5 SLURM_LOCALID=1 SLURM_NTASKS_PER_NODE=4; "$@"')
    stand_in(
        folder,
        "scontrol",
        f"""case "$1 $2" in
        'show hostnames') echo node7; echo node8 ;;
        '--oneliner show') echo "JobId=$4 $(head -n 1 {folder}/facts) Restarts=0"
            [ "$(wc -l < {folder}/facts)" -eq 1 ] || sed -i 1d {folder}/facts ;;
        *) echo "scontrol $*" >> {said} ;;
    esac""",
    )
    script = folder / "train.sbatch"
    script.write_text(render(job), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env.update(PATH=f"{folder}:{env['PATH']}", SLURM_JOB_ID="77", SLURM_NTASKS="8", SLURM_CPUS_PER_TASK="8")
    env.update(SLURM_JOB_NODELIST="node[7-8]", **variables)
    done = subprocess.run(["bash", str(script)], env=env, check=False, timeout=240, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    (folder / "stderr").write_text(done.stderr, encoding="utf-8")
    return said.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("status", "facts", "requeued"),
    [
        (0, RUNNING, False),
        (1, RUNNING, False),
        (138, RUNNING, True),
        (143, RUNNING, True),
        (138, LIMIT, True),
        (143, LIMIT, True),
        (138, ENDING, False),
        (143, ENDING, False),
    ],
)
def test_the_script_starts_every_process_and_requeues_what_was_interrupted(
    status: int, facts: str, requeued: bool, tmp_path: Path
) -> None:
    job = SlurmJob(("--config", "my run.yaml"), nodes=2, gpus=4)
    lines = run_script(job, tmp_path, status, facts)
    assert lines[:2] == ["python 5/8 1 node7", "<-m><harness_ext.finetune><--config><my run.yaml>"]
    assert lines[2:] == (["scontrol requeue 77"] if requeued else [])


@pytest.mark.parametrize(("facts", "requeued"), [(RUNNING, True), (ENDING, False)])
def test_the_script_waits_while_slurm_hides_the_state_of_the_job(facts: str, requeued: bool, tmp_path: Path) -> None:
    job = SlurmJob(("--config", "run.yaml"))
    signaling = "JobState=SIGNALING Reason=None"
    lines = run_script(job, tmp_path, 138, signaling, signaling, facts)
    assert lines[2:] == (["scontrol requeue 77"] if requeued else [])


def test_a_job_is_requeued_only_so_often_and_says_so(tmp_path: Path) -> None:
    job = SlurmJob(("--config", "run.yaml"), restarts=3)
    assert run_script(job, tmp_path, 143, RUNNING, SLURM_RESTART_COUNT="2")[2:] == ["scontrol requeue 77"]
    (tmp_path / "said").unlink()
    assert run_script(job, tmp_path, 143, RUNNING, SLURM_RESTART_COUNT="3")[2:] == []
    assert "after 3 restarts" in (tmp_path / "stderr").read_text()
    assert "#SBATCH --no-requeue" in render(SlurmJob(("--config", "run.yaml"), restarts=0))


def test_a_job_about_which_slurm_does_not_answer_is_not_requeued(tmp_path: Path) -> None:
    """A job might have been cancelled, and a requeued one would run again."""
    job = SlurmJob(("--config", "run.yaml"), setup='scontrol() { [ "$1" = requeue ] && echo "$@" >> said; }')
    assert run_script(job, tmp_path, 143, RUNNING)[2:] == []
    assert "does not answer" in (tmp_path / "stderr").read_text()


def test_each_task_of_an_array_gets_its_index_and_requeues_itself_only(tmp_path: Path) -> None:
    """The number of one task is that of the whole array, so a requeue by that number would restart all tasks."""
    index = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "4"}
    lines = run_script(JOBS["array"], tmp_path, 143, RUNNING, **index)
    arguments = "<--config><run.yaml><--seed><4><--output_dir=my runs/4>"
    assert lines[1:] == [f"<-m><harness_ext.finetune>{arguments}", "scontrol requeue 77_4"]


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
INDEXED = st.lists(
    st.one_of(WORDS, st.sampled_from(["$SLURM_ARRAY_TASK_ID", "${SLURM_ARRAY_TASK_ID}", "$HOME", "`id`"]))
)


@given(st.lists(INDEXED.map("".join), max_size=5), WORDS)
def test_arguments_reach_the_command_as_they_are_but_for_the_index(arguments: list[str], index: str) -> None:
    """Neither arguments nor an index are ever read as shell code."""
    command = SlurmJob(tuple(arguments), array="0-9", python="printf").command
    variables = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": index, "HOME": "/home"}
    # printf repeats its format, here the first argument, for each further one.
    script = command.replace("printf -m harness_ext.finetune", r"printf '%s\0' -", 1)
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, check=True, timeout=240)
    expected = [re.sub(r"\$SLURM_ARRAY_TASK_ID\b|\$\{SLURM_ARRAY_TASK_ID\}", lambda _: index, one) for one in arguments]
    assert done.stdout.decode().split("\0")[1:-1] == expected


def test_values_that_slurm_would_misread_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        render(SlurmJob((), nodes=0, name="a b", partition="gpu\n#SBATCH --mem=1"))
    for part in ("--nodes is 0", "'a b'", "--partition", "nothing to run"):
        assert part in str(caught.value)
    for value in ("a#b", "a'b", 'a"b', "a\\b", "a b"):
        with pytest.raises(ConfigError, match="--qos"):
            render(SlurmJob(("--config",), qos=value))
    assert main(["--nodes", "2"]) == 2
    assert "after `--`" in capsys.readouterr().err
    assert main(["--nodes", "2", "--gpus", "0", "--", "--config", "run.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "--gpus-per-node" not in printed
    assert "#SBATCH --ntasks-per-node=1" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"array": "0-9"}, "no argument after `--` contains $SLURM_ARRAY_TASK_ID"),
        ({"arguments": ("--seed", "$SLURM_ARRAY_TASK_ID")}, "only set in an array"),
        ({"mail_user": "me@example.org"}, "--mail-type END,FAIL,REQUEUE"),
        ({"gres": "gpu:4"}, "Remedy: --gpus 4"),
        ({"gres": "nvme:1,gpu:a100:2(S:0),gpu", "gpus": 2}, "Remedy: --gpus 3"),
        ({"extra": ("mem=1G",)}, "Use --mem"),
        ({"extra": ("signal=TERM@60",)}, "Use --grace"),
        ({"extra": ("no-requeue",)}, "Use --restarts 0"),
        ({"extra": ("comment=a b",)}, "a long option of sbatch"),
        ({"extra": ("\n#SBATCH --mem=1",)}, "a long option of sbatch"),
        ({"restarts": -1}, "--restarts is -1"),
    ],
)
def test_options_that_cannot_work_are_refused_with_a_remedy(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(SlurmJob(**{"arguments": ("--config", "run.yaml"), **options}))  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_gpus_of_generic_resources_are_not_requested_twice() -> None:
    found = render(SlurmJob(("--config", "run.yaml"), gres="gpu:a100:2,nvme:1", gpus=2))
    assert "#SBATCH --gres=gpu:a100:2,nvme:1" in found
    assert "--gpus-per-node" not in found
    assert "--gpus-per-node=2" in render(SlurmJob(("--config", "run.yaml"), gres="gpumem:1", gpus=2))


def test_help_describes_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for option in ("--array TEXT indices of a job array, such as `0-9%2`", "--grace N", "Default 180."):
        assert option in printed


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
