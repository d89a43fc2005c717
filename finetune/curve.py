"""Accuracy per epoch compared with the untouched model and the teacher: a table, a plot and a gate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.statistics import (
    Clusters,
    Interval,
    bootstrap_test,
    is_binary,
    mcnemar,
    mean_interval,
    share_interval,
)
from harness_ext.finetune.checkpoint_scores import CheckpointScore, Subject


@dataclass(frozen=True)
class Change:
    """A subject compared with the untouched model on the questions both answered.

    difference: mean difference of the metric.
    gained, lost: number of questions on which the subject scores higher, and lower.
    p: the two-sided p-value.
    """

    difference: float
    gained: int
    lost: int
    p: float


@dataclass(frozen=True)
class Point:
    """A score with its 95% interval, and the change from the untouched model (None for that model itself)."""

    subject: Subject
    task: str
    metric: str
    questions: int
    mean: float
    interval: Interval
    change: Change | None


def change(before: CheckpointScore, after: CheckpointScore) -> Change:
    """Compare two subjects question by question: exact McNemar test for binary values, else a paired bootstrap."""
    shared = sorted(before.values.keys() & after.values.keys())
    pairs = [(before.values[key], after.values[key]) for key in shared]
    gained = sum(new > old for old, new in pairs)
    lost = sum(new < old for old, new in pairs)
    differences = [new - old for old, new in pairs]
    binary = is_binary([value for pair in pairs for value in pair])
    p = mcnemar(gained, lost) if binary else bootstrap_test(Clusters.of(differences))
    return Change(sum(differences) / max(len(pairs), 1), gained, lost, p)


def points(subjects: Sequence[Subject], scores: Sequence[CheckpointScore]) -> list[Point]:
    """Return the points of the curve by task, in the order of the subjects. Subjects without a score are omitted."""
    found = []
    for task in dict.fromkeys(score.task for score in scores):
        by_name = {score.subject: score for score in scores if score.task == task}
        baseline = next((by_name.get(one.name) for one in subjects if one.role == "baseline"), None)
        for subject in subjects:
            score = by_name.get(subject.name)
            if score is None:
                continue
            compared = change(baseline, score) if baseline and subject.role != "baseline" else None
            found.append(Point(subject, task, score.metric, len(score.values), score.mean, _interval(score), compared))
    return found


def gate(found: Sequence[Point], alpha: float | None = None) -> tuple[bool, str]:
    """Return whether the last epoch beats the untouched model, and a message with the reason.

    This is the gate of github.com/BertilBraun/Master-Thesis: the last epoch has to win more questions than it loses,
    over all tasks together. With `alpha`, the exact two-sided sign test must be significant as well.
    """
    epochs = [point for point in found if point.subject.role == "epoch" and point.change]
    if not epochs:
        return False, "gate: closed: no epoch has a score to compare with the untouched model"
    newest = epochs[-1].subject.name
    changes = [point.change for point in epochs if point.subject.name == newest and point.change]
    gained, lost = sum(one.gained for one in changes), sum(one.lost for one in changes)
    p = mcnemar(gained, lost)
    passed = gained > lost and (alpha is None or p < alpha)
    wanted = "more wins than losses" + (f" and p < {alpha:g}" if alpha is not None else "")
    verdict = "open" if passed else "closed"
    return passed, f"gate: {verdict}: {newest} wins {gained} and loses {lost} questions, p = {p:.2g} (needed: {wanted})"


def table(found: Sequence[Point], errors: dict[str, list[list[float]]]) -> str:
    """Return a Markdown table of the accuracy with its interval, the change, wins and losses, and the errors."""
    series = {name: {int(epoch): error for epoch, error in errors.get(name, [])} for name in ("train", "validation")}
    lines = []
    for task in dict.fromkeys(point.task for point in found):
        rows = [point for point in found if point.task == task]
        epochs = [point for point in rows if point.subject.role == "epoch"]
        best = max(epochs, key=lambda point: point.mean, default=None)
        lines += [
            f"## {task} ({rows[0].metric}, {max(point.questions for point in rows)} questions)",
            "",
            "| model | epoch | accuracy | 95% interval | change | won / lost | p | training error | validation error |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for point in rows:
            epoch = point.subject.epoch
            whole = int(epoch) if epoch is not None and abs(epoch - round(epoch)) < 1e-6 else None
            star = " (best)" if point is best else ""
            cells = [
                point.subject.name + star,
                "" if epoch is None else f"{epoch:g}",
                f"{point.mean:.3f}",
                f"{point.interval.low:.3f}–{point.interval.high:.3f}",
                *_change_cells(point.change),
                *(_error(series[name], whole) for name in ("train", "validation")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


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


def write(found: Sequence[Point], errors: dict[str, list[list[float]]], verdict: str, folder: Path) -> str:
    """Write the table, the plot and their numbers to `folder`; return the table.

    found: the points of the curve.
    errors: training and validation error per epoch, from `errors.json`.
    verdict: the gate's message, or an empty string.
    folder: the folder to write to; it is created if necessary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = table(found, errors) + (f"\n{verdict}\n" if verdict else "")
    (folder / "table.md").write_text(text, encoding="utf-8")
    numbers = [{**asdict(point), "subject": point.subject.name, "epoch": point.subject.epoch} for point in found]
    (folder / "points.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    picture(found, folder / "accuracy.png")
    return text


def _interval(score: CheckpointScore) -> Interval:
    values = list(score.values.values())
    if is_binary(values):
        return share_interval(int(sum(values)), len(values))
    return mean_interval(Clusters.of(values), min(0.0, *values), max(1.0, *values))


def _change_cells(one: Change | None) -> list[Any]:
    if one is None:
        return ["", "", ""]
    return [f"{one.difference:+.3f}", f"{one.gained} / {one.lost}", f"{one.p:.2g}"]


def _error(series: dict[int, float], epoch: int | None) -> str:
    return f"{series[epoch]:.4f}" if epoch in series else ""
