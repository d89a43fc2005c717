"""The charts of a comparison: values, differences, cost, tasks, and accuracy as it accumulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from harness_ext.analysis.compare.comparison import Comparison, ComparisonRow
from harness_ext.analysis.compare.equal_cost import MEASURES
from harness_ext.analysis.report.charts import (
    COLOURS,
    Chart,
    Drawing,
    axis,
    chart,
    number,
    style,
    text,
)
from harness_ext.analysis.report.questions import Question
from harness_ext.analysis.statistics.clusters import Interval

MOST_STEPS = 400
Blocks = dict[str, list[ComparisonRow]]


def blocks_of(comparison: Comparison) -> Blocks:
    """Return the rows of each pool and metric, by a title; pools of several tasks come first."""
    found: Blocks = {}
    for row in sorted(comparison.rows, key=lambda row: -len(row.pool.tasks)):
        found.setdefault(f"{row.pool.name}: {row.metric.removesuffix(',none')}", []).append(row)
    return found


def comparison_charts(comparison: Comparison, questions: Sequence[Question], metrics: Mapping[str, str]) -> list[Chart]:
    """Return the charts, without those that would be empty.

    comparison: the comparison.
    questions: the compared questions.
    metrics: the metric of each task that says which answers are right.
    """
    blocks = blocks_of(comparison)
    found = [
        chart(
            "values", "Accuracy of each run",
            "The value of each run over the questions that all runs have, with its 95 % interval.",
            "Tasks and metric", {title: _values(rows, comparison.runs) for title, rows in blocks.items()},
        ),
        chart(
            "differences", f"Difference from {comparison.runs[0]}",
            "The difference on the same questions, with its 95 % interval. An interval without 0 is an effect that "
            "chance alone rarely makes; the p-values beside it are corrected for the number of runs.",
            "Tasks and metric",
            {t: _differences(rows, comparison.runs) for t, rows in blocks.items() if any(r.difference for r in rows)},
        ),
        _cost_chart(blocks, comparison.runs),
        chart(
            "tasks", "Tasks and runs", "The value of each run on each task; brighter is better.", "Metric",
            _heat_maps(comparison),
        ),
        chart(
            "running", "Accuracy as questions accumulate",
            "The mean over the first n questions, in the order of the task's data. Where it still drifts at the end, "
            "a few more questions can change the picture.",
            "Task", {t: _running(t, metrics[t], questions, comparison.runs) for t in metrics},
        ),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _values(rows: Sequence[ComparisonRow], runs: Sequence[str]) -> Drawing:
    # plotly draws from the bottom upwards
    traces = [_interval_trace(row.run, row.value, row.interval, runs) for row in reversed(rows)]
    better = "" if rows[0].higher_is_better else " (lower is better)"
    layout = {
        "xaxis": axis(f"{rows[0].metric.removesuffix(',none')}{better}"),
        "yaxis": axis("", type="category"),
        "showlegend": False,
        "height": 110 + 30 * len(rows),
    }
    table = [[row.run, str(row.number), number(row.value), *_ends(row.interval)] for row in rows]
    return Drawing(traces, layout, ["run", "questions", "value", "from", "to"], table)


def _differences(rows: Sequence[ComparisonRow], runs: Sequence[str]) -> Drawing:
    traces, table = [], []
    for row in reversed([row for row in rows if row.difference]):
        difference = row.difference
        assert difference is not None
        traces.append(_interval_trace(row.run, difference.value, difference.interval, runs))
    for row in rows:
        if row.difference:
            d = row.difference
            counts = ["—" if count is None else str(count) for count in (d.up, d.down)]
            table.append(
                [row.run, number(d.value, "+.3f"), *_ends(d.interval, "+.3f"), number(d.p_value, ".3g"),
                 number(d.adjusted, ".3g"), *counts]
            )  # fmt: skip
    line = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot", "width": 1}}
    layout = {
        "xaxis": axis(f"difference in {rows[0].metric.removesuffix(',none')}", zeroline=False),
        "yaxis": axis("", type="category"),
        "shapes": [line],
        "showlegend": False,
        "height": 110 + 30 * len(traces),
    }
    return Drawing(traces, layout, ["run", "difference", "from", "to", "p", "p (Holm)", "up", "down"], table)


def _interval_trace(run: str, value: float, interval: Interval, runs: Sequence[str]) -> dict[str, Any]:
    known = interval.low == interval.low
    return {
        "type": "scatter", "mode": "markers", "x": [value], "y": [text(run)], "name": text(run),
        "error_x": {
            "type": "data", "symmetric": False, "array": [interval.high - value] if known else [0],
            "arrayminus": [value - interval.low] if known else [0], "thickness": 2, "width": 5,
            "color": style(runs.index(run))["marker"]["color"],
        },
        **style(runs.index(run)),
    }  # fmt: skip


def _cost_chart(blocks: Blocks, runs: Sequence[str]) -> Chart | None:
    drawings: dict[tuple[str, ...], Drawing] = {}
    for title, rows in blocks.items():
        for measure, read in MEASURES.items():
            points = [(row, cost) for row in rows if row.cost and (cost := read(row.cost)) is not None]
            if len(points) > 1 and any(cost for _, cost in points):
                drawings[title, measure] = _cost(points, measure, runs)
    if not drawings:
        return None
    measures = [m for m in MEASURES if any(m == measure for _, measure in drawings)]
    titles = list(dict.fromkeys(title for title, _ in drawings))
    return Chart(
        "cost", "Accuracy and cost",
        "Cost per question, as each run would have paid it alone. No run on the line is beaten by a cheaper one; "
        "what lies below it is reached for less by a run on the line, or by a mix of two.",
        drawings, {"Tasks and metric": titles, "Cost": measures},
    )  # fmt: skip


def _cost(points: Sequence[tuple[ComparisonRow, float]], measure: str, runs: Sequence[str]) -> Drawing:
    front = pareto_front([(cost, row.value) for row, cost in points], points[0][0].higher_is_better)
    line = {
        "type": "scatter", "mode": "lines", "x": [x for x, _ in front], "y": [y for _, y in front],
        "name": "Pareto front", "line": {"dash": "dot", "width": 2, "color": COLOURS[-1]}, "hoverinfo": "skip",
    }  # fmt: skip
    traces: list[dict[str, Any]] = [line]
    for row, cost in points:
        known = row.interval.low == row.interval.low
        error = {
            "type": "data", "symmetric": False, "array": [row.interval.high - row.value if known else 0],
            "arrayminus": [row.value - row.interval.low if known else 0], "thickness": 1, "width": 3,
            "color": style(runs.index(row.run))["marker"]["color"],
        }  # fmt: skip
        traces.append(
            {"type": "scatter", "mode": "markers", "x": [cost], "y": [row.value], "name": text(row.run),
             "error_y": error, **style(runs.index(row.run))}
        )  # fmt: skip
    layout = {
        "xaxis": axis(f"{measure} per question", rangemode="tozero"),
        "yaxis": axis(points[0][0].metric.removesuffix(",none")),
        "height": 440,
    }
    table = [
        [row.run, number(cost, ".4g"), number(row.value), "yes" if (cost, row.value) in front else ""]
        for row, cost in points
    ]
    return Drawing(traces, layout, ["run", f"{measure} per question", "value", "on the front"], table)


def pareto_front(points: Sequence[tuple[float, float]], higher: bool = True) -> list[tuple[float, float]]:
    """Return the points (cost, value) that no other point beats: none is at least as good for less, in order of cost.

    points: the points.
    higher: whether higher values are better. Default true.
    """
    sign = 1 if higher else -1
    found: list[tuple[float, float]] = []
    for cost, value in sorted(set(points), key=lambda point: (point[0], -sign * point[1])):
        if not found or sign * value > sign * found[-1][1]:
            found.append((cost, value))
    return found


def _heat_maps(comparison: Comparison) -> dict[str, Drawing]:
    single = [row for row in comparison.rows if len(row.pool.tasks) == 1]
    found = {}
    for metric in dict.fromkeys(row.metric for row in single):
        rows = [row for row in single if row.metric == metric]
        tasks = list(dict.fromkeys(row.pool.name for row in rows))
        if len(tasks) < 2:
            continue
        values = {(row.pool.name, row.run): row.value for row in rows}
        grid = [[values.get((task, run)) for task in tasks] for run in comparison.runs]
        trace = {
            "type": "heatmap", "z": grid[::-1], "x": [text(t) for t in tasks],
            "y": [text(run) for run in reversed(comparison.runs)], "colorscale": "Cividis",
            "reversescale": not rows[0].higher_is_better, "hoverongaps": False,
            "texttemplate": "%{z:.2f}", "colorbar": {"thickness": 12},
        }  # fmt: skip
        layout = {
            "xaxis": axis("", type="category", tickangle=-35), "yaxis": axis("", type="category"),
            "height": 190 + 28 * len(comparison.runs),
        }  # fmt: skip
        table = [[run, *map(number, row)] for run, row in zip(comparison.runs, grid, strict=True)]
        found[metric.removesuffix(",none")] = Drawing([trace], layout, ["run", *tasks], table)
    return found


def _running(task: str, metric: str, questions: Sequence[Question], runs: Sequence[str]) -> Drawing:
    asked = [question for question in questions if question.task == task]
    traces, table = [], []
    for number_of_run, run in enumerate(runs):
        values = [c.value for q in asked if (c := q.cells[number_of_run]) is not None and c.value is not None]
        if not values:
            continue
        means = [total / (n + 1) for n, total in enumerate(accumulate(values))]
        step = max(1, -(-len(means) // MOST_STEPS))
        shown = [n for n in range(len(means)) if n % step == 0 or n == len(means) - 1]
        traces.append(
            {"type": "scatter", "mode": "lines", "x": [n + 1 for n in shown], "y": [means[n] for n in shown],
             "name": text(run), **style(number_of_run, lines=True)}
        )  # fmt: skip
        tenths = [means[min(len(means) - 1, max(0, len(means) * i // 4 - 1))] for i in range(1, 5)]
        table.append([run, str(len(values)), *map(number, tenths)])
    layout = {"xaxis": axis("questions"), "yaxis": axis(metric.removesuffix(",none")), "height": 400}
    return Drawing(traces, layout, ["run", "questions", "at 25 %", "at 50 %", "at 75 %", "at the end"], table)


def _ends(interval: Interval, form: str = ".3f") -> list[str]:
    return [number(interval.low, form), number(interval.high, form)]
