"""`harness-ext compare`: reading, matching, figures, and output formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare_support import SEEDS, compared, never, only, pair_of_runs, results
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.clustering import ClusterError
from harness_ext.analysis.compare.command import main
from harness_ext.analysis.compare.comparison import compare
from harness_ext.analysis.compare.matching import match
from harness_ext.analysis.compare.rendering import as_csv, as_json, as_markdown
from harness_ext.analysis.compare.runs import CompareError, Run
from harness_ext.analysis.compare.sources import read_runs
from harness_ext.analysis.scoring.score import score_run


def test_lm_evals_own_files_are_read(tmp_path: Path) -> None:
    """Files that lm-eval itself writes match the run directory of the same run."""
    from lm_eval.evaluator import evaluate
    from lm_eval.loggers import EvaluationTracker

    from harness_ext.backends.scripted import ScriptedBackend
    from harness_ext.models.baseline import BaselineLM

    lm = BaselineLM(
        student=ScriptedBackend(lambda p: "6", name="s"), store="off", run_dir=tmp_path / "run", progress="off"
    )
    found = evaluate(lm, {"sums": make_task()}, bootstrap_iters=0)
    found["config"] = {"model": "baseline", "model_args": {}, **lm.get_model_info(), **SEEDS}
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    tracker.general_config_tracker.model_name_sanitized = "baseline"
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=dict(found), samples=samples)
    tracker.save_results_samples("sums", samples["sums"])
    score_run(tmp_path / "run", manager=manager_of(make_task()))
    comparison = compared(f"lm_eval={tmp_path / 'out'}", f"ours={tmp_path / 'run'}")
    theirs, ours = only(comparison, "lm_eval", "sums"), only(comparison, "ours", "sums")
    assert theirs.value == ours.value == 1 / 8
    assert theirs.number == 8
    assert theirs.cost == ours.cost, (
        "lm-eval's results name the run directory, which contains the cost of each question"
    )
    assert ours.difference is not None
    assert (ours.difference.value, ours.difference.p_value) == (0.0, 1.0)


def test_flips_and_tests_of_two_runs(tmp_path: Path) -> None:
    results(tmp_path / "a", "a", {"t": [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]})
    results(tmp_path / "b", "b", {"t": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]})
    row = only(compared(tmp_path / "a", tmp_path / "b"), "b")
    d = row.difference
    assert d is not None
    assert (row.value, d.value, d.up, d.down, d.test) == (0.9, pytest.approx(0.6), 7, 1, "exact McNemar test")
    assert d.p_value == pytest.approx(0.0703125), "scipy.stats.binomtest(7, 8)"
    assert row.interval.low < 0.9 < row.interval.high
    assert d.interval.low < 0.6 < d.interval.high


def test_holm_counts_the_runs(tmp_path: Path) -> None:
    for name, values in {"a": [0] * 10, "b": [1] * 8 + [0, 0], "c": [1] * 6 + [0] * 4, "d": [0] * 10}.items():
        results(tmp_path / name, name, {"t": values})
    comparison = compared(*(tmp_path / n for n in "abcd"))
    found = [r.difference for r in comparison.rows if r.difference]
    assert [d.adjusted for d in found] == pytest.approx([3 * 2 / 2**8, 2 * 2 / 2**6, 1.0])


def test_unmatched_questions_are_an_error_unless_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results(tmp_path / "a", "a", {"t": [(0, 1), (1, 1), (2, 0)], "u": [1]})
    other = results(tmp_path / "b", "b", {"t": [(0, 1), (1, 0), (3, 1)]})
    changed = (tmp_path / "b" / other.name.replace("results", "samples_t")).with_suffix(".jsonl")
    changed.write_text(changed.read_text().replace('"t-1"', '"other"'))
    arguments = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(arguments) == 2
    said_ = capsys.readouterr().err
    assert "1 documents of a differ in other runs (doc_id 1)" in said_
    assert "1 documents of a are not in every run (doc_id 2)" in said_
    assert "u: not in b" in said_
    assert main([*arguments, "--drop_unmatched", "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert "u: not in b" in captured.err
    assert [row["n"] for row in csv.DictReader(io.StringIO(captured.out))] == ["1", "1"]
    results(tmp_path / "c", "c", {"v": [1]})
    assert main([str(tmp_path / "a"), str(tmp_path / "c"), "--drop_unmatched"]) == 1
    assert "no question in common" in capsys.readouterr().err


def test_the_newest_result_wins_and_repeats_are_averaged(tmp_path: Path) -> None:
    results(tmp_path / "a", "a", {"t": [0, 0, 0, 0]}, "2026-01-01T00-00-00.5")
    results(tmp_path / "a", "a", {"t": [1, 1, 0, 0]}, "2026-01-02T00-00-00.5")
    comparison = compared(tmp_path / "a")
    assert only(comparison, "a").value == 0.5
    assert any("replaces" in note for note in comparison.notes)
    results(tmp_path / "a", "a", {"t": [0, 1, 1, 0]}, "2026-01-03T00-00-00.5", seeds={**SEEDS, "torch_seed": 9})
    comparison = compared(tmp_path / "a")
    assert only(comparison, "a").value == 0.5
    runs = read_runs([str(tmp_path / "a")], never)
    assert [len(v) for v in runs[0].tasks["t"].metrics["exact_match,none"].values.values()] == [2] * 4
    assert any("mean of 2 repeats" in note for note in comparison.notes)


def test_several_models_in_one_folder_are_several_runs(tmp_path: Path) -> None:
    """lm-eval writes the results of all models without a name into one folder."""
    for day, model in enumerate(["a", "b"], start=1):
        results(tmp_path, model, {"t": [1, 0]}, f"2026-01-0{day}T00-00-00.5")
    assert [run.label for run in read_runs([str(tmp_path)], never)] == ["a", "b"]
    with pytest.raises(CompareError, match="different models"):
        read_runs([f"x={tmp_path}"], never)


def test_results_with_different_settings_are_not_repeats(tmp_path: Path) -> None:
    results(tmp_path, "a", {"t": [1]}, "2026-01-01T00-00-00.5")
    results(tmp_path, "a", {"t": [1]}, "2026-01-02T00-00-00.5", shots=5, seeds={**SEEDS, "torch_seed": 9})
    with pytest.raises(CompareError, match="different settings"):
        read_runs([str(tmp_path)], never)


def test_groups_have_mean_and_deviation_over_tasks(tmp_path: Path) -> None:
    tasks = {"t": [1, 1, 1, 1], "u": [1, 0]}
    results(tmp_path / "a", "a", tasks, groups={"g": ["t", "u"]})
    results(tmp_path / "b", "b", {"t": [1, 1, 1, 0], "u": [1, 1]})
    row = only(compared(tmp_path / "a", tmp_path / "b"), "a", "g")
    assert (row.number, row.value) == (6, pytest.approx(5 / 6))
    assert (row.task_mean, row.task_deviation) == (0.75, pytest.approx(0.25 * 2**0.5))
    named = compared(tmp_path / "a", tmp_path / "b", groups={"mine": ["u", "t"]})
    assert only(named, "b", "mine").task_mean == pytest.approx(0.875)
    with pytest.raises(CompareError, match="--group mine: the comparison does not include v"):
        compared(tmp_path / "a", groups={"mine": ["u", "v"]})
    part = read_runs([str(tmp_path / "a")], never)
    assert any("group g is not shown" in note for note in compare(part, match(part, ["t"])).notes)


def test_two_way_tasks_are_pooled_separately(tmp_path: Path) -> None:
    results(tmp_path / "a", "a", {"t": [1, 0]})
    results(tmp_path / "a", "a", {"y": [1, 1]}, "2026-01-02T00-00-00.5", target="Answer: yes")
    results(tmp_path / "a", "a", {"z": [1, 1]}, "2026-01-03T00-00-00.5", target="no")
    pools = {row.pool.name: row.pool.two_way for row in compared(tmp_path / "a").rows}
    assert pools == {"t": False, "y": True, "z": True, "all tasks": False, "two-way tasks": True}


def test_graded_metrics_are_tested_by_sign_flips_with_optional_clusters(tmp_path: Path) -> None:
    results(tmp_path / "a", "a", {"t": [0.5, 0.25, 0, 0.5, 1, 0, 0, 0.5] * 3})
    results(tmp_path / "b", "b", {"t": [1, 0.75, 0.5, 0.5, 1, 0.5, 0, 1] * 3})
    plain = only(compared(tmp_path / "a", tmp_path / "b"), "b").difference
    grouped = only(compared(tmp_path / "a", tmp_path / "b", cluster="story"), "b").difference
    template = only(compared(tmp_path / "a", tmp_path / "b", cluster="{{q // 2}}"), "b").difference
    assert plain is not None
    assert grouped is not None
    assert (plain.test, plain.p_value < 0.01) == ("sign-flip test", True)
    assert (grouped.test, grouped.value) == ("sign-flip test over clusters", plain.value)
    assert grouped == template
    assert grouped.interval != plain.interval
    with pytest.raises(ClusterError, match="no such field; their fields are: q, story"):
        compared(tmp_path / "a", cluster="author")


def test_metrics_of_all_questions_at_once(tmp_path: Path) -> None:
    """lm-eval's median has no value per question. A custom aggregation is left out with a note."""
    results(tmp_path / "a", "a", {"t": [1, 2, 30, 4, 5]}, metric="words", aggregation="median")
    results(tmp_path / "b", "b", {"t": [2, 3, 40, 5, 6]}, metric="words", aggregation="median")
    row = only(compared(tmp_path / "a", tmp_path / "b"), "b")
    assert row.value == 5
    assert row.difference is not None
    assert row.difference.value == 1
    results(tmp_path / "c", "c", {"t": [[1, 2], [2, 3]]}, metric="words", aggregation="def own(items): ...")
    comparison = compared(tmp_path / "c")
    assert comparison.rows == ()
    assert "left out" in comparison.notes[0]


