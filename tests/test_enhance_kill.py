"""Runs ended by SIGKILL or SIGTERM finish like an uninterrupted run, and no stored call is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import Server, wait_until

HERE = Path(__file__).parent
ROWS, CANDIDATES = 40, 4
PROMPTS = 8  # of the runs that SIGTERM ends


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


def annotate(folder: Path, url: str, store: str = "store") -> subprocess.Popen[str]:
    """Start enhance.sh with a served teacher, which gets one request at a time."""
    files = [str(folder / name) for name in ("in.jsonl", "out.jsonl")]
    options = ["--model_args", "teacher.num_concurrent=1,progress=off", "--store", store]
    return subprocess.Popen(
        ["bash", str(HERE.parent / "enhance" / "enhance.sh"), f"openai:m@{url}", *files, "cot_text", *options],
        env={**os.environ, "PYTHON": sys.executable, "OPENAI_API_KEY": "none"},
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def written(folder: Path) -> dict[str, str]:
    """Return the contents of the output files."""
    return {name: (folder / name).read_text() for name in ("out.jsonl", "out.records.jsonl", "out.report.json")}


def write_prompts(folder: Path) -> None:
    """Write the input of `annotate`."""
    folder.mkdir(exist_ok=True)
    texts = [json.dumps({"cot_text": f"Question {number}:"}) for number in range(PROMPTS)]
    (folder / "in.jsonl").write_text("".join(f"{text}\n" for text in texts))


def end_by_sigterm(started: subprocess.Popen[str], folder: Path) -> str:
    """Send SIGTERM once the first row is in the records, and return the line that says how to go on."""
    records = folder / "out.records.jsonl.partial"
    wait_until(lambda: (records.exists() and "\n" in records.read_text()) or started.poll() is not None)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate()
    assert started.returncode == 143, said
    assert "Traceback" not in said
    (line,) = (line for line in said.splitlines() if "the same command again" in line)
    return line


def test_sigterm_ends_with_a_line_that_says_how_to_go_on(tmp_path: Path) -> None:
    """The server answers three rows and hangs."""
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    write_prompts(whole)
    write_prompts(ended)
    with Server() as server:
        undisturbed = annotate(whole, server.url)
        _, said = undisturbed.communicate()
        assert undisturbed.returncode == 0, said
        server.answered.clear()
        server.plan = lambda text: "timeout" if len(server.answered) >= 3 else None
        advice, _, command = end_by_sigterm(annotate(ended, server.url), ended).partition(": ")
        assert advice == (
            "[harness-ext] ended by SIGTERM; everything finished is stored. Run the same command again to continue "
            "from here"
        )
        assert command.startswith(f"harness-ext enhance annotate openai:m@{server.url} ")
        assert not (ended / "out.jsonl").exists()
        server.plan = lambda text: None
        again = annotate(ended, server.url)
        _, said = again.communicate()
        assert again.returncode == 0, said
        assert set(server.answered.values()) == {1}, "a stored call was asked again"
        assert len(server.answered) == PROMPTS
    assert written(ended) == written(whole)
    assert not list(ended.glob("*.partial"))


def test_without_a_store_the_line_says_that_nothing_is_kept(tmp_path: Path) -> None:
    write_prompts(tmp_path)
    with Server() as server:
        server.plan = lambda text: "timeout" if len(server.answered) >= 3 else None
        line = end_by_sigterm(annotate(tmp_path, server.url, "off"), tmp_path)
    assert line.startswith(
        "[harness-ext] ended by SIGTERM; no call is stored (`store=off`). Run the same command again"
    )
