"""Prints how good the decisions of a scored run were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness_ext.analysis.transcript_view import acceptance_words
from harness_ext.terminal import safe_line

if TYPE_CHECKING:
    from rich.console import Console

SHOWN_POINTS = 9  # rows of the printed threshold curve
NAMES = {"auroc": "AUROC", "brier": "Brier score", "nll": "neg. log-likelihood", "ece": "calibration error"}


def print_decisions(out: Console, title: str, figures: Mapping[str, Any]) -> None:
    """Print the block about the decisions of one metric: verdicts, their probabilities, and the threshold curve.

    out: the console.
    title: names task and metric.
    figures: the figures of the metric; nothing is printed if it has none about decisions.
    """
    for line in _lines(figures):
        out.print(safe_line(f"{title}: {line}"))
    if acceptance := figures.get("acceptance"):
        _print_acceptance(out, acceptance)
    if thresholds := figures.get("thresholds"):
        _print_thresholds(out, title, thresholds)


def print_choices(out: Console, title: str, figures: Mapping[str, Any] | None) -> None:
    """Print the figures of decisions between the choices of a task; nothing if there are none."""
    if figures is None:
        return
    left_out = (
        f"{figures['left_out']} decisions left out: their documents do not have one right choice among the options"
    )
    if not figures["rows"]:
        out.print(safe_line(f"{title}: {left_out}"))
        return
    accuracy = show_estimate(figures["accuracy"])
    out.print(safe_line(f"{title}: {figures['rows']} decisions between choices, accuracy {accuracy}"))
    if "brier" in figures:
        out.print(safe_line(f"{title}: {_quality(figures)}{_mass(figures['label_mass'])}"))
    if figures["without"]:
        out.print(safe_line(f"{title}: {figures['without']} of {figures['rows']} decisions have no probabilities"))
    if figures.get("unreported"):
        out.print(
            safe_line(
                f"{title}: {figures['unreported']} probabilities were not reported; the highest that they can be counts"
            )
        )
    if figures["left_out"]:
        out.print(safe_line(f"{title}: {left_out}"))


def show_estimate(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """Return a figure with its interval, as `0.871 (0.803 to 0.926)`."""
    if estimate["value"] is None:
        return "—"
    value = f"{estimate['value']:.{digits}f}"
    if estimate["low"] is None:
        reason = estimate.get("reason")
        return f"{value} (no interval: {reason})" if reason else value
    return f"{value} ({estimate['low']:.{digits}f} to {estimate['high']:.{digits}f})"


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    if found := figures.get("acceptance"):
        yield acceptance_words(found)
    if found := figures.get("probabilities"):
        yield from _probability_lines(found)
    if found := figures.get("conformity"):
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.items())
        yield f"of {sum(found.values())} replies to other answers: {counts}"


def _probability_lines(found: Mapping[str, Any]) -> Iterator[str]:
    if found["rows"]:
        yield f"{found['rows']} verdicts with a probability: {_quality(found)}"
        calibrated = f"; {found['calibrated']} calibrated" if found["calibrated"] else ""
        yield (
            f"mean probability {_show(found['stated'])} where {_show(found['right'])} are right{calibrated}"
            f"{_mass(found['label_mass'])}"
        )
        if found["auroc"]["value"] is None:
            yield f"no AUROC, since all of these drafts are {'right' if found['right'] else 'wrong'}"
        if len(found["questions"]) > 1:
            asked = ", ".join(f"{name} ({rows})" for name, rows in found["questions"].items())
            yield f"these figures mix the answers to several questions: {asked}"
        if found["without"]:
            yield f"{found['without']} more verdicts have no probability"
    elif found["without"]:
        yield "no probabilities (verdicts were read from text)"
    if found["unscored"]:
        yield f"{found['unscored']} verdicts left out: the drafts that they are about have no scores of their own"


def _quality(found: Mapping[str, Any]) -> str:
    shown = [f"{name} {show_estimate(found[key])}" for key, name in NAMES.items() if key in found]
    bins = len(found["bins"])
    in_bins = f"in {bins} bin{'s' if bins > 1 else ''}, {_show(found['ece_by_chance'])} by chance alone"
    return f"{', '.join(shown)} ({in_bins})"


def _mass(mass: Mapping[str, Any] | None) -> str:
    return "" if mass is None else f"; label mass {_show(mass['mean'])} on average, {_show(mass['lowest'])} at least"


def _print_acceptance(out: Console, found: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("drafts")
    for name in ("right", "wrong"):
        table.add_column(name, justify="right")
    for name in ("accepted", "rejected"):
        table.add_row(name, str(found[f"{name}_right"]), str(found[f"{name}_wrong"]))
    out.print(table)


def _print_thresholds(out: Console, title: str, figures: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title=safe_line(f"{title}, with another accept_at"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    costs = [name for name in ("flops", "price") if any(point.get(name) for point in figures["points"])]
    names = ("accept_at", "accuracy", "accepted", "of these right", "rounds", "tokens", "written", *costs, "unknown")
    for name in names:
        table.add_column("FLOPs" if name == "flops" else name, justify="right", no_wrap=True)
    for point in shown_points(figures["points"], figures["used"]):
        least = "≥ " if point["unknown"] else ""
        accuracy = (
            _show(point["accuracy"])
            if point["accuracy"] is not None
            else f"{_show(point['accuracy_low'])} to {_show(point['accuracy_high'])}"
        )
        table.add_row(
            f"{point['accept_at']:.4g}{' (used)' if point['accept_at'] in figures['used'] else ''}",
            accuracy,
            str(point["accepted"]),
            str(point["accepted_right"]),
            f"{least}{point['rounds']:.2f}",
            "—" if point["tokens"] is None else f"{least}{point['tokens']:.0f}",
            "—" if point["completion_tokens"] is None else f"{least}{point['completion_tokens']:.0f}",
            *("—" if point[name] is None else f"{least}{point[name]:.3g}" for name in costs),
            f"{point['unknown']} of {figures['questions']}" if point["unknown"] else "0",
        )
    out.print(table)
    if any(point["unknown"] for point in figures["points"]):
        out.print(
            "unknown: questions that ended with a draft below this accept_at, so that the refinements are missing. The "
            "accuracy then lies between all of them wrong and all of them right"
        )
    if figures["left_out"]:
        out.print(f"{figures['left_out']} questions left out: their drafts have no scores of their own")


def shown_points(points: Sequence[Mapping[str, Any]], used: Sequence[float]) -> list[Mapping[str, Any]]:
    """Return the points of a curve to print: the ends, the thresholds that were used, and evenly spaced ones between.

    points: all points, by ascending threshold.
    used: the thresholds that the run used.
    """
    if len(points) <= SHOWN_POINTS:
        return list(points)
    steps = {round(i * (len(points) - 1) / (SHOWN_POINTS - 1)) for i in range(SHOWN_POINTS)}
    return [point for i, point in enumerate(points) if i in steps or point["accept_at"] in used]


def _show(value: Any) -> str:
    return "—" if value is None else f"{value:.3f}"