def test_each_run_is_charged_what_it_would_have_cost_alone(tmp_path: Path) -> None:
    comparison = compared(*pair_of_runs(tmp_path))
    base, pair = only(comparison, "baseline", "sums"), only(comparison, "pair", "sums")
    assert base.cost is not None
    assert pair.cost is not None
    assert (base.cost.calls, base.cost.completion_tokens, base.cost.flops) == (1, 10, 2 * 1000 * 20)
    assert (pair.cost.calls, pair.cost.reused) == (3, 1)
    assert pair.cost.completion_tokens == 60, "the reused draft counts"
    assert pair.cost.flops == 2 * 1000 * (20 + 40) + 2 * 5000 * 60
    assert pair.cost.price is None, "the student has no price: unknown, not 0"
    assert pair.cost.seconds == 1.5


def test_value_at_equal_cost(tmp_path: Path) -> None:
    """At the pair's cost, the best alternative is a mix of the two other runs."""
    base, pair = pair_of_runs(tmp_path)
    costly = write_run(
        tmp_path / "costly",
        *(transcript(i, said("student", "draft", ROWS[i]["a"], tokens=210)) for i in range(8)),
        label="costly",
    )
    score_run(costly, manager=manager_of(make_task()))
    comparison = compared(base, pair, costly)
    equal = only(comparison, "pair", "sums").equal_cost["output tokens"]
    assert equal.cost == 60
    assert equal.value == pytest.approx(0.75 * 0.5 + 0.25 * 1.0)
    assert equal.of == "baseline 75%, costly 25%"
    assert equal.difference == pytest.approx(0.75 - 0.625)
    assert "output tokens" not in only(comparison, "baseline", "sums").equal_cost, "all others cost more"
    assert only(comparison, "costly", "sums").equal_cost["output tokens"].of == "pair"


