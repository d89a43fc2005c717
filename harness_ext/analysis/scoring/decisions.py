"""How good the decisions of a run were, by the task's own scores: a teacher's acceptances, and agents' changes of mind.

The decisions are read from the transcripts and written to `scores.jsonl`. The figures compare them with the scores of
the texts that they were about, for metrics whose values are 0 and 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness_ext.analysis.scoring.rounds import Trajectory
from harness_ext.records import Transcript

REVIEWS = ("review", "verdict")


def reviews_of(transcript: Transcript) -> list[dict[str, Any]]:
    """Return one entry per reviewed draft: its round, and whether the review accepted it and was malformed.

    A review that was asked for again counts with its last verdict.
    """
    found: dict[int, dict[str, Any]] = {}
    refined = 0
    for turn in transcript.turns:
        refined += turn.kind == "refine"
        verdict = turn.verdict or {}
        if turn.kind in REVIEWS and "accepted" in verdict:
            accepted, malformed = bool(verdict["accepted"]), bool(verdict.get("malformed"))
            found[refined] = {"round": refined, "accepted": accepted, "malformed": malformed}
    return list(found.values())


def challenges_of(transcript: Transcript, trajectory: Trajectory) -> list[dict[str, Any]]:
    """Return one entry per reply of an agent that had heard another answer than its own: the round, the agent's index
    among the texts of a round, and whether it adopted one of the answers that it had heard."""
    order: dict[str, int] = {}
    found = []
    for turn in transcript.turns:
        verdict = turn.verdict or {}
        if not isinstance(verdict.get("round"), int):
            continue
        agent = order.setdefault(turn.seat, len(order))
        if "conformed" in verdict and verdict["round"] < len(trajectory.rounds):
            found.append({"round": verdict["round"], "agent": agent, "conformed": bool(verdict["conformed"])})
    return found


def acceptance_figures(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> dict[str, Any] | None:
    """Return how the teacher's acceptances agree with the scores of the drafts; None without reviews.

    rows: the lines of `scores.jsonl`.
    metric, key: the metric and the filter, whose values are 1 for right and 0 for wrong.

    precision: the share of right drafts among the accepted ones. recall: the share of accepted drafts among the right
    ones. wrong_rejected: the share of rejected drafts among the wrong ones. All are null if there are no such drafts.
    """
    counts: Counter[str] = Counter()
    for draw, states in _draws(rows, key):
        for review in draw.get("reviews") or []:
            right = states[min(review["round"], len(states) - 1)][metric]
            counts[f"{'accepted' if review['accepted'] else 'rejected'}_{'right' if right else 'wrong'}"] += 1
            counts["malformed"] += review["malformed"]
    names = ("accepted_right", "accepted_wrong", "rejected_right", "rejected_wrong")
    if not any(counts[name] for name in names):
        return None
    return {
        **{name: counts[name] for name in (*names, "malformed")},
        "precision": _share(counts["accepted_right"], counts["accepted_wrong"]),
        "recall": _share(counts["accepted_right"], counts["rejected_right"]),
        "wrong_rejected": _share(counts["rejected_wrong"], counts["accepted_wrong"]),
    }


def conformity_figures(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> dict[str, int] | None:
    """Return what became of agents' answers that others contradicted; None without such agents.

    The entries count replies: `conformed_wrong_to_right` adopted another's answer and became right, and so on;
    `kept_right` and `kept_wrong` adopted none of the answers that they had heard.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        entry = row["filters"].get(key, {})
        agents = entry.get("agents") or []
        for draw, rounds in zip(row["draws"], agents, strict=False):
            for challenge in draw.get("challenges") or []:
                number, agent = challenge["round"], challenge["agent"]
                if number >= len(rounds) or agent >= len(rounds[number - 1]):
                    continue
                before, after = (bool(rounds[r][agent][metric]) for r in (number - 1, number))
                names = ["right" if right else "wrong" for right in (before, after)]
                counts["conformed_" + "_to_".join(names) if challenge["conformed"] else f"kept_{names[0]}"] += 1
    return dict(sorted(counts.items())) or None


def _draws(rows: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[Mapping[str, Any], Sequence[Any]]]:
    """Yield each draw with the scores of its states, for filters that score each repeat by itself."""
    for row in rows:
        answers = row["filters"].get(key, {}).get("answers") or []
        if len(answers) == len(row["draws"]):
            yield from zip(row["draws"], answers, strict=True)


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None
