"""Schedules of a tournament: single elimination, round robin and Swiss.

A schedule is a generator of rounds. It yields the matches of a round, which are independent of each other, and is sent
the winner of each match, or None for a tie. It ends when no match is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from math import ceil, log2

Match = tuple[int, int]
Schedule = Generator[list[Match], Sequence[int | None], None]


def single_elimination(n: int, rng: random.Random, rounds: int = 0) -> Schedule:
    """Pair the neighbours of a shuffled bracket until one candidate is left, in n - 1 matches.

    An odd candidate advances without a match. After a tie the first candidate advances: one of them must, and the
    shuffle has made the choice random. This is the tournament of github.com/BertilBraun/Master-Thesis.

    n: number of candidates.
    rng: the source of randomness.
    rounds: number of rounds after which to stop; 0 plays all rounds. Default 0.
    """
    left = _shuffled(n, rng)
    played = 0
    while len(left) > 1 and not (rounds and played == rounds):
        matches = list(zip(left[0::2], left[1::2], strict=False))
        winners = yield matches
        alone = left[2 * len(matches) :]
        left = [a if winner is None else winner for (a, _), winner in zip(matches, winners, strict=True)] + alone
        played += 1


def round_robin(n: int, rng: random.Random, rounds: int = 0) -> Schedule:
    """Pair everyone with everyone once: n(n-1)/2 matches in one round, in random order and with random sides."""
    matches = [(a, b) if rng.random() < 0.5 else (b, a) for a in range(n) for b in range(a + 1, n)]
    rng.shuffle(matches)
    if matches:
        yield matches


def swiss(n: int, rng: random.Random, rounds: int = 0) -> Schedule:
    """In each round, pair candidates with similar points that have not met yet.

    A win gives one point and a tie half a point. If n is odd, a candidate with the fewest points among those that have
    not yet sat out sits out the round and gets one point. The pairing is a matching that minimises the sum of squared
    differences in points.

    n: number of candidates.
    rng: the source of randomness.
    rounds: number of rounds; 0 is ceil(log2 n). Default 0.
    """
    import networkx

    points = dict.fromkeys(_shuffled(n, rng), 0.0)
    met: set[frozenset[int]] = set()
    sat_out: set[int] = set()
    for _ in range(min(rounds or ceil(log2(max(n, 2))), max(n - 1, 0))):
        pairable = list(points)
        if n % 2:
            alone = min((c for c in pairable if c not in sat_out), key=lambda c: points[c])
            sat_out.add(alone)
            points[alone] += 1.0
            pairable.remove(alone)
        graph = networkx.Graph()
        graph.add_nodes_from(pairable)
        for i, a in enumerate(pairable):
            for b in pairable[i + 1 :]:
                if frozenset((a, b)) not in met:
                    graph.add_edge(a, b, weight=-(int(2 * (points[a] - points[b])) ** 2))
        matching = networkx.max_weight_matching(graph, maxcardinality=True)
        matches = sorted((min(m), max(m)) for m in matching)
        matches = [m if rng.random() < 0.5 else (m[1], m[0]) for m in matches]
        if not matches:
            return
        met |= {frozenset(m) for m in matches}
        winners = yield matches
        for match, winner in zip(matches, winners, strict=True):
            for one in match if winner is None else (winner,):
                points[one] += 0.5 if winner is None else 1.0


SCHEDULES: dict[str, Callable[[int, random.Random, int], Schedule]] = {
    "single_elimination": single_elimination,
    "round_robin": round_robin,
    "swiss": swiss,
}


def round_sizes(schedule: str, n: int, rounds: int = 0) -> list[int]:
    """Return the number of matches in each round of a schedule for `n` candidates; it does not depend on who wins."""
    play = SCHEDULES[schedule](n, random.Random(0), rounds)
    sizes: list[int] = []
    try:
        matches = next(play)
        while True:
            sizes.append(len(matches))
            matches = play.send([a for a, _ in matches])
    except StopIteration:
        return sizes


def _shuffled(n: int, rng: random.Random) -> list[int]:
    order = list(range(n))
    rng.shuffle(order)
    return order
