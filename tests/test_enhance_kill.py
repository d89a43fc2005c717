"""Runs killed with SIGKILL at five moments end like an uninterrupted run, and no stored call is paid for twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROWS, CANDIDATES = 40, 4


def run(folder: Path, *moments: int) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, str(HERE / "enhance_kill.py"), str(folder), *map(str, moments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(600)
def test_killed_at_five_moments(tmp_path: Path) -> None:
    found = run(tmp_path, 0, 7, 55, 150, 260)
    whole, killed = found["whole"], found["killed"]
    assert whole["killed"] == 0
    assert whole["answered"] == whole["stored"]
    assert killed["killed"] == 5
    assert killed["paid_twice"] == 0
    outputs = {name: (tmp_path / name / "out.jsonl").read_text() for name in ("whole", "killed")}
    assert outputs["killed"] == outputs["whole"]
    assert len(outputs["whole"].splitlines()) == ROWS
    torn = (tmp_path / "killed" / "in.bad.jsonl").read_text().splitlines()
    assert [json.loads(line)["place"] for line in torn] == [f"line {ROWS + 1}"]
    candidates = [
        json.loads(line) for line in (tmp_path / "killed" / "prefs.candidates.jsonl").read_text().splitlines()
    ]
    assert [len(row["candidates"]) for row in candidates] == [CANDIDATES] * ROWS
    report = json.loads((tmp_path / "killed" / "prefs.report.json").read_text())
    assert report["matches"] == ROWS * (CANDIDATES - 1)
    assert not list((tmp_path / "killed").glob("*.partial"))
