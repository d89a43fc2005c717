"""Charts of what the rounds of a protocol change: accuracy by round, flips, agreement, corrections, tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness_ext.analysis.report.charts import (
    BETTER,
    COLOURS,
    WORSE,
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

Figures = Mapping[str, Any]


def by_metric(records: Records, wanted: Callable[[Figures], bool]) -> dict[str, list[tuple[RunRecords, Figures]]]:
    """Return the figures of each task or pool of tasks and metric that are wanted, with their run directories."""
    found: dict[str, list[tuple[RunRecords, Figures]]] = {}
    for directory in records.directories:
        for pool, figures in directory.pools.items():
            for metric, one in figures["metrics"].items():
                if wanted(one):
                    title = f"{pool}: {metric.removesuffix(',none')}"
                    found.setdefault(title, []).append((directory, one))
    return found


def round_charts(records: Records) -> list[Chart]:
    """Return the charts, without those that would be empty."""
    several = by_metric(records, lambda m: len(m["rounds"]) > 1 and None not in m["rounds"])
    flips = by_metric(records, lambda m: bool(m.get("flips_by_round")))
    agents = by_metric(records, lambda m: len(m.get("agents") or ()) > 1)
    conformity = by_metric(records, lambda m: bool(m.get("conformity")))
    found = [
        chart(
            "rounds", "Accuracy by round",
            "Round 0 is the first draft. A finished question keeps its last answer in all later rounds, so a line "
            "falls only where answers got worse. A final text that is none of the last round counts as one more.",
            "Tasks and metric", {title: _rounds(some, "rounds") for title, some in several.items()},
        ),
        chart(
            "flips", "Answers that each round changed",
            "To the right: answers that a round turned from wrong to right. To the left: from right to wrong.",
            "Tasks and metric", {title: _flips(some) for title, some in flips.items()},
        ),
        chart(
            "agents", "Accuracy of the agents by round",
            "The mean over the texts of all agents or draws, whatever the vote makes of them.",
            "Tasks and metric", {title: _rounds(some, "agents") for title, some in agents.items()},
        ),
        chart(
            "agreement", "Agreement by round", "The share of the agents that give the most common answer.", "Runs",
            _agreement(records),
        ),
        chart(
            "conformity", "What became of answers that others contradicted",
            "Replies of agents that had heard another answer than their own: whether they adopted it, and whether "
            "that was right.",
            "Tasks and metric", {title: _conformity(some) for title, some in conformity.items()},
        ),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _rounds(some: Sequence[tuple[RunRecords, Figures]], name: str) -> Drawing:
    traces: list[dict[str, Any]] = []
    table = []
    most = max(len(figures[name]) for _, figures in some)
    for directory, figures in some:
        values = figures[name]
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "x": list(range(len(values))), "y": values,
             "name": text(directory.name), **style(directory.run, lines=True)}
        )  # fmt: skip
        table.append([directory.name, *[number(v) for v in values], *["—"] * (most - len(values))])
    layout = {"xaxis": axis("round", dtick=1), "yaxis": axis("value"), "height": 400}
    return Drawing(traces, layout, ["run", *(f"round {r}" for r in range(most))], table)


def _flips(some: Sequence[tuple[RunRecords, Figures]]) -> Drawing:
    names, ups, downs, table = [], [], [], []
    for directory, figures in some:
        for i, flips in enumerate(figures["flips_by_round"]):
            names.append([text(directory.name), f"→ {i + 1}"])
            # Earlier versions wrote these counts as texts where the metric's values were numpy's.
            ups.append(int(flips["wrong_to_right"]))
            downs.append(-int(flips["right_to_wrong"]))
            table.append([directory.name, f"{i} → {i + 1}", str(ups[-1]), str(-downs[-1])])
    places = [[one for one, _ in names], [one for _, one in names]]
    bars = [
        {"type": "bar", "orientation": "h", "y": places, "x": ups, "name": "wrong → right",
         "marker": {"color": BETTER}},
        {"type": "bar", "orientation": "h", "y": places, "x": downs, "name": "right → wrong",
         "customdata": [-d for d in downs], "hovertemplate": "%{customdata}<extra>right → wrong</extra>",
         "marker": {"color": WORSE, "pattern": {"shape": "/"}}},
    ]  # fmt: skip
    layout = {
        "barmode": "relative", "xaxis": axis("answers"), "yaxis": axis("", autorange="reversed"),
        "height": 170 + 20 * len(names),
    }  # fmt: skip
    return Drawing(bars, layout, ["run", "rounds", "wrong → right", "right → wrong"], table)


def _agreement(records: Records) -> dict[str, Drawing]:
    traces, table, most = [], [], 0
    for directory in records.directories:
        totals, questions = directory.summary.get("totals") or {}, directory.summary.get("answered")
        rounds = sorted(int(n.rpartition("_")[2]) for n in totals if n.startswith("agreement_round_"))
        if not rounds or not questions:
            continue
        shares = [totals[f"agreement_round_{r}"] / questions for r in rounds]
        most = max(most, *rounds)
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "x": rounds, "y": shares, "name": text(directory.name),
             **style(directory.run, lines=True)}
        )  # fmt: skip
        known = dict(zip(rounds, shares, strict=True))
        table.append([directory.name, *[share(known.get(r)) for r in range(most + 1)]])
    if not traces:
        return {}
    table = [[*row, *["—"] * (most + 2 - len(row))] for row in table]
    layout = {"xaxis": axis("round", dtick=1), "yaxis": share_axis("agreement", range=[0, 1.03]), "height": 380}
    return {"all runs": Drawing(traces, layout, ["run", *(f"round {r}" for r in range(most + 1))], table)}


_CONFORMITY = {
    "conformed_wrong_to_right": BETTER,
    "kept_right": "#56b4e9",
    "conformed_right_to_right": "#0072b2",
    "kept_wrong": "#e69f00",
    "conformed_wrong_to_wrong": "#cc79a7",
    "conformed_right_to_wrong": WORSE,
}


def _conformity(some: Sequence[tuple[RunRecords, Figures]]) -> Drawing:
    names = [text(directory.name) for directory, _ in some]
    traces = [
        {"type": "bar", "orientation": "h", "y": names, "x": [f["conformity"].get(kind, 0) for _, f in some],
         "name": kind.replace("_", " "), "marker": {"color": shade}}
        for kind, shade in _CONFORMITY.items()
    ]  # fmt: skip
    table = [[d.name, *(str(f["conformity"].get(kind, 0)) for kind in _CONFORMITY)] for d, f in some]
    layout = {"barmode": "stack", "xaxis": axis("replies"), "yaxis": axis(""), "height": 190 + 34 * len(names)}
    return Drawing(traces, layout, ["run", *(kind.replace("_", " ") for kind in _CONFORMITY)], table)


def token_charts(records: Records) -> list[Chart]:
    """Return the charts of what was written and read: tokens kept and discarded, cached prompts, speculative drafts."""
    found = [
        chart(
            "tokens", "What became of the written tokens",
            "Tokens per question: in the answer, in drafts that were replaced, and in reviews and checks.", "Runs",
            _tokens(records),
        ),
        chart(
            "cached", "Prompt tokens that a cache supplied",
            "The share of the prompts' tokens that models did not have to read again, by seat.", "Runs",
            _cached(records),
        ),
        chart(
            "corrections", "Where the teacher corrected",
            "How far into the final text its corrections stand, from the beginning (0 %) to the end (100 %).", "Runs",
            _corrections(records),
        ),
        chart(
            "authors", "Who wrote the final text", "The share of its characters, over all questions.", "Runs",
            _authors(records),
        ),
    ]  # fmt: skip
    return [one for one in found if one is not None]


def _stacked(
    rows: Sequence[tuple[str, Sequence[float | None]]], kinds: Sequence[str], title: str, form: str = ".1f",
    **more: Any,
) -> dict[str, Drawing]:  # fmt: skip
    """Return a drawing of stacked horizontal bars, one bar for each row; none if there are no rows."""
    if not rows:
        return {}
    names = [text(name) for name, _ in rows]
    shades = (COLOURS[0], COLOURS[4], COLOURS[6])
    traces = [
        {"type": "bar", "orientation": "h", "y": names, "x": [values[i] for _, values in rows], "name": kind,
         "marker": {"color": shades[i % len(shades)]}}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    layout = {
        "barmode": "stack", "xaxis": axis(title, rangemode="tozero", **more),
        "yaxis": axis("", type="category", autorange="reversed"), "height": 170 + 30 * len(names),
    }  # fmt: skip
    table = [[name, *(number(value, form) for value in values)] for name, values in rows]
    return {"all runs": Drawing(traces, layout, ["run", *kinds], table)}


def _tokens(records: Records) -> dict[str, Drawing]:
    kinds = ("kept", "discarded", "verification")
    rows = []
    for directory in records.directories:
        tokens, questions = directory.summary.get("completion_tokens") or {}, directory.summary.get("questions")
        if questions and any(tokens.get(kind) is not None for kind in kinds):
            counts = [tokens.get(kind) for kind in kinds]
            rows.append((directory.name, [None if n is None else n / questions for n in counts]))
    return _stacked(rows, kinds, "tokens per question")


def _cached(records: Records) -> dict[str, Drawing]:
    rows = []
    for directory in records.directories:
        for seat, usage in (directory.summary.get("usage") or {}).items():
            read, cached = usage["total"].get("prompt_tokens"), usage["total"].get("cached_tokens")
            if read and cached is not None:
                rows.append((f"{directory.name}: {seat}", [cached / read]))
    if not any(values[0] for _, values in rows):
        return {}
    return _stacked(rows, ("cached",), "share of prompt tokens", ".1%", tickformat=".0%", range=[0, 1])


def _authors(records: Records) -> dict[str, Drawing]:
    rows = []
    for directory in records.directories:
        totals = directory.summary.get("totals") or {}
        student, teacher = totals.get("characters_student"), totals.get("characters_teacher")
        if student is not None and teacher is not None and student + teacher:
            rows.append((directory.name, [count / (student + teacher) for count in (student, teacher)]))
    return _stacked(rows, ("student", "teacher"), "share of characters", ".1%", tickformat=".0%", range=[0, 1])


def _corrections(records: Records) -> dict[str, Drawing]:
    traces, table = [], []
    for directory in records.directories:
        if directory.summary and not (directory.summary.get("totals") or {}).get("corrections"):
            continue  # most runs have none, and reading transcripts takes time
        places = [
            min(1.0, correction["position"] / len(transcript.text))
            for transcript in directory.transcripts()
            for correction in (transcript.details or {}).get("corrections") or ()
            if transcript.text
        ]
        if not places:
            continue
        counts = [0] * 10
        for place in places:
            counts[min(9, int(10 * place))] += 1
        shares = [count / len(places) for count in counts]
        traces.append(
            {"type": "scatter", "mode": "lines+markers", "x": [i / 10 + 0.05 for i in range(10)], "y": shares,
             "name": text(directory.name), **style(directory.run, lines=True)}
        )  # fmt: skip
        table.append([directory.name, str(len(places)), *map(share, shares)])
    if not traces:
        return {}
    layout = {"xaxis": share_axis("position in the final text", range=[0, 1]),
              "yaxis": share_axis("share of corrections"), "height": 400}  # fmt: skip
    head = ["run", "corrections", *(f"{10 * i}–{10 * i + 10} %" for i in range(10))]
    return {"all runs": Drawing(traces, layout, head, table)}
