"""Reads the sources of a comparison: results of lm-eval for any model, with samples, and run directories."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.runs import (
    UNNAMED,
    CompareError,
    Evaluation,
    Metric,
    QuestionId,
    Run,
    TaskScores,
    mean_usage,
    merge,
)
from harness_ext.analysis.scoring.leaks import gold_answers, is_two_way
from harness_ext.analysis.scoring.score import FIGURES, SCORES, read_config, transcripts_digest
from harness_ext.records import SeatCost, Usage
from harness_ext.records.run_directory import read_transcripts

_DATE = re.compile(r"_?(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
ScoreRun = Callable[[Path], None]


def read_runs(arguments: Sequence[str], score: ScoreRun) -> list[Run]:
    """Return the runs that command line arguments name, in their order.

    arguments: `PATH` or `LABEL=PATH`, where the path is a run directory, a results file, or a folder of these. Paths
        with the same label are one run; without labels, results with the same model and settings are one run.
    score: called with each run directory whose scores are missing or older than its transcripts.

    Raises CompareError if a path cannot be read.
    """
    found: dict[tuple[str, str], list[Evaluation]] = {}
    for argument in arguments:
        label, path = _labelled(argument)
        for evaluation in _evaluations(path, score):
            found.setdefault((label, "") if label else ("", evaluation.model), []).append(evaluation)
    names: dict[str, int] = {}
    runs = []
    for (label, _), evaluations in found.items():
        name = label or evaluations[0].label
        names[name] = names.get(name, 0) + 1
        runs.append(merge(evaluations, name if names[name] == 1 else f"{name} #{names[name]}"))
    return runs


def _labelled(argument: str) -> tuple[str, Path]:
    label, equals, path = argument.partition("=")
    if equals and not Path(argument).expanduser().exists():
        return label, Path(path).expanduser()
    return "", Path(argument).expanduser()


def _evaluations(path: Path, score: ScoreRun) -> Iterator[Evaluation]:
    if path.is_file() and path.suffix == ".json":
        yield _results(path)
    elif _is_run(path):
        yield _run_directory(path, score)
    elif path.is_dir():
        results = sorted((p for p in path.rglob("*.json") if _DATE.search(p.name)), key=lambda p: p.name)
        runs = sorted(p for p in path.rglob("*/") if _is_run(p)) if not results else []
        if not results and not runs:
            raise CompareError(
                f"{path} contains neither lm-eval results (results_<time>.json) nor the transcripts of a run: name a "
                "folder that does"
            )
        yield from map(_results, results)
        for run in runs:
            yield _run_directory(run, score)
    else:
        raise CompareError(f"{path} is neither a folder nor an lm-eval results file: name one of these")


def _is_run(path: Path) -> bool:
    return (path / "transcripts.jsonl").is_file() or any(path.glob("transcripts.*.jsonl"))


def _results(path: Path) -> Evaluation:
    """Read an lm-eval results file and the samples next to it."""
    results = _json(path)
    dated = _DATE.search(path.name)
    config = results.get("config") or {}
    names = [n for n in results.get("configs", {}) if dated and (path.parent / _samples(n, dated[1])).is_file()]
    if not names or dated is None:
        raise CompareError(
            f"{path} has no samples next to it (samples_<task>_<time>.jsonl): run lm_eval with --log_samples"
        )
    ours = config.get("harness_ext") or {}
    costs, notes = _costs_of_results(ours, path)
    tasks = {n: _samples_of(path.parent / _samples(n, dated[1]), n, results, costs) for n in names}
    missing = [n for n in results["configs"] if n not in names]
    if missing:
        notes.append(f"{path}: no samples for {', '.join(missing)}")
    arguments = config.get("model_args") or {}
    arguments = dict(arguments) if isinstance(arguments, Mapping) else {"": arguments}
    label = arguments.get("model") if ours else None
    named = arguments.get("pretrained") or arguments.get("model") or results.get("model_name")
    model = {k: config.get(k) for k in ("model", "gen_kwargs")} | {"args": {**arguments, "run_dir": None}}
    model |= {k: results.get(k) for k in ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn")}
    return Evaluation(
        str(path),
        str(label or (config.get("model") if ours else Path(str(named or "unnamed")).name)),
        json.dumps(model, sort_keys=True, default=str),
        tuple(config.get(k) for k in ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")),
        datetime.strptime(dated[1].partition(".")[0], "%Y-%m-%dT%H-%M-%S").timestamp(),
        tasks,
        _leaf_groups(results.get("group_subtasks") or {}),
        tuple(notes),
    )


def _samples(task: str, date: str) -> str:
    return f"samples_{task}_{date}.jsonl"


def _samples_of(
    path: Path, task: str, results: Mapping[str, Any], costs: Mapping[tuple[str, str], Usage] | Usage | None
) -> TaskScores:
    config = results["configs"][task]
    values: dict[str, dict[QuestionId, list[Any]]] = {}
    documents: dict[QuestionId, Any] = {}
    two_way = True
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            question = (int(sample["doc_id"]), str(sample["doc_hash"]))
            scores = {f"{m},{sample['filter']}": sample[m] for m in sample["metrics"] if m != "bypass"}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CompareError(
                f"{path}, line {number} is not a sample of lm-eval 0.4.9 or later ({error!r}): run lm_eval again"
            ) from error
        for name, value in scores.items():
            values.setdefault(name, {}).setdefault(question, []).append(value)
        if question not in documents:
            documents[question] = sample.get("doc")
            choices = [""] * len(sample["resps"]) if config.get("output_type") == "multiple_choice" else []
            two_way = two_way and is_two_way(gold_answers([str(sample["target"])]), choices)
    aggregations = {m.get("metric"): m.get("aggregation", UNNAMED) for m in config.get("metric_list") or []}
    higher = (results.get("higher_is_better") or {}).get(task) or {}
    metrics = {}
    for name, by_question in values.items():
        metric = name.rpartition(",")[0]
        metrics[name] = Metric(
            {q: tuple(found) for q, found in by_question.items()},
            higher.get(metric) is not False,
            str(aggregations.get(metric, UNNAMED)),
            (results.get("results") or {}).get(task, {}).get(name),
        )
    costs_here: Mapping[QuestionId, Usage] | None
    if isinstance(costs, Usage):
        costs_here = dict.fromkeys(documents, costs)
    else:
        costs_here = None if costs is None else {q: costs[task, q[1]] for q in documents if (task, q[1]) in costs}
    shots = (results.get("n-shot") or {}).get(task)
    return TaskScores(metrics, documents, costs_here, two_way, shots, (results.get("versions") or {}).get(task))


def _costs_of_results(
    ours: Mapping[str, Any], path: Path
) -> tuple[Mapping[tuple[str, str], Usage] | Usage | None, list[str]]:
    """Return the cost of the questions of one of this package's models, and remarks about it.

    The cost of each question comes from the run directory. If that is gone, the mean over all questions comes from the
    summary in the results file.

    ours: the entry of this package in the results file; empty for other models.
    path: the results file, for messages.
    """
    if not ours:
        return None, []
    run = Path(str(ours.get("run")))
    if _is_run(run):
        return question_costs(run), []
    summary = ours.get("summary") or {}
    questions = summary.get("questions")
    seats = [Usage(**seat["total"]) for seat in (summary.get("usage") or {}).values()]
    if not seats or not questions:
        return None, []
    total = Usage.total(seats)
    each = mean_usage([total] + [Usage(0, 0, 0, 0, 0, 0.0, 0.0, 0.0)] * (questions - 1))
    return each, [f"{path}: its run directory {run} is missing, so costs are means over all its questions"]


def _run_directory(path: Path, score: ScoreRun) -> Evaluation:
    """Read a run directory, after scoring it if necessary."""
    figures = _scored(path)
    if figures is None:
        score(path)
        figures = _scored(path)
    if figures is None:
        raise CompareError(f"{path} could not be scored: run `harness-ext score {path}` to see why")
    config = read_config(path)
    costs = question_costs(path)
    values: dict[str, dict[str, dict[QuestionId, tuple[Any, ...]]]] = {}
    documents: dict[str, dict[QuestionId, Any]] = {}
    with (path / SCORES).open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            question = (row["doc_id"], row["doc_hash"])
            documents.setdefault(row["task"], {})[question] = row["doc"]
            for key, entry in row["filters"].items():
                for metric in entry["lm_eval"]:
                    ends = tuple(unit[-1][metric] for unit in entry["answers"])
                    values.setdefault(row["task"], {}).setdefault(f"{metric},{key}", {})[question] = ends
    tasks = {}
    for task, found in figures["tasks"].items():
        metrics = {
            name: Metric(by_question, m["higher_is_better"], m["aggregation"], m["final"])
            for name, by_question in values.get(task, {}).items()
            if (m := found["metrics"].get(name)) is not None and not name.startswith("bypass,")
        }
        here = {q: costs[task, q[1]] for q in documents[task] if (task, q[1]) in costs}
        tasks[task] = TaskScores(metrics, documents[task], here, found["two_way"], None, found["version"])
    started = str(config.get("started") or "")
    try:
        when = datetime.strptime(started, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        when = (path / FIGURES).stat().st_mtime
    return Evaluation(
        str(path),
        str(config.get("label") or path.name),
        json.dumps([config.get("label"), config.get("identity")], sort_keys=True, default=str),
        ((config.get("seeds") or {}).get("torch"),),
        when,
        tasks,
        {name: tuple(members) for name, members in figures["groups"].items()},
        tuple(f"{path}, {t}: {f['failed']} questions failed" for t, f in figures["tasks"].items() if f["failed"]),
    )


def _scored(path: Path) -> dict[str, Any] | None:
    """Return the figures of a scored run, or None if they are missing or older than the transcripts."""
    if not (path / FIGURES).is_file() or not (path / SCORES).is_file():
        return None
    figures = _json(path / FIGURES)
    return figures if figures.get("transcripts") == transcripts_digest(path) else None


def question_costs(run: Path) -> dict[tuple[str, str], Usage]:
    """Return the cost of each document of a run, by task and hash: the mean over its repeats.

    Every call counts, including reused ones, so that a run is charged what it would have cost alone.
    """
    # The number of a model's weights may still be unknown when `config.json` is written. The summary is written after
    # the model was loaded; its FLOPs are 2 · weights · tokens, from which the number follows.
    config, summary = read_config(run), _json(run / "summary.json") if (run / "summary.json").is_file() else {}
    seats: dict[str, SeatCost] = {}
    for name, seat in (config.get("seats") or {}).items():
        total = ((summary.get("usage") or {}).get(name) or {}).get("total") or {}
        tokens = (total.get("prompt_tokens") or 0) + (total.get("completion_tokens") or 0)
        derived = round(total["flops"] / 2 / tokens) if tokens and total.get("flops") else None
        seats[name] = SeatCost(seat.get("parameters") or derived, seat.get("price_in"), seat.get("price_out"))
    by_document: dict[tuple[str, str], list[Usage]] = {}
    for transcript in read_transcripts(run):
        usage = Usage.total(seats.get(turn.seat, SeatCost()).usage(turn) for turn in transcript.turns)
        by_document.setdefault((transcript.task, transcript.doc_hash), []).append(usage)
    return {key: mean_usage(usages) for key, usages in by_document.items()}


def _leaf_groups(children: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each group, with groups inside groups resolved."""

    def leaves(name: str, path: tuple[str, ...]) -> list[str]:
        if name not in children or name in path:
            return [name]
        return [leaf for child in children[name] for leaf in leaves(child, (*path, name))]

    return {name: tuple(dict.fromkeys(leaves(name, ()))) for name in children if children[name]}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompareError(f"{path} cannot be read: {error}. Restore it, or name another file") from error
    if not isinstance(found, dict):
        raise CompareError(f"{path} does not contain a JSON object: restore it, or name another file")
    return found
