"""Which cells run in one process, so that a model is loaded once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness_ext.suite.cells import Cell, Evaluation, TrainingCell


@dataclass(frozen=True)
class Group:
    """Cells that run one after another in one process.

    cells: the cells in the order in which they run.
    models: what identifies the models that they load together: those of the most demanding cell.
    """

    cells: tuple[Cell, ...]
    models: frozenset[str]


def group_cells(cells: Sequence[Cell], models: Mapping[str, Sequence[str]]) -> list[Group]:
    """Divide cells into groups.

    cells: the cells.
    models: what identifies the models of each cell, by its digest.

    A cell joins a group if that has all of its models, so that no process holds more models than its most demanding
    cell needs anyway. Within a group, cells with fewer models come first, since the others share their calls, and a
    control comes after what it needs. A training is a group of its own.
    """
    trainings = [Group((cell,), frozenset()) for cell in cells if isinstance(cell, TrainingCell)]
    cells = [cell for cell in cells if not isinstance(cell, TrainingCell)]
    sets = {cell.digest: frozenset(models.get(cell.digest, ())) for cell in cells}
    largest: list[frozenset[str]] = []
    for found in sorted(dict.fromkeys(sets.values()), key=len, reverse=True):
        if not any(found <= other for other in largest):
            largest.append(found)
    members: dict[frozenset[str], list[Cell]] = {}
    for cell in cells:
        home = next(other for other in largest if sets[cell.digest] <= other)
        members.setdefault(home, []).append(cell)
    position = {cell.digest: number for number, cell in enumerate(cells)}

    def order(cell: Cell) -> tuple[bool, int, int]:
        return (
            isinstance(cell, Evaluation) and cell.control_of is not None,
            len(sets[cell.digest]),
            position[cell.digest],
        )

    return trainings + [Group(tuple(sorted(found, key=order)), home) for home, found in members.items()]
