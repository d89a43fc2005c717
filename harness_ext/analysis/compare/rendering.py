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
from harness_ext.files import csv_cell
from harness_ext.terminal import console, safe_line

Cells = list[list[str]]

SCORE_HEAD = ["run", "n", "value (95 %)", "Δ to reference (95 %)", "p", "p (Holm)", "up", "down", "detectable"]
TASKS_HEAD = ["mean of tasks", "sd of tasks"]
COST_HEAD = ["run", "calls", "prompt", "output", "FLOPs", "price", "seconds", "best mix at equal cost", "Δ to mix"]


def as_json(comparison: Comparison) -> str:
    """Return all figures, unrounded; unknown ones are null."""
    return json.dumps(_plain(asdict(comparison)), ensure_ascii=False, indent=1) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return one line per pool, metric and run."""
    out = io.StringIO()
    measures = [m.replace(" ", "_") for m in MEASURES]
    cost = ["calls", "prompt_tokens", "cached_tokens", "completion_tokens", "flops", "price", "seconds"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["pool", "tasks", "two_way", "metric", "run", "n", "value", "low", "high", "difference", "difference_low",
         "difference_high", "p", "p_holm", "test", "up", "down", "detectable", "mean_of_tasks", "sd_of_tasks", *cost,
         *(f"{what}_at_equal_{m}" for m in measures for what in ("others", "difference", "low", "high"))]
    )  # fmt: skip
    for row in comparison.rows:
        d = row.difference
        equal = [row.equal_cost.get(m) for m in MEASURES]
        writer.writerow(
            [csv_cell(row.pool.name), csv_cell(" ".join(row.pool.tasks)), row.pool.two_way, csv_cell(row.metric),
             csv_cell(row.run), row.number, row.value,
             row.interval.low, row.interval.high,
             *((d.value, d.interval.low, d.interval.high, d.p_value, d.adjusted, d.test, d.up, d.down, d.detectable)
               if d else [None] * 9),
             row.task_mean, row.task_deviation, *((getattr(row.cost, c) if row.cost else None) for c in cost),
             *(v for e in equal for v in ((e.value, e.difference, e.interval.low, e.interval.high) if e
                                          else [None] * 4))]
        )  # fmt: skip
    return out.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """Return the tables as Markdown."""
    lines: list[str] = []
    for title, head, cells in _tables(comparison):
        lines += [f"**{_escaped(title)}**", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
        lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in cells]
        lines.append("")
    return "\n".join([*lines, *(f"- {_escaped(note)}" for note in _remarks(comparison))]) + "\n"


def to_terminal(comparison: Comparison) -> None:
    """Print the tables."""
    from rich import box
    from rich.table import Table

    out = console()
    for title, head, cells in _tables(comparison):
        table = Table(title=safe_line(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
        for row in cells:
            table.add_row(*map(safe_line, row))
        out.print(table)
    for note in _remarks(comparison):
        out.print(f"- {safe_line(note)}")


def _tables(comparison: Comparison) -> list[tuple[str, list[str], Cells]]:
    """Return title, column heads and cells of each table: for each pool and metric, one of scores and one of cost."""
    found: list[tuple[str, list[str], Cells]] = []
    for rows in _blocks(comparison.rows):
        first = rows[0]
        several = len(first.pool.tasks) > 1
        title = f"{first.pool.name}: {first.metric.removesuffix(',none')}"
        title += f" ({len(first.pool.tasks)} tasks)" if several else ""
        title += " (a rejection alone reveals the right answer)" if first.pool.two_way else ""
        title += "" if first.higher_is_better else " (lower is better)"
        head = SCORE_HEAD + (TASKS_HEAD if several else [])
        found.append((title, head, [_score_cells(row, several) for row in rows]))
        if any(row.cost for row in rows):
            found.append((f"{title}, cost per question", COST_HEAD, [_cost_cells(row) for row in rows]))
    return found


def _blocks(rows: Sequence[ComparisonRow]) -> list[list[ComparisonRow]]:
    blocks: dict[tuple[Any, ...], list[ComparisonRow]] = {}
    for row in rows:
        blocks.setdefault((row.pool, row.metric), []).append(row)
    return list(blocks.values())


def _score_cells(row: ComparisonRow, several: bool) -> list[str]:
    d = row.difference
    cells = [
        row.run,
        str(row.number),
        f"{_number(row.value)} [{_number(row.interval.low)}, {_number(row.interval.high)}]",
    ]
    if d is None:
        cells += [""] * 6
    else:
        change = f"{_signed(d.value)} [{_signed(d.interval.low)}, {_signed(d.interval.high)}]"
        detectable = "—" if d.detectable is None else _number(d.detectable)
        cells += [change, _p(d.p_value), _p(d.adjusted), str(d.up), str(d.down), detectable]
    return cells + ([_number(row.task_mean), _number(row.task_deviation)] if several else [])


def _cost_cells(row: ComparisonRow) -> list[str]:
    cost = row.cost
    cells = [row.run]
    if cost is None:
        return cells + ["—"] * (len(COST_HEAD) - 1)
    cells += [_amount(v) for v in (cost.calls, cost.prompt_tokens, cost.completion_tokens, cost.flops, cost.price)]
    cells.append(_amount(cost.seconds))
    known = [m for m in ("price", "FLOPs", "tokens") if MEASURES[m](cost) is not None][:2]
    mixes, changes = [], []
    for measure in known:
        if (equal := row.equal_cost.get(measure)) is not None:
            low, high = equal.interval.low, equal.interval.high
            mixes.append(f"{measure}: {_number(equal.value)} ({equal.of})")
            changes.append(f"{_signed(equal.difference)} [{_signed(low)}, {_signed(high)}]")
    return [*cells, "; ".join(mixes) or "none: all others cost more", "; ".join(changes) or "—"]


def _remarks(comparison: Comparison) -> list[str]:
    tests = list(dict.fromkeys(row.difference.test for row in comparison.rows if row.difference))
    remarks = [f"Reference: {comparison.runs[0]}; {', '.join(tests)}; Holm over {len(comparison.runs) - 1} runs."]
    if comparison.clusters:
        remarks.append(f"Clusters: {comparison.clusters}.")
    return [*remarks, *comparison.notes]


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "—"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _p(value: float | None) -> str:
    if value is None:
        return "—"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


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


FORMATS: dict[str, Callable[[Comparison], str]] = {"json": as_json, "csv": as_csv, "markdown": as_markdown}
