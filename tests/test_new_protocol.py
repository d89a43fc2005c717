"""New protocols: what `harness-ext new-protocol` writes, the page about it, and the names that it refuses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness_ext.cli import main
from harness_ext.cli.new_protocol import protocol_files

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "new-protocol.md").read_text()


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[number]


def test_the_page_shows_what_the_command_writes() -> None:
    files = protocol_files("double_check")
    assert list(files) == ["pyproject.toml", "double_check.py", "test_double_check.py"]
    assert block("python") == files["double_check.py"]
    assert block("toml") == files["pyproject.toml"]
    assert block("python", 1) == files["test_double_check.py"]


def test_the_protocol_is_as_short_as_promised() -> None:
    lines = [line for line in block("python").splitlines() if line.strip()]
    assert len(lines) <= 25


@pytest.mark.cli
@pytest.mark.timeout(1200)
def test_the_page_works_as_it_stands(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    site = tmp_path / "site"
    environment = {**os.environ, "PYTHONPATH": str(site), "PATH": path}
    make, install, test, run = map(shlex.split, block("console").strip().splitlines())
    subprocess.run(make, cwd=tmp_path, env=environment, check=True)
    assert install == ["pip", "install", "-e", "double_check"]
    # Installed next to the environment instead of into it, and without access to a package index.
    more = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *more, "./double_check"], cwd=tmp_path, check=True)
    assert test == ["pytest", "double_check"]
    tested = subprocess.run(
        [sys.executable, "-m", *test], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout[-2000:]
    assert "3 passed" in tested.stdout
    done = subprocess.run([*run, "--output_path", "out"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exact_match" in done.stdout
    (transcripts,) = tmp_path.glob("harness_ext_runs/double_check-*/transcripts.jsonl")
    turns = [line.count('"kind": "refine"') for line in transcripts.read_text().splitlines()]
    assert turns == [2, 2, 2]
    shown = subprocess.run(
        ["harness-ext", "prompts", "double_check"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "purpose: asks the student to check its answer\nfields: {demand}" in shown.stdout


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("Double-Check", "is not a valid name"),
        ("lambda", "is not a valid name"),
        ("2nd", "is not a valid name"),
        ("json", "there is a Python module 'json' already"),
        ("feedback_pair", "there is a model 'feedback_pair' already"),
        ("hf", "there is a model 'hf' already"),
        ("message", "the class of 'message' would have the name of one that its files import"),
        ("seat_setup", "the class of 'seat_setup' would have the name of one that its files import"),
        ("there", "there exists: remove it, or name another folder"),
    ],
)
def test_names_that_cannot_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, cause: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert main(["new-protocol", name]) == 1
    assert cause in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_any_name_makes_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "x_", "two_words2", "a__b"):
        assert main(["new-protocol", name, "-o", str(tmp_path / "deep" / name)]) == 0
        for file in (tmp_path / "deep" / name).glob("*.py"):
            compile(file.read_text(), str(file), "exec")
        assert f"lm_eval --model {name} " in capsys.readouterr().out
    assert 'name = "x"\n' in (tmp_path / "deep" / "x_" / "pyproject.toml").read_text()
    assert "class TwoWords2LM(ProtocolLM):" in (tmp_path / "deep" / "two_words2" / "two_words2.py").read_text()
