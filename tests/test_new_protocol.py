"""The page on writing a protocol works as written: its files, its commands and its test."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "new-protocol.md").read_text()


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[number]


def test_the_protocol_is_as_short_as_promised() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 25


@pytest.mark.cli
@pytest.mark.timeout(1200)
def test_the_page_works_as_it_stands(tmp_path: Path) -> None:
    package = tmp_path / "double-check"
    package.mkdir()
    (package / "double_check.py").write_text(block("python"))
    (package / "pyproject.toml").write_text(block("toml"))
    (package / "test_double_check.py").write_text(block("python", 1))
    install, run = map(shlex.split, block("console").strip().splitlines())
    assert install == ["pip", "install", "."]
    # Installed next to the environment instead of into it, and without access to a package index.
    site = tmp_path / "site"
    more = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", *install, *more], cwd=package, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run([*run, "--output_path", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exact_match" in done.stdout
    (transcripts,) = tmp_path.glob("harness_ext_runs/double_check-*/transcripts.jsonl")
    turns = [line.count('"kind": "refine"') for line in transcripts.read_text().splitlines()]
    assert turns == [2, 2, 2]
    tested = subprocess.run([sys.executable, "test_double_check.py"], cwd=package, env=environment)
    assert tested.returncode == 0
