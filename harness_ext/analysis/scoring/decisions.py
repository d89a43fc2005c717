"""How good the decisions of a run were, by the task's own scores: a teacher's acceptances, and agents' changes of mind.

The decisions are read from the transcripts and written to `scores.jsonl`. The figures compare them with the scores of
the texts that they were about, for metrics whose values are 0 and 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness_ext.analysis.scoring.probabilities import (
    binary_statistics,
    error_by_chance,
    estimates,
    reliability,
)
from harness_ext.analysis.scoring.rounds import Trajectory
from harness_ext.analysis.scoring.thresholds import Course, ReviewedDraft, Stop, curve, thresholds_of
from harness_ext.analysis.scoring.verdicts import JudgedDraft
from harness_ext.records import Transcript


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


def judged_drafts(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> list[JudgedDraft]:
    """Return the reviewed drafts that have a score of their own.

    rows: the lines of `scores.jsonl`.
    metric, key: the metric and the filter, whose values are 1 for right and 0 for wrong.

    Drafts of a conversation have none, since only the whole of it is scored. Where choices are scored after a
    rationale, only the last rationale has one.
    """
    found = []
    for row, draw, states in _draws(rows, key):
        for review in draw.get("reviews") or []:
            if draw["by_round"]:
                state = min(review["round"], len(states) - 1)
            elif draw["choice_scored"] and review["round"] == draw["refinements"]:
                state = -1
            else:
                continue
            found.append(JudgedDraft((row["task"], row["doc_id"]), bool(states[state][metric]), review))
    return found


def acceptance_figures(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> dict[str, Any] | None:
    """Return how the teacher's acceptances agree with the scores of the drafts; None without reviews.

    rows: the lines of `scores.jsonl`.
    metric, key: the metric and the filter, whose values are 1 for right and 0 for wrong.

    precision: the share of right drafts among the accepted ones. recall: the share of accepted drafts among the right
    ones. wrong_rejected: the share of rejected drafts among the wrong ones. All are null if there are no such drafts.
    """
    counts: Counter[str] = Counter()
    for draft in judged_drafts(rows, metric, key):
        accepted, right = draft.review["accepted"], draft.right
        counts[f"{'accepted' if accepted else 'rejected'}_{'right' if right else 'wrong'}"] += 1
        counts["malformed"] += draft.review["malformed"]
    names = ("accepted_right", "accepted_wrong", "rejected_right", "rejected_wrong")
    if not any(counts[name] for name in names):
        return None
    return {
        **{name: counts[name] for name in (*names, "malformed")},
        "precision": _share(counts["accepted_right"], counts["accepted_wrong"]),
        "recall": _share(counts["accepted_right"], counts["rejected_right"]),
        "wrong_rejected": _share(counts["rejected_wrong"], counts["accepted_wrong"]),
    }


def probability_figures(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> dict[str, Any] | None:
    """Return how good the probabilities of verdicts are, as predictions that a draft is right; None without verdicts.

    rows: the lines of `scores.jsonl`.
    metric, key: the metric and the filter, whose values are 1 for right and 0 for wrong.

    The figures are:

    rows, without: how many verdicts have a probability, and how many have none.
    unscored: how many verdicts are left out, since their draft has no score of its own.

    If there are probabilities, also:

    right, stated: the share of right drafts, and the mean probability.
    calibrated: how many of the probabilities were corrected by a calibration.
    questions: the number of rows by seat and question.
    label_mass: the mean and the lowest share of probability that the labels had, of the rows that know it, or null.
    auroc, brier, nll, ece: each with its 95 % interval, over documents.
    ece_by_chance: the calibration error that faultless probabilities of these sizes would show on average.
    bins: the verdicts in bins by probability.
    """
    drafts = judged_drafts(rows, metric, key)
    reviews = sum(len(draw.get("reviews") or []) for _, draw, _ in _draws(rows, key))
    if not reviews:
        return None
    known = [draft for draft in drafts if draft.probability is not None]
    counts = {"rows": len(known), "without": len(drafts) - len(known), "unscored": reviews - len(drafts)}
    if not known:
        return counts
    stated = [draft.probability for draft in known if draft.probability is not None]
    right = [draft.right for draft in known]
    found = estimates(binary_statistics(stated, right), [draft.document for draft in known])
    masses = [mass for draft in known if (mass := draft.review["label_mass"]) is not None]
    asked = Counter(f"{draft.review['seat']} {draft.review['question'] or 'unknown'}" for draft in known)
    return {
        **counts,
        "right": sum(right) / len(right),
        "stated": sum(stated) / len(stated),
        "calibrated": sum(draft.review["raw"] != draft.review["probability"] for draft in known),
        "questions": dict(asked),
        "label_mass": mass_figures(masses),
        **{name: asdict(estimate) for name, estimate in found.items()},
        "ece_by_chance": error_by_chance(stated),
        "bins": [asdict(one) for one in reliability(stated, right)],
    }


def mass_figures(masses: Sequence[float]) -> dict[str, Any] | None:
    """Return the number, the mean and the minimum of label masses; None if none is known."""
    return {"rows": len(masses), "mean": sum(masses) / len(masses), "lowest": min(masses)} if masses else None


def threshold_figures(rows: Sequence[Mapping[str, Any]], metric: str, key: str) -> dict[str, Any] | None:
    """Return what the run would have given with other thresholds; None if no verdict has a probability.

    rows: the lines of `scores.jsonl`.
    metric, key: the metric and the filter, whose values are 1 for right and 0 for wrong.

    questions: how many questions the points are about. left_out: how many are not, since their drafts have no scores of
    their own. used: the thresholds of the run, if it recorded them. points: one per threshold (`thresholds.Point`).
    """
    courses, left_out, used = [], 0, set()
    for _, draw, states in _draws(rows, key):
        if draw["by_round"]:
            courses.append(_course(draw, [bool(state[metric]) for state in states]))
            used |= {review["threshold"] for review in draw["reviews"] if review["threshold"] is not None}
        else:
            left_out += 1
    if all(draft.probability is None for course in courses for draft in course.drafts):
        return None
    points = curve(courses, thresholds_of(courses, sorted(used)))
    return {
        "questions": len(courses),
        "left_out": left_out,
        "used": sorted(used),
        "points": [asdict(point) for point in points],
    }


def _course(draw: Mapping[str, Any], right: Sequence[bool]) -> Course:
    def stop(of: Mapping[str, Any], state: int, rounds: int) -> Stop:
        read, written = of["prompt_tokens"], of["completion_tokens"]
        both = None if None in (read, written) else read + written
        return Stop(right[state], rounds, both, written, of.get("tokens_by_seat") or {})

    drafts = tuple(
        ReviewedDraft(
            review["probability"],
            review["accepted"],
            stop(review, min(review["round"], len(right) - 1), review["round"]),
        )
        for review in draw["reviews"]
    )
    return Course(drafts, stop(draw, -1, draw["refinements"]))


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


def _draws(
    rows: Sequence[Mapping[str, Any]], key: str
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Sequence[Any]]]:
    """Yield each row and draw with the scores of its states, for filters that score each repeat by itself."""
    for row in rows:
        answers = row["filters"].get(key, {}).get("answers") or []
        if len(answers) == len(row["draws"]):
            for draw, states in zip(row["draws"], answers, strict=True):
                yield row, draw, states


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None
