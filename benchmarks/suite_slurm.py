"""Runs the study of `benchmarks/suite.py` on a real Slurm, with a preemption and a time limit, and compares the two.

    python benchmarks/suite_slurm.py --output benchmarks/results/suite_slurm.json

The study runs once on this machine, undisturbed. Then it is submitted to a Slurm of one node (that of
`tests/slurm/start.py`): one array whose tasks have twelve cells each and run one at a time, and a job that compares all
cells after them. A job of a partition with a higher priority takes the node from the first task, and the last task
meets its time limit; both are queued again. `suite status` is read at each stage. Each cell has to end with the
transcripts, the scores and the samples of the undisturbed suite, and no finished call may be paid twice.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suite import RUNS, compared, counts, finished, sent, stored, undisturbed, write_study

ROOT = Path(__file__).resolve().parent.parent
PER_TASK = 12
GRACE = 120  # seconds before its time limit at which a task gets SIGTERM
# What the scripts of the suite run in place of `python -m harness_ext suite …`: the same, with counts.
PROGRAM = f"""#!/bin/bash
exec {shlex.join([sys.executable, str(ROOT / "benchmarks" / "suite.py")])} --counted "${{@:4}}"
"""


def main() -> None:
    """Run the study here and on Slurm, compare the two and publish the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=3, help="stories per task (default: 3)")
    parser.add_argument("--output", type=Path, help="the file to write (default: print)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    import slurm_cluster
    from measured import embedded, publish_measured

    if missing := slurm_cluster.missing_programs():
        sys.exit(f"Slurm is not installed ({', '.join(missing)}): run tests/slurm/install.sh, as root on Debian")
    slurm_cluster.DEADLINE = 24 * 3600.0  # a busy machine takes an hour for what a test does in a minute
    if options.output is not None:
        options.output = options.output.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        whole = undisturbed(folder / "whole", options.rows)
        seconds = time.perf_counter() - started
        print(f"undisturbed: {len(stored(whole))} calls, {seconds:.0f} s", flush=True)
        (folder / "slurm").mkdir()
        cluster = slurm_cluster.Cluster(folder / "slurm")
        write_study(folder / "study", options.rows)
        run = Submitted(folder / "study", cluster)
        os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
        os.chdir(run.folder)
        try:
            cluster.start()
            run.run()
        finally:
            cluster.stop()
        restarts = [int(facts["Restarts"]) for facts in run.ended]
        found = compared(whole, run.folder, run.in_flight)
        os.chdir(ROOT)
    record = {
        "rows": options.rows, "undisturbed_seconds": round(seconds), **found, "stages": run.stages,
        "restarts": restarts, "mails": run.mails,
    }  # fmt: skip
    record["equal"] = found["equal"] and restarts == [1, 0, 1] and run.mails.keys() == {"Requeued", "Ended"}
    publish_measured(record, options.output, embedded())
    sys.exit(0 if record["equal"] else 1)


@dataclass
class Submitted:
    """A study that is submitted to a cluster, and disturbed there.

    folder: the folder with the study.
    cluster: the cluster.
    stages: what `suite status` and Slurm said at each stage so far.
    in_flight: how many calls were in flight whenever a task was ended.
    ended: what Slurm says about each task at its end.
    mails: how many mails Slurm has sent about each kind of event.
    """

    folder: Path
    cluster: Any
    stages: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    ended: list[dict[str, str]] = field(default_factory=list)
    mails: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Submit the study, disturb its tasks, and wait until everything has ended."""
        program = self.folder / "program"
        program.write_text(PROGRAM, encoding="utf-8")
        program.chmod(0o755)
        self.cluster.wait(self.urgent("first"), "RUNNING")
        given = {
            "gpus": 0, "cpus": 1, "cells-per-task": PER_TASK, "max-running": 1, "grace": GRACE, "python": program,
            "mail-user": "me@example.org", "mail-type": "END,REQUEUE",
        }  # fmt: skip
        self.suite("submit", *(f"--{name}={value}" for name, value in given.items()))
        submission = self.folder / RUNS / "suites" / "study" / "slurm" / "1"
        jobs = json.loads((submission / "jobs.json").read_text(encoding="utf-8"))
        self.collect = jobs["collect"]
        self.tasks = json.loads((submission / "cells-1.json").read_text(encoding="utf-8"))["tasks"]
        first, *others, last = (f"{jobs['cells-1']}_{index}" for index in range(len(self.tasks)))
        self.note("submitted, while another job has the node")
        self.slurm("scontrol", "hold", last)
        self.note("the last task is held")
        self.release("first")

        wait_until(lambda: self.finished(0) >= 1)
        self.note("the first task runs")
        self.disturb(lambda: self.urgent("second"))
        self.cluster.wait(first, "PENDING")
        self.note("a job of another partition has taken the node", ended=True)
        self.release("second")
        for task in (first, *others):
            self.cluster.wait(task, "COMPLETED")
        self.note("all tasks but the last have ended")

        self.slurm("scontrol", "release", last)
        wait_until(lambda: self.finished(-1) >= 1)
        # The signal is due then, and the limit is a minute or two away.
        limit = GRACE // 60 + self.minutes(last)
        self.disturb(lambda: self.slurm("scontrol", "update", f"JobId={last}", f"TimeLimit={limit}"))
        self.cluster.wait(last, "PENDING")
        self.note("the last task has met its time limit", ended=True)
        self.slurm("scontrol", "update", f"JobId={last}", "TimeLimit=1-00")
        self.ended = [self.cluster.wait(task, "COMPLETED") for task in (first, *others, last)]
        self.cluster.wait(self.collect, "COMPLETED")
        self.note("everything has ended")
        wait_until(lambda: sum("Ended" in mail for mail in self.cluster.mails) >= 2)
        kinds = (re.search(r"\b(Requeued|Ended)\b", mail) for mail in self.cluster.mails if "me@example.org" in mail)
        self.mails = Counter(kind[1] for kind in kinds if kind)

    def suite(self, action: str, *arguments: str) -> str:
        """Run `harness-ext suite` on the study in this process, and return what it prints."""
        from harness_ext.suite.command import main as suite

        with redirect_stdout(io.StringIO()) as printed:
            status = suite([action, "study.yaml", *arguments])
        if status:
            sys.exit(f"`suite {action}` ended with status {status}")
        return printed.getvalue()

    def slurm(self, *command: str) -> None:
        """Run one of Slurm's commands."""
        self.cluster.output(*command)

    def disturb(self, act: Callable[[], object]) -> None:
        """Do something that makes Slurm send SIGTERM to the running task, which gets it with calls in flight.

        Slurm may take half a minute, so the process of the task is stopped until then.
        """
        wait_until(lambda: sum(sent(self.folder).values()) - len(stored(self.folder)) > self.in_flight)
        process = int(counts(self.folder, "began")[-1][1])
        os.kill(process, signal.SIGSTOP)
        act()
        wait_until(lambda: not is_waiting(process))
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)

    def urgent(self, name: str) -> str:
        """Submit a job of the other partition that has the whole node until `release`, and return its number."""
        script = self.folder / f"{name}.sbatch"
        script.write_text(f"#!/bin/bash\nwhile [ ! -e {name}.go ]; do sleep 0.2; done\n", encoding="utf-8")
        options = ("--partition=urgent", f"--ntasks={self.cluster.cpus}", "--output=/dev/null")
        number: str = self.cluster.submit(script, *options)
        return number

    def release(self, name: str) -> None:
        """End a job of the other partition."""
        (self.folder / f"{name}.go").touch()

    def finished(self, task: int) -> int:
        """Return how many cells of a task are finished."""
        return sum(name.endswith(digest) for name in finished(self.folder) for digest in self.tasks[task])

    def minutes(self, task: str) -> int:
        """Return for how many whole minutes a task has been running."""
        hours, minutes, _ = self.cluster.job(task)["RunTime"].rpartition("-")[2].split(":")
        return 60 * int(hours) + int(minutes)

    def note(self, stage: str, ended: bool = False) -> None:
        """Note what is to be seen at a stage. `ended`: whether a task was ended just before, and no other one runs."""
        cells = json.loads(self.suite("status", "--json"))
        states = Counter(cell["state"] for cell in cells)
        collecting = self.cluster.job(self.collect)
        in_flight = sum(sent(self.folder).values()) - len(stored(self.folder)) - self.in_flight if ended else None
        self.in_flight += in_flight or 0
        self.stages.append(
            {
                "stage": stage, "cells": dict(states), "calls": len(stored(self.folder)), "in_flight": in_flight,
                "collect": collecting["JobState"], "reason": collecting["Reason"],
            }
        )  # fmt: skip
        print(self.stages[-1], flush=True)


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    while not true():
        time.sleep(0.02)


def is_waiting(process: int) -> bool:
    """Return whether a process is stopped and no SIGTERM waits for it."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    (pending,) = re.findall(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)
    return "State:\tT" in status and not int(pending, 16) >> (signal.SIGTERM - 1) & 1


if __name__ == "__main__":
    main()
