"""Renders a comparison as terminal tables, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from harness_ext.analysis.compare.comparison import Comparison, ComparisonRow
from harness_ext.analysis.compare.equal_cost import MEASURES
from harness_ext.analysis.statistics.clusters import Interval
from harness_ext.files import csv_cell
from harness_ext.terminal import console, print_table, safe_line

Cells = list[list[str]]

SCORE_HEAD = ["run", "n", "value (95 %)", "Δ to reference (95 %)", "p", "p (Holm)", "up", "down", "detectable"]
TASKS_HEAD = ["mean of tasks", "sd of tasks"]
PLAN_HEAD = ["plan"]
SEEDS_HEAD = ["seeds", "sd of seeds", "value with seeds (95 %)", "Δ with seeds (95 %)"]
COST_HEAD = ["run", "calls", "prompt", "output", "of these thinking", "FLOPs", "price", "seconds"]
_USAGE = [
    "calls",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "thinking_tokens",
    "flops",
    "price",
    "seconds",
]
BY_DEFAULT = ("price", "FLOPs", "tokens", "output tokens")


def as_json(comparison: Comparison) -> str:
    """Return all figures, unrounded; unknown ones are null."""
    return json.dumps(_plain(asdict(comparison)), ensure_ascii=False, indent=1) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return one line per pool, metric and run."""
    out = io.StringIO()
    measures = [m.replace(" ", "_") for m in MEASURES]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["pool", "tasks", "two_way", "metric", "run", "n", "value", "low", "high", "difference", "difference_low",
         "difference_high", "p", "p_holm", "planned", "p_planned", "test", "up", "down", "detectable",
         "mean_of_tasks", "sd_of_tasks", "seeds", "sd_of_seeds", "low_with_seeds", "high_with_seeds",
         "difference_low_with_seeds", "difference_high_with_seeds", *_USAGE,
         *(f"{what}_at_equal_{m}" for m in measures for what in ("others", "difference", "low", "high")),
         *(f"{what}_at_equal_{m}" for m in measures for what in ("control", "control_difference", "control_low",
                                                                 "control_high"))]
    )  # fmt: skip
    for row in comparison.rows:
        d, s = row.difference, row.seeds
        both = d.with_seeds if d else None
        equal = [mixes.get(m) for mixes in (row.equal_cost, row.control) for m in MEASURES]
        writer.writerow(
            [csv_cell(row.pool.name), csv_cell(" ".join(row.pool.tasks)), row.pool.two_way, csv_cell(row.metric),
             csv_cell(row.run), row.number, row.value,
             *_ends(row.interval),
             *((d.value, *_ends(d.interval), d.p_value, d.adjusted, d.planned, d.planned_p, d.test, d.up, d.down,
                d.detectable) if d else [None] * 11),
             row.task_mean, row.task_deviation,
             *((s.number, s.deviation, *_ends(s.interval)) if s else [None] * 4), *_ends(both),
             *((getattr(row.cost, c) if row.cost else None) for c in _USAGE),
             *(v for e in equal for v in ((e.value, e.difference, *_ends(e.interval)) if e else [None] * 4))]
        )  # fmt: skip
    return out.getvalue()


def as_markdown(comparison: Comparison, cost: str | None = None) -> str:
    """Return the tables as Markdown.

    comparison: the comparison.
    cost: the measure of cost for comparisons at equal cost. Default: the first known one of `BY_DEFAULT`.
    """
    lines: list[str] = []
    for title, head, cells in tables(comparison, cost):
        lines += [f"**{_escaped(title)}**", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in cells]
        lines.append("")
    return "\n".join([*lines, *(f"- {_escaped(note)}" for note in remarks(comparison))]) + "\n"


def to_terminal(comparison: Comparison, cost: str | None = None) -> None:
    """Print the tables; the arguments are those of `as_markdown`."""
    out = console()
    for title, head, cells in tables(comparison, cost):
        print_table(out, title, head, cells)
    for note in remarks(comparison):
        out.print(f"- {safe_line(note)}")


def tables(comparison: Comparison, cost: str | None) -> list[tuple[str, list[str], Cells]]:
    """Return title, column heads and cells of each table.

    For each pool and metric there is one of scores and one of comparisons at equal cost; for each pool one of cost.
    """
    found: list[tuple[str, list[str], Cells]] = []
    costs: dict[str, tuple[str, list[str], Cells]] = {}
    blocks = _blocks(comparison.rows)
    for i, rows in enumerate(blocks):
        pool = rows[0].pool
        several, repeated = len(pool.tasks) > 1, any(row.seeds for row in rows)
        title = f"{pool.name}: {rows[0].metric.removesuffix(',none')}"
        title += f" ({len(pool.tasks)} tasks)" if several else ""
        title += " (a rejection alone reveals the right answer)" if pool.two_way else ""
        title += "" if rows[0].higher_is_better else " (lower is better)"
        planned = any(row.difference and row.difference.planned is not None for row in rows)
        head = SCORE_HEAD + (PLAN_HEAD if planned else []) + (TASKS_HEAD if several else [])
        head += SEEDS_HEAD if repeated else []
        if len(rows) == 1:
            head = [name for name in head if name not in SCORE_HEAD[3:]]
        found.append((title, head, [_score_cells(row, several, repeated, planned, len(rows) > 1) for row in rows]))
        measure = cost or _measure(rows)
        if measure is not None and any(row.equal_cost or row.control for row in rows):
            control = any(row.control for row in rows)
            head = ["run", measure, *(["controls", "Δ to controls (95 %)"] if control else []), "best mix",
                    "Δ to best mix (95 %)"]  # fmt: skip
            found.append(
                (f"{title}, at equal cost in {measure}", head, [_equal_cells(row, measure, control) for row in rows])
            )
        if any(row.cost for row in rows):
            costs.setdefault(pool.name, (f"{pool.name}: cost per question", COST_HEAD, list(map(_cost_cells, rows))))
        if (i + 1 == len(blocks) or blocks[i + 1][0].pool != pool) and pool.name in costs:
            found.append(costs[pool.name])
    return found


