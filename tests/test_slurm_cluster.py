"""Batch scripts on a real Slurm: trainings that are preempted, at their time limit, cancelled, or tasks of an array."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from servers import wait_until
from slurm_cluster import Cluster, slurm

from harness_ext.embedded import model_path
from harness_ext.finetune.checkpoints import why_incomplete
from harness_ext.finetune.slurm import SlurmJob, render

__all__ = ["slurm"]
# Slurm itself has no time limit that a slow machine could reach, except where a test is about it.
pytestmark = pytest.mark.timeout(1800)

# A training that makes no progress: it waits for a signal in its first start and succeeds in its second.
WAITING = """#!/bin/bash
trap 'exit 138' USR1
trap 'exit 143' TERM
echo "start ${SLURM_RESTART_COUNT:-0} of ${SLURM_ARRAY_TASK_ID:-one}: $*"
[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && exit 0
while true; do sleep 0.2; done
"""

# The real training, which in its first start waits for a signal at its second step.
TRAINING = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
from harness_ext.finetune import callbacks
from harness_ext.finetune.command import main

steps, agreed = [], callbacks.Stop.agreed

def wait_for_a_signal(stop, device):
    steps.append(1)
    if len(steps) == 2 and not os.environ.get("SLURM_RESTART_COUNT"):
        Path("began").touch()
        while not stop.number:
            time.sleep(0.1)
    return agreed(stop, device)

callbacks.Stop.agreed = wait_for_a_signal
sys.exit(main(sys.argv[3:]))
"""


def submit(slurm: Cluster, folder: Path, program: str, *options: str, **settings: object) -> str:
    """Submit the batch script of a job whose Python interpreter is a program of this test."""
    path = folder / "program"
    path.write_text(program, encoding="utf-8")
    path.chmod(0o755)
    given: dict[str, object] = {"arguments": ("--config", "run.yaml"), "gpus": 0, "cpus": 1, "python": str(path)}
    script = folder / "train.sbatch"
    script.write_text(render(SlurmJob(**{**given, **settings})), encoding="utf-8")  # type: ignore[arg-type]
    return slurm.submit(script, *options)


def started(slurm: Cluster, folder: Path, number: str) -> None:
    """Wait until the program of a job runs."""
    slurm.wait(number, "RUNNING")
    wait_until(lambda: "start 0" in output(folder), 600)


def output(folder: Path) -> str:
    """Return what the jobs of a folder printed."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.out")))


def preempt(slurm: Cluster, folder: Path) -> str:
    """Submit a short job that needs the whole node at once."""
    script = folder / "urgent.sbatch"
    script.write_text("#!/bin/bash\ntrue\n", encoding="utf-8")
    return slurm.submit(script, "--partition=urgent", f"--ntasks={slurm.cpus}", "--output=/dev/null")


def test_a_preempted_training_comes_back_and_finishes(slurm: Cluster, tmp_path: Path) -> None:
    """Within the grace time the training saves and ends by itself, which Slurm alone would take for a failure."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Where is Mary?\\n", "completion": "Answer: garden"}\n' * 4, encoding="utf-8")
    settings = {"model": model_path("student"), "train_file": rows, "output_dir": tmp_path / "run", "batch_size": 1}
    arguments = tuple(f"--{name}={value}" for name, value in {**settings, "device": "cpu"}.items())
    job = submit(slurm, tmp_path, TRAINING, arguments=arguments, partition="grace")
    wait_until(lambda: (tmp_path / "began").exists(), 900)
    slurm.wait(preempt(slurm, tmp_path), "COMPLETED")
    assert not why_incomplete(tmp_path / "run" / "checkpoint-2")
    ended = slurm.wait(job, "COMPLETED")
    assert (ended["Restarts"], ended["ExitCode"]) == ("1", "0:0")
    assert f"resuming from {tmp_path / 'run' / 'checkpoint-2'}" in output(tmp_path)
    assert f"job {job} is queued again" in output(tmp_path)
    assert not why_incomplete(tmp_path / "run" / "final")


