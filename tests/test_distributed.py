"""Tests of two processes on one evaluation: the answers are those of one process, and any number can resume it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness_ext.records.run_directory import read_transcripts

LIMIT = 7  # an odd number: the ranks get unequal shares, and lm-eval pads one of them


def evaluate(folder: Path, run: str, processes: int, store: str) -> dict[str, float]:
    """Run lm-eval on this package's stories with a number of processes, and return its scores."""
    launcher = (
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29541"]
        if processes > 1
        else [sys.executable]
    )
    arguments = f"max_rounds=1,run_dir={folder / run},store={folder / store},model={run}-{processes}"
    command = [*launcher, "-m", "lm_eval", "run", "--model", "feedback_pair", "--model_args", arguments]
    command += ["--tasks", "babi_stories", "--limit", str(LIMIT), "--batch_size", "4"]
    command += ["--gen_kwargs", "max_gen_toks=48", "--output_path", str(folder / "out"), "--log_samples"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = sorted((folder / "out" / f"{run}-{processes}").glob("results_*.json"))
    results = json.loads(found[-1].read_text())["results"]["babi_stories"]
    return {metric: results[f"{metric},none"] for metric in ("exact_match", "soft_match", "exact_match_stderr")}


def texts(run: Path) -> dict[int, tuple[str, ...]]:
    """Return the texts of all turns, by document."""
    return {t.doc_id: tuple(turn.text for turn in t.turns) for t in read_transcripts(run)}


@pytest.mark.cli
def test_two_processes_answer_as_one_and_any_number_resumes(tmp_path: Path) -> None:
    together = evaluate(tmp_path, "two", 2, "calls-two")
    alone = evaluate(tmp_path, "one", 1, "calls-one")
    assert together == pytest.approx(alone)  # the order of the ranks changes the last bit of a standard error
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
    assert sorted(texts(tmp_path / "two")) == list(range(LIMIT))
    lines = (tmp_path / "two" / "transcripts.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["doc_id"] for line in lines) == list(range(LIMIT))
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["questions"] == LIMIT
    assert summary["usage"]["student"]["draft"]["calls"] == LIMIT

    resumed = evaluate(tmp_path, "two", 1, "calls-empty")
    assert resumed == pytest.approx(alone)
    assert (tmp_path / "two" / "transcripts.jsonl").read_text().splitlines() == lines
