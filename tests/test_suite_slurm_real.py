"""Studies on a real Slurm: arrays that are preempted, at their time limit or cancelled; dependencies, mail, status."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import wait_until
from slurm_cluster import Cluster, slurm

from harness_ext.records.run_directory import read_transcripts
from harness_ext.suite.cells import Cell
from harness_ext.suite.command import main
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.study import read_study

__all__ = ["slurm"]
# Slurm itself has no time limit that a slow machine could reach, except where a test is about it.
pytestmark = pytest.mark.timeout(1800)

# Runs cells as usual, but in its first start waits for a signal once the questions of a cell of `pair` are answered.
WAITS = f"""#!{sys.executable}
import os, sys, time
from pathlib import Path
from harness_ext.suite.command import main
from harness_ext.suite.folders import CellFolder

note_size = CellFolder.note_size

def wait_for_a_signal(folder, size):
    note_size(folder, size)
    if size.answered and folder.path.name.startswith("pair") and not os.environ.get("SLURM_RESTART_COUNT"):
        Path("answered").touch()
        while True:
            time.sleep(0.1)

CellFolder.note_size = wait_for_a_signal
sys.exit(main(sys.argv[4:]))
"""

# Evaluates nothing: its first start waits for a signal, its second one finishes the cell.
EVALUATES_NOTHING = f"""#!{sys.executable}
import os, sys, time
from harness_ext.suite import evaluating
from harness_ext.suite.command import main

class Evaluator:
    def run(self, cell, folders):
        folder = folders.of(cell)
        print("asked", flush=True)
        while not os.environ.get("SLURM_RESTART_COUNT"):
            time.sleep(0.1)
        folder.unfinished_results.mkdir()
        folder.finish()

evaluating.Evaluator = Evaluator
sys.exit(main(sys.argv[4:]))
"""

Write = Callable[[str, dict[str, Any]], tuple[Path, tuple[Cell, ...], Folders]]


@pytest.fixture
def write(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a study whose jobs run a program instead of Python, in the test's folder."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.chdir(tmp_path)

    def written(program: str, study: dict[str, Any]) -> tuple[Path, tuple[Cell, ...], Folders]:
        (tmp_path / "program").write_text(program, encoding="utf-8")
        (tmp_path / "program").chmod(0o755)
        study["slurm"] = {"gpus": 0, "cpus": 1, "python": str(tmp_path / "program"), **study["slurm"]}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({"folder": "suite", **study}, sort_keys=False), encoding="utf-8")
        read = read_study(path)
        cells, folders = cells_of(read), Folders(read.folder)
        for cell in cells:  # as if they had been checked
            folders.of(cell).create(cell, ["student"] if cell.setting != "pair" else ["student", "teacher"])
        return path, cells, Folders(read.folder)

    return written


def jobs_of(folders: Folders, number: int = 1) -> dict[str, str]:
    """Return the numbers of the jobs of a submission by the names of their scripts."""
    found: dict[str, str] = json.loads((folders.root / "slurm" / str(number) / "jobs.json").read_text())
    return found


def states(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what `suite status` says about each cell."""
    capsys.readouterr()
    assert main(["status", str(path), "--json"]) == 0
    return [row["state"] for row in json.loads(capsys.readouterr().out)]


def urgent(slurm: Cluster, folder: Path, text: str) -> str:
    """Submit a job that needs the whole node at once."""
    script = folder / "urgent.sbatch"
    script.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    return slurm.submit(script, "--partition=urgent", f"--ntasks={slurm.cpus}", "--output=/dev/null")