def test_a_training_that_slurm_requeues_itself_is_not_requeued_twice(slurm: Cluster, tmp_path: Path) -> None:
    """Without a grace time, Slurm puts the job back into its queue before its processes have ended."""
    job = submit(slurm, tmp_path, WAITING, partition="requeue")
    started(slurm, tmp_path, job)
    slurm.wait(preempt(slurm, tmp_path), "COMPLETED")
    # The script may look at the job before or after Slurm has queued it again; it must come back once in either case.
    assert slurm.wait(job, "COMPLETED")["Restarts"] == "1"
    assert "the training continues from its last checkpoint" in output(tmp_path)


def test_a_training_comes_back_after_its_time_limit(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm checks its limits every 30 seconds, so the signal comes within the first 30 of the minute."""
    job = submit(slurm, tmp_path, WAITING, time="1", grace=55)
    # At least once: on a very slow machine, the second start might meet its limit as well.
    assert int(slurm.wait(job, "COMPLETED")["Restarts"]) >= 1
    assert f"job {job} is queued again" in output(tmp_path)
    assert "start 1" in output(tmp_path)


def test_a_cancelled_training_stays_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, WAITING)
    started(slurm, tmp_path, job)
    slurm.output("scancel", job)
    ended = slurm.wait(job, "CANCELLED")
    assert (ended["Restarts"], ended["ExitCode"]) == ("0", "143:0")
    assert "it was cancelled" in output(tmp_path)


def test_a_training_cancelled_in_its_grace_time_stays_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    """The training has been asked to end by the preemption, but is still saving when the user cancels it."""
    slow = WAITING.replace(
        "trap 'exit 143' TERM", "trap 'touch asked; while [ ! -e saved ]; do sleep 0.2; done; exit 143' TERM"
    )
    job = submit(slurm, tmp_path, slow, partition="grace")
    started(slurm, tmp_path, job)
    urgent = preempt(slurm, tmp_path)
    wait_until(lambda: (tmp_path / "asked").exists(), 600)
    slurm.output("scancel", job)
    slurm.wait(job, "COMPLETING")
    (tmp_path / "saved").touch()
    assert slurm.wait(job, "CANCELLED")["Restarts"] == "0"
    slurm.wait(urgent, "COMPLETED")


def test_a_training_that_fails_is_not_requeued(slurm: Cluster, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, "#!/bin/bash\nexit 2\n")
    ended = slurm.wait(job, "FAILED")
    assert (ended["Restarts"], ended["ExitCode"]) == ("0", "2:0")


def test_a_task_of_an_array_gets_its_index_and_comes_back_alone(slurm: Cluster, tmp_path: Path) -> None:
    """The last task's number is the array's, so a requeue by that number would restart all its tasks."""
    job = submit(slurm, tmp_path, WAITING, array="3,5", arguments=("--seed", "$SLURM_ARRAY_TASK_ID"))
    for index in (3, 5):
        wait_until(
            lambda index=index: f"start 0 of {index}: -m harness_ext.finetune --seed {index}\n" in output(tmp_path), 600
        )
    # The signal of a preemption, to the processes of the task's step but not to its shell.
    slurm.output("scancel", "--signal=TERM", f"{job}_5")
    assert slurm.wait(f"{job}_5", "COMPLETED")["Restarts"] == "1"
    other = slurm.job(f"{job}_3")
    assert (other["JobState"], other["Restarts"]) == ("RUNNING", "0")
    slurm.output("scancel", job)
    assert slurm.wait(f"{job}_3", "CANCELLED")["Restarts"] == "0"


def test_slurm_understands_every_option(slurm: Cluster, tmp_path: Path) -> None:
    first = submit(slurm, tmp_path, "#!/bin/bash\nexit 0\n")
    options: dict[str, object] = {"partition": "urgent", "gres": "gpu:2", "gpus": 2, "mem": "100M", "time": "1-2:03"}
    options |= {"constraint": "fast&blue", "dependency": f"afterany:{first}", "name": "all", "nodes": 1}
    options |= {"mail_user": "someone@example.org", "mail_type": "FAIL", "extra": ("comment=abc", "nice=10")}
    found = slurm.wait(submit(slurm, tmp_path, "#!/bin/bash\nexit 0\n", **options), "COMPLETED")
    expected = {
        "JobName": "all",
        "Partition": "urgent",
        "MinMemoryNode": "100M",
        "TimeLimit": "1-02:03:00",
        "Features": "fast&blue",
        "Comment": "abc",
        "NumTasks": "2",
        "Requeue": "1",
        "MailUser": "someone@example.org",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "gpu" in found["TresPerNode"]
