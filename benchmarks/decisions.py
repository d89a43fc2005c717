"""Measures what verdicts by probability are worth: against written ones, and with a threshold fitted on other rows.

    HARNESS_EXT_DATA=<folder> python benchmarks/decisions.py --student <spec> --teacher <spec> --limit 60 \\
        --output benchmarks/results/decisions.json
    HARNESS_EXT_DATA=<folder> python benchmarks/decisions.py --student <spec> --teacher <spec> --limit 200 \\
        --task creak_cot --ways text auto --output benchmarks/results/decisions_smollm2.json

`feedback_pair` runs on test rows with one refinement, and the teacher decides in three ways: it writes its review
(`text`), by the openings of the review (`auto`), and by a yes/no question (`decision`). For the last two, a calibration
is fitted on training rows (`<task>_train`, except with `--no_calibration`), and the run is repeated with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measured import named, publish_measured

METRIC = "exact_match,none"


def run(folder: Path, name: str, task: str, limit: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run feedback_pair, score the run and return its figures. The run directory is `folder/name`."""
    import lm_eval

    from harness_ext.analysis.scoring.score import score_run

    lm_eval.simple_evaluate(
        model="feedback_pair",
        model_args={"max_rounds": 1, **arguments, "run_dir": str(folder / name), "store": str(folder / "calls")},
        tasks=[task],
        limit=limit,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    summary = json.loads((folder / name / "summary.json").read_text(encoding="utf-8"))
    scored = score_run(folder / name)["tasks"][task]["metrics"][METRIC]
    teacher = summary["usage"]["teacher"]
    return {
        "rows": limit,
        **{key: scored[key] for key in ("first_draft", "final", "flips")},
        **{key: scored.get(key) for key in ("acceptance", "probabilities")},
        "reviews": summary["reviews"],
        "readability": summary["readability"]["teacher"],
        "teacher": {kind: _cost(usage) for kind, usage in teacher.items()},
    }


def _cost(usage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{k: usage[k] for k in ("calls", "prompt_tokens", "completion_tokens")},
        "seconds": round(usage["seconds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", required=True, help="a seat's specification, such as openai:<model>@<base url>")
    parser.add_argument("--teacher", required=True, help="likewise")
    parser.add_argument("--model_args", default="", help="further model arguments (`student.revision=a,…`)")
    parser.add_argument("--limit", type=int, default=60, help="rows of each split")
    parser.add_argument("--task", default="gsm8k_cot_answer")
    parser.add_argument("--ways", nargs="+", default=["text", "auto", "decision"], choices=["text", "auto", "decision"])
    parser.add_argument("--no_calibration", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to keep the runs (default: a temporary folder)")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"task": args.task, "runs": {}}
    more_args = dict(pair.split("=", 1) for pair in args.model_args.split(",") if pair)
    seats = {"student": args.student, "teacher": args.teacher, **more_args}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)

        def measure(name: str, task: str, **arguments: Any) -> None:
            directory = name.replace(", ", "-")
            result["runs"][name] = run(folder, directory, task, args.limit, {**seats, **arguments})
            publish_measured(result, args.output, named(student=args.student, teacher=args.teacher))

        for way in args.ways:
            measure(f"test, {way}", args.task, verdict=way)
            if way == "text" or args.no_calibration:
                continue
            train, file = f"{args.task}_train", folder / f"calibration-{way}.json"
            measure(f"train, {way}", train, verdict=way)
            command = ["harness-ext", "calibrate", str(folder / f"train-{way}"), "--on", train, "--metric", METRIC]
            done = subprocess.run([*command, "--output", str(file), "--overwrite"], capture_output=True, text=True)
            print(done.stdout, done.stderr)
            if done.returncode:
                result["runs"][f"test, {way}, calibrated"] = {"refused": done.stderr.strip()}
                continue
            result[f"calibration of {way}"] = json.loads(file.read_text(encoding="utf-8"))
            measure(f"test, {way}, calibrated", args.task, verdict=way, **{"teacher.calibration": str(file)})


if __name__ == "__main__":
    main()
