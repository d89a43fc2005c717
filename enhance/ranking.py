"""From the outcomes of matches to preferences and a ranking: pure functions, computed again without a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

import numpy as np


@dataclass(frozen=True, slots=True)
class Outcome:
    """A match of two candidates, by their places, and its winner; None is a tie."""

    first: int
    second: int
    winner: int | None

    @property
    def loser(self) -> int | None:
        """Return who lost; None for a tie."""
        return None if self.winner is None else self.second if self.winner == self.first else self.first


def preferred_pairs(n: int, outcomes: Iterable[Outcome]) -> list[tuple[int, int]]:
    """Return the pairs (better, worse) that follow: the transitive closure of "beat", each pair once.

    After single elimination the winner of a match is thus preferred over all on the loser's side of the bracket, as in
    github.com/BertilBraun/Master-Thesis: (n/2) log2 n pairs for n a power of two. Left out are pairs that contradict
    each other (both on a cycle) and pairs whose own match was a tie.
    """
    played = list(outcomes)
    reach = _closure(n, played)
    tied = {frozenset((o.first, o.second)) for o in played if o.winner is None}
    return [
        (int(a), int(b)) for a, b in np.argwhere(reach & ~reach.T) if a != b and frozenset((int(a), int(b))) not in tied
    ]


def on_cycles(n: int, outcomes: Iterable[Outcome]) -> list[int]:
    """Return the candidates that, by way of others, beat themselves."""
    return [int(i) for i in np.flatnonzero(np.diag(_closure(n, outcomes)))]


def _closure(n: int, outcomes: Iterable[Outcome]) -> np.ndarray:
    reach = np.zeros((n, n), dtype=bool)
    for outcome in outcomes:
        if outcome.winner is not None:
            reach[outcome.winner, outcome.loser] = True
    for k in range(n):
        reach |= np.outer(reach[:, k], reach[k])
    return reach


def strengths(n: int, outcomes: Iterable[Outcome], prior: float = 0.5, steps: int = 500) -> list[float]:
    """Return each candidate's Bradley-Terry strength (natural log; 0 is average), a tie counted as half a win each.

    `prior` wins and as many losses against an average candidate keep the strengths of the unbeaten finite. By the
    minorisation-maximisation steps of Hunter (2004).
    """
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


def ranking(n: int, outcomes: Iterable[Outcome]) -> list[int]:
    """Return the candidates from best to worst, by `strengths`; equals in the order of their places."""
    found = strengths(n, outcomes)
    return sorted(range(n), key=lambda i: (-found[i], i))
