"""Which candidates are compared with which: single elimination, round robin, Swiss.

A schedule is a generator. It yields a round, a list of matches that need nothing from each other, and is sent each
match's winner, or None for a tie; it ends when no match is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from math import ceil, log2

Match = tuple[int, int]
Schedule = Generator[list[Match], Sequence[int | None], None]


def single_elimination(n: int, rng: random.Random, rounds: int = 0) -> Schedule:
    """Knock out: neighbours of a shuffled bracket meet, the odd one out goes on unplayed, n - 1 matches in all.

    After a tie the one named first goes on: somebody must, and the shuffle made it a draw of lots. `rounds` ends it
    early. Source: the tournaments of github.com/BertilBraun/Master-Thesis.
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
    """Everybody meets everybody once, n(n-1)/2 matches in one round; who is named first is drawn."""
    matches = [(a, b) if rng.random() < 0.5 else (b, a) for a in range(n) for b in range(a + 1, n)]
    rng.shuffle(matches)
    if matches:
        yield matches


def swiss(n: int, rng: random.Random, rounds: int = 0) -> Schedule:
    """Each round pairs candidates of like points that have not met; `rounds` defaults to ceil(log2 n).

    A win is a point, a tie half of one, and so is the round that the odd one out sits out: one of the fewest points
    that has not sat out yet. The pairing is a matching of the least squared differences of points.
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
    """Return how many matches each round of a schedule has for `n` candidates, whoever wins."""
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
