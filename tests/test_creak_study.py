"""The functions of the CREAK study. The study itself is run by hand."""

from __future__ import annotations

from pathlib import Path

import creak_study
import pytest
from tasks_support import RuleLM, evaluate, task_manager, write_rows


def test_training_rows_equal_the_requests_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    rows = [{"sentence": "A violin has strings.", "label": "true"}, {"sentence": "Snails run.", "label": "false"}]
    write_rows(tmp_path / "creak", train=rows, validation=rows)
    shown = creak_study.training_rows(None)
    lm = RuleLM()
    evaluate(lm, task_manager(), "creak")
    asked = [r.args for r in lm.asked]
    assert [(row["prompt"], row["completion"]) for row in shown] == [asked[0], asked[3]]
    assert len(creak_study.training_rows(1)) == 1


def test_an_accuracy_has_an_interval() -> None:
    found = creak_study.figure([True, False] * 50)
    assert (found["accuracy"], found["right"], found["rows"]) == (0.5, 50, 100)
    assert found["interval"] == pytest.approx({"low": 0.3983, "high": 0.6017}, abs=1e-4), "Clopper and Pearson"
    perfect = creak_study.figure([True] * 10)["interval"]
    assert perfect["low"] < perfect["high"] == 1


def test_the_trained_model_is_compared_row_by_row() -> None:
    found = creak_study.difference([True] * 5 + [False] * 10, [True] * 15)
    assert (found["up"], found["down"], found["test"]) == (10, 0, "exact McNemar test")
    assert found["p_value"] == 2 / 2**10
