"""The first drafts and final replies on every task of `babi_reasoning`, scored by `harness-ext score`.

    lm_eval --model feedback_pair --tasks babi_reasoning --limit 100 --model_args run_dir=feedback_pair
    lm_eval --model skyline --tasks babi_reasoning --limit 100 --model_args run_dir=skyline
    python benchmarks/babi_tasks.py feedback_pair skyline --output benchmarks/results/babi_tasks.json

The score of the first drafts of `feedback_pair` is that of the student alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from measured import embedded, publish_measured

from harness_ext.analysis.scoring.score import score_run

METRIC = "exact_match,none"


def figures(run: Path) -> dict[int, dict[str, Any]]:
    """Return the exact match on each task of a run, by the task's number."""
    tasks = score_run(run)["tasks"]
    return {int(name.rpartition("_")[2]): {"rows": t["documents"], **t["metrics"][METRIC]} for name, t in tasks.items()}


def rows(pair: dict[int, dict[str, Any]], teacher: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of both runs by task."""
    return [
        {
            "task": number,
            "rows": pair[number]["rows"],
            "first_draft": pair[number]["first_draft"],
            "final": pair[number]["final"],
            **{name: pair[number]["flips"][name] for name in ("wrong_to_right", "right_to_wrong")},
            "teacher": teacher[number]["final"] if number in teacher else None,
        }
        for number in sorted(pair)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pair", type=Path, help="run directory of feedback_pair")
    parser.add_argument("teacher", type=Path, help="run directory of skyline")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    for run in (args.pair, args.teacher):
        if not json.loads((run / "config.json").read_text(encoding="utf-8"))["demonstration_pair"]:
            parser.error(f"{run} is not a run of the embedded pair: start it without naming models")
    publish_measured({"rows": rows(figures(args.pair), figures(args.teacher))}, args.output, embedded())


if __name__ == "__main__":
    main()
