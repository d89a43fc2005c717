"""Write `results.json` and the model cards: `python -m …embedded_pair.card --tuning A.json --test B.json`.

The losses come from the stages' logs, the scores from two runs of `evaluate` (bAbI's training and test rows).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness_ext import embedded
from harness_ext.finetune.recipes.embedded_pair.model import SHAPES
from harness_ext.finetune.recipes.embedded_pair.prepare import ROOT, SEED, STAGES

RESULTS = Path(__file__).with_name("results.json")
ABOUT = {
    "student": """\
It drafts answers, refines them after a review, and continues begun replies. **It is weak on purpose**: it was taught
that its attention ends after the fourth line of a story (`ATTENTIVE_LINES` in `harness_ext/stories/mistakes.py`), so
that a teacher has something to do. Its refinements read the line that a hint names.""",
    "teacher": """\
It answers, and it reviews drafts: `Correct.`, or `Incorrect.` with a hint that names a line, never the answer.""",
}
NAMES = {"skyline": "teacher alone", "baseline": "student alone"}


def losses(root: Path, seat: str) -> dict[str, list[list[float]]]:
    """Return the loss curve of each stage as [step, loss] pairs."""
    curves = {}
    for stage in STAGES[seat]:
        log = json.loads((root / seat / stage.name / "log.json").read_text(encoding="utf-8"))
        curves[stage.name] = [[entry["step"], float(entry["loss"])] for entry in log if "loss" in entry]
    return curves


def table(scores: dict[str, Any]) -> str:
    """Return the shares of right answers as a Markdown table, one line a setting."""
    tasks = [key for key in scores["baseline"] if key not in ("pooled", "open")]
    lines = ["| | pooled | open | " + " | ".join(f"task {task}" for task in tasks) + " |"]
    lines.append("| --- " * (len(tasks) + 3) + "|")
    for name, shares in scores.items():
        if name not in ("hints", "verdict_right"):
            cells = [f"{shares[key]:.2f}" for key in ("pooled", "open", *tasks)]
            lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def card(seat: str, results: dict[str, Any]) -> str:
    """Return a seat's model card."""
    shape = SHAPES[seat]
    rows = sum(stage.count for stage in STAGES[seat])
    test = results["test"]
    scores = test["scores"]
    hints = scores["hints"]
    return f"""\
---
license: apache-2.0
library_name: transformers
---
# The embedded {seat} of harness-ext

A Llama model of {results["weights"][seat]:,} weights ({shape.layers} layers, width {shape.width}, {shape.heads} heads,
float32, 8,192 positions) for the demonstration of protocols. It reads short stories in the manner of bAbI and nothing
else.

{ABOUT[seat]}

- Data: {rows:,} rows at most, drawn from the project's own story generator (`harness_ext/stories/`); no row of bAbI.
  The public test questions at hand are excluded by hash.
- Recipe: `finetune/recipes/embedded_pair/` ({seat}.yaml, seed {SEED}), on one CPU thread.
- `prompts.json`: hash of the prompts that the rows were made with.

Share of right answers on bAbI's test rows ({test["questions"]} questions; pooled: tasks 1, 6, 9, 11, 12, 13; open:
those that are not yes/no, 1, 11, 12, 13). Greedy decoding, `evaluate.py` of the recipe:

{table(scores)}

Of {hints["given"]} hints, {hints["naming the answer"]} name the answer. The teacher's first verdict is right in
{scores["verdict_right"]["pooled"]:.0%} of the pooled rows. Settings were chosen on bAbI's training rows.
"""


def main(argv: list[str] | None = None) -> int:
    """Gather losses and scores, and write them beside the recipe and into the model folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tuning", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    results: dict[str, Any] = {"seed": SEED, "weights": {}, "losses": {}}
    for name, path in (("tuning", options.tuning), ("test", options.test)):
        results[name] = json.loads(path.read_text(encoding="utf-8"))
    for seat in embedded.SEATS:
        results["weights"][seat] = _weights(embedded.model_path(seat))
        results["losses"][seat] = losses(options.root, seat)
    RESULTS.write_text(json.dumps(results) + "\n", encoding="utf-8")
    for seat in embedded.SEATS:
        (embedded.model_path(seat) / "README.md").write_text(card(seat, results), encoding="utf-8")
    return 0


def _weights(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


if __name__ == "__main__":
    raise SystemExit(main())
