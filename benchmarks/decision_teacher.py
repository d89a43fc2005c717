"""Train a chat model to decide, and measure its decisions on unseen rows before and after.

    HARNESS_EXT_DATA=<folder> python benchmarks/decision_teacher.py smollm2 --output <file>

The model is asked whether a claim of CREAK is true. Only training rows of CREAK are used, and split by the entity that
a claim is about: rows to learn, rows to fit the temperature on, and unseen rows to measure on. The training is
`harness-ext finetune` on rows of state, question and answer; the decisions are those of an `hf` seat, before with the
untouched model, after with the folder that the training wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured import model_folder, publish_measured

from harness_ext.analysis.scoring.probabilities import Figure, area_under_roc, binary_statistics, estimates
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.decisions import Predicate, as_state, decision_prompt, labels_of
from harness_ext.records import Message
from models import MODELS

QUESTION = Predicate("Is the claim true?")
Row = Mapping[str, Any]


def main() -> None:
    """Train, measure and publish."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "model", help=f"a model of benchmarks/models.py ({', '.join(MODELS)}), or a chat model's folder"
    )
    parser.add_argument("--rows", type=int, default=2000, help="rows to learn (default: 2000)")
    parser.add_argument("--validation", type=int, default=300, help="rows to fit the temperature on (default: 300)")
    parser.add_argument("--unseen", type=int, default=1000, help="rows to measure on (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and of the training (default: 0)")
    parser.add_argument("--adapter", default="lora", choices=("lora", "full"))
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning_rate", type=float, help="default: that of the adapter")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--dtype", default="auto", help="precision of the training; the decisions are in float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("harness_ext_runs/decision_teacher"), help="working folder")
    parser.add_argument("--output", type=Path, help="the file to write (default: print)")
    args = parser.parse_args()
    model = model_folder(args.model)
    parts = split(creak(), {"rows": args.rows, "validation": args.validation, "unseen": args.unseen}, args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    files = {name: args.work / f"{name}.jsonl" for name in ("rows", "validation")}
    for name, file in files.items():
        file.write_text("".join(json.dumps(decision_row(row)) + "\n" for row in parts[name]), encoding="utf-8")
    teacher = train(args, model, files)
    unseen = parts["unseen"]
    stated = {name: decide(folder, unseen) for name, folder in (("before", model), ("after", teacher))}
    result = {
        "model": MODELS[args.model].title if args.model in MODELS else args.model,
        "question": QUESTION.instructions,
        "settings": {
            "adapter": args.adapter, "epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed,
            "learning_rate": json.loads((args.work / "run" / "run.json").read_text(encoding="utf-8"))["learning_rate"],
            "threads": args.threads, "dtype": args.dtype,
        },
        "rows": {name: {"rows": len(part), "true": sum(map(is_true, part))} for name, part in parts.items()},
        "temperatures": json.loads((args.work / "run" / "decisions.json").read_text(encoding="utf-8")),
        **figures(stated, unseen),
    }  # fmt: skip
    publish_measured(result, args.output, {"before": model, "after": teacher})


def creak() -> list[dict[str, Any]]:
    """Return CREAK's training rows; exit with a message if they are not there."""
    path = Path(os.environ.get("HARNESS_EXT_DATA") or "") / "creak" / "train.jsonl"
    if not os.environ.get("HARNESS_EXT_DATA") or not path.is_file():
        sys.exit("HARNESS_EXT_DATA must name a folder that contains creak/train.jsonl: see docs/tasks.md.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def split(rows: Sequence[Row], sizes: Mapping[str, int], seed: int) -> dict[str, list[Row]]:
    """Return parts of the rows of about these sizes that share no entity.

    rows: the rows.
    sizes: the least number of rows of each part, by its name. A part is larger by the last entity's other rows.
    seed: the seed of the order.
    """
    by_entity: dict[str, list[Row]] = {}
    for row in rows:
        by_entity.setdefault(row["entity"], []).append(row)
    entities = sorted(by_entity)
    random.Random(seed).shuffle(entities)
    left = iter(entities)
    parts: dict[str, list[Row]] = {}
    for name, size in sizes.items():
        parts[name] = []
        while len(parts[name]) < size:
            parts[name] += by_entity[next(left)]
    return parts


def is_true(row: Row) -> bool:
    """Return whether a claim is true."""
    return bool(row["label"] == "true")


def state(row: Row) -> dict[str, str]:
    """Return what the question is about."""
    return {"claim": row["sentence"]}


def decision_row(row: Row) -> dict[str, Any]:
    """Return a row as `harness-ext finetune` learns it."""
    asked = {"type": QUESTION.type, "instructions": QUESTION.instructions}
    return {"state": state(row), "question": asked, "answer": is_true(row)}


def train(args: argparse.Namespace, model: Path, files: Mapping[str, Path]) -> Path:
    """Train with the command that a user would type, and return the folder of the decision teacher."""
    run = args.work / "run"
    settings = {
        "model": model, "train_file": files["rows"], "eval_file": files["validation"], "output_dir": run,
        "adapter": args.adapter, "epochs": args.epochs, "batch_size": args.batch_size, "seed": args.seed,
        "threads": args.threads, "dtype": args.dtype, "device": "cpu", "save_total_limit": 1,
    }  # fmt: skip
    if args.learning_rate is not None:
        settings["learning_rate"] = args.learning_rate
    words = [sys.executable, "-m", "harness_ext", "finetune"]
    words += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    print(f"$ {shlex.join(words)}", file=sys.stderr, flush=True)
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    subprocess.run(words, check=True, env=env, stdout=sys.stderr)
    return Path(run / "final" if args.adapter == "full" else run / "merged")


def decide(model: Path, rows: Sequence[Row]) -> list[float]:
    """Return the probability that a seat with this model gives each claim of being true."""
    backend: HFBackend = make_hf_backend(str(model), {"device": "cpu", "dtype": "float32", "batch_size": 16})
    backend.load()
    requests = []
    for row in rows:
        text = as_state(state(row))
        prompt = backend.render_decision([Message("user", decision_prompt(text, QUESTION))]).text
        requests.append(DecideRequest(prompt, QUESTION.options, labels_of(QUESTION), question=QUESTION, state=text))
    found: dict[int, Any] = {}
    backend.decide(requests, found.__setitem__)
    return [found[i].probability("true") for i in range(len(rows))]


def figures(stated: Mapping[str, Sequence[float]], rows: Sequence[Row]) -> dict[str, Any]:
    """Return how good the probabilities are, with 95 % intervals over entities, and what the training changed."""
    truth = [is_true(row) for row in rows]
    entities = [row["entity"] for row in rows]
    area = {name: area_under_roc(found, truth) for name, found in stated.items()}
    gain = Figure(lambda weights: area["after"](weights) - area["before"](weights), (-1.0, 1.0))
    return {
        "figures": {
            name: {
                **{key: asdict(one) for key, one in estimates(binary_statistics(found, truth), entities).items()},
                "mean": sum(found) / len(found),
                "right_at_half": sum((p >= 0.5) == t for p, t in zip(found, truth, strict=True)) / len(truth),
            }
            for name, found in stated.items()
        },
        "auroc_gain": asdict(estimates({"gain": gain}, entities)["gain"]),
    }


if __name__ == "__main__":
    main()
