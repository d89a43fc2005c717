"""Charts of verdicts: how often they are right, how honest their probabilities are, and what could not be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.analysis.report.charts import (
    COLOURS,
    Chart,
    Drawing,
    axis,
    chart,
    number,
    share,
    share_axis,
    style,
    text,
)
from harness_ext.analysis.report.records import Records, RunRecords
from harness_ext.analysis.report.round_charts import Figures, by_metric
from harness_ext.analysis.scoring.decisions import judged_drafts
from harness_ext.analysis.scoring.probabilities import roc_curve

Some = Sequence[tuple[RunRecords, Figures]]


def verdict_charts(records: Records) -> list[Chart]:
    """Return the charts, without those that would be empty."""
    accepted = by_metric(records, lambda m: bool(m.get("acceptance")))
    stated = by_metric(records, lambda m: bool((m.get("probabilities") or {}).get("rows")))
    thresholds = by_metric(records, lambda m: bool(m.get("thresholds")))
    switch = "Tasks and metric"
    found = [
        chart(
            "verdicts", "How right the teacher's verdicts are",
            "Precision: the share of right drafts among the accepted ones. Recall: the share of accepted drafts among "
            "the right ones. Wrong rejected: the share of rejected drafts among the wrong ones.",
            switch, {title: _acceptance(some) for title, some in accepted.items()},
        ),
        chart(
            "calibration", "Calibration of the verdicts",
            "Each point is a group of verdicts with similar probabilities; its size is their number. On the diagonal, "
            "a stated probability is as often right as it says.",
            switch, {title: _calibration(some) for title, some in stated.items()},
        ),
        chart(
            "roc", "ROC curves of the verdicts",
            "Each point is a threshold: which share of the right drafts it accepts, and which of the wrong ones. "
            "On the diagonal the verdicts say nothing.",
            switch, _roc_curves(records),
        ),
        chart(
            "thresholds", "What other thresholds would have given",
            "Accuracy if drafts were accepted from this probability on. Where a question would have gone on beyond "
            "what was recorded, its end is unknown, and the band holds all that it can be. Circles are the thresholds "
            "that were used.",
            switch, {title: _thresholds(some) for title, some in thresholds.items()},
        ),
        chart(
            "faults", "Replies that could not be used",
            "The shares of reviews without a readable verdict, of replies that their token limit ended, and of "
            "questions without an answer.",
            "Runs", _faults(records),
        ),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _acceptance(some: Some) -> Drawing:
    names = [text(directory.name) for directory, _ in some]
    kinds = {"precision": "precision", "recall": "recall", "wrong_rejected": "wrong rejected"}
    shades = (COLOURS[0], COLOURS[4], COLOURS[3])
    traces = [
        {"type": "bar", "orientation": "h", "y": names, "x": [f["acceptance"][kind] for _, f in some], "name": label,
         "marker": {"color": shade}}
        for (kind, label), shade in zip(kinds.items(), shades, strict=True)
    ]  # fmt: skip
    counts = ("accepted_right", "accepted_wrong", "rejected_right", "rejected_wrong", "malformed")
    table = [
        [d.name, *(share(f["acceptance"][kind]) for kind in kinds), *(str(f["acceptance"][name]) for name in counts)]
        for d, f in some
    ]
    layout = {
        "barmode": "group", "xaxis": share_axis("", range=[0, 1.02]),
        "yaxis": axis("", type="category", autorange="reversed"), "height": 170 + 62 * len(names),
    }  # fmt: skip
    head = ["run", *kinds.values(), *(name.replace("_", " ") for name in counts)]
    return Drawing(traces, layout, head, table)


def _calibration(some: Some) -> Drawing:
    traces: list[dict[str, Any]] = [_diagonal("honest")]
    table = []
    for directory, figures in some:
        found = figures["probabilities"]
        rows = [one["rows"] for one in found["bins"]]
        looks = style(directory.run, lines=True)
        looks["marker"] |= {"size": [6 + 14 * n / max(rows) for n in rows]}
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "x": [b["stated"] for b in found["bins"]],
             "y": [b["right"] for b in found["bins"]], "name": text(directory.name), "customdata": rows,
             "hovertemplate": "stated %{x:.2f}, right %{y:.2f}, %{customdata} verdicts", **looks}
        )  # fmt: skip
        figure = {name: found[name] for name in ("auroc", "brier", "nll", "ece")}
        table.append([directory.name, str(found["rows"]), *(_estimate(one) for one in figure.values()),
                      number(found["ece_by_chance"])])  # fmt: skip
    layout = {
        "xaxis": share_axis("stated probability", range=[-0.02, 1.02]),
        "yaxis": share_axis("share of right drafts", range=[-0.02, 1.02]), "height": 460,
    }  # fmt: skip
    head = ["run", "verdicts", "AUROC", "Brier score", "neg. log-likelihood", "calibration error", "by chance"]
    return Drawing(traces, layout, head, table)


def _roc_curves(records: Records) -> dict[str, Drawing]:
    found: dict[str, tuple[list[dict[str, Any]], list[list[str]]]] = {}
    for directory in records.directories:
        for pool, figures in directory.pools.items():
            tasks = figures.get("tasks", [pool])
            for name, one in figures["metrics"].items():
                metric, _, key = name.rpartition(",")
                probabilities = one.get("probabilities") or {}
                rows = [row for row in directory.rows if row["task"] in tasks] if probabilities.get("rows") else []
                known = [(d.probability, d.right) for d in judged_drafts(rows, metric, key)]
                stated = [(p, right) for p, right in known if p is not None]
                curve = roc_curve([p for p, _ in stated], [right for _, right in stated])
                if not curve:
                    continue
                traces, table = found.setdefault(f"{pool}: {name.removesuffix(',none')}", ([_diagonal("chance")], []))
                traces.append(
                    {"type": "scatter", "mode": "lines", "x": [x for x, _, _ in curve], "y": [y for _, y, _ in curve],
                     "name": text(directory.name), "customdata": [at for _, _, at in curve],
                     "hovertemplate": "from %{customdata:.3f}: %{y:.2f} of the right, %{x:.2f} of the wrong",
                     **style(directory.run, lines=True)}
                )  # fmt: skip
                table.append([directory.name, str(len(stated)), _estimate(probabilities["auroc"])])
    layout = {
        "xaxis": share_axis("accepted wrong drafts", range=[-0.02, 1.02]),
        "yaxis": share_axis("accepted right drafts", range=[-0.02, 1.02]), "height": 460,
    }  # fmt: skip
    return {t: Drawing(traces, layout, ["run", "verdicts", "AUROC"], table) for t, (traces, table) in found.items()}


def _thresholds(some: Some) -> Drawing:
    traces: list[dict[str, Any]] = []
    table = []
    for directory, figures in some:
        points = figures["thresholds"]["points"]
        at, looks = [p["accept_at"] for p in points], style(directory.run, lines=True)
        label = text(directory.name)
        band = {"type": "scatter", "mode": "lines", "x": at, "line": {"width": 0}, "hoverinfo": "skip",
                "showlegend": False, "legendgroup": label}  # fmt: skip
        traces += [
            {**band, "y": [p["accuracy_low"] for p in points]},
            {**band, "y": [p["accuracy_high"] for p in points], "fill": "tonexty",
             "fillcolor": _faint(looks["line"]["color"])},
            {"type": "scatter", "mode": "lines", "x": at, "y": [p["accuracy"] for p in points], "name": label,
             "legendgroup": label, "line": looks["line"]},
        ]  # fmt: skip
        used = [p for p in points if p["accept_at"] in figures["thresholds"]["used"]]
        if used:
            traces.append(
                {"type": "scatter", "mode": "markers", "x": [p["accept_at"] for p in used],
                 "y": [p["accuracy"] if p["accuracy"] is not None else p["accuracy_low"] for p in used],
                 "name": label, "legendgroup": label, "showlegend": False,
                 "marker": {"size": 12, "symbol": "circle-open", "color": looks["line"]["color"]}}
            )  # fmt: skip
        step = max(1, len(points) // 9)
        table += [
            [directory.name, number(p["accept_at"]), str(p["exact"]), str(p["unknown"]), share(p["accuracy_low"]),
             share(p["accuracy_high"]), number(p["rounds"], ".2f"), number(p["tokens"], ".0f")]
            for p in points[::step]
        ]  # fmt: skip
    layout = {"xaxis": share_axis("accepted from this probability on", range=[-0.02, 1.02]),
              "yaxis": axis("accuracy"), "height": 460}  # fmt: skip
    head = ["run", "threshold", "known", "unknown", "accuracy from", "to", "rounds", "tokens"]
    return Drawing(traces, layout, head, table)


def _faults(records: Records) -> dict[str, Drawing]:
    kinds = ("malformed reviews", "cut at the limit", "failed questions")
    rows = []
    for directory in records.directories:
        summary = directory.summary
        if not summary.get("questions"):
            continue
        rates = [
            (summary.get("reviews") or {}).get("malformed_rate"),
            summary.get("cut_at_limit_rate"),
            (summary.get("failed") or 0) / summary["questions"],
        ]
        rows.append((directory.name, rates))
    if not rows:
        return {}
    traces = [
        {"type": "bar", "orientation": "h", "y": [text(name) for name, _ in rows],
         "x": [rates[i] for _, rates in rows], "name": kind,
         "marker": {"color": COLOURS[(4, 0, 1)[i]]}, "texttemplate": "%{x:.1%}", "textposition": "outside",
         "cliponaxis": False}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    layout = {
        "barmode": "group", "xaxis": share_axis("share", range=[0, max(0.05, *(r or 0 for _, rs in rows for r in rs))]),
        "yaxis": axis("", type="category", autorange="reversed"), "height": 170 + 50 * len(rows),
    }  # fmt: skip
    return {"all runs": Drawing(traces, layout, ["run", *kinds], [[n, *map(share, rates)] for n, rates in rows])}


def _diagonal(name: str) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "x": [0, 1], "y": [0, 1], "name": name, "hoverinfo": "skip",
            "line": {"dash": "dot", "width": 1, "color": COLOURS[-1]}}  # fmt: skip


def _estimate(one: Mapping[str, Any]) -> str:
    ends = "" if one["low"] is None else f" [{number(one['low'])}, {number(one['high'])}]"
    return number(one["value"]) + ends


def _faint(shade: str) -> str:
    red, green, blue = (int(shade[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
