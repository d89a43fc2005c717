"""Figures of a scored run, computed from the task's own scores: accuracy per round, flips, oracle, vote, leaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from harness_ext.analysis.scoring.choice_decisions import choice_figures
from harness_ext.analysis.scoring.comparisons import comparison_figures, judge_accuracy
from harness_ext.analysis.scoring.decisions import (
    acceptance_figures,
    conformity_figures,
    probability_figures,
    threshold_figures,
)
from harness_ext.analysis.scoring.replay import ScoringError, numeric

ScoreRow = Mapping[str, Any]
Aggregate = Callable[[list[Any]], Any]


def task_figures(task: Any, rows: Sequence[ScoreRow]) -> dict[str, Any]:
    """Return the figures of a task.

    task: lm-eval's task object.
    rows: the task's lines of `scores.jsonl`.

    The entry `metrics` contains the result of `metric_figures` for each `metric,filter`, the entry `choices` that of
    `choice_figures`, the entry `judge` that of `comparison_figures`.
    """
    functions: Mapping[str, Aggregate] = task.aggregation()
    higher: Mapping[str, bool | None] = task.higher_is_better() or {}
    metrics = {}
    for metric, key in dict.fromkeys((m, f) for row in rows for f in row["filters"] for m in _metrics(row, f)):
        aggregate = functions.get(metric, _mean)
        better = -1 if higher.get(metric) is False else 1
        measured = [row for row in rows if metric in _metrics(row, key)]
        try:
            metrics[f"{metric},{key}"] = {
                "higher_is_better": better == 1,
                "aggregation": getattr(aggregate, "__name__", "unknown"),
                **metric_figures(measured, metric, key, aggregate, better),
            }
        except Exception as error:
            raise ScoringError(
                f"task {rows[0]['task']}: its aggregation of {metric} raised {type(error).__name__}: {error}"
            ) from error
    return {
        "version": getattr(task, "VERSION", None),
        "split": _split(task),
        "documents": len(rows),
        "questions": sum(len(row["draws"]) for row in rows),
        "failed": sum(draw["failed"] for row in rows for draw in row["draws"]),
        "two_way": all(row["two_way"] for row in rows),
        "hints": hint_figures(rows),
        "choices": choice_figures(rows),
        "judge": comparison_figures(rows),
        "metrics": metrics,
    }


def metric_figures(
    rows: Sequence[ScoreRow], metric: str, key: str, aggregate: Aggregate, better: int
) -> dict[str, Any]:
    """Return the figures of one metric over documents.

    rows: the lines of `scores.jsonl` that have the metric.
    metric: the name of the metric.
    key: the name of the filter.
    aggregate: the metric's aggregation.
    better: 1 if higher values are better, -1 if lower ones are.

    All figures but `lm_eval` count every repeat that has a score of its own. They are:

    lm_eval: the value in lm-eval's own table.
    first_draft: the value of the first drafts.
    final: the value of the last answers.
    rounds: the value after each round; finished questions keep their last answer.
    changed: how many answers each round replaced.

    If all values are numbers, also:

    flips: how many questions got better and worse between round 0 and the end.
    flips_by_round: the same from each round to the next.
    ends: for each way in which questions ended (`stop`), how many `questions` did, and the means of their values
        `before` and `after` all rounds.
    oracle: the value of the best text of each question.

    If all values are 0 or 1, also what `acceptance_figures`, `probability_figures`, `threshold_figures`,
    `conformity_figures` and `judge_accuracy` return.

    If several agents or draws answer, also:

    vote: the value of the vote over round 0.
    vote_oracle: the value of the best text of round 0.
    agents: the mean over all texts, by round.
    """
    entries = [row["filters"][key] for row in rows]
    units = [[state[metric] for state in unit] for entry in entries for unit in entry["answers"]]
    last = max(len(unit) for unit in units)
    frozen = [[unit[min(r, len(unit) - 1)] for unit in units] for r in range(last)]
    # A question with a single text, or with none because it failed, counts as one agent.
    agents = [
        [[text[metric] for text in texts] for texts in rounds] or [[unit[0][metric]]]
        for entry in entries
        for unit, rounds in zip(entry["answers"], entry.get("agents") or [[]] * len(entry["answers"]), strict=True)
    ]
    several = any("agents" in entry for entry in entries)
    firsts = [draw[0][0] for draw in agents]
    figures: dict[str, Any] = {
        "lm_eval": _number(aggregate([entry["lm_eval"][metric] for entry in entries])),
        "first_draft": _number(aggregate(firsts)),
        "final": _number(aggregate(frozen[-1])),
        "rounds": [_number(aggregate(values)) for values in frozen],
        "changed": [sum(len(unit) > r for unit in units) for r in range(last)],
    }
    if any(numeric(value) is None for unit in units for value in unit):
        return figures
    draws = [
        draw
        for row, entry in zip(rows, entries, strict=True)
        for draw in (row["draws"] if len(entry["answers"]) == len(row["draws"]) else row["draws"][:1])
    ]
    hinted = [any(hint["leaks"] for hint in draw["hints"] or []) for draw in draws]
    ups = [better * (unit[-1] - unit[0]) for unit in units]
    figures |= {
        "flips": {
            "wrong_to_right": int(sum(up > 0 for up in ups)),
            "right_to_wrong": int(sum(up < 0 for up in ups)),
            "wrong_to_right_after_leak": int(sum(up > 0 and leak for up, leak in zip(ups, hinted, strict=True))),
        },
        "flips_by_round": [
            {
                "wrong_to_right": int(sum(better * (b - a) > 0 for a, b in zip(before, after, strict=True))),
                "right_to_wrong": int(sum(better * (b - a) < 0 for a, b in zip(before, after, strict=True))),
            }
            for before, after in pairwise(frozen)
        ],
        "ends": _ends([draw["stop"] for draw in draws], units),
        "oracle": _number(
            aggregate(
                [
                    max([*unit, *(text for texts in draw for text in texts)], key=lambda v: better * v)
                    for unit, draw in zip(units, agents, strict=True)
                ]
            )
        ),
    }
    if better == 1 and {float(value) for unit in units for value in unit} <= {0.0, 1.0}:
        decisions = {
            "acceptance": acceptance_figures(rows, metric, key),
            "probabilities": probability_figures(rows, metric, key),
            "thresholds": threshold_figures(rows, metric, key),
            "conformity": conformity_figures(rows, metric, key),
            "judge": judge_accuracy(rows, metric, key),
        }
        figures |= {name: found for name, found in decisions.items() if found is not None}
    if several:
        most = max(len(draw) for draw in agents)
        figures |= {
            "vote": _number(aggregate(frozen[0])),
            "vote_oracle": _number(aggregate([max(draw[0], key=lambda v: better * v) for draw in agents])),
            "agents": [
                _number(aggregate([text for draw in agents for text in draw[min(r, len(draw) - 1)]]))
                for r in range(most)
            ],
        }
    return figures


def _ends(stops: Sequence[str], units: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Return the entry `ends` of `metric_figures`.

    stops: how each question ended.
    units: the values of its answers, by round.
    """
    found: dict[str, list[Sequence[Any]]] = {}
    for stop, unit in zip(stops, units, strict=True):
        found.setdefault(stop, []).append(unit)
    return {
        stop: {
            "questions": len(own),
            "before": _mean([unit[0] for unit in own]),
            "after": _mean([unit[-1] for unit in own]),
        }
        for stop, own in sorted(found.items(), key=lambda entry: -len(entry[1]))
    }


