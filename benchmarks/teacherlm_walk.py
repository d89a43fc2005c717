"""Walks TeacherLM's way on a real model and real rows, from the data to a comparison, on a CPU.

    HARNESS_EXT_DATA=<folder> python benchmarks/teacherlm_walk.py --limit 300 \\
        --output benchmarks/results/teacherlm_walk.json

`prepare` adds TeacherLM's prompts to CREAK's training rows, `enhance.sh` lets a teacher explain the answers, `finish`
writes the data set, `finetune.sh` learns it with its ten positional arguments and no other setting, `checkpoints`
scores every epoch, and `compare` compares the result with the untouched model. Each step is a printed command that a
user could type, and finished steps are skipped (see `--work`).

The student is SmolLM2-135M-Instruct (see `benchmarks/models.py`), and it is its own teacher unless `--teacher` names
another model: the prompts contain the right answer, so a teacher only has to explain it. All scores are on validation
rows. `finish` leaves out training rows that contain one of them, and explanations that end with another answer.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_show import Show, data, read, saved, write
from measured import model_folder, named, publish_measured

from harness_ext.records.fingerprint import folder_digest
from models import MODELS

ROOT = Path(__file__).resolve().parent.parent
TASK, METRIC = "creak", "acc"
LEFT_OUT = "empty,contradicts_gold,overlap,near_duplicate"


def main() -> None:
    """Walk, and publish the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2", help="a model of benchmarks/models.py, or a folder")
    parser.add_argument("--teacher", help="likewise (default: the student itself)")
    parser.add_argument("--rows", type=int, default=160, help="training rows (default: 160)")
    parser.add_argument("--limit", type=int, default=400, help="validation rows (default: 400)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    parser.add_argument("--reply_tokens", type=int, default=64, help="longest rationale, in tokens (default: 64)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="working folder")
    parser.add_argument("--output", type=Path, help="the file to write (default: print)")
    options = parser.parse_args()
    student = model_folder(options.model)
    teacher = model_folder(options.teacher) if options.teacher else student
    models = "-".join(folder_digest(one)[:8] for one in dict.fromkeys((student, teacher)))
    options.work = options.work or Path("harness_ext_runs") / "teacherlm_walk" / models
    show = Show(options)
    told = enhanced(show, teacher)
    seconds(show)
    run = trained(show, student, told)
    seconds(show)
    show.ours(
        "checkpoints", "checkpoints", run, "--tasks", TASK, "--limit", options.limit, "--batch_size", 16,
        "--device", "cpu", produces=run / "evaluations" / "points.json",
    )  # fmt: skip
    compared = comparison(show, {"untouched": student, "finetuned": run / "final"})
    title = MODELS[options.model].title if options.model in MODELS else options.model
    manifest = json.loads((told / "manifest.json").read_text(encoding="utf-8"))
    settings = ("rows", "limit", "epochs", "learning_rate", "reply_tokens", "threads")
    result = {
        "student": title,
        "teacher": options.teacher or "the student itself",
        "task": TASK,
        **{name: getattr(options, name) for name in settings},
        "counts": {name: manifest[name] for name in ("counts", "cut_replies")},
        "example": next(saved(told))["cot_tail"],
        "log_lines": len((show.work / "finetune.log").read_text(encoding="utf-8").splitlines()),
        "table": (run / "evaluations" / "table.md").read_text(encoding="utf-8"),
        "compared": compared,
        "seconds": seconds(show),
    }
    publish_measured(result, options.output, named(student=str(student), teacher=str(teacher)))


def enhanced(show: Show, teacher: Path) -> Path:
    """Have the teacher explain the first training rows; return the data set.

    show: the steps.
    teacher: the folder of the teacher.
    """
    rows, prompts, told, folder = (show.work / name for name in ("rows.jsonl", "prompts.jsonl", "cot.jsonl", "data"))
    write(rows, list(read(data("creak", "train")))[: show.options.rows])
    show.ours("prepare", "enhance", "prepare", rows, prompts, "--templates", "creak", produces=prompts)
    show.run(
        "enhance.sh", "bash", ROOT / "enhance" / "enhance.sh", f"hf:{teacher}", prompts, told, "cot_text",
        "--gen_kwargs", f"max_gen_toks={show.options.reply_tokens}", "--batch_size", 32, "--device", "cpu",
        produces=told,
    )  # fmt: skip
    show.ours("finish", "enhance", "finish", told, folder, "--tasks", TASK, "--drop", LEFT_OUT, produces=folder)
    return folder


def trained(show: Show, student: Path, folder: Path) -> Path:
    """Train with TeacherLM's ten positional arguments alone, and keep what the command says; return the run's folder.

    show: the steps.
    student: the folder of the student.
    folder: the data set.
    """
    run, options = show.work / "student", show.options
    if (run / "final").exists():
        return run
    ten = [student, folder, 8, 1, options.learning_rate, options.epochs, "cot_tail", run.name, show.work, "walk"]
    words = [str(word) for word in ("bash", ROOT / "finetune" / "finetune.sh", *ten)]
    print(f"$ {shlex.join(words)}", file=sys.stderr, flush=True)
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    start = time.perf_counter()
    with (show.work / "finetune.log").open("w", encoding="utf-8") as log:
        subprocess.run(words, check=True, env=env, cwd=show.work, stdout=log, stderr=log)
    show.steps.append(("finetune.sh", time.perf_counter() - start))
    return run


def comparison(show: Show, models: Mapping[str, Path]) -> dict[str, Any]:
    """Evaluate two models with lm-eval, and return how `harness-ext compare` compares the second with the first.

    show: the steps.
    models: the folders of the models, by name.
    """
    runs = show.scored(models, TASK, 16, ",reason=off")
    output = show.work / "compared.json"
    show.ours("compare", "compare", *runs, "--metric", METRIC, "--output", output, produces=output)
    (before, after) = json.loads(output.read_text(encoding="utf-8"))["rows"]
    accuracies = {row["run"]: {name: row[name] for name in ("number", "value", "interval")} for row in (before, after)}
    names = ("value", "interval", "p_value", "test", "up", "down")
    return {"accuracies": accuracies, "difference": {name: after["difference"][name] for name in names}}


def seconds(show: Show) -> dict[str, int]:
    """Return how long each step took, also of earlier starts in the same working folder."""
    file = show.work / "seconds.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found = {**before, **{name: round(took) for name, took in show.steps}}
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