@pytest.mark.cli
def test_a_study_survives_a_preemption(
    slurm: Cluster, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cells share a process, a control waits for one of them in another array, and the comparison for all."""
    path, cells, folders = write(
        WAITS,
        {
            "tasks": ["babi_stories"],
            "seeds": [1],
            "defaults": {"limit": 4},
            "slurm": {"mail_user": "me@example.org", "mail_type": "END,REQUEUE", "cells_per_task": 2},
            "settings": {
                "baseline": {"model": "baseline"},
                "pair": {"model": "feedback_pair", "model_args": {"max_rounds": 1}},
                "equal_cost": {"model": "self_consistency", "control": "pair"},
            },
            "reference": "baseline",
        },
    )
    blocking = urgent(slurm, tmp_path, f"while [ ! -e {tmp_path}/go ]; do sleep 0.2; done")
    slurm.wait(blocking, "RUNNING")
    assert main(["submit", str(path)]) == 0
    jobs = jobs_of(folders)
    assert jobs.keys() == {"cells-1", "cells-2", "collect"}
    first, second = f"{jobs['cells-1']}_0", f"{jobs['cells-2']}_0"
    assert states(path, capsys) == ["queued", "queued", "queued"]
    slurm.output("scontrol", "hold", jobs["cells-1"])
    assert states(path, capsys) == ["held", "held", "queued"]
    assert main(["submit", str(path)]) == 0
    assert "nothing to submit" in capsys.readouterr().err
    slurm.output("scontrol", "release", jobs["cells-1"])
    (tmp_path / "go").touch()
    wait_until(lambda: (tmp_path / "answered").exists(), 1200)
    assert states(path, capsys) == ["finished", "running", "queued"]

    slurm.wait(urgent(slurm, tmp_path, "true"), "COMPLETED")
    wait_until(lambda: states(path, capsys) == ["finished", "requeued", "queued"], 600)
    assert slurm.wait(first, "COMPLETED")["Restarts"] == "1"
    assert slurm.wait(second, "COMPLETED")["Restarts"] == "0"
    ended = slurm.wait(jobs["collect"], "COMPLETED")
    assert states(path, capsys) == ["finished"] * 3
    printed = "".join(out.read_text() for out in (folders.root / "slurm" / "1").glob("*.out"))
    assert f"job {first} is queued again" in printed
    attempts = [a.number for cell in cells if (a := folders.of(cell).attempt) is not None]
    assert attempts == [1, 2, 1], "a finished cell is not run again"
    assert [len(list(read_transcripts(folders.of(cell).records))) for cell in cells] == [4, 4, 4]
    assert "equal_cost" in (folders.root / "comparison.md").read_text(), ended
    keys: list[bytes] = []
    for store in (tmp_path / "harness_ext_runs" / "calls").glob("*.sqlite"):
        connection = sqlite3.connect(store)
        keys += [key for (key,) in connection.execute("SELECT key FROM replies")]
        connection.close()
    assert len(keys) == len(set(keys)) > 0, "no call was paid twice"
    wait_until(lambda: sum("me@example.org" in mail for mail in slurm.mails) >= 4, 600)
    events = [event for mail in slurm.mails for event in ("Requeued", "Ended") if event in mail]
    assert {"Requeued", "Ended"} <= set(events), slurm.mails


def test_a_time_limit_requeues_and_a_cancellation_does_not(
    slurm: Cluster, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm checks its limits every 30 seconds, so the signal comes within the first 30 of the minute."""
    path, cells, folders = write(
        EVALUATES_NOTHING,
        {
            "tasks": ["a"],
            "slurm": {"time": "01:00:00", "collect": False},
            "settings": {
                "short": {"model": "baseline", "slurm": {"time": "1", "grace": 55}},
                "cancelled": {"model": "baseline", "limit": 1},
            },
        },
    )
    assert main(["submit", str(path)]) == 0
    jobs = jobs_of(folders)
    short, cancelled = f"{jobs['cells-1']}_0", f"{jobs['cells-2']}_0"
    wait_until(lambda: folders.of(cells[1]).runner is not None, 600)
    slurm.output("scancel", cancelled)
    ended = slurm.wait(cancelled, "CANCELLED")
    assert (ended["Restarts"], ended["ExitCode"]) == ("0", "143:0")
    # At least once: on a very slow machine, the second start might meet its limit as well.
    assert int(slurm.wait(short, "COMPLETED")["Restarts"]) >= 1
    assert states(path, capsys) == ["finished", "interrupted"]
    assert f"job {short} is queued again" in (folders.root / "slurm/1" / f"cells-1-{short}.out").read_text()
    # What was cancelled is submitted again by the same command, and nothing else.
    assert main(["submit", str(path), "--time", "02:00:00"]) == 0
    again = jobs_of(folders, 2)
    assert again.keys() == {"cells-1"}
    facts = slurm.job(f"{again['cells-1']}_0")
    assert facts["TimeLimit"] == "02:00:00"
    slurm.output("scancel", again["cells-1"])


def test_slurm_understands_every_option(slurm: Cluster, write: Write) -> None:
    """All fields of `slurm` at once, in a job that ends at once because its program is `true`."""
    options: dict[str, Any] = {"partition": "urgent", "gres": "gpu:2", "gpus": 2, "mem": "100M", "time": "1-2:03"}
    options |= {"constraint": "fast&blue", "mail_user": "me@example.org", "mail_type": "FAIL", "name": "all"}
    options |= {"extra": ["comment=abc", "nice=10"], "environment": {"A": "b c"}, "setup": "true", "max_running": 3}
    options |= {"python": "true", "collect": False, "restarts": 2, "cpus": 2}
    settings = {"pair": {"model": "feedback_pair"}, "baseline": {"model": "baseline"}}
    path, _, folders = write("", {"tasks": ["a", "b"], "slurm": options | {"cells_per_task": 1}, "settings": settings})
    assert main(["submit", str(path)]) == 0
    job = jobs_of(folders)["cells-1"]
    expected = {
        "JobName": "all",
        "Partition": "urgent",
        "MinMemoryNode": "100M",
        "TimeLimit": "1-02:03:00",
        "Features": "fast&blue",
        "Comment": "abc",
        "NumTasks": "1",
        "CPUs/Task": "2",
        "Requeue": "1",
        "MailUser": "me@example.org",
    }
    for index in range(4):
        found = slurm.wait(f"{job}_{index}", "COMPLETED")
        assert {name: found.get(name) for name in expected} == expected
        assert "gpu" in found["TresPerNode"]
