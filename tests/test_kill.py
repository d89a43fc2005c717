"""Tests of runs that are killed (SIGKILL) again and again: the results are the same, and no call is paid for twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness_ext.records.run_directory import read_transcripts

HERE = Path(__file__).parent


def run(folder: Path, mode: str, kills: int, seed: int) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, str(HERE / "kill_and_resume.py"), str(folder), mode, str(kills), str(seed)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    report: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return report


def transcripts(folder: Path) -> list[dict[str, Any]]:
    found = []
    for transcript in sorted(read_transcripts(folder / "run"), key=lambda t: t.identity):
        found.append(transcript.to_json())
        _without_timing(found[-1]["turns"])
    return found


def _without_timing(turns: list[dict[str, Any]]) -> None:
    for turn in turns:
        del turn["timing"]
        _without_timing(turn.get("inner", {}).get("turns", []))


def figures(folder: Path) -> Any:
    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "reused")}
        return value

    return timeless(json.loads((folder / "run" / "summary.json").read_text()))


@pytest.mark.parametrize(
    ("mode", "kills", "questions"), [("scripted", 10, 40), ("composed", 4, 16), ("embedded", 2, 6)]
)
def test_a_killed_and_resumed_run_gives_the_same_results(tmp_path: Path, mode: str, kills: int, questions: int) -> None:
    runs = run(tmp_path, mode, kills, seed=7)
    whole, killed = runs["whole"], runs["killed"]
    assert killed["killed"] >= kills - 1, "the runs must be killed before they end"
    assert killed["paid_twice"] == 0
    assert killed["calls"] == whole["calls"] == whole["answered"]
    wanted = transcripts(tmp_path / "whole")
    assert len(wanted) == questions
    assert transcripts(tmp_path / "killed") == wanted
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")
    if mode == "scripted":
        assert len({len(t["turns"]) for t in wanted}) > 3, "questions must differ in length"
