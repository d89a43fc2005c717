"""Measures how much of what real models write can be read: answers to the reasoning tasks, votes and verdicts.

    HARNESS_EXT_DATA=<folder> python benchmarks/reading.py --student <spec> --teacher <spec> --limit 60 \\
        --output benchmarks/results/reading.json

Each model answers creak_cot, ecqa_cot and strategyqa_cot alone and without examples. The pair then runs feedback_pair
on gsm8k_cot_answer, the student debates ecqa_cot with itself and votes on creak_cot by self_consistency. The result
holds, for each run, the shares of unreadable answers and decisions, and the scores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import named, publish_measured

TASKS = ("creak_cot", "ecqa_cot", "strategyqa_cot")


def run(model: str, task: str, limit: int, arguments: dict[str, Any], sampled: bool = False) -> dict[str, Any]:
    """Run a protocol on a task and return its scores, the readability of each seat and the seconds it took.

    model: the name of the lm-eval model.
    task: the name of the task.
    limit: the number of rows.
    arguments: the model arguments.
    sampled: whether replies are sampled instead of greedy.
    """
    import lm_eval

    from harness_ext.analysis.scoring.score import score_run

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = lm_eval.simple_evaluate(
            model=model,
            model_args={**arguments, "run_dir": folder, "store": "off"},
            tasks=[task],
            limit=limit,
            apply_chat_template=True,
            bootstrap_iters=0,
            gen_kwargs="do_sample=True,temperature=0.7" if sampled else None,
        )
        seconds = time.perf_counter() - started
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        scored = score_run(Path(folder))["tasks"][task]["metrics"]
    found = results["results"][task]
    decisions = scored.get("exact_match,none", {})
    return {
        "model": model,
        "task": task,
        "rows": limit,
        "seconds": round(seconds),
        **{name: round(found[f"{name},none"], 4) for name in ("exact_match", "unparsable") if f"{name},none" in found},
        "readability": summary["readability"],
        **{name: decisions[name] for name in ("acceptance", "conformity") if name in decisions},
        "fingerprints": {seat: facts["fingerprint"] for seat, facts in config["identity"]["seats"].items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", required=True, help="a seat's specification, such as openai:<model>@<base url>")
    parser.add_argument("--teacher", required=True, help="likewise")
    parser.add_argument("--limit", type=int, default=60, help="rows per task")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    runs = []
    pair = {"student": args.student, "teacher": args.teacher}
    two = f"[{args.student},{args.student}]"
    plan: list[tuple[str, str, dict[str, Any], bool]] = [
        *(("baseline", task, {"student": args.student}, False) for task in TASKS),
        *(("skyline", task, {"teacher": args.teacher}, False) for task in TASKS),
        ("feedback_pair", "gsm8k_cot_answer", {**pair, "max_rounds": 2}, False),
        (
            "debate",
            "ecqa_cot",
            {"agents": two, "topology": "all", "max_rounds": 1},
            True,
        ),
        ("self_consistency", "creak_cot", {"student": args.student, "k": 3}, False),
    ]
    for model, task, arguments, sampled in plan:
        runs.append(run(model, task, args.limit, arguments, sampled))
        print(json.dumps(runs[-1]), flush=True)
    publish_measured({"runs": runs}, args.output, named(**pair))


if __name__ == "__main__":
    main()
