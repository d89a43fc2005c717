"""Reads the comparisons of a judge from transcripts and from `scores.jsonl`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.analysis.scoring.judges import Comparison, Showing, accuracy_figures, judge_figures
from harness_ext.analysis.scoring.rounds import Trajectory
from harness_ext.records import Transcript


def comparisons_of(transcript: Transcript, trajectory: Trajectory) -> list[dict[str, Any]]:
    """Return one entry per comparison of texts by a seat, for `scores.jsonl`.

    The entries are:

    seat, question: which seat compared the texts, and the digest of what it was asked; null if it was not recorded.
    texts: for each text, its index among the texts of the last round; null if it is none of them.
    comparison: the record of the comparison (`harness_ext.protocol.deciding.comparison_record`); null in records of
        versions that did not write it.
    """
    found = []
    for turn in transcript.turns:
        verdict = turn.verdict or {}
        if "order_changed" not in verdict:
            continue
        seats = verdict.get("candidates") or []
        indices = [trajectory.seats.index(seat) if seat in trajectory.seats else None for seat in seats]
        record = verdict.get("comparison")
        found.append({"seat": turn.seat, "question": verdict.get("question"), "texts": indices, "comparison": record})
    return found


def comparison_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return how order and length influenced the judge of a run; None if it compared nothing.

    rows: the lines of `scores.jsonl`.

    The figures are those of `judge_figures`, and:

    asked: the number of comparisons by seat and question.
    unrecorded: how many further comparisons have no record of the single orders.
    """
    entries = [(row, entry) for row in rows for draw in row["draws"] for entry in draw.get("comparisons") or []]
    if not entries:
        return None
    recorded = [(row, entry) for row, entry in entries if entry["comparison"] is not None]
    asked = Counter(f"{entry['seat']} {entry['question'] or 'unknown'}" for _, entry in recorded)
    figures = judge_figures([_comparison(row, entry["comparison"], None) for row, entry in recorded])
    figures = figures or {"comparisons": 0}
    return {**figures, "asked": dict(asked), "unrecorded": len(entries) - len(recorded)}


def judge_accuracy(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> dict[str, Any] | None:
    """Return how often the judge of a run preferred a right text (`accuracy_figures`); None if that is unknown.

    rows: the lines of `scores.jsonl`.
    metric, key: the metric and the filter, whose values are 1 for right and 0 for wrong.

    A text is right if the task's metric says so of its agent's last text.
    """
    found = []
    for row in rows:
        agents = row["filters"].get(key, {}).get("agents") or []
        for draw, rounds in zip(row["draws"], agents, strict=False):
            last = rounds[-1] if rounds else []
            for entry in draw.get("comparisons") or []:
                texts = entry["texts"]
                if entry["comparison"] is not None and texts and all(i is not None and i < len(last) for i in texts):
                    right = tuple(bool(last[i][metric]) for i in texts)
                    found.append(_comparison(row, entry["comparison"], right))
    return accuracy_figures(found)


def _comparison(row: Mapping[str, Any], record: Mapping[str, Any], right: tuple[bool, ...] | None) -> Comparison:
    showings = tuple(
        Showing(tuple(one["shown"]), one["choice"], tuple(one["probabilities"])) for one in record["orders"]
    )
    return Comparison((row["task"], row["doc_id"]), tuple(record["characters"]), showings, record["preferred"], right)
