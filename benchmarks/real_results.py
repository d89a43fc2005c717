"""Measures the protocols with real public models on public tasks: do they help, what do they cost, is it real?

    HARNESS_EXT_DATA=<folder> python benchmarks/real_results.py

Students and teachers are models of `models.py` in 4 bits, which a server of llama.cpp runs (`serve:`, see
docs/engines.md). Models and server are made available first, if they are not there: about 2 GB to download, and ten
minutes to build. Then every setting of `real_grid.py` runs on every pair and task, and the result is written to
`benchmarks/results/real_results.json`, from which `python benchmarks/page.py` makes docs/results.md.

The command can be interrupted at any time (Ctrl-C, SIGTERM, kill) and continues when it is given again: finished calls
are in the call store, and run directories are fixed. A part of the grid (`--tasks`, `--pairs`, `--settings`) adds its
cells to those that were finished before in the same folder. Where a task and a pair were run with several numbers of
questions, the result has the number with most settings, and of these the largest. By the same rule, tables of an
earlier result stay in it if the folder has nothing better, so that parts can be measured on several machines. Each
table says when it was measured, and at which commit.

SmolLM2 and Gemma as students, and the smaller Qwen as the teacher of the larger one, are controls: only a part of the
grid runs on them, unless `--pairs` names them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engines import NotBuilt, build
from measured import ROOT, made_by, publish_measured
from real_grid import (
    CONTROL_SETTINGS,
    CONTROL_TASKS,
    CONTROLS,
    FEEDBACK,
    LIMIT,
    PAIRS,
    SETTINGS,
    TASKS,
    Cell,
    Pair,
    Task,
    grid,
    group_directory,
    model_arguments,
    run_directory,
    setting_named,
)
from result_records import RECORD, agrees

from harness_ext.files import atomic_write
from harness_ext.terminal import clean
from models import MODELS, Progress, Unavailable, WrongModel, fetch, models_folder

FINISHED = "finished.json"
OUTPUT = ROOT / "benchmarks" / "results" / "real_results.json"


def chosen(tasks: Sequence[str], pairs: Sequence[Pair] | None, settings: Sequence[str]) -> list[Cell]:
    """Return the cells to run, a pair and a task at a time.

    tasks: names of tasks.
    pairs: the pairs; None for those of the grid.
    settings: labels of settings. The baseline is added, because all others are compared with it, and `feedback_pair` if
        another setting is to cost as much.
    """
    controls = any(value == "auto:{feedback}" for label in settings for value in setting_named(label).options.values())
    labels = {*settings, "baseline"} | ({FEEDBACK} if controls else set())
    cells: Iterable[Cell] = grid()
    if pairs is not None:
        cells = (Cell(task, pair, setting) for pair in dict.fromkeys(pairs) for task in TASKS for setting in SETTINGS)
    return [cell for cell in cells if cell.task.name in tasks and cell.setting.label in labels]


def run(cell: Cell, arguments: Mapping[str, Any], limit: int, manager: Any) -> None:
    """Run a cell, or the rest of it, and mark its run directory as finished.

    cell: the cell.
    arguments: its model arguments.
    limit: the number of questions.
    manager: lm-eval's TaskManager.
    """
    import lm_eval

    lm_eval.simple_evaluate(
        model=cell.setting.model,
        model_args=dict(arguments),
        tasks=[cell.task.name],
        limit=limit,
        apply_chat_template=True,
        bootstrap_iters=0,
        task_manager=manager,
        log_samples=False,
    )
    with atomic_write(Path(arguments["run_dir"]) / FINISHED) as file:
        json.dump({"limit": limit, **when(made_by())}, file)


def collected(folder: Path, score: Any) -> list[dict[str, Any]]:
    """Return the figures of all finished cells in a folder, grouped by task and pair.

    folder: the folder of the run directories.
    score: scores a run directory whose scores are missing.
    """
    groups = []
    for task in TASKS:
        for pair in sorted((folder / task.name).glob("*+*")):
            limit = chosen_limit({int(path.name): finished(path) for path in pair.iterdir() if path.name.isdigit()})
            if limit is not None:
                groups.append(figures(task, Pair.of(pair.name), limit, folder, score))
    return groups


def finished(group: Path) -> tuple[str, ...]:
    """Return the labels of the finished settings of a task, a pair and a number of questions."""
    return tuple(setting.label for setting in SETTINGS if (group / setting.label / FINISHED).is_file())


def chosen_limit(found: Mapping[int, Sequence[str]]) -> int | None:
    """Return the number of questions to publish: that with most settings, and of these the largest.

    found: the labels of the finished settings, by number of questions. Numbers without the baseline do not count.

    Returns None if nothing can be compared with a baseline.
    """
    usable = [limit for limit, labels in found.items() if "baseline" in labels and len(labels) > 1]
    return max(usable, key=lambda limit: (len(found[limit]), limit), default=None)


def figures(task: Task, pair: Pair, limit: int, folder: Path, score: Any) -> dict[str, Any]:
    """Return the figures of a task and a pair; all comparisons are those of `harness-ext compare`.

    task, pair, limit: the task, the pair and the number of questions.
    folder: the folder of the run directories.
    score: scores a run directory whose scores are missing.
    """
    from harness_ext.analysis.compare.comparison import compare
    from harness_ext.analysis.compare.matching import match
    from harness_ext.analysis.compare.rendering import as_json
    from harness_ext.analysis.compare.sources import read_runs

    labels = finished(group_directory(task, pair, folder, limit))
    where = {label: run_directory(Cell(task, pair, setting_named(label)), folder, limit) for label in labels}
    runs = read_runs([f"{label}={path}" for label, path in where.items()], score)
    matched = match(runs, [task.name], [task.metric, task.unread])
    if problems := [*matched.left_out, *matched.differences]:
        raise SystemExit(f"{task.name}, {pair}: the runs cannot be compared: {'; '.join(problems)}")
    rows = json.loads(as_json(compare(runs, matched)))["rows"]
    unread = {row["run"]: row["value"] for row in rows if row["metric"] == task.unread}
    cells = []
    for row in rows:
        if row["metric"] != task.metric:
            continue
        kept = {name: row[name] for name in ("run", "number", "value", "interval", "difference", "cost")}
        cells.append({**kept, "unread": unread.get(row["run"]), **recorded(where[row["run"]], task)})
    names = {"task": task.name, "student": pair.student, "teacher": pair.teacher}
    made = measured_when([path / FINISHED for path in where.values()])
    return {**names, "limit": limit, "two_way": rows[0]["pool"]["two_way"], "cells": cells, RECORD: made}


def when(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a finished cell and a group keep of the record of a process."""
    return {name: record[name] for name in ("commit", "date")}


