"""Figures of a scored run: accuracy a round, flips, oracle, vote, leaks. Functions of the task's own scores alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from harness_ext.scoring.replay import ScoringError, numeric

Row = Mapping[str, Any]
Aggregate = Callable[[list[Any]], Any]


def task_figures(task: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Return a task's figures; `rows` are its lines of `scores.jsonl`.

    `metrics` holds for each `metric,filter` what `metric_figures` returns, for metrics whose values are numbers. A
    metric of other values (pairs that `f1` counts) has `lm_eval`, `first_draft`, `final` and `rounds` alone.
    """
    functions: Mapping[str, Aggregate] = task.aggregation()
    higher: Mapping[str, bool] = task.higher_is_better() or {}
    metrics = {}
    for metric, key in dict.fromkeys((m, f) for row in rows for f in row["filters"] for m in _metrics(row, f)):
        aggregate = functions.get(metric, _mean)
        better = 1 if higher.get(metric, True) else -1
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
        "documents": len(rows),
        "questions": sum(len(row["draws"]) for row in rows),
        "failed": sum(draw["failed"] for row in rows for draw in row["draws"]),
        "two_way": all(row["two_way"] for row in rows),
        "hints": hint_figures(rows),
        "metrics": metrics,
    }


def metric_figures(rows: Sequence[Row], metric: str, key: str, aggregate: Aggregate, better: int) -> dict[str, Any]:
    """Return one metric's figures over documents.

    `lm_eval` is the value that lm-eval's own table shows. All others count every repeat that has a score of its own:
    `first_draft`, `final`, `rounds` (finished questions keep their last answer) with `changed` (how many answers a
    round replaced) and `flips` a round, `flips` from round 0 to the end, `oracle` (the best of everything that was
    said), and where several agents or draws answer `vote` (round 0), `vote_oracle` (any of round 0 right) and `agents`
    (mean over texts, by round).
    """
    entries = [row["filters"][key] for row in rows]
    units = [[state[metric] for state in unit] for entry in entries for unit in entry["answers"]]
    last = max(len(unit) for unit in units)
    frozen = [[unit[min(r, len(unit) - 1)] for unit in units] for r in range(last)]
    # A question that one text answered, or none (it failed), is a debate of one.
    agents = [
        [[text[metric] for text in texts] for texts in said] or [[unit[0][metric]]]
        for entry in entries
        for unit, said in zip(entry["answers"], entry.get("agents") or [[]] * len(entry["answers"]), strict=True)
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
    hinted = [
        any(hint["leaks"] for hint in draw["hints"] or [])
        for row, entry in zip(rows, entries, strict=True)
        for draw in (row["draws"] if len(entry["answers"]) == len(row["draws"]) else row["draws"][:1])
    ]
    ups = [better * (unit[-1] - unit[0]) for unit in units]
    figures |= {
        "flips": {
            "wrong_to_right": sum(up > 0 for up in ups),
            "right_to_wrong": sum(up < 0 for up in ups),
            "wrong_to_right_after_leak": sum(up > 0 and leak for up, leak in zip(ups, hinted, strict=True)),
        },
        "flips_by_round": [
            {
                "wrong_to_right": sum(better * (b - a) > 0 for a, b in zip(before, after, strict=True)),
                "right_to_wrong": sum(better * (b - a) < 0 for a, b in zip(before, after, strict=True)),
            }
            for before, after in pairwise(frozen)
        ],
        "oracle": _number(
            aggregate(
                [
                    max([*unit, *(text for texts in draw for text in texts)], key=lambda v: better * v)
                    for unit, draw in zip(units, agents, strict=True)
                ]
            )
        ),
    }
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


def hint_figures(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many rejecting reviews there were, how many name and how many leak the answer, and in how many
    questions; `unread` are questions whose gold answer is no short text that a hint could name."""
    read = [draw["hints"] for row in rows for draw in row["draws"] if draw["hints"] is not None]
    hints = [hint for found in read for hint in found]
    return {
        "rejecting_reviews": len(hints),
        "naming_the_answer": sum(hint["names"] for hint in hints),
        "leaking_the_answer": sum(hint["leaks"] for hint in hints),
        "questions_with_a_leak": sum(any(hint["leaks"] for hint in found) for found in read),
        "unread": sum(draw["hints"] is None for row in rows for draw in row["draws"]),
    }


def pooled_figures(figures: Mapping[str, Any], rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """Return the figures of all tasks together, those where a verdict gives the answer away apart.

    Only metrics that every task of the pool averages over its documents.
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
            "metrics": metrics,
        }
    return pools


def _metrics(row: Row, key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row["filters"].get(key, {}).get("lm_eval", {})
    return found


def _averages(figures: Mapping[str, Any], metric: str) -> bool:
    found = figures["metrics"].get(metric)
    return found is not None and found["aggregation"] == "mean" and "flips" in found


def _mean(values: Sequence[Any]) -> float:
    return sum(float(value) for value in values) / len(values)


def _number(value: Any) -> float | None:
    return numeric(value)
