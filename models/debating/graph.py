"""Who reads whom in a debate: a graph that the user gives as edges or as an adjacency matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_EDGE = re.compile(r"(\d{1,4})(-|>)(\d{1,4})")
_SEPARATORS = re.compile(r"[\s,;\[\]'\"]+")


@dataclass(frozen=True)
class Graph:
    """Who reads whom, by the numbers of the agents.

    reads: the pairs of an agent and another agent that it reads.
    """

    reads: frozenset[tuple[int, int]]

    def heard_by(self, listener: int) -> frozenset[int]:
        """Return the numbers of the agents that an agent reads."""
        return frozenset(speaker for reader, speaker in self.reads if reader == listener)

    def __str__(self) -> str:
        """Return the edges as the option `graph` takes them, in the order of their numbers."""
        edges = []
        for reader, speaker in sorted(self.reads):
            mutual = (speaker, reader) in self.reads
            if not mutual or reader < speaker:
                edges.append(f"{reader}-{speaker}" if mutual else f"{speaker}>{reader}")
        return f"[{','.join(edges)}]"


def read_graph(given: str, agents: int | None = None) -> Graph:
    """Return the graph that a user gave.

    given: edges, or a file of edges or of an adjacency matrix. In the edges, `1-2` lets agents 1 and 2 read each other,
        and `1>2` lets agent 2 read agent 1. In row i and column j, a matrix has 1 if agent i reads agent j, and else 0.
    agents: the number of agents, of which each has to be on an edge. Default None: not checked.

    Raises ValueError with cause and remedy.
    """
    text, where = given, f"`graph={given}`"
    if not _is_edges(given):
        path = Path(given).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{where}: neither edges (`[1-2,2>3]`) nor a readable file of edges or of a matrix ({error})"
            ) from error
    graph = Graph(_edges(text) if _is_edges(text) else _matrix(text, where))
    named = {number for pair in graph.reads for number in pair}
    if any(reader == speaker for reader, speaker in graph.reads):
        raise ValueError(f"{where}: an agent cannot read itself: leave that edge out")
    if agents is not None and named != set(range(1, agents + 1)):
        wrong = sorted(named ^ set(range(1, agents + 1)))
        raise ValueError(
            f"{where}: the agents are numbered from 1 to {agents}, and each has to be on an edge; this does not hold "
            f"for {', '.join(map(str, wrong))}"
        )
    return graph


def _parts(text: str) -> list[str]:
    return [part for part in _SEPARATORS.split(text) if part]


def _is_edges(text: str) -> bool:
    parts = _parts(text)
    return bool(parts) and all(_EDGE.fullmatch(part) for part in parts)


def _edges(text: str) -> frozenset[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for part in _parts(text):
        edge = _EDGE.fullmatch(part)
        assert edge is not None
        first, second = int(edge[1]), int(edge[3])
        found.add((second, first))
        if edge[2] == "-":
            found.add((first, second))
    return frozenset(found)


def _matrix(text: str, where: str) -> frozenset[tuple[int, int]]:
    rows = [_parts(line) for line in text.splitlines() if line.strip()]
    if not rows or any(len(row) != len(rows) or set(row) - {"0", "1"} for row in rows):
        raise ValueError(
            f"{where}: expected edges (`1-2` or `1>2`), or a square matrix of 0 and 1 with one row per agent"
        )
    return frozenset((i, j) for i, row in enumerate(rows, 1) for j, cell in enumerate(row, 1) if cell == "1")
