"""Rows that stay on disk: an Arrow table from which they are read as they are used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.encoding import DataError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

# The only column of a table that contains each row as a JSON text.
LINE = "line"
BATCH = 1000


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one source. Iterating yields pairs of a label, such as `line 7`, and the row.

    Rows of JSON files are kept as text, because a table would give each column one type: the text `2024-01-01` would
    become a date, and one number among texts would end the run instead of being counted as a bad row.

    source: where the rows come from, for messages.
    data: the table.
    digest: identifies the contents of the table.
    numbers: the positions in the table of these rows, in their order.
    by_line: whether a row's label is its line (from 1). Otherwise it is its position in the table (from 0).
    columns: names of all columns of the source, or none if every row has its own.
    targets: a teacher's targets to join. Default none.
    """

    source: str
    data: Dataset
    digest: str
    numbers: np.ndarray
    by_line: bool = False
    columns: tuple[str, ...] = ()
    targets: Targets | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Yield (label, row). Raises DataError at a line that is not JSON."""
        at = 0
        for batch in self.table().iter(BATCH):
            values = self.values(batch, range(at, min(at + BATCH, len(self))))
            yield from ((self.label(at + offset), value) for offset, value in enumerate(values))
            at += len(values)

    def label(self, at: int) -> str:
        """Return the label of the row at a position."""
        number = int(self.numbers[at])
        return f"line {number + 1}" if self.by_line else f"row {number}"

    def table(self) -> Dataset:
        """Return the table of exactly these rows."""
        return self.data if len(self.numbers) == len(self.data) else self.data.select(self.numbers)

    def at(self, positions: Sequence[int]) -> list[Any]:
        """Return the rows at these positions. Raises DataError at a line that is not JSON."""
        return self.values(self.data[[int(self.numbers[at]) for at in positions]], positions) if positions else []

    def values(self, batch: Mapping[str, list[Any]], positions: Sequence[int]) -> list[Any]:
        """Return the rows of a batch of the table. Raises DataError at a line that is not JSON.

        batch: the cells by column.
        positions: the position of each row.
        """
        if self.columns:
            names = list(batch)
            found: list[Any] = [
                dict(zip(names, cells, strict=True)) for cells in zip(*(batch[name] for name in names), strict=True)
            ]
        else:
            found = [self._parsed(text, at) for text, at in zip(batch[LINE], positions, strict=True)]
        return self.targets.join(found, [int(self.numbers[at]) for at in positions]) if self.targets else found

    def _parsed(self, text: str, at: int) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.source}, {self.label(at)} is not JSON: {error}. Remedy: repair the line, or write the rows "
                "again, one JSON object per line."
            ) from None

    def only(self, names: Collection[str]) -> Rows:
        """Return the rows with only those columns of a table that are named, so that others are never decoded."""
        kept = [name for name in self.data.column_names if name in names]
        return dataclasses.replace(self, data=self.data.select_columns(kept)) if self.columns and kept else self

    def select(self, positions: Sequence[int]) -> Rows:
        """Return the rows at these positions."""
        return dataclasses.replace(self, numbers=self.numbers[list(positions)])

    def without(self, positions: Sequence[int]) -> Rows:
        """Return the rows except those at these positions."""
        import numpy as np

        return dataclasses.replace(self, numbers=np.delete(self.numbers, list(positions)))

    def joined(self, targets: Targets) -> Rows:
        """Return the rows with a teacher's targets."""
        columns = dict.fromkeys((*self.columns, targets.column)) if self.columns else ()
        return dataclasses.replace(self, targets=targets, columns=tuple(columns))

    def key(self) -> str:
        """Return a digest of what the rows contain, in their order."""
        parts = [self.digest, hashlib.sha256(self.numbers.tobytes()).hexdigest()]
        if self.targets:
            parts += [self.targets.rows.key(), self.targets.column]
        return hashlib.sha256("\n".join([*parts, *self.data.column_names]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Targets:
    """A teacher's targets.

    rows: the rows that contain them.
    column: their column.
    positions: the position of each target in `rows`, by index.
    """

    rows: Rows
    column: str
    positions: dict[str, int]

    def join(self, values: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
        """Return the rows with the target of each, or None, in its column. What is no row stays as it is.

        values: the rows.
        numbers: the position of each row in its source, for rows without an `index`.
        """
        found: list[int | None] = []
        for value, number in zip(values, numbers, strict=True):
            index = value.get("index") if isinstance(value, dict) else None
            found.append(self.positions.get(str(number if index is None else index)))
        texts = iter(self.rows.at([at for at in found if at is not None]))
        targets = [None if at is None else next(texts)[self.column] or "" for at in found]
        return [
            {**value, self.column: target} if isinstance(value, dict) else value
            for value, target in zip(values, targets, strict=True)
        ]


def no_rows(source: str) -> DataError:
    """Return the error that a source is empty."""
    return DataError(
        f"{source} contains no rows. Remedy: fill it, or name another source: `train_file` and `train_split` for "
        "training, `eval_file` and `eval_split` for validation."
    )
