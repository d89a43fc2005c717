"""Helpers of the tests of `compare`: reading runs, and what the command prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.compare.command import main
from harness_ext.analysis.compare.comparison import Comparison, ComparisonRow, compare
from harness_ext.analysis.compare.matching import match
from harness_ext.analysis.compare.runs import Run
from harness_ext.analysis.compare.sources import read_runs
from harness_ext.analysis.scoring.score import score_run


def never(run: Path) -> None:
    raise AssertionError(f"{run} has been scored already")


def read(*arguments: Any) -> list[Run]:
    return read_runs([str(argument) for argument in arguments], never)


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """Return what the command prints as JSON."""
    assert main([*map(str, arguments), "--format", "json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


SEEDS = {"random_seed": 0, "numpy_seed": 1, "torch_seed": 2, "fewshot_seed": 3}


def results(
    folder: Path, model: str, tasks: Mapping[str, Sequence[Any]], time: str = "2026-01-01T00-00-00.5", **more: Any
) -> Path:
    """Write a results file and samples as lm-eval does. `tasks` has one value, or `(doc_id, value)`, per document."""
    metric, aggregation = more.pop("metric", "exact_match"), more.pop("aggregation", "mean")
    seeds, groups = more.pop("seeds", SEEDS), more.pop("groups", {})
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "configs": {t: {"metric_list": [{"metric": metric, "aggregation": aggregation}]} for t in tasks},
        "config": {"model": model, "model_args": {"pretrained": f"org/{model}"}, **seeds},
        "results": {t: {} for t in tasks}, "higher_is_better": {t: {metric: True} for t in tasks},
        "group_subtasks": groups, "n-shot": dict.fromkeys(tasks, more.pop("shots", 0)),
        "versions": dict.fromkeys(tasks, 1),
    }  # fmt: skip
    path = folder / f"results_{time}.json"
    path.write_text(json.dumps(content))
    for task, values in tasks.items():
        pairs = [v if isinstance(v, tuple) else (i, v) for i, v in enumerate(values)]
        lines = [
            {
                "doc_id": i, "doc": {"q": i, "story": i // 2}, "target": "Answer: 7", "doc_hash": f"{task}-{i}",
                "resps": [["x"]], "filter": "none", "metrics": [metric], metric: value, **more,
            }
            for i, value in pairs
        ]  # fmt: skip
        (folder / f"samples_{task}_{time}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def compared(*arguments: Any, **more: Any) -> Comparison:
    runs = read_runs([str(a) for a in arguments], never)
    return compare(runs, match(runs), **more)


def only(comparison: Comparison, run: str, pool: str = "t") -> ComparisonRow:
    (row,) = [r for r in comparison.rows if r.run == run and r.pool.name == pool]
    return row


def pair_of_runs(tmp_path: Path) -> tuple[Path, Path]:
    """Return a baseline, and a pair that reuses its drafts, adds a review and gains two questions."""
    drafts = [said("student", "draft", ROWS[i]["a"] if i < 4 else "x", tokens=10) for i in range(8)]
    base = write_run(tmp_path / "base", *(transcript(i, d) for i, d in enumerate(drafts)), label="baseline")
    review = said("teacher", "review", "Incorrect.", tokens=30, accepted=False)
    pair = write_run(
        tmp_path / "pair",
        *(
            transcript(
                i, replace(drafts[i], reused=True), review,
                said("student", "refine", ROWS[i]["a"] if i < 6 else "y", tokens=20),
            )
            for i in range(8)
        ),
    )  # fmt: skip
    for run in (base, pair):
        score_run(run, manager=manager_of(make_task()))
    return base, pair
