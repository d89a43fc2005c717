"""The tables of decisions by probability, made from the committed results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page_tables import load, table

from harness_ext.analysis.statistics.intervals import share_interval

DECISIONS = """\
## What are verdicts by probability worth?

    HARNESS_EXT_DATA=<folder> python benchmarks/decisions.py --student <spec> --teacher <spec> --limit 60 \\
        --ways text auto --output benchmarks/results/decisions.json

Qwen2.5-Coder-1.5B-Instruct as the teacher of the 0.5B model on GSM8K, both in 4 bits on llama.cpp's server, with one
refinement. `text` is the written review, `auto` the probability of its opening, which at 0.5 decides as the written
review does; `calibrated` uses slope and offset fitted on as many training questions. `AUROC` is how well the
probabilities separate right drafts from wrong ones (0.5: not at all), with 95 % intervals. A teacher that accepts
nearly everything becomes one that rejects nearly everything, and its acceptances are worth more; but this student
makes nothing of its hints, so the score stays as it was and the run costs more.
"""

SMOLLM2 = """\
## Verdicts of a very small model

    HARNESS_EXT_DATA=<folder> python benchmarks/decisions.py --student <spec> --teacher <spec> --limit 200 \\
        --task creak_cot --ways text auto --no_calibration --output benchmarks/results/decisions_smollm2.json

SmolLM2-135M-Instruct as student and teacher on CREAK, on llama.cpp's server. Its written reviews hardly ever have a
verdict. Decided verdicts always exist: by probability, and by a forced choice where neither opening is among the
likeliest tokens, which writes a few. They show that the model knows nothing about which drafts are right.
"""

HOSTILE = """\
## Do hostile drafts move the verdict?

    python benchmarks/hostile_drafts.py --task babi_stories --limit 100 \\
        --output benchmarks/results/hostile_drafts_embedded.json

Each draft is judged as it is and with hostile text. `shift` is the mean change of the probability that the draft is
right, for right and for wrong drafts, and `wrong accepted` how many wrong drafts are accepted at 0.5 before and after.
`no probability` counts drafts that did not fit, or whose verdict was a forced choice. The same on SmolLM2:

    HARNESS_EXT_DATA=<folder> python benchmarks/hostile_drafts.py --task creak_cot --limit 20 \\
        --student <spec> --teacher <spec> --output benchmarks/results/hostile_drafts_smollm2.json
"""

GPU = """\
## On a GPU: two seats, four bits, and verdicts that are decided or written

    python benchmarks/gpu.py --output benchmarks/results/gpu.json

The built-in pair on the stories, both seats on one GPU, and then a model of the shape of Qwen2.5-1.5B with random
weights in bfloat16, which costs what the real one does: verdicts per second when they are decided, and when a review
of a fixed length is written.
"""


def decisions_part(name: str) -> str:
    """Return the runs of `benchmarks/decisions.py`: accuracy, acceptance, probabilities and the teacher's cost."""
    result = load(name)
    rows = [_run(label, run) for label, run in result["runs"].items() if "refused" not in run]
    refused = [f"`{label}`: {run['refused']}\n" for label, run in result["runs"].items() if "refused" in run]
    fitted = [
        f"Calibration of `{key.removeprefix('calibration of ')}`: slope {c['slope']:.2f}, offset {c['offset']:+.2f}, "
        f"fitted on {c['rows']} verdicts, {c['right']} of them about right drafts.\n"
        for key, c in result.items()
        if key.startswith("calibration of ")
    ]
    return "\n".join([table(rows), *refused, *fitted])


def _run(label: str, run: Mapping[str, Any]) -> dict[str, Any]:
    accepted = run["acceptance"] or {}
    found = run["probabilities"] or {}
    right, wrong = (accepted.get(f"accepted_{kind}", 0) for kind in ("right", "wrong"))
    rights, wrongs = (accepted.get(f"rejected_{kind}", 0) + n for kind, n in (("right", right), ("wrong", wrong)))
    spent = run["teacher"]["total"]
    return {
        "verdict": label,
        "drafts right": f"{run['first_draft']:.3f}",
        "final": _share(round(run["final"] * run["rows"]), run["rows"]),
        "accepted right": f"{right} of {rights}",
        "accepted wrong": f"{wrong} of {wrongs}",
        "accepted are right": _share(right, right + wrong),
        "malformed": run["reviews"]["malformed"],
        "AUROC": _estimate(found.get("auroc")),
        "Brier": _estimate(found.get("brier")),
        "teacher reads": spent["prompt_tokens"],
        "teacher writes": spent["completion_tokens"],
    }


def _share(part: int, whole: int) -> str:
    """Return a share with its exact 95 % interval (Clopper and Pearson)."""
    if not whole:
        return ""
    interval = share_interval(part, whole)
    return f"{part / whole:.2f} ({interval.low:.2f}–{interval.high:.2f})"


def _estimate(found: Any) -> str:
    if not found or found.get("value") is None:
        return ""
    if found["low"] is None:
        return f"{found['value']:.2f} (no interval: {found['reason']})"
    return f"{found['value']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def hostile_part() -> str:
    """Return the shifts of both models, one table per kind of question."""
    parts = []
    for name, title in (("embedded", "The embedded pair"), ("smollm2", "SmolLM2-135M-Instruct")):
        result = load(f"hostile_drafts_{name}.json")
        for way in ("auto", "decision"):
            rows = [
                {
                    "the draft": attack,
                    "shift, right": _signed(found["shift_right"]),
                    "shift, wrong": _signed(found["shift_wrong"]),
                    "wrong accepted": f"{found['wrong_accepted_before']} → {found['wrong_accepted_after']} "
                    f"of {found['wrong']}",
                    "no probability": found["without_probability"] or "",
                }
                for attack, found in result[f"verdict={way}"].items()
            ]
            parts.append(f"{title}, `verdict={way}`:\n\n{table(rows)}")
    return "\n".join(parts)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def gpu_part() -> str:
    """Return the two tables of `benchmarks/gpu.py`."""
    result = load("gpu.json")
    stories = [
        {
            "seats": row["seats"],
            "verdict": row["verdict"],
            "questions": row["questions"],
            "exact match": f"{row['exact_match']:.3f}",
            "seconds": row["seconds"],
            "teacher's seconds": row["teacher_seconds"],
            "teacher reads": row["teacher"]["prompt_tokens"],
            "teacher writes": row["teacher"]["completion_tokens"],
        }
        for row in result["stories"]
    ]
    return f"{table(stories)}\n{table(result['verdicts'])}\nGPU: {result['gpu']}.\n"
