"""The table of decision teachers, made from the committed results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page_tables import load, table

TEACHER = """\
## Can a very small model learn to decide?

    HARNESS_EXT_DATA=<folder> python benchmarks/decision_teacher.py smollm2 --dtype bfloat16 \\
        --output benchmarks/results/decision_teacher.json

SmolLM2-135M-Instruct is asked whether a claim of CREAK is true, before and after it has learned
[rows of state, question and answer](finetune.md#decisions). Only training rows of CREAK are used, split by the
entity that a claim is about. Intervals (95 %) are over entities of the unseen rows.
"""

NAMES = {"auroc": "AUROC", "brier": "Brier score", "nll": "log-likelihood, negative", "ece": "calibration error"}


def teacher_part() -> str:
    """Return the figures of `benchmarks/decision_teacher.py`, before and after the training."""
    result = load("decision_teacher.json")
    rows = [
        {
            "model": {"before": "untouched", "after": "trained"}[name],
            **{title: _interval(found[key]) for key, title in NAMES.items()},
            "mean probability": f"{found['mean']:.2f}",
            "right at 0.5": f"{found['right_at_half']:.3f}",
        }
        for name, found in result["figures"].items()
    ]
    settings, parts = result["settings"], result["rows"]
    (fit,) = result["temperatures"]
    return "\n".join(
        [
            table(rows),
            f"The AUROC changed by {_interval(result['auroc_gain'], '+')}. {parts['rows']['rows']} rows were learned "
            f"({settings['adapter']}, {settings['epochs']:g} epoch(s), rate {settings['learning_rate']:g}, batches of "
            f"{settings['batch_size']}, {settings['dtype']}, {settings['threads']} CPU thread(s)); "
            f"{parts['unseen']['rows']} were unseen. The temperature of {fit['temperature']:.2f} was fitted on "
            f"{fit['rows']} other rows.\n",
        ]
    )


def _interval(estimate: Mapping[str, Any], sign: str = "") -> str:
    value = f"{estimate['value']:{sign}.3f}"
    return value if estimate["low"] is None else f"{value} [{estimate['low']:{sign}.3f}, {estimate['high']:{sign}.3f}]"
