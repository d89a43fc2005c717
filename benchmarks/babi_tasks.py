"""The first drafts and final replies on every task of `babi_reasoning`, scored by `harness-ext score`.

    lm_eval --model feedback_pair --tasks babi_reasoning --limit 100 --model_args run_dir=feedback_pair
    lm_eval --model skyline --tasks babi_reasoning --limit 100 --model_args run_dir=skyline
    python benchmarks/babi_tasks.py feedback_pair skyline --output benchmarks/results/babi_tasks.md

The score of the first drafts of `feedback_pair` is that of the student alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from harness_ext.analysis.scoring.score import score_run

METRIC = "exact_match,none"


def figures(run: Path) -> dict[int, dict[str, Any]]:
    """Return the exact match on each task of a run, by the task's number."""
    tasks = score_run(run)["tasks"]
    return {int(name.rpartition("_")[2]): {"rows": t["documents"], **t["metrics"][METRIC]} for name, t in tasks.items()}


def table(pair: dict[int, dict[str, Any]], teacher: dict[int, dict[str, Any]]) -> str:
    """Return the scores of both runs by task, as a Markdown table."""
    lines = [
        "| task | rows | student (first draft) | feedback_pair | wrong to right | right to wrong | teacher |",
        "| --- " * 7 + "|",
    ]
    for number in sorted(pair):
        one, flips = pair[number], pair[number]["flips"]
        alone = f"{teacher[number]['final']:.2f}" if number in teacher else "?"
        shares = (f"{one['first_draft']:.2f}", f"{one['final']:.2f}")
        cells = (number, one["rows"], *shares, flips["wrong_to_right"], flips["right_to_wrong"], alone)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pair", type=Path, help="run directory of feedback_pair")
    parser.add_argument("teacher", type=Path, help="run directory of skyline")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    text = table(figures(args.pair), figures(args.teacher))
    print(text, end="")
    if args.output:
        args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
