"""Prints how a judge that compares texts is influenced by their order and their length, and how often it is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harness_ext.analysis.scoring.decision_report import show_estimate
from harness_ext.terminal import safe_line

if TYPE_CHECKING:
    from rich.console import Console

Row = tuple[str, str, str, str, str]
ACCURACIES = {
    "accuracy": "right",
    "right_longest": "right where the right text is the longest",
    "right_shortest": "right where the right text is the shortest",
    "right_first": "right where the right text stands first",
    "right_last": "right where the right text stands last",
}


def print_judge(
    out: Console, title: str, figures: Mapping[str, Any] | None, accuracies: Mapping[str, Mapping[str, Any]]
) -> None:
    """Print the figures of a judge's comparisons; nothing if there are none.

    out: the console.
    title: names the task.
    figures: what `comparison_figures` returns.
    accuracies: what `judge_accuracy` returns, by metric.
    """
    if figures is None:
        return
    if figures["comparisons"]:
        for line in judge_lines(figures):
            out.print(safe_line(f"{title}: {line}"))
        _print_table(out, figures, accuracies)
    if figures["unrecorded"]:
        out.print(
            safe_line(
                f"{title}: {figures['unrecorded']} comparisons left out: an earlier version made them, which did not "
                "record the single orders"
            )
        )


def judge_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the table of a judge's figures does not say, as lines of text."""
    undecided = f"; no decision in {figures['undecided']} of the orders" if figures["undecided"] else ""
    yield (
        f"{figures['comparisons']} comparisons by the judge, {figures['both_orders']} of them in both orders"
        f"{undecided}; {figures['without_verdict']} without a verdict"
    )
    if (position := figures["position"]) is None:
        yield "no comparison was decided in every order, so nothing can be said about order and length"
    elif position["orders"] == 1:
        yield "each comparison was shown in one order only, so `expected` holds only if these orders are random"
    if len(asked := figures.get("asked", {})) > 1:
        shown = ", ".join(f"{name} ({rows})" for name, rows in asked.items())
        yield f"these figures mix the answers to several questions: {shown}"


def judge_rows(figures: Mapping[str, Any], accuracies: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """Yield the rows of the table: what is counted, of how many, the share with its interval, what is expected, p."""
    position, length = figures["position"], figures["length"]
    if position:
        if position["orders"] > 1:
            yield _row("the same text in both orders", position["consistent"])
            yield _row("the first place in both orders", position["first_both"])
            yield _row("the last place in both orders", position["last_both"])
        yield _row("decisions for the first place", position["first"], position["expected"], position["effect"]["p"])
        if found := position["probability"]:
            yield _row("probability of the first place above expectation", found, 0.0, found["p"])
    if length and length["comparisons"]:
        yield _row("decisions for the longest text", length["longest"], length["expected"], length["effect"]["p"])
        if length["slope"]:
            yield _row("log-odds per doubling of length", length["slope"], 0.0)
    for metric, found in accuracies.items():
        for name, label in ACCURACIES.items():
            if found[name]:
                yield _row(f"{label} ({metric})", found[name], found["chance"] if name == "accuracy" else None)


def _print_table(out: Console, figures: Mapping[str, Any], accuracies: Mapping[str, Mapping[str, Any]]) -> None:
    from rich import box
    from rich.table import Table

    rows = list(judge_rows(figures, accuracies))
    if not rows:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("judge", overflow="fold")
    for name in ("of", "share (95 %)", "expected", "p"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(safe_line, row))
    out.print(table)


def _row(label: str, found: Mapping[str, Any], expected: float | None = None, p: float | None = None) -> Row:
    shown = "" if expected is None else f"{expected:.3f}"
    return label, str(found["rows"]), show_estimate(found), shown, "" if p is None else f"{p:.2g}"
