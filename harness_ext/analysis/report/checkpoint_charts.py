"""The chart of a training: accuracy by epoch, from what `harness-ext checkpoints` wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_ext.analysis.report.charts import Chart, Drawing, axis, chart, colour, number, style, text
from harness_ext.errors import HarnessExtError

POINTS = "points.json"


class CheckpointsError(HarnessExtError):
    """The points of a training cannot be read. The message names cause and remedy."""


def read_points(path: Path) -> list[dict[str, Any]]:
    """Return the points that `harness-ext checkpoints` wrote.

    path: the file `points.json`, its folder, or the folder of the training.

    Raises CheckpointsError if there is no such file.
    """
    places = [path] if path.is_file() else [path / POINTS, path / "evaluations" / POINTS]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise CheckpointsError(
            f"--checkpoints {path} has no {POINTS}: run `harness-ext checkpoints` on the training, or name its folder"
        )
    try:
        points = json.loads(file.read_text(encoding="utf-8"))
        return [
            {
                "subject": str(p["subject"]), "task": str(p["task"]), "metric": str(p["metric"]),
                "questions": int(p["questions"]), "mean": float(p["mean"]), "epoch": p["epoch"],
                "low": p["interval"]["low"], "high": p["interval"]["high"], "best": bool(p["best"]),
            }
            for p in points
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointsError(f"{file} cannot be read ({error!r}): run `harness-ext checkpoints` again") from error


def checkpoint_chart(points: Sequence[dict[str, Any]]) -> Chart | None:
    """Return the chart, or None without points."""
    titles = dict.fromkeys(f"{p['task']}: {p['metric'].removesuffix(',none')}" for p in points)
    drawings = {
        title: _drawing([p for p in points if f"{p['task']}: {p['metric'].removesuffix(',none')}" == title])
        for title in titles
    }
    return chart(
        "checkpoints", "Checkpoints of a training",
        "Accuracy after each epoch with its 95 % interval, beside the models that were not trained. The best "
        "checkpoint is the one with the lowest validation error, not the one with the best score.",
        "Task and metric", drawings,
    )  # fmt: skip


def _drawing(points: Sequence[dict[str, Any]]) -> Drawing:
    trained = sorted((p for p in points if p["epoch"] is not None), key=lambda p: p["epoch"])
    others = [p for p in points if p["epoch"] is None]
    last = max((p["epoch"] for p in trained), default=1)
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [0, last], "y": [p["mean"], p["mean"]], "name": text(p["subject"]),
         "line": {"dash": "dash", "color": colour(i + 1)}}
        for i, p in enumerate(others)
    ]  # fmt: skip
    if trained:
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "x": [p["epoch"] for p in trained],
             "y": [p["mean"] for p in trained], "name": "checkpoints", **style(0, lines=True),
             "error_y": {
                 "type": "data", "symmetric": False,
                 "array": [0 if p["high"] is None else p["high"] - p["mean"] for p in trained],
                 "arrayminus": [0 if p["low"] is None else p["mean"] - p["low"] for p in trained],
             }}
        )  # fmt: skip
    table = [
        [p["subject"] + (" (best)" if p["best"] else ""), "—" if p["epoch"] is None else f"{p['epoch']:g}",
         str(p["questions"]), number(p["mean"]), number(p["low"]), number(p["high"])]
        for p in [*others, *trained]
    ]  # fmt: skip
    layout = {"xaxis": axis("epoch", rangemode="tozero"), "yaxis": axis(points[0]["metric"]), "height": 400}
    return Drawing(traces, layout, ["model", "epoch", "questions", "value", "from", "to"], table)
