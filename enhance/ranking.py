"""Preferences and rankings from the outcomes of matches, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

import numpy as np


@dataclass(frozen=True, slots=True)
class MatchOutcome:
    """The outcome of a match between two candidates, given by their indices. A winner of None is a tie."""

    first: int
    second: int
    winner: int | None

    @property
    def loser(self) -> int | None:
        """Return the loser, or None for a tie."""
        return None if self.winner is None else self.second if self.winner == self.first else self.first


def preferred_pairs(n: int, outcomes: Iterable[MatchOutcome]) -> list[tuple[int, int]]:
    """Return the pairs (better, worse) that follow from the outcomes of `n` candidates, each pair once.

    The pairs are the transitive closure of the wins. After single elimination, the winner of a match is thus preferred
    to everyone on the loser's side of the bracket, as in github.com/BertilBraun/Master-Thesis: (n/2) log2 n pairs if n
    is a power of two. Pairs that contradict each other (both on a cycle) and pairs whose own match was a tie are
    omitted.
    """
    played = list(outcomes)
    reach = _closure(n, played)
    tied = {frozenset((o.first, o.second)) for o in played if o.winner is None}
    return [
        (int(a), int(b)) for a, b in np.argwhere(reach & ~reach.T) if a != b and frozenset((int(a), int(b))) not in tied
    ]


def on_cycles(n: int, outcomes: Iterable[MatchOutcome]) -> list[int]:
    """Return the candidates on a cycle, which beat themselves by way of others."""
    return [int(i) for i in np.flatnonzero(np.diag(_closure(n, outcomes)))]


def _closure(n: int, outcomes: Iterable[MatchOutcome]) -> np.ndarray:
    reach = np.zeros((n, n), dtype=bool)
    for outcome in outcomes:
        if outcome.winner is not None:
            reach[outcome.winner, outcome.loser] = True
    # Warshall's algorithm: after step k, `reach` covers all paths whose inner nodes are among the first k.
    for k in range(n):
        reach |= np.outer(reach[:, k], reach[k])
    return reach


def strengths(n: int, outcomes: Iterable[MatchOutcome], prior: float = 0.5, steps: int = 500) -> list[float]:
    """Return the Bradley-Terry strength of each candidate, as a natural logarithm with 0 for an average candidate.

    A tie counts as half a win for each side. The strengths are fitted with the minorisation-maximisation algorithm of
    Hunter (2004).

    n: number of candidates.
    outcomes: the outcomes of their matches.
    prior: wins, and as many losses, against an average candidate; they keep extreme strengths finite. Default 0.5.
    steps: maximum number of iterations. Default 500.
    """
    # Index n is an imaginary average candidate. Its strength stays at 1 and fixes the scale of the others.
    wins = np.zeros((n + 1, n + 1))
    for o in outcomes:
        share = 0.5 if o.winner is None else float(o.winner == o.first)
        wins[o.first, o.second] += share
        wins[o.second, o.first] += 1 - share
    wins[n, :n] = wins[:n, n] = prior
    games, total = wins + wins.T, wins.sum(axis=1)
    p = np.ones(n + 1)
    for _ in range(steps if n else 0):
        former, p = p, total / (games / (p[:, None] + p[None, :])).sum(axis=1)
        p /= p[n]
        if np.abs(p - former).max() < 1e-9:
            break
    return [round(log(x), 6) for x in p[:n]]


def ranking(n: int, outcomes: Iterable[MatchOutcome]) -> list[int]:
    """Return the candidates from best to worst by `strengths`, and by index if these are equal."""
    found = strengths(n, outcomes)
    return sorted(range(n), key=lambda i: (-found[i], i))
