"""Compares the texts of `baseline` and of `feedback_pair` with `max_rounds=0` with those of lm-eval's own `hf`.

    HARNESS_EXT_DATA=<folder> python benchmarks/stock.py babi_reasoning=20 gsm8k_local=4 \\
        --output benchmarks/results/stock.json

Runs the embedded student on the first rows of each task, plain and with `--apply_chat_template`, and counts the rows
whose texts differ. `gsm8k_local` is lm-eval's gsm8k on local rows, with its five few-shot examples.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measured import embedded, publish_measured

from harness_ext.embedded import model_path


def texts(model: str, arguments: dict[str, Any], options: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Return the text of every row, by task and document.

    model: name of the lm-eval model.
    arguments: its model arguments.
    options: further arguments of `simple_evaluate`.
    """
    import lm_eval

    results = lm_eval.simple_evaluate(model=model, model_args=arguments, bootstrap_iters=0, device="cpu", **options)
    samples = {(name, s["doc_id"]): s["resps"][0][0] for name, rows in results["samples"].items() for s in rows}
    if not samples:
        raise RuntimeError(f"{model} returned no samples")
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "tasks", nargs="+", metavar="TASK=ROWS", help="a task or group, and the number of rows per task"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    from lm_eval.tasks import TaskManager

    student = str(model_path("student"))
    manager = TaskManager()
    rows = []
    for task, _, limit in (named.partition("=") for named in args.tasks):
        for chat in (False, True):
            options = {"tasks": [task], "limit": int(limit), "batch_size": args.batch_size, "task_manager": manager}
            options["apply_chat_template"] = chat
            stock = texts("hf", {"pretrained": student}, options)
            with tempfile.TemporaryDirectory() as folder:
                common = {"student": student, "progress": "off"}
                ours = {
                    "baseline": texts("baseline", {**common, **_fresh(folder, "a")}, options),
                    "feedback_pair, max_rounds=0": texts(
                        "feedback_pair", {**common, "teacher": student, "max_rounds": 0, **_fresh(folder, "b")}, options
                    ),
                }
            for name, found in ours.items():
                if found.keys() != stock.keys():
                    raise RuntimeError(f"{name} answered different rows than lm-eval's hf")
                differ = sum(found[key] != stock[key] for key in stock)
                rows.append(
                    {"task": task, "chat": chat, "model": name, "rows": len(stock), "texts_that_differ": differ}
                )
                print(rows[-1], flush=True)
    publish_measured({"rows": rows}, args.output, embedded("student"))


def _fresh(folder: str, name: str) -> dict[str, str]:
    return {"store": f"{folder}/calls-{name}", "run_dir": f"{folder}/run-{name}"}


if __name__ == "__main__":
    main()
