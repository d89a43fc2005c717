"""Reads this package's run directories."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.runs import CompareError, Evaluation, Metric, QuestionId, TaskScores, mean_usage
from harness_ext.analysis.compare.settings import settings_of_run
from harness_ext.analysis.scoring.score import FIGURES, SCORES, Scored, read_config, transcripts_digest
from harness_ext.bridge.task_settings import read_settings
from harness_ext.records import SeatCost, Usage
from harness_ext.records.costs import costs_of
from harness_ext.records.run_directory import read_transcripts
from harness_ext.terminal import shell_word

TAKEN = ("k", "spend")  # options that a protocol can take from another run
# What a seat in `config.json` says about how its model is asked.
ASKED = (
    "chat", "system", "gen", "images", "thoughts", "thought_markers", "thought_tokens", "decide", "decide_draws",
    "decide_thinking", "calibration",
)  # fmt: skip

ScoreRun = Callable[[Path], Scored | None]
"""Scores a run directory: writes the scores there, or returns them."""


def is_run(path: Path) -> bool:
    """Return whether a folder is a run directory."""
    return (path / "transcripts.jsonl").is_file() or any(path.glob("transcripts.*.jsonl"))


def read_run_directory(path: Path, score: ScoreRun) -> Evaluation:
    """Read a run directory.

    path: the directory.
    score: called with it if its scores are missing or older than its transcripts.

    Raises CompareError if it cannot be scored.
    """
    scored = _scored(path) or score(path) or _scored(path)
    if scored is None:
        raise CompareError(f"{path} could not be scored: run `harness-ext score {shell_word(path)}` to see why")
    figures, lines = scored
    config, recorded = read_config(path), read_settings(path)
    costs = question_costs(path)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in lines:
        rows.setdefault(row["task"], []).append(row)
    tasks = {
        task: _scored_task(rows.get(task, []), found, costs, recorded.get(task))
        for task, found in figures["tasks"].items()
    }
    started = str(config.get("started") or "")
    try:
        when = datetime.strptime(started, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        when = path.stat().st_mtime
    method = _method(config)
    return Evaluation(
        str(path),
        str(config.get("label") or path.name),
        json.dumps([config.get("label"), method], sort_keys=True, default=str),
        (None, None, (config.get("seeds") or {}).get("torch"), None),
        when,
        tasks,
        {name: tuple(members) for name, members in figures["groups"].items()},
        tuple(f"{path}, {t}: {f['failed']} questions failed" for t, f in figures["tasks"].items() if f["failed"]),
        # Here the protocol is recorded by its class (`FeedbackPair`), whose module has the name that lm-eval knows.
        protocol=re.sub(r"(?<!^)(?=[A-Z])", "_", str(method.get("protocol") or "")).lower() or None,
    )


def _method(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells a run from others that are no repeats of it: its identity, without what repeats differ in.

    config: the content of its `config.json`.

    Protocols that sample have their seed in their identity, which tells the repeats of one model apart. What they take
    from another run (`k=auto`, `spend=auto`), repeats take from repeats of that run.
    """
    method = {k: v for k, v in (config.get("identity") or {}).items() if k != "seed"}
    method["options"] = _without_taken(method.get("options") or {})
    recorded: Mapping[str, Mapping[str, Any]] = config.get("seats") or {}
    takes = {path for path, seat in recorded.items() if (seat.get("options") or {}).get("target") is not None}
    if takes:
        # The fingerprint of a protocol in a seat contains its options, and those of the protocols in its own seats.
        method["seats"] = {
            path: {
                **{name: seat[name] for name in ASKED if name in seat},
                "model": _without_taken(seat["options"]) if "options" in seat else seat.get("fingerprint"),
            }
            for path, seat in recorded.items()
        }
    return method


def _without_taken(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a protocol's options without what it has taken from another run."""
    if options.get("target") is None:
        return options
    taken = [name for name in TAKEN if name in options]
    return {**options, **dict.fromkeys(taken, "auto"), "target": None, "draws_from": None}


def _scored_task(
    rows: Sequence[Mapping[str, Any]], figures: Mapping[str, Any], costs: Mapping[tuple[str, str], Usage],
    recorded: Mapping[str, Any] | None,
) -> TaskScores:  # fmt: skip
    """Read a task of a scored run.

    rows: the task's lines of `scores.jsonl`.
    figures: its entry in `scores.json`.
    costs: what `question_costs` returns.
    recorded: what `read_settings` returns for the task, or None.
    """
    by_question: dict[QuestionId, Mapping[str, Any]] = {(row["doc_id"], row["doc_hash"]): row for row in rows}
    every = {draw["repeat"] for row in rows for draw in row["draws"]}
    values: dict[str, dict[QuestionId, tuple[Any, ...]]] = {}
    incomplete: dict[str, list[QuestionId]] = {}
    for question, row in by_question.items():
        is_complete = {draw["repeat"] for draw in row["draws"]} == every
        for key, entry in row["filters"].items():
            for metric in entry["lm_eval"]:
                name = f"{metric},{key}"
                if metric == "bypass" or name not in figures["metrics"]:
                    continue
                ends = values.setdefault(name, {})
                if is_complete:
                    ends[question] = tuple(unit[-1][metric] for unit in entry["answers"])
                else:
                    incomplete.setdefault(name, []).append(question)
    metrics = {}
    for name, ends in values.items():
        found = figures["metrics"][name]
        metrics[name] = Metric(ends, found["higher_is_better"], found["aggregation"], found["final"])
    return TaskScores(
        metrics,
        {question: row["doc"] for question, row in by_question.items()},
        {q: cost for q, row in by_question.items() if (cost := costs.get((row["task"], q[1]))) is not None},
        figures["two_way"],
        (settings_of_run(recorded, figures),),
        {name: tuple(questions) for name, questions in incomplete.items()},
    )


def _scored(path: Path) -> Scored | None:
    """Return the scores of a run, or None if they are missing or older than the transcripts."""
    if not (path / FIGURES).is_file() or not (path / SCORES).is_file():
        return None
    figures = read_json(path / FIGURES)
    if figures.get("transcripts") != transcripts_digest(path):
        return None
    with (path / SCORES).open(encoding="utf-8") as file:
        return figures, [json.loads(line) for line in file]


def question_costs(run: Path) -> dict[tuple[str, str], Usage]:
    """Return the cost of each document of a run, by task and hash: the mean over its repeats.

    Every call counts, including reused ones, so that a run is charged what it would have cost alone.
    """
    summary = read_json(run / "summary.json") if (run / "summary.json").is_file() else {}
    seats = costs_of(read_config(run).get("seats"), summary.get("usage"))
    by_document: dict[tuple[str, str], list[Usage]] = {}
    for transcript in read_transcripts(run):
        usage = Usage.total(seats.get(turn.seat, SeatCost()).usage(turn) for turn in transcript.calls)
        by_document.setdefault((transcript.task, transcript.doc_hash), []).append(usage)
    return {key: mean_usage(usages) for key, usages in by_document.items()}


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises CompareError if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{path} cannot be read: {error}. Restore it, or name another file") from error
    if not isinstance(found, dict):
        raise CompareError(f"{path} does not contain a JSON object: restore it, or name another file")
    return found
