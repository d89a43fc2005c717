"""Reads lm-eval's results files, of any model, with the samples next to them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.run_directories import TAKEN, is_run, question_costs, read_json
from harness_ext.analysis.compare.runs import (
    UNNAMED,
    CompareError,
    Evaluation,
    Metric,
    QuestionId,
    TaskScores,
    mean_usage,
)
from harness_ext.analysis.compare.settings import function_name, settings_of_results
from harness_ext.analysis.scoring.leaks import gold_answers, is_two_way, listed_choices
from harness_ext.records import Usage

DATE = re.compile(r"_?(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
"""The end of a results file's name."""


def read_results(path: Path) -> Evaluation:
    """Read an lm-eval results file and the samples next to it. Raises CompareError if that is not possible."""
    results = read_json(path)
    dated = DATE.search(path.name)
    config = results.get("config") or {}
    names = [n for n in results.get("configs", {}) if dated and (path.parent / _samples(n, dated[1])).is_file()]
    if not names or dated is None:
        raise CompareError(
            f"{path} has no samples next to it (samples_<task>_<time>.jsonl): run lm_eval with --log_samples"
        )
    ours = config.get("harness_ext") or {}
    costs, notes = _costs_of_results(ours, path)
    tasks = {n: _samples_of(path.parent / _samples(n, dated[1]), n, results, costs, notes) for n in names}
    missing = [n for n in results["configs"] if n not in names]
    if missing:
        notes.append(f"{path}: no samples for {', '.join(missing)}")
    arguments = config.get("model_args") or {}
    arguments = dict(arguments) if isinstance(arguments, Mapping) else {"": arguments}
    label = arguments.get("model") if ours else None
    named = arguments.get("pretrained") or arguments.get("model") or results.get("model_name")
    method = {**_without_taken(arguments), "run_dir": None}
    model = {k: config.get(k) for k in ("model", "gen_kwargs")} | {"args": method}
    model |= {"prompts": ours.get("prompts")}  # arguments name only the files that prompts were read from
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
        Path(str(ours["run"])).name if ours.get("run") else None,
        str(ours["protocol"]) if ours.get("protocol") else None,
    )


def _without_taken(arguments: Any) -> Any:
    """Return a model's arguments without the runs from which it, or a protocol in its seats, takes options.

    Repeats take the number of draws, or the budget, from repeats of the other run. A seat's options are arguments with
    a dot in their name (`student.k`), or a mapping.
    """
    if isinstance(arguments, list):
        return [_without_taken(one) for one in arguments]
    if not isinstance(arguments, Mapping):
        return arguments
    found = {name: _without_taken(value) for name, value in arguments.items()}
    for name, value in arguments.items():
        seat, dot, option = str(name).rpartition(".")
        if option in TAKEN and str(value).startswith("auto:"):
            found |= {name: "auto", f"{seat}{dot}draws_from": None}
    return found


def _samples(task: str, date: str) -> str:
    return f"samples_{task}_{date}.jsonl"


def _samples_of(
    path: Path, task: str, results: Mapping[str, Any], costs: Mapping[tuple[str, str], Usage] | Usage | None,
    notes: list[str],
) -> TaskScores:  # fmt: skip
    """Read the samples of a task.

    path: the file.
    task: the name of the task.
    results: the content of the results file.
    costs: what `_costs_of_results` returns.
    notes: receives remarks.
    """
    config = results["configs"][task]
    values: dict[str, dict[QuestionId, tuple[Any, ...]]] = {}
    again: set[QuestionId] = set()
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
            if values.setdefault(name, {}).setdefault(question, found := (value,)) is not found:
                again.add(question)
        if question not in documents:
            documents[question] = sample.get("doc")
            scored = config.get("output_type") == "multiple_choice"
            choices = [""] * len(sample["resps"]) if scored else listed_choices(sample.get("doc"))
            two_way = two_way and is_two_way(gold_answers([str(sample["target"])]), choices)
    if again:
        numbers = ", ".join(str(doc_id) for doc_id, _ in sorted(again)[:10])
        notes.append(f"{path}: {len(again)} documents occur more than once (doc_id {numbers}); the first one counts")
    # A metric that is a function of the task is recorded as its source code.
    entries = {function_name(str(m.get("metric"))) or m.get("metric"): m for m in config.get("metric_list") or []}
    aggregations = {name: str(m["aggregation"]) for name, m in entries.items() if m.get("aggregation") is not None}
    settings = settings_of_results(results, task, aggregations)
    metrics = {}
    for name, by_question in values.items():
        metric = name.rpartition(",")[0]
        metrics[name] = Metric(
            by_question,
            settings.higher_is_better.get(metric, True),
            aggregations.get(metric, UNNAMED),
            (results.get("results") or {}).get(task, {}).get(name),
        )
    costs_here: Mapping[QuestionId, Usage] | None
    if isinstance(costs, Usage):
        costs_here = dict.fromkeys(documents, costs)
    else:
        costs_here = None if costs is None else {q: costs[task, q[1]] for q in documents if (task, q[1]) in costs}
    return TaskScores(metrics, documents, costs_here, two_way, (settings,))


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
    if is_run(run):
        return question_costs(run), []
    summary = ours.get("summary") or {}
    questions = summary.get("questions")
    seats = [Usage(**{"thinking_tokens": None} | seat["total"]) for seat in (summary.get("usage") or {}).values()]
    if not seats or not questions:
        return None, []
    total = Usage.total(seats)
    each = mean_usage([total] + [Usage()] * (questions - 1))
    return each, [f"{path}: its run directory {run} is missing, so costs are means over all its questions"]


def _leaf_groups(children: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the tasks of each group, with groups inside groups resolved."""

    def leaves(name: str, path: tuple[str, ...]) -> list[str]:
        if name not in children or name in path:
            return [name]
        return [leaf for child in children[name] for leaf in leaves(child, (*path, name))]

    return {name: tuple(dict.fromkeys(leaves(name, ()))) for name in children if children[name]}