def measured_when(marks: Iterable[Path]) -> dict[str, str]:
    """Return at which commits the cells of a group were run, with commas between them, and when the last one was.

    marks: the files that mark them as finished.
    """
    found = [json.loads(mark.read_text(encoding="utf-8")) for mark in marks]
    commits = dict.fromkeys(str(one.get("commit", "unknown")) for one in found)
    return {"commit": ", ".join(commits), "date": max(str(one.get("date", "")) for one in found)}


def recorded(run: Path, task: Task) -> dict[str, Any]:
    """Return what a run's own records say: cost by seat, how questions ended, and what the verdicts were worth.

    run: the run directory, which has been scored.
    task: its task.
    """
    from harness_ext.analysis.scoring.score import FIGURES, read_config

    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    scored = json.loads((run / FIGURES).read_text(encoding="utf-8"))["tasks"][task.name]["metrics"][task.metric]
    options = read_config(run)["identity"]["options"]
    verdicts, stated = scored.get("acceptance"), scored.get("probabilities") or {}
    return {
        "seats": {seat: usage["total"] for seat, usage in summary["usage"].items()},
        "stops": summary["stops"],
        "events": summary["events"],
        "failed": summary["failed"],
        "k": options.get("k"),
        "flips": scored.get("flips"),
        "oracle": scored.get("oracle"),
        "verdicts": verdicts
        and {
            **verdicts,
            "asked": summary["reviews"]["total"],
            "stated": stated.get("stated"),
            "auroc": stated.get("auroc"),
        },
    }


def available(names: Iterable[str], server: Path | None) -> tuple[dict[str, Path], Path]:
    """Return the GGUF files of models and llama.cpp's server, which are downloaded and built if they are not there.

    names: names of models.
    server: the server to use. Default None: the one on the PATH, or else the one that `engines.py` builds.
    """
    folder, files = models_folder(), {}
    try:
        for name in dict.fromkeys(names):
            progress = Progress(name)
            files[name] = fetch(MODELS[name], folder, progress.say)
            progress.end(str(files[name]))
        if server is None:
            on_path = shutil.which("llama-server")
            server = Path(on_path) if on_path else build(folder, Progress("llama-server"))
    except (Unavailable, WrongModel, NotBuilt, OSError) as error:
        sys.exit(clean(error))
    return files, server


