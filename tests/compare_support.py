"""Helpers of the tests of `compare`: reading runs, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness_ext.analysis.compare.command import main
from harness_ext.analysis.compare.runs import Run
from harness_ext.analysis.compare.sources import read_runs


def never(run: Path) -> None:
    raise AssertionError(f"{run} has been scored already")


def read(*arguments: Any) -> list[Run]:
    return read_runs([str(argument) for argument in arguments], never)


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    assert main([*map(str, arguments), "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found
