"""What a finished run cost per question and per draft, so that another run can be made to cost the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness_ext.records.run_directory import read_transcripts
from harness_ext.records.usage import SeatCost, Usage

Measure = Literal["output_tokens", "tokens", "flops", "price"]


def amount(usage: Usage, by: Measure) -> float | None:
    """Return one figure of a usage; None if it is unknown."""
    if by == "output_tokens":
        return usage.completion_tokens
    if by == "tokens":
        known = usage.prompt_tokens is not None and usage.completion_tokens is not None
        return (usage.prompt_tokens or 0) + (usage.completion_tokens or 0) if known else None
    return usage.flops if by == "flops" else usage.price


def costs_of(seats: Mapping[str, Any] | None, usage: Mapping[str, Any] | None) -> dict[str, SeatCost]:
    """Return what turns the tokens of each seat of a run into FLOPs and money.

    seats: its seats, as `config.json` records them; None if it does not.
    usage: their usage, as `summary.json` records it; None without one.

    The number of a model's weights may still be unknown when `config.json` is written. The summary is written after the
    model was loaded, and the number follows from its FLOPs, which are 2 · weights · tokens.
    """
    found, known = dict[str, SeatCost](), usage if isinstance(usage, Mapping) else {}
    for name, seat in (seats or {}).items():
        total = (known.get(name) or {}).get("total") or {}
        tokens = (total.get("prompt_tokens") or 0) + (total.get("completion_tokens") or 0)
        derived = round(total["flops"] / 2 / tokens) if tokens and total.get("flops") else None
        found[name] = SeatCost.read({**seat, "parameters": seat.get("parameters") or derived})
    return found


def question_cost(run: Path, by: Measure) -> float:
    """Return the mean cost of an answered question of a run, summed over all seats.

    Raises ValueError with cause and remedy.
    """
    costs = _costs_of_run(run)
    totals = [
        amount(Usage.total(costs[turn.seat].usage(turn) for turn in t.calls), by)
        for t in read_transcripts(run)
        if t.failure is None
    ]
    return _mean(totals, f"the questions of {run}", by)


def draft_cost(run: Path, fingerprint: str, price: SeatCost, by: Measure) -> float:
    """Return the mean cost of a first draft that a model wrote in a run.

    run: the run directory.
    fingerprint: the model's fingerprint.
    price: what turns the model's tokens into FLOPs and money.
    by: the measure.

    Raises ValueError with cause and remedy.
    """
    seats = [name for name, seat in _seats(run).items() if seat.get("fingerprint") == fingerprint]
    drafts = [
        amount(price.usage(turn), by)
        for t in read_transcripts(run)
        for turn in t.turns
        if turn.seat in seats and turn.kind == "draft" and t.failure is None
    ]
    return _mean(drafts, f"drafts of this seat's model in {run}", by)


def _seats(run: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        return dict(config["seats"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{run} is not a run directory ({error}): give a folder with config.json and transcripts"
        ) from error


def _costs_of_run(run: Path) -> dict[str, SeatCost]:
    try:
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a run that was killed has none
        summary = {}
    return costs_of(_seats(run), summary.get("usage") if isinstance(summary, dict) else None)


def _mean(values: list[float | None], what: str, by: Measure) -> float:
    if not values:
        raise ValueError(f"there are no {what} to measure: give a run that has some")
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise ValueError(f"the {by} of {what} are not all known: choose another `by`, or set the prices of its seats")
    mean = sum(known) / len(known)
    if mean <= 0:
        raise ValueError(f"the {by} of {what} are 0: choose another `by`")
    return mean
