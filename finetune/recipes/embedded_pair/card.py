"""Write `results.json` and the model cards: `python -m …embedded_pair.card STUDENT --tuning A.json --test B.json`.

The losses come from the logs of the stages, the tuning scores from `held_out` on bAbI's training rows, and the test
scores from `benchmarks/embedded_pair.py`, which runs lm-eval on the test rows.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness_ext import embedded
from harness_ext.finetune.recipes.embedded_pair.held_out import JUDGED, OPEN
from harness_ext.finetune.recipes.embedded_pair.model import POSITIONS, SHAPES
from harness_ext.finetune.recipes.embedded_pair.prepare import SEED, STAGES

RESULTS = Path(__file__).with_name("results.json")
ABOUT = {
    "student": """\
It drafts answers, refines them after a review, and continues partial replies. **It is weak on purpose**: its drafts
overlook some wordings (`OVERLOOKED_VERBS` in `harness_ext/embedded/stories/mistakes.py`), so that a teacher can help.
When it refines a draft, it reads the line that the hint names.""",
    "teacher": """\
It answers questions, continues partial replies, and reviews drafts: it replies `Correct.`, or `Incorrect.` with a hint
that names a line but never the answer.""",
    "small_student": """\
It drafts answers, refines them after a review, looks at them again when asked to, and continues partial replies. It is
weak because it is small and was trained for a short time. **It was taught no mistakes**: every reply that it learned is
right. Reviews hardly help it: it rewrites its answer from the story, and seldom corrects the line that a hint
names.""",
}
# The models that a student is trained and evaluated with; the small student's teacher is the same as the student's.
TOGETHER = {"student": ("student", "teacher"), "small_student": ("small_student",)}


def learned_from(seat: str) -> str:
    """Return a sentence on the number of rows that a seat was trained on."""
    own = f"{sum(stage.count for stage in STAGES[seat]):,} rows"
    if seat != "student":
        return own
    before = sum(stage.count for stage in STAGES["teacher"][:-1])
    return f"the teacher's first {before:,} rows, then {own} of its own, all of them"


def losses(root: Path, seat: str) -> dict[str, list[list[float]]]:
    """Return the loss curve of each stage as [step, loss] pairs."""
    curves = {}
    for stage in STAGES[seat]:
        log = json.loads((root / seat / stage.name / "log.json").read_text(encoding="utf-8"))
        curves[stage.name] = [[entry["step"], float(entry["loss"])] for entry in log if "loss" in entry]
    return curves


def score_table(rows: list[dict[str, Any]]) -> str:
    """Return the shares of correct answers as a Markdown table, one line per run.

    `rows` are those of `benchmarks/embedded_pair.py`: `task`, and `right`, which maps each run to 0 or 1.
    """
    by_task = defaultdict(list)
    for row in rows:
        by_task[row["task"]].append(row["right"])
    pools = {"six tasks": JUDGED, "not yes/no": OPEN, **{f"task {task}": (task,) for task in JUDGED}}
    lines = ["| | " + " | ".join(pools) + " |", "| --- " * (len(pools) + 1) + "|"]
    for run in rows[0]["right"]:
        right = [[one[run] for task in tasks for one in by_task[task]] for tasks in pools.values()]
        lines.append(f"| {run} | " + " | ".join(f"{sum(one) / len(one):.2f}" for one in right) + " |")
    return "\n".join(lines)


def card(seat: str, weights: int, test: dict[str, Any]) -> str:
    """Return the model card of a seat.

    seat: `student` or `teacher`.
    weights: the number of weights of its model.
    test: the results of `benchmarks/embedded_pair.py`.
    """
    hints = test["summaries"]["feedback_pair"]["hints"]
    shape = SHAPES[seat]
    return f"""\
---
license: apache-2.0
library_name: transformers
---
# The embedded {seat.replace("_", " ")} of harness-ext

A Llama model with {weights:,} weights ({shape.layers} layers, width {shape.width}, {shape.heads} heads, float32,
{POSITIONS:,} positions) for demonstrating protocols. It can read short stories in the style of bAbI and nothing else.

{ABOUT[seat]}

- Data: {learned_from(seat)} drawn from the project's own story generator
  (`harness_ext/embedded/stories/`), none from bAbI. The test questions listed in `test_hashes.txt` are excluded.
- Recipe: `finetune/recipes/embedded_pair/` ({seat}.yaml, seed {SEED}), on one CPU thread.
- `prompts.json`: hash of the prompts that the rows were made with.

Share of correct answers (exact match) on bAbI's test rows with greedy decoding, measured by
`benchmarks/embedded_pair.py`. `baseline` is the student alone and `skyline` the teacher alone; `verdict only` truncates
each review to its first word. In `second look`, the student looks at its answer again without any review.

{score_table(test["rows"])}

Of {hints["rejecting_reviews"]} rejecting reviews, {hints["naming_the_answer"]} name the answer. On yes/no questions
(tasks 6 and 9), the teacher hardly ever rejects a draft. All settings were chosen on generated stories and bAbI's
training rows.
"""


def main(argv: list[str] | None = None) -> int:
    """Collect losses and scores, add them to `results.json`, and write the model cards into the model folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", choices=list(TOGETHER), help="`student` stands for the student and the teacher")
    parser.add_argument("--tuning", type=Path, required=True, help="what `held_out --json` wrote")
    parser.add_argument("--test", type=Path, required=True, help="what benchmarks/embedded_pair.py wrote")
    parser.add_argument(
        "--root", type=Path, help="the folder of the training stages; without it, losses are not changed"
    )
    options = parser.parse_args(argv)
    tuning, test = (json.loads(path.read_text(encoding="utf-8")) for path in (options.tuning, options.test))
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    results["seed"] = SEED
    results["tuning"][options.student] = tuning
    for model in TOGETHER[options.student]:
        results["weights"][model] = _weights(embedded.model_path(model))
        if options.root is not None:
            results["losses"][model] = losses(options.root, model)
        text = card(model, results["weights"][model], test)
        (embedded.model_path(model) / "README.md").write_text(text, encoding="utf-8")
    RESULTS.write_text(json.dumps(results) + "\n", encoding="utf-8")
    return 0


def _weights(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


if __name__ == "__main__":
    raise SystemExit(main())
