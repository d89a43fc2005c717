"""Demonstrates training from the data to scored checkpoints, on a CPU with the embedded pair, with one command each.

    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_show.py chain
    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_show.py preferences
    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_show.py targets
    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_show.py creak

- `chain`: the embedded teacher writes rationales for bAbI's training rows, the embedded student is trained on them,
  every epoch is scored on bAbI's test rows, and `compare` compares the result with the untouched student.
- `preferences`: the student writes candidates, the teacher judges them, DPO and ORPO train on the preferences, and
  every epoch is scored on bAbI's test rows.
- `targets`: golden targets compared with teacher targets for full training, LoRA, prefix and projected prefix.
- `creak`: the teacher writes rationales for CREAK's training rows, the student is trained on them, and `creak` and
  `creak_cot` are scored on the validation rows. The embedded pair knows only stories, so the scores are low.

Every step is a printed command that a user could type. Finished steps are skipped (see `--work`). The result is written
to `benchmarks/results/finetune_<show>.json`. On bAbI, questions about the same story are one cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measured import embedded, embedded_digests, publish_measured
from protocols_table import FIRST_LINE, SIX_TASKS

from harness_ext.embedded import model_path

if TYPE_CHECKING:
    from harness_ext.finetune.curve import Point

ROOT = Path(__file__).resolve().parent.parent
STUDENT, TEACHER = str(model_path("student")), str(model_path("teacher"))


class Show:
    """Runs the steps of a demonstration and records how long they take."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Create the working folder. Steps that were finished with other embedded models do not count."""
        self.options = options
        models = "-".join(digest[:8] for digest in embedded_digests().values())
        self.work = (options.work or Path("harness_ext_runs") / "finetune_show" / options.show / models).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.steps: list[tuple[str, float]] = []

    def run(self, name: str, *command: object, produces: Path | None = None) -> None:
        """Run a command.

        name: name of the step.
        command: the command and its arguments.
        produces: what the command writes; if it exists, the command is skipped. Default none.
        """
        words = [str(word) for word in command]
        if produces is not None and produces.exists():
            print(f"# {name}: skipped, {produces} exists", file=sys.stderr)
            return
        print(f"$ {shlex.join(words)}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        env = {**os.environ, "OMP_NUM_THREADS": str(self.options.threads), "PYTHON": sys.executable}
        subprocess.run(words, check=True, env=env, cwd=self.work, stdout=sys.stderr)
        self.steps.append((name, time.perf_counter() - start))

    def ours(self, name: str, *arguments: object, produces: Path | None = None) -> None:
        """Run `harness-ext` with these arguments; the parameters are those of `run`."""
        self.run(name, sys.executable, "-m", "harness_ext", *arguments, produces=produces)

    def finetune(self, name: str, data: Path, column: str, **settings: object) -> Path:
        """Train the embedded student with finetune.sh; return the folder of the run.

        name: name of the run.
        data: the data set.
        column: the column to learn.
        settings: further settings by name, including `learning_rate`.
        """
        options = {"deepspeed": "", "gradient_checkpointing": False, "device": "cpu", **settings}
        ten = [STUDENT, data, 16, 1, options.pop("learning_rate"), self.options.epochs, column, name, self.work, "show"]
        more = [word for key, value in options.items() for word in (f"--{key}", value)]
        self.run(f"finetune {name}", "bash", ROOT / "finetune" / "finetune.sh", *ten, *more)
        return self.work / name

    def checkpoints(self, run: Path, tasks: str, *more: object) -> list[dict[str, Any]]:
        """Score the checkpoints of a run; return the points of its curve.

        run: folder of the run.
        tasks: lm-eval tasks, separated by commas.
        more: further arguments of `harness-ext checkpoints`.
        """
        arguments = ["--tasks", tasks, "--limit", self.options.limit, "--batch_size", 32, "--device", "cpu", *more]
        self.ours(f"checkpoints {run.name}", "checkpoints", run, *arguments)
        points: list[dict[str, Any]] = json.loads((run / "evaluations" / "points.json").read_text(encoding="utf-8"))
        return points

    def scored(self, models: Mapping[str, str | Path], tasks: str, batch_size: int, more: str = "") -> list[Path]:
        """Answer tasks with models alone, and score their runs; return the run directories.

        models: the models, by the names that comparisons show.
        tasks: lm-eval tasks, separated by commas.
        batch_size: the batch size.
        more: further model arguments, after a comma. Default none.
        """
        runs = []
        for label, model in models.items():
            folder = self.work / "runs" / label
            arguments = f"student={model},run_dir={folder},model={label}{more},store=off"
            words = ["lm-eval", "run", "--model", "baseline", "--model_args", arguments, "--tasks", tasks]
            how = ["--limit", self.options.limit, "--batch_size", batch_size, "--device", "cpu"]
            self.ours(f"evaluate {label}", *words, *how, produces=folder)
            self.ours(f"score {label}", "score", folder)
            runs.append(folder)
        return runs

    def babi(self) -> Path:
        """Write bAbI's training rows of the six tasks, with the teacher's prompts; return the file."""
        rows = self.work / "rows.jsonl"
        write(rows, first_of_each(read(data("babi", "train")), "task", SIX_TASKS, self.options.rows))
        prompts = self.work / "prompts.jsonl"
        self.ours("prepare", "enhance", "prepare", rows, prompts, "--templates", "stories", produces=prompts)
        return prompts

    def annotated(self, prompts: Path, drop: str, *more: object) -> Path:
        """Have the embedded teacher answer the prompts; return the data set for training.

        prompts: the rows with prompts.
        drop: flags whose rows are dropped, separated by commas.
        more: further arguments of `harness-ext enhance annotate`.
        """
        told, folder = self.work / "annotated.jsonl", self.work / "data"
        words = ["enhance", "annotate", "embedded", prompts, told, "cot_text", "--batch_size", 32, "--device", "cpu"]
        self.ours("annotate", *words, *more, produces=told)
        self.ours("finish", "enhance", "finish", told, folder, "--drop", drop, produces=folder)
        return folder

    def report(self, text: str, files: Sequence[Path] = (), **more: object) -> None:
        """Publish the results of the demonstration, and how long each step took.

        text: the tables, as Markdown.
        files: further files of the result, in the folder of results. Default none.
        more: further results.
        """
        settings = {name: getattr(self.options, name) for name in ("show", "rows", "epochs", "limit", "threads")}
        result = {**settings, "text": text, **more, "seconds": {name: round(took) for name, took in self.steps}}
        self.options.output.mkdir(parents=True, exist_ok=True)
        publish_measured(result, self.options.output / f"finetune_{self.options.show}.json", embedded(), files)
        print(text)


def chain(show: Show) -> None:
    """Prepare, annotate, train, score every epoch, and compare."""
    folder = show.annotated(show.babi(), "empty,cut_off,no_answer,contradicts_gold")
    run = show.finetune("student", folder, "cot", prompt_column="cot_text", learning_rate=5e-4)
    tasks = ",".join(f"babi_reasoning_{number}" for number in SIX_TASKS)
    show.checkpoints(run, tasks, "--cluster", FIRST_LINE, "--teacher", TEACHER, "--gate")
    show.options.output.mkdir(parents=True, exist_ok=True)
    picture = Path(shutil.copy(run / "evaluations" / "accuracy.png", show.options.output / "finetune_chain.png"))
    runs = show.scored({"untouched": STUDENT, "finetuned": run / "final"}, tasks, 32)
    compared = show.work / "compared.md"
    words = ["compare", *runs, "--metric", "exact_match", "--cluster", FIRST_LINE, "--output", compared]
    show.ours("compare", *words, produces=compared)
    show.report(pooled_table(run), [picture], compared=compared.read_text(encoding="utf-8"))


def preferences(show: Show) -> None:
    """Make preferences, and train on them with DPO and ORPO."""
    prompts, pairs = show.babi(), show.work / "pairs.jsonl"
    show.ours(
        "preferences", "enhance", "preferences", prompts, pairs, "--student", "embedded", "--judge", "embedded",
        "--style", "review", "--field", "cot_text", "--k", 4, "--batch_size", 32, "--device", "cpu", produces=pairs,
    )  # fmt: skip
    tasks = ",".join(f"babi_reasoning_{number}" for number in SIX_TASKS)
    parts = []
    for method, rate in (("dpo", 2e-5), ("orpo", 2e-4)):
        run = show.finetune(method, pairs, "cot", method=method, learning_rate=rate)
        show.checkpoints(run, tasks, "--cluster", FIRST_LINE)
        parts.append(f"## {method}\n\n{pooled_table(run)}")
    show.report("\n\n".join(parts))


def targets(show: Show) -> None:
    """Compare golden with teacher targets for four kinds of training."""
    folder = show.annotated(show.babi(), "empty,cut_off,no_answer")
    rows = show.work / "targets.jsonl"
    # bAbI has no rationales, so a golden target consists only of the answer.
    write(rows, ({**row, "solution": f"Answer: {row['answer']}", "explanation": row["cot"]} for row in saved(folder)))
    tasks = ",".join(f"babi_reasoning_{number}" for number in SIX_TASKS)
    rates = {"full": 5e-4, "lora": 2e-3, "prefix": 2e-2, "pkv": 2e-3}
    lines = ["| adapter | targets | untouched | accuracy | 95% interval | change | p |", "| --- " * 7 + "|"]
    for adapter, rate in rates.items():
        for kind in ("golden", "teacher"):
            run = show.finetune(
                f"{adapter}-{kind}", rows, "", method="kd", adapter=adapter, targets=kind, prompt_column="cot_text",
                learning_rate=rate, save_total_limit=1,
            )  # fmt: skip
            show.checkpoints(run, tasks, "--cluster", FIRST_LINE)
            lines.append(f"| {adapter} | {kind} | {' | '.join(last_epoch(run))} |")
    show.report("\n".join(lines))


def creak(show: Show) -> None:
    """Prepare, annotate and learn CREAK, and score every epoch."""
    rows, prompts = show.work / "rows.jsonl", show.work / "prompts.jsonl"
    write(rows, list(read(data("creak", "train")))[: show.options.rows])
    show.ours("prepare", "enhance", "prepare", rows, prompts, "--templates", "creak", produces=prompts)
    # The teacher does not know these words and hardly ever ends a reply, so its replies are limited.
    folder = show.annotated(prompts, "empty", "--gen_kwargs", "max_gen_toks=96")
    run = show.finetune("creak", folder, "cot_tail", learning_rate=5e-4)
    show.checkpoints(run, "creak,creak_cot")
    show.report((run / "evaluations" / "table.md").read_text(encoding="utf-8"))


def pooled(run: Path) -> tuple[list[Point], dict[str, Any]]:
    """Return the points of a run's epochs on bAbI, pooled over all tasks, and its errors per epoch."""
    from harness_ext.finetune.checkpoint_scores import CheckpointScore, EvaluationSettings, Scorer, subjects
    from harness_ext.finetune.curve import points

    stored = [json.loads(path.read_text(encoding="utf-8")) for path in (run / "evaluations" / "scores").glob("*.json")]
    values: dict[str, dict[str, float]] = {}
    for one in stored:
        values.setdefault(one["subject"], {}).update(one["values"])
    tasks = list(dict.fromkeys(one["task"] for one in stored))
    scores = [
        CheckpointScore(name, f"{len(tasks)} tasks", stored[0]["metric"], found) for name, found in values.items()
    ]
    questions = dict.fromkeys(question for found in values.values() for question in found)
    labels = Scorer(run, EvaluationSettings()).clusters(FIRST_LINE, tasks, questions)
    known, _ = subjects(run, TEACHER)
    return points(known, scores, labels), json.loads((run / "errors.json").read_text(encoding="utf-8"))


def pooled_table(run: Path) -> str:
    """Return the table of a run's epochs on bAbI, pooled over all tasks."""
    from harness_ext.finetune.curve_files import table

    return table(*pooled(run), FIRST_LINE)


def last_epoch(run: Path) -> list[str]:
    """Return the untouched model's accuracy, and the last epoch's accuracy, interval, change and p-value."""
    found, _ = pooled(run)
    untouched = next(point for point in found if point.subject.role == "baseline")
    last = [point for point in found if point.subject.role == "epoch"][-1]
    assert last.change is not None
    return [
        f"{untouched.mean:.3f}",
        f"{last.mean:.3f}",
        f"{last.interval.low:.3f} to {last.interval.high:.3f}",
        f"{last.change.value:+.3f}",
        f"{last.change.p_value:.2g}",
    ]


def data(folder: str, split: str) -> Path:
    """Return a file of real rows; exit with a message if it does not exist."""
    root = os.environ.get("HARNESS_EXT_DATA")
    path = Path(root or "") / folder / f"{split}.jsonl"
    if not root or not path.is_file():
        sys.exit(f"HARNESS_EXT_DATA must name a folder that contains {folder}/{split}.jsonl: see docs/tasks.md.")
    return path


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def saved(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the training rows of a `save_to_disk` folder."""
    from datasets import load_from_disk

    loaded = load_from_disk(str(folder))
    yield from loaded["train"] if isinstance(loaded, dict) else loaded


def write(path: Path, rows: Any) -> None:
    """Write rows as JSON lines, unless the file exists."""
    if not path.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def first_of_each(
    rows: Iterator[dict[str, Any]], key: str, wanted: tuple[int, ...], number: int
) -> list[dict[str, Any]]:
    """Return the first rows for each wanted value, in their order.

    rows: the rows.
    key: the column.
    wanted: the values of the column.
    number: total number of rows, divided equally among the values.
    """
    each = dict.fromkeys(wanted, number // len(wanted))
    kept = []
    for row in rows:
        if each.get(row[key], 0) > 0:
            each[row[key]] -= 1
            kept.append(row)
    return kept


SHOWS: dict[str, Callable[[Show], None]] = {
    "chain": chain,
    "preferences": preferences,
    "targets": targets,
    "creak": creak,
}
# The data folder has 50 training rows per bAbI task, so six tasks have 300.
ROWS = {"chain": 300, "preferences": 240, "targets": 300, "creak": 300}


def main() -> None:
    """Run a demonstration."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("show", choices=SHOWS)
    parser.add_argument("--rows", type=int, help="number of training rows")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=50, help="test rows per task (default: 50)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="working folder")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    options.rows = options.rows or ROWS[options.show]
    options.output = options.output.resolve()
    SHOWS[options.show](Show(options))


if __name__ == "__main__":
    main()
