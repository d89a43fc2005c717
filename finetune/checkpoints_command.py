"""`harness-ext checkpoints {store_dir}/{run} --tasks …`: scores the checkpoint of every epoch with lm-eval."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

from harness_ext.errors import HarnessExtError
from harness_ext.files import why_not_writable
from harness_ext.finetune import curve, curve_files
from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.checkpoint_list import checkpoint_list, epoch_errors_of
from harness_ext.finetune.checkpoint_scores import (
    CheckpointScore,
    EvaluationSettings,
    Scorer,
    Subject,
    finished,
    precision_notes,
    subjects,
)
from harness_ext.finetune.model_card import update_scores
from harness_ext.finetune.run_record import RUN_FILE
from harness_ext.terminal import clean


def main(argv: list[str]) -> int:
    """Score the models that have no scores yet; write the table and the plot.

    With `--list`, only prints which models the run has left.

    Returns 0; 1 if a model could not be scored or the gate is closed; 2 for usage errors.
    """
    options = _parser().parse_args(argv)
    if options.list:
        return _list(options.run)
    if not options.tasks:
        _parser().error("name the tasks to score on: --tasks babi_stories,gsm8k_local")
    if importlib.util.find_spec("matplotlib") is None:
        print("harness-ext checkpoints: matplotlib is not installed. Remedy: pip install matplotlib", file=sys.stderr)
        return 2
    # Set before any library is imported: scoring must not send telemetry.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    settings = EvaluationSettings(
        **{name: getattr(options, name) for name in vars(EvaluationSettings()) if hasattr(options, name)}
    )
    tasks = [task for task in options.tasks.split(",") if task]
    if options.run.exists() and (reason := why_not_writable(options.run / "evaluations")):
        folder = options.run / "evaluations"
        print(f"harness-ext checkpoints: {clean(folder)} cannot be written: {clean(reason)}", file=sys.stderr)
        return 2
    if options.wait:
        _wait_for_run(options.run, options.poll)
    scorer = Scorer(options.run, settings)
    failed: dict[tuple[str, str], str] = {}
    try:
        while True:
            # Check this before listing the checkpoints: the last checkpoint is written before the training is marked as
            # finished, so a finished run has no checkpoint that this pass could miss.
            over = not options.wait or finished(options.run)
            known, skipped = subjects(options.run, options.teacher)
            if not options.baseline:
                known = [one for one in known if one.role != "baseline"]
            scores = _pass(scorer, known, tasks, failed)
            if over:
                break
            time.sleep(options.poll)
        for reason in skipped:
            _say(f"skipped: {reason}")
        labels = None
        if options.cluster and scores:
            questions = dict.fromkeys(name for score in scores for name in score.values)
            labels = scorer.clusters(options.cluster, tasks, questions)
        found = curve.points(known, scores, labels)
    except (ConfigError, HarnessExtError) as error:
        print(f"harness-ext checkpoints: {clean(error)}", file=sys.stderr)
        return 2
    passed, verdict = curve.gate(known, scores, labels, options.gate_alpha) if options.gate else (True, "")
    folder = options.run / "evaluations"
    if found:
        print(curve_files.write(found, epoch_errors_of(options.run), verdict, folder, options.cluster))
        _say(f"wrote {folder}/table.md, points.json and accuracy.png")
        for note in precision_notes(scores):
            _say(note)
        update_scores(options.run)
    elif verdict:
        print(verdict)
    for (name, task), reason in failed.items():
        print(f"harness-ext checkpoints: {name} on {task} failed: {reason}", file=sys.stderr)
    return 0 if passed and not failed and found else 1


def _wait_for_run(run: Path, poll: float) -> None:
    """Wait until a training has read its rows: only then is its folder that of a run."""
    if not (run / RUN_FILE).is_file():
        _say(f"waiting for the training that will write {run / RUN_FILE}")
    while not (run / RUN_FILE).is_file():
        time.sleep(poll)


def _pass(
    scorer: Scorer, known: list[Subject], tasks: list[str], failed: dict[tuple[str, str], str]
) -> list[CheckpointScore]:
    """Score every subject that lacks a score. A failure is recorded and does not stop the remaining subjects."""
    scores: list[CheckpointScore] = []
    for subject in known:
        there = {task: scorer.stored(subject, task) for task in tasks}
        scores += [score for score in there.values() if score]
        missing = [task for task, score in there.items() if score is None and (subject.name, task) not in failed]
        if not missing:
            continue
        _say(f"{subject.name}: {', '.join(missing)}")
        try:
            scores += scorer.score(subject, missing)
        except ConfigError:
            raise
        except Exception as error:  # one model that fails to load must not prevent scoring the others
            reason = clean(f"{type(error).__name__}: {error}")
            failed.update({(subject.name, task): reason for task in missing})
            scores += [score for task in missing if (score := scorer.stored(subject, task))]
    return scores


def _list(run: Path) -> int:
    try:
        print(json.dumps(checkpoint_list(run), indent=2, ensure_ascii=False))
    except ConfigError as error:
        print(f"harness-ext checkpoints: {clean(error)}", file=sys.stderr)
        return 2
    return 0


def _say(text: str) -> None:
    print(f"[harness-ext] {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness-ext checkpoints",
        description="Score the checkpoint of every epoch of a training run with lm-eval.",
    )
    parser.add_argument("run", type=Path, help="folder of a training run: {store_dir}/{run}")
    parser.add_argument(
        "--list", action="store_true", help="only print, as JSON, which models the run has left and how to load them"
    )
    parser.add_argument("--tasks", default="", help="lm-eval tasks, separated by commas")
    parser.add_argument("--teacher", default="", help="a model to compare with, a folder or a Hub name")
    parser.add_argument(
        "--baseline", action=argparse.BooleanOptionalAction, default=True, help="score the untouched model, too"
    )
    parser.add_argument("--metric", default="", help="name, or name,filter (default: the task's first)")
    parser.add_argument("--num_fewshot", type=int)
    parser.add_argument("--limit", type=float, help="number of questions per task, or a share below 1")
    parser.add_argument("--apply_chat_template", action="store_true")
    parser.add_argument("--fewshot_as_multiturn", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--system_instruction")
    parser.add_argument("--gen_kwargs", help="generation settings in lm-eval's format")
    parser.add_argument(
        "--dtype", default="", choices=("float32", "bfloat16", "float16"),
        help="data type in which all models compute (default: that of the training)",
    )  # fmt: skip
    parser.add_argument("--model_args", default="", help="more arguments of lm-eval's hf model")
    parser.add_argument("--include_path", help="folder with your own tasks")
    parser.add_argument("--batch_size", default="1")
    parser.add_argument("--device", help="cpu, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument(
        "--cluster", metavar="FIELD",
        help="questions that share this field of their document (or a Jinja template over it, or `task`) belong "
        "together (default: each question by itself)",
    )  # fmt: skip
    parser.add_argument(
        "--gate", action="store_true", help="exit with status 1 unless the last epoch beats the untouched model"
    )
    parser.add_argument("--gate_alpha", type=float, help="with --gate: also require significance at this level")
    parser.add_argument("--wait", action="store_true", help="keep scoring new checkpoints until the training has ended")
    parser.add_argument("--poll", type=float, default=30.0, help="with --wait: seconds between checks (default: 30)")
    return parser