def _measure(rows: Sequence[ComparisonRow]) -> str | None:
    """Return the first measure of `BY_DEFAULT` that is known for every run."""
    costs = [row.cost for row in rows]
    return next((m for m in BY_DEFAULT if all(c is not None and MEASURES[m](c) is not None for c in costs)), None)


def _blocks(rows: Sequence[ComparisonRow]) -> list[list[ComparisonRow]]:
    blocks: dict[tuple[Any, ...], list[ComparisonRow]] = {}
    for row in rows:
        blocks.setdefault((row.pool, row.metric), []).append(row)
    return list(blocks.values())


def _score_cells(row: ComparisonRow, several: bool, repeated: bool, planned: bool, compared: bool) -> list[str]:
    d, s = row.difference, row.seeds
    cells = [row.run, str(row.number), f"{_number(row.value)} {_interval(row.interval, _number)}"]
    if compared and d is None:
        cells += [""] * 6
    elif d is not None:
        up, down = ("—" if count is None else str(count) for count in (d.up, d.down))
        cells += [_change(d.value, d.interval), _p(d.p_value), _p(d.adjusted), up, down, _number(d.detectable)]
    if planned:
        cells.append("" if d is None else f"planned: p {_p(d.planned_p)}" if d.planned else "exploratory")
    cells += [_number(row.task_mean), _number(row.task_deviation)] if several else []
    if repeated:
        cells += [str(s.number), _number(s.deviation), _interval(s.interval, _number)] if s else ["1", "—", "—"]
        cells.append(_interval(d.with_seeds, _signed) if d and d.with_seeds else "—" if d else "")
    return cells


def _equal_cells(row: ComparisonRow, measure: str, control: bool) -> list[str]:
    cost = MEASURES[measure](row.cost) if row.cost else None
    cells = [row.run, _amount(cost)]
    for mixes in (row.control, row.equal_cost) if control else (row.equal_cost,):
        found = mixes.get(measure)
        if found is None:
            cells += ["—" if cost is None else "none costs as little" if mixes is row.equal_cost else "—", ""]
        else:
            cells += [f"{_number(found.value)} ({found.of})", _change(found.difference, found.interval)]
    return cells


def _cost_cells(row: ComparisonRow) -> list[str]:
    cost = row.cost
    if cost is None:
        return [row.run] + ["—"] * (len(COST_HEAD) - 1)
    figures = (cost.calls, cost.prompt_tokens, cost.completion_tokens, cost.thinking_tokens, cost.flops, cost.price)
    return [row.run, *map(_amount, figures), _amount(cost.seconds)]


def remarks(comparison: Comparison) -> list[str]:
    """Return the sentences below the tables: reference, tests, clusters, controls, and what was noted."""
    tests = list(dict.fromkeys(row.difference.test for row in comparison.rows if row.difference))
    others = len(comparison.runs) - 1
    found = [f"Reference: {comparison.runs[0]}; {', '.join(tests)}; Holm over {others} runs."] if tests else []
    if not others:
        found.append("One run: there is nothing to compare it with.")
    if comparison.clusters:
        found.append(f"Clusters: {comparison.clusters}.")
    if comparison.controls:
        found.append(f"Controls at equal cost: {', '.join(comparison.controls)}, and mixes of them.")
    return [*found, *comparison.notes]


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None or math.isnan(interval.low) else (interval.low, interval.high)


def _interval(interval: Interval, form: Callable[[float], str]) -> str:
    return "[—]" if math.isnan(interval.low) else f"[{form(interval.low)}, {form(interval.high)}]"


def _change(value: float, interval: Interval) -> str:
    return f"{_signed(value)} {_interval(interval, _signed)}"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "—"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return "—"
    if value < 1e-300:
        return "<1e-300"
    return f"{value:.0e}" if value < 0.0001 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _amount(value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}" if value < 1e6 else f"{value:.3g}"


def _escaped(text: str) -> str:
    return safe_line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _plain(value: Any) -> Any:
    """Return JSON values; NaN and infinity, which JSON does not have, become null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


FORMATS = ("json", "csv", "markdown")


def formatted(comparison: Comparison, form: str, cost: str | None = None) -> str:
    """Return a comparison in one of `FORMATS`; `cost` is that of `as_markdown`. JSON and CSV have all measures."""
    if form == "markdown":
        return as_markdown(comparison, cost)
    return as_json(comparison) if form == "json" else as_csv(comparison)