def hint_figures(rows: Sequence[ScoreRow]) -> dict[str, int]:
    """Return how many rejecting reviews there are, how many of them name or leak the answer, and related counts.

    The entry `unread` counts the questions whose gold answer is too long for a hint to name.
    """
    read = [draw["hints"] for row in rows for draw in row["draws"] if draw["hints"] is not None]
    hints = [hint for found in read for hint in found]
    return {
        "rejecting_reviews": len(hints),
        "naming_the_answer": sum(hint["names"] for hint in hints),
        "leaking_the_answer": sum(hint["leaks"] for hint in hints),
        "questions_with_a_leak": sum(any(hint["leaks"] for hint in found) for found in read),
        "unread": sum(draw["hints"] is None for row in rows for draw in row["draws"]),
    }


def pooled_figures(figures: Mapping[str, Any], rows: Mapping[str, Sequence[ScoreRow]]) -> dict[str, Any]:
    """Return the pooled figures of all two-way tasks and of all other tasks.

    figures: the figures by task.
    rows: the lines of `scores.jsonl` by task.

    A pool contains only the metrics that every one of its tasks averages over documents.
    """
    two_way = [name for name in rows if figures[name]["two_way"]]
    other = [name for name in rows if name not in two_way]
    pools: dict[str, Any] = {}
    for pool, names in (("two-way tasks", two_way), ("other tasks", other)):
        if len(names) < 2:
            continue
        shared = [m for m in figures[names[0]]["metrics"] if all(_averages(figures[n], m) for n in names)]
        together = [row for name in names for row in rows[name]]
        metrics = {}
        for name in shared:
            metric, _, key = name.rpartition(",")
            measured = [row for row in together if metric in _metrics(row, key)]
            better = 1 if figures[names[0]]["metrics"][name]["higher_is_better"] else -1
            metrics[name] = metric_figures(measured, metric, key, _mean, better)
        pools[pool] = {
            "tasks": names,
            "documents": len(together),
            "hints": hint_figures(together),
            "choices": choice_figures(together),
            "judge": comparison_figures(together),
            "metrics": metrics,
        }
    return pools


def _split(task: Any) -> str | None:
    """Return the name of the split that lm-eval evaluates a task on, if it can be told."""
    name = task.config.test_split if task.has_test_docs() else task.config.validation_split
    return None if name is None else str(name)


def _metrics(row: ScoreRow, key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row["filters"].get(key, {}).get("lm_eval", {})
    return found


def _averages(figures: Mapping[str, Any], metric: str) -> bool:
    found = figures["metrics"].get(metric)
    return found is not None and found["aggregation"] == "mean" and "flips" in found


def _mean(values: Sequence[Any]) -> float:
    return sum(float(value) for value in values) / len(values)


def _number(value: Any) -> float | None:
    return numeric(value)
