"""Writes the curve of a training: a Markdown table, a plot and their numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness_ext.analysis.statistics.clusters import Interval
from harness_ext.analysis.statistics.paired import PairedDifference
from harness_ext.finetune.curve import Errors, Point, best_checkpoint, whole_epoch

HEADS = (
    "model", "epoch", "accuracy", "95% interval", "change (95%)", "won / lost", "p", "training error",
    "validation error",
)  # fmt: skip


def write(found: Sequence[Point], errors: Errors, verdict: str, folder: Path, cluster: str | None = None) -> str:
    """Write the table, the plot and their numbers to `folder`; return the table.

    found: the points of the curve.
    errors: training and validation error per epoch, from `errors.json`.
    verdict: the gate's message, or an empty string.
    folder: the folder to write to; it is created if necessary.
    cluster: what defines the clusters of questions. Default None: each question is its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = table(found, errors, cluster) + (f"\n{verdict}\n" if verdict else "")
    (folder / "table.md").write_text(text, encoding="utf-8")
    best, _ = best_checkpoint(found, errors)
    numbers = [
        {
            **asdict(point),
            "subject": point.subject.name,
            "epoch": point.subject.epoch,
            "best": point.subject.name == best,
        }
        for point in found
    ]
    (folder / "points.json").write_text(json.dumps(_plain(numbers), indent=1) + "\n", encoding="utf-8")
    picture(found, folder / "accuracy.png")
    return text


def table(found: Sequence[Point], errors: Errors, cluster: str | None = None) -> str:
    """Return a Markdown table of the accuracy with its interval, the change, wins and losses, and the errors.

    found: the points of the curve.
    errors: training and validation error per epoch, from `errors.json`.
    cluster: what defines the clusters of questions. Default None: each question is its own.
    """
    if not found:
        return ""
    series = {name: {int(epoch): error for epoch, error in errors.get(name, [])} for name in ("train", "validation")}
    best, reason = best_checkpoint(found, errors)
    lines = []
    for task in dict.fromkeys(point.task for point in found):
        rows = [point for point in found if point.task == task]
        lines += [f"## {task} ({rows[0].metric}, {max(point.questions for point in rows)} questions)", ""]
        lines += [f"| {' | '.join(HEADS)} |", "| --- " * len(HEADS) + "|"]
        for point in rows:
            epoch = point.subject.epoch
            cells = [
                point.subject.name + (" (best)" if point.subject.name == best else ""),
                "" if epoch is None else f"{epoch:g}",
                f"{point.mean:.3f}",
                _interval(point.interval, ".3f"),
                *_change_cells(point.change),
                *(_error(series[name], whole_epoch(point.subject)) for name in ("train", "validation")),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, *_notes(found, reason, cluster), ""])


def picture(found: Sequence[Point], path: Path) -> None:
    """Plot the accuracy per epoch with its intervals, one panel per task, with the untouched model and the teacher."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    tasks = list(dict.fromkeys(point.task for point in found))
    columns = max(1, min(3, len(tasks)))
    lines = max(1, -(-len(tasks) // columns))
    figure = Figure(figsize=(max(5.0, 3.4 * columns), 0.8 + 2.6 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat)
    for unused in panels[len(tasks) :]:
        unused.set_visible(False)
    for panel, task in zip(panels, tasks, strict=False):
        rows = [point for point in found if point.task == task]
        for role, color, style in (("baseline", "C7", "--"), ("teacher", "C2", ":")):
            for point in (point for point in rows if point.subject.role == role):
                panel.axhline(point.mean, color=color, linestyle=style, label=point.subject.name)
                if not math.isnan(point.interval.low):
                    panel.axhspan(point.interval.low, point.interval.high, color=color, alpha=0.1)
        epochs = [point for point in rows if point.subject.role == "epoch"]
        if epochs:
            low = [point.mean - point.interval.low for point in epochs]
            high = [point.interval.high - point.mean for point in epochs]
            panel.errorbar(
                [point.subject.epoch or 0 for point in epochs],
                [point.mean for point in epochs],
                yerr=[low, high],
                color="C0",
                marker="o",
                capsize=3,
                label="checkpoints",
            )
        panel.set_title(task, fontsize="small")
        panel.set(ylim=(-0.02, 1.02))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    figure.supxlabel("epoch", fontsize="small")
    figure.supylabel("accuracy", fontsize="small")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize="small", loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=150)


def _notes(found: Sequence[Point], reason: str, cluster: str | None) -> list[str]:
    tests = dict.fromkeys(point.change.test for point in found if point.change)
    notes = [reason]
    if tests:
        notes.append(f"Changes are to the untouched model, with p-values by the {', '.join(tests)}.")
    if cluster:
        notes.append(f"Clusters: questions with the same `{cluster}`.")
    without = dict.fromkeys(point.task for point in found if math.isnan(point.interval.low))
    if without:
        notes.append(
            f"No intervals for {', '.join(without)}: there is only one cluster, or all values are equal and the scale "
            "of the metric is unknown."
        )
    return [f"- {note}" for note in notes]


def _change_cells(change: PairedDifference | None) -> list[str]:
    if change is None:
        return ["", "", ""]
    interval = _interval(change.interval, "+.3f")
    return [
        f"{change.value:+.3f}" + (f" ({interval})" if interval else ""),
        f"{change.up} / {change.down}",
        f"{change.p_value:.2g}",
    ]


def _interval(interval: Interval, form: str) -> str:
    return "" if math.isnan(interval.low) else f"{interval.low:{form}} to {interval.high:{form}}"


def _error(series: dict[int, float], epoch: int | None) -> str:
    return f"{series[epoch]:.4f}" if epoch in series else ""


def _plain(value: Any) -> Any:
    """Return JSON values with null instead of NaN."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
