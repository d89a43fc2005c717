"""A run that is killed at any point of a batch: its batch is collected, and nothing is paid for twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from batch_kill import POINTS, QUESTIONS

PROGRAM = Path(__file__).parent / "batch_kill.py"


def test_a_killed_run_pays_for_nothing_twice(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads(done.stdout)
    whole = results.pop("")
    assert whole["batches"][0] == QUESTIONS
    assert len(results) == len(POINTS) + 2
    for point, found in results.items():
        assert found["answers"] == whole["answers"], point
        assert found["paid"] == 1, point
        assert found["requests"] == whole["requests"], point
        assert found["problems"] == [], point
        assert found["batches"] == whole["batches"], point