def scorer(manager: Any) -> Any:
    """Return the function that scores a run directory and returns its scores. `manager`: lm-eval's TaskManager."""
    from harness_ext.analysis.scoring.score import read_scored, score_run

    def score(run: Path) -> Any:
        score_run(run, manager=manager)
        return read_scored(run)

    return score


def merged(found: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one group for each task and pair: that with most settings, of these with most questions, or the new one.

    found: the new groups.
    earlier: the groups of an earlier result.
    """
    best: dict[tuple[str, ...], dict[str, Any]] = {}
    for group in (*found, *earlier):
        key = (group["task"], group["student"], group["teacher"])
        best[key] = max(best.get(key, group), group, key=lambda one: (len(one["cells"]), one["limit"]))
    order = [task.name for task in TASKS]
    return sorted(best.values(), key=lambda one: (order.index(one["task"]), one["student"], one["teacher"]))


def published(output: Path) -> list[dict[str, Any]]:
    """Return the groups of an earlier result, each with the record of when it was measured. Exit if it was changed."""
    if not output.exists():
        return []
    result = json.loads(output.read_text(encoding="utf-8"))
    if not agrees(result):
        sys.exit(f"{output}: it was changed after it was made. Restore it, or name another file with --output")
    return [{RECORD: when(result[RECORD]), **group} for group in result["groups"]]


def publish(folder: Path, output: Path) -> None:
    """Write the figures of all finished cells in a folder, and those of an earlier result that are not in it.

    Nothing is written if nothing is finished, so that no result is lost.
    """
    from lm_eval.tasks import TaskManager

    found = collected(folder, scorer(TaskManager()))
    if not found:
        print("nothing can be compared with a baseline yet, so no result is written", file=sys.stderr)
        return
    groups = merged(found, published(output))
    names = dict.fromkeys(group[role] for group in groups for role in ("student", "teacher"))
    models = {name: {"title": MODELS[name].title, "sha256": MODELS[name].sha256} for name in names}
    publish_measured({"models": models, "groups": groups}, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [task.name for task in TASKS]
    labels = [setting.label for setting in SETTINGS]
    parser.add_argument("--tasks", nargs="+", choices=names, default=names, metavar="TASK", help=", ".join(names))
    parser.add_argument(
        "--pairs", nargs="+", metavar="STUDENT+TEACHER",
        help=f"of the models {', '.join(MODELS)} (default: {', '.join(map(str, PAIRS))}, and the controls "
        f"{', '.join(map(str, CONTROLS))} on {', '.join(CONTROL_TASKS)} with {', '.join(CONTROL_SETTINGS)})",
    )  # fmt: skip
    parser.add_argument(
        "--settings", nargs="+", choices=labels, default=labels, metavar="SETTING", help=", ".join(labels)
    )
    parser.add_argument("--limit", type=int, default=LIMIT, help="questions per task (default: %(default)s)")
    parser.add_argument("--server", type=Path, help="llama.cpp's server, if not on the PATH or built by engines.py")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "harness_ext_runs" / "real_results",
        help="folder of the call store and the run directories (default: harness_ext_runs/real_results)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    try:
        pairs = args.pairs and [Pair.of(text) for text in args.pairs]
    except ValueError as error:
        parser.error(str(error))
    if args.limit < 1:
        parser.error(f"--limit {args.limit}: expected 1 or more")
    cells = chosen(args.tasks, pairs, args.settings)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    names = [name for cell in cells for name in (cell.pair.student, cell.pair.teacher)]
    files, server = available(names, args.server)
    from lm_eval.tasks import TaskManager

    from harness_ext.bridge import plugins

    plugins.register_models()
    manager = TaskManager()
    try:
        for number, cell in enumerate(cells, 1):
            print(f"{number} of {len(cells)}: {cell}, {args.limit} questions", flush=True)
            run(cell, model_arguments(cell, files, server, args.folder, args.limit), args.limit, manager)
    finally:
        publish(args.folder, args.output)


if __name__ == "__main__":
    main()
