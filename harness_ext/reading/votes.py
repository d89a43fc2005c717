"""Votes among answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness_ext.reading.equality import same_answer
from harness_ext.reading.kinds import Reading


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote.

    `winner` is the place of the first voter for the winning answer, None when nobody voted. `counts` holds each answer
    with its votes (or weights), in the order of first sight. `tie` says that another answer had as many: then the one
    seen first won, which depends on this question alone. `unparsable` replies did not vote.
    """

    winner: int | None
    counts: tuple[tuple[str, float], ...]
    tie: bool
    unparsable: int


def vote(answers: Sequence[Reading | None], weights: Sequence[float] | None = None) -> Vote:
    """Count votes, one each or as weighted.

    Args:
        answers: what each voter answers; None has no vote.
        weights: one finite weight of 0 or more for each voter.
    """
    groups: list[tuple[int, Reading, float]] = []
    for i, answer in enumerate(answers):
        if answer is None:
            continue
        weight = 1.0 if weights is None else weights[i]
        for g, (first, other, total) in enumerate(groups):
            if same_answer(answer, other):
                groups[g] = (first, other, total + weight)
                break
        else:
            groups.append((i, answer, weight))
    counts = tuple((answer.value, total) for _, answer, total in groups)
    unparsable = sum(answer is None for answer in answers)
    if not groups:
        return Vote(None, counts, False, unparsable)
    most = max(total for _, _, total in groups)
    best = [first for first, _, total in groups if total >= most - 1e-9]
    return Vote(best[0], counts, len(best) > 1, unparsable)