def test_all_formats_show_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, pair = pair_of_runs(tmp_path)
    comparison = compared(base, f"a|b\x1b[31m<i>={pair}")
    rows = json.loads(as_json(comparison))["rows"]
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert [float(line["value"]) for line in lines] == [row["value"] for row in rows] == [0.5, 0.75]
    assert float(lines[1]["difference_low"]) == rows[1]["difference"]["interval"]["low"]
    markdown = as_markdown(comparison)
    assert "| a\\|b&lt;U+001B>[31m&lt;i> | 8 | 0.750" in markdown
    outputs = [tmp_path / f"out.{ending}" for ending in ("md", "csv", "json")]
    arguments = [str(base), f"pair={pair}", *(a for o in outputs for a in ("--output", str(o)))]
    assert main([*arguments, "--reference", "pair"]) == 0
    printed = capsys.readouterr().out
    assert "Reference: pair;" in printed
    assert "\x1b" not in printed
    assert all(o.stat().st_size for o in outputs)
    assert main([*arguments, "--reference", "nobody"]) == 1
    with pytest.raises(SystemExit):
        main([str(base), "--output", "out.xlsx"])


def test_a_run_without_scores_is_scored_on_the_fly(tmp_path: Path) -> None:
    base, pair = pair_of_runs(tmp_path)
    (base / "scores.json").unlink()
    write_run(pair, transcript(0, said("student", "draft", "0"), question="asked again"))
    scored: list[Path] = []

    def score(run: Path) -> None:
        scored.append(run)
        if run == base:
            score_run(run, manager=manager_of(make_task()))

    with pytest.raises(CompareError, match="could not be scored"):
        read_runs([str(base), str(pair)], score)
    assert scored == [base, pair], "missing, and older than the transcripts"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda p: None, "is neither a folder"),
        (lambda p: p.mkdir(), "contains neither lm-eval results"),
        (lambda p: [f.unlink() for f in results(p, "a", {"t": [1]}).parent.glob("samples*")], "--log_samples"),
        (lambda p: results(p, "a", {"t": [1]}).write_text("{"), "cannot be read"),
        (
            lambda p: next(results(p, "a", {"t": [1]}).parent.glob("samples*")).write_text("[]\n"),
            "is not a sample of lm-eval",
        ),
    ],
)
def test_unreadable_sources_are_reported(tmp_path: Path, prepare: Callable[[Path], Any], words: str) -> None:
    prepare(tmp_path / "x")
    with pytest.raises(CompareError, match=words):
        read_runs([str(tmp_path / "x")], never)


def test_runs_with_the_same_name_are_numbered(tmp_path: Path) -> None:
    base, pair = pair_of_runs(tmp_path)
    (pair / "config.json").write_text(
        (pair / "config.json").read_text().replace('"label": "pair"', '"label": "baseline"')
    )
    labels: list[Run] = read_runs([str(base), str(pair)], never)
    assert [run.label for run in labels] == ["baseline", "baseline #2"]
