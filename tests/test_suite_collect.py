"""What a study says about its comparison: groups, metrics, clusters and the reference reach `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from compare_support import results

from harness_ext.suite.command import main
from harness_ext.suite.expanding import cells_of
from harness_ext.suite.folders import Folders
from harness_ext.suite.study import read_study

VALUES = {"base": [0, 1, 0, 1, 0, 0, 1, 0], "pair": [1, 1, 1, 1, 0, 0, 1, 1]}


def collected(folder: Path, more: dict[str, Any]) -> int:
    """Collect the cells of a study, whose results are those of lm-eval, as JSON, and return the exit status."""
    path = folder / "study.yaml"
    settings = {name: {"model": "hf", "model_args": {"pretrained": name}} for name in VALUES}
    study = {"folder": str(folder / "suite"), "tasks": ["a", "b", "c"], "settings": settings, "reference": "base"}
    path.write_text(yaml.safe_dump({**study, **more}))
    read = read_study(path)
    folders = Folders(read.folder)
    for cell in cells_of(read):
        results(folders.of(cell).results, cell.setting, {cell.task: VALUES[cell.setting]})
    return main(["collect", str(path), "--format", "json"])


@pytest.mark.parametrize(
    ("more", "pools", "test"),
    [
        ({"metrics": ["exact_match"]}, [], "exact McNemar test"),
        ({"groups": {"two": ["a", "b"]}}, ["two"], "exact McNemar test"),
        ({"cluster": "story"}, [], "sign-flip test over clusters"),
    ],
)
def test_a_study_says_how_it_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], pools: list[str], test: str
) -> None:
    assert collected(tmp_path, more) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["pool"]["name"] for row in rows} == {"a", "b", "c", "all tasks", *pools}
    assert {row["difference"]["test"] for row in rows if row["run"] == "pair"} == {test}
    assert {row["run"] for row in rows if row["difference"] is None} == {"base"}


def test_only_the_metrics_of_the_study_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collected(tmp_path, {"metrics": ["f1"]}) == 1
    assert "no task has any of the requested metrics" in capsys.readouterr().err
