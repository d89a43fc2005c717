"""Trains a small model on CREAK with `harness-ext finetune`, and compares it with chance.

    HARNESS_EXT_DATA=<folder> python benchmarks/creak_study.py [--epochs 1] [--rows N] [--limit N]

The model is the embedded student (or `--model`), which was trained on stories only. Each training row consists of the
context of the task `creak` and the correct letter. Before and after training, lm-eval's own `hf` model is scored on all
validation rows. The script reports both accuracies and that of always answering the more frequent label of the training
rows, with 95 % intervals, and compares the trained model with the untouched one and with that constant answer row by
row. It writes the result to `benchmarks/results/creak_study.json`, unless `--rows` or `--limit` is given to try it
out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from measured import named, publish_measured

from harness_ext.analysis.statistics.paired import estimate, paired_difference
from harness_ext.data import load_rows
from harness_ext.embedded import model_path
from harness_ext.tasks.teacherlm.rows import CREAK, creak_doc

SCALE = (0.0, 1.0)
RESULT = Path(__file__).with_name("results") / "creak_study.json"


def training_rows(limit: int | None) -> list[dict[str, str]]:
    """Return CREAK's training rows as prompt and completion."""
    rows = load_rows(replace(CREAK, splits=("train",)))["train"]
    docs = [creak_doc(row) for row in (rows if limit is None else rows.select(range(limit)))]
    return [{"prompt": f"Q: {d['question']} A: The answer is (", "completion": d["letters"][d["gold"]]} for d in docs]


def train(model: str, rows: list[dict[str, str]], epochs: float, folder: Path) -> Path:
    """Train a model in a separate process and return the folder of the final model.

    model: the model to start from.
    rows: the training rows.
    epochs: passes over the rows.
    folder: a temporary folder.
    """
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "model": model,
        "train_file": str(folder / "train.jsonl"),
        "output_dir": str(folder / "trained"),
        "epochs": epochs,
        "batch_size": 32,
        "learning_rate": 5e-4,
        "warmup_steps": 20,
        "dtype": "float32",
        "device": "cpu",
        "group_by_length": True,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [sys.executable, "-m", "harness_ext.finetune", "--config", str(folder / "run.yaml")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.strip().splitlines()[-1])


def evaluate(model: str, limit: int | None) -> list[tuple[int, int]]:
    """Return the chosen and gold index of every validation row, from the task `creak` with lm-eval's own `hf`."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    import harness_ext.tasks

    manager = TaskManager(include_path=str(Path(harness_ext.tasks.__file__).parent), include_defaults=False)
    loaded = manager.load(["creak"])
    loaded["tasks"]["creak"].set_config("num_fewshot", 0)
    lm = HFLM(pretrained=model, device="cpu", dtype="float32", batch_size=32)
    results = lm_eval.evaluate(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=0)
    assert results is not None
    chosen = []
    for sample in results["samples"]["creak"]:
        scores = [float(response[0][0]) for response in sample["resps"]]
        chosen.append((scores.index(max(scores)), int(sample["doc"]["gold"])))
    return chosen


def figure(right: Sequence[bool]) -> dict[str, Any]:
    """Return an accuracy with its interval."""
    found = estimate([float(one) for one in right], SCALE)
    return {"accuracy": found.value, "interval": asdict(found.interval), "right": sum(right), "rows": len(right)}


def difference(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """Return the difference of two accuracies on the same rows, with its interval and p-value."""
    return asdict(paired_difference([float(one) for one in before], [float(one) for one in after], SCALE))


def study(model: str, epochs: float, rows: int | None, limit: int | None) -> Mapping[str, Any]:
    """Run the study and return its result.

    model: the model to train.
    epochs: passes over the training rows.
    rows: number of training rows, or None for all.
    limit: number of validation rows, or None for all.
    """
    started = time.perf_counter()
    shown = training_rows(rows)
    constant = int(2 * sum(row["completion"] == "B" for row in shown) > len(shown))
    answers = evaluate(model, limit)
    before = [chosen == gold for chosen, gold in answers]
    always = [gold == constant for _, gold in answers]
    with tempfile.TemporaryDirectory() as folder:
        trained = evaluate(str(train(model, shown, epochs, Path(folder))), limit)
    after = [chosen == gold for chosen, gold in trained]
    return {
        "model": "embedded student" if model == str(model_path("student")) else model,
        "training_rows": len(shown),
        "epochs": epochs,
        "before": figure(before),
        "after": figure(after),
        "constant_answer": {"letter": "AB"[constant], **figure(always)},
        "after_to_before": difference(before, after),
        "after_to_constant": difference(always, after),
        "answers_A_after": sum(chosen == 0 for chosen, _ in trained) / len(trained),
        "seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    """Run the study and print its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=str(model_path("student")))
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--rows", type=int, help="use only the first N training rows")
    parser.add_argument("--limit", type=int, help="use only the first N validation rows")
    options = parser.parse_args()
    found = study(options.model, options.epochs, options.rows, options.limit)
    output = RESULT if options.rows is None and options.limit is None else None
    publish_measured(found, output, named(student=options.model))


if __name__ == "__main__":
    main()
