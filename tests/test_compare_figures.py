"""`harness-ext compare`: missing values, scales, controls at equal cost, seeds and plans."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compare_support import SEEDS, compared, only, pair_of_runs, results
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.compare.command import main
from harness_ext.analysis.compare.rendering import as_markdown
from harness_ext.analysis.compare.runs import CompareError
from harness_ext.analysis.planning.command import main as plan_main
from harness_ext.analysis.scoring.score import score_run


def test_values_that_are_no_numbers_are_counted_and_excluded(tmp_path: Path) -> None:
    """NaN is neither 0 nor a difference: 30 questions of which one run has no value decide nothing."""
    results(tmp_path / "a", "a", {"t": [0.5] * 40})
    results(tmp_path / "b", "b", {"t": [math.nan] * 30 + [0.5] * 9 + [None]})
    comparison = compared(tmp_path / "a", tmp_path / "b")
    row = only(comparison, "b")
    assert (row.number, row.value) == (9, 0.5)
    assert row.difference is not None
    assert row.difference.p_value == 1.0
    assert (
        "t: exact_match,none is not a number for 31 of b: 31 of 40 questions are left out of all runs"
        in comparison.notes
    )
    results(tmp_path / "c", "c", {"t": [math.nan] * 40})
    assert compared(tmp_path / "a", tmp_path / "c").rows == ()


def test_a_value_above_one_does_not_change_the_scale(tmp_path: Path) -> None:
    """One reply with a score of 1.2 made intervals of ±5, because 0 to 100 was assumed."""
    random = np.random.default_rng(0)
    first = list(random.uniform(0, 1, 40))
    results(tmp_path / "a", "a", {"t": [1.2, *first]}, metric="length_ratio")
    results(tmp_path / "b", "b", {"t": [1.1, *reversed(first)]}, metric="length_ratio")
    row = only(compared(tmp_path / "a", tmp_path / "b"), "b")
    assert row.difference is not None
    assert row.interval.high - row.interval.low < 0.3
    assert row.difference.interval.high < 0.3


def test_self_consistency_is_the_control_at_equal_cost(tmp_path: Path) -> None:
    base, pair = pair_of_runs(tmp_path)
    draws = write_run(
        tmp_path / "draws",
        *(transcript(i, said("student", "draft", ROWS[i]["a"] if i < 5 else "z", tokens=110)) for i in range(8)),
        label="draws",
    )
    score_run(draws, manager=manager_of(make_task()))
    for run, protocol in ((base, "baseline"), (pair, "feedback_pair"), (draws, "self_consistency")):
        config = json.loads((run / "config.json").read_text())
        config["identity"] = {**(config.get("identity") or {}), "protocol": protocol}
        (run / "config.json").write_text(json.dumps(config))
    comparison = compared(base, pair, draws)
    assert comparison.controls == ("baseline", "draws")
    control = only(comparison, "pair", "sums").control["output tokens"]
    assert control.of == "baseline 50%, draws 50%"
    assert control.difference == pytest.approx(0.75 - (0.5 + 0.625) / 2)
    assert only(comparison, "draws", "sums").control == {}
    printed = as_markdown(comparison, "output tokens")
    assert "sums: exact_match, at equal cost in output tokens" in printed
    assert "Δ to controls (95 %)" in printed
    assert printed.count("cost per question") == 1
    chosen = compared(base, pair, draws, controls=["baseline"])
    assert only(chosen, "pair", "sums").control["output tokens"].of == "baseline"
    with pytest.raises(CompareError, match="--control nobody: the runs are"):
        compared(base, pair, controls=["nobody"])


def test_the_cost_table_comes_once_per_task(tmp_path: Path) -> None:
    base, pair = pair_of_runs(tmp_path)
    comparison = compared(base, pair)
    twice = replace(comparison, rows=(*comparison.rows, *(replace(r, metric="other,none") for r in comparison.rows)))
    assert as_markdown(twice).count("cost per question") == 1
    assert as_markdown(twice).count("Δ to reference") == 2


def test_one_run_is_a_table_of_values(tmp_path: Path) -> None:
    results(tmp_path / "a", "a", {"t": [1, 0, 1]})
    printed = as_markdown(compared(tmp_path / "a"))
    assert "Holm" not in printed
    assert "nothing to compare it with" in printed


def test_repeats_show_the_spread_between_seeds(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    for name, share in (("a", 0.4), ("b", 0.7)):
        for seed in range(3):
            values = list((random.random(50) < share + 0.1 * (seed - 1)).astype(float))
            results(tmp_path / name, name, {"t": values}, f"2026-01-0{seed + 1}T00-00-00.5",
                    seeds={**SEEDS, "torch_seed": seed})  # fmt: skip
    comparison = compared(f"a={tmp_path / 'a'}", f"b={tmp_path / 'b'}")
    row = only(comparison, "b")
    assert row.seeds is not None
    assert row.difference is not None
    assert row.difference.with_seeds is not None
    assert row.seeds.number == 3
    assert 0.03 < row.seeds.deviation < 0.3
    assert row.seeds.interval.low < row.interval.low
    assert row.difference.with_seeds.high > row.difference.interval.high
    assert "sd of seeds" in as_markdown(comparison)


def test_a_plan_says_what_was_planned_and_what_is_exploratory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, values in {"a": [0] * 40, "b": [1] * 12 + [0] * 28, "c": [1] * 3 + [0] * 37}.items():
        results(tmp_path / name, name, {"t": values})
    plan = tmp_path / "plan.json"
    arguments = ["--baseline", "0.2", "--gain", "0.3", "--task", "t", "--metric", "exact_match", "--run", "b"]
    assert plan_main([*arguments, "--reference", "a", "--output", str(plan)]) == 0
    capsys.readouterr()
    runs = [f"{name}={tmp_path / name}" for name in ("b", "a", "c")]
    assert main([*runs, "--plan", str(plan), "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "Reference: a" in printed, "the plan's reference"
    assert "exploratory" in printed
    assert main([*runs, "--plan", str(plan), "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    found = {row["run"]: row["difference"] for row in content["rows"] if row["difference"]}
    assert found["b"]["planned"] is True
    assert found["b"]["planned_p"] == pytest.approx(2 * 0.5**12)
    assert found["b"]["adjusted"] == pytest.approx(2 * 2 * 0.5**12), "over all runs"
    assert (found["c"]["planned"], found["c"]["planned_p"]) == (False, None)
    assert any("a gain is shown" in note for note in content["notes"])
