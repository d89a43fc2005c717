"""Submits batch scripts, and reads what Slurm's queue says about jobs. No accounting database is needed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness_ext.errors import HarnessExtError
from harness_ext.terminal import outside

PATIENCE = 120.0  # seconds; a busy controller may take a minute
FIELDS = ("ArrayJobID", "ArrayTaskID", "State", "Reason", "RestartCnt", "JobID")
SEPARATOR = "|"


class NoQueueError(HarnessExtError):
    """Slurm's commands are not installed, or do not answer."""


@dataclass(frozen=True)
class Queued:
    """A job, or a task of an array, that is in the queue.

    job: the number of the job, or of the array.
    index: the index of the task; None for a job of its own.
    state: its state as Slurm calls it, such as `PENDING`.
    reason: why it waits, as Slurm calls it; `None` if it does not.
    restarts: how often it was queued again.
    """

    job: str
    index: int | None
    state: str
    reason: str
    restarts: int

    @property
    def name(self) -> str:
        """Return how Slurm's commands call it."""
        return self.job if self.index is None else f"{self.job}_{self.index}"

    @property
    def kind(self) -> str:
        """Return `running`, `held`, `requeued` (waiting for another start) or `queued`."""
        if self.state in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"):
            return "running"
        if self.reason.startswith(("JobHeld", "JobHoldMax")) or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
            return "held"
        return "requeued" if self.restarts else "queued"


def has_slurm() -> bool:
    """Return whether Slurm's commands are installed."""
    return shutil.which("squeue") is not None


def submit(script: Path, options: Sequence[str]) -> str:
    """Submit a batch script, and return the number of the job.

    script: the script.
    options: further options of sbatch.

    Raises NoQueueError with what sbatch says if it refuses.
    """
    printed = _ask(["sbatch", "--parsable", *options, str(script)])
    return printed.strip().splitlines()[-1].partition(";")[0]


def read_queue(jobs: Collection[str]) -> list[Queued]:
    """Return those of some jobs, and of the tasks of arrays, that are in the queue. The others have ended.

    jobs: the numbers of jobs and arrays.

    Raises NoQueueError if the queue cannot be read.
    """
    if not jobs:
        return []
    columns = ",".join(f"{name}:{SEPARATOR}" for name in FIELDS)
    # Slurm answers a single number that it has forgotten with an error, and leaves it out of several.
    numbers = ",".join([*sorted(jobs), min(jobs)])
    printed = _ask(["squeue", "--noheader", "--array", f"--jobs={numbers}", f"--Format={columns}"])
    return [found for line in printed.splitlines() if (found := _queued(line)) is not None]


def _queued(line: str) -> Queued | None:
    parts = [part.strip() for part in line.split(SEPARATOR)]
    if len(parts) < len(FIELDS):
        return None
    array, index, state, reason, restarts, job = parts[: len(FIELDS)]
    if not index.isdecimal():
        return Queued(job, None, state, reason, int(restarts) if restarts.isdecimal() else 0)
    return Queued(array, int(index), state, reason, int(restarts) if restarts.isdecimal() else 0)


def _ask(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, errors="replace")
    except FileNotFoundError as error:
        raise NoQueueError(f"there is no {command[0]} on this machine: run this where Slurm is installed") from error
    except subprocess.TimeoutExpired as error:
        raise NoQueueError(f"{command[0]} has not answered for {PATIENCE:.0f} s: try again later") from error
    if done.returncode:
        raise NoQueueError(f"{command[0]} ended with status {done.returncode}: {outside(done.stderr, 1000)}")
    return done.stdout
