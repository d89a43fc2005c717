"""What a search for evaluation documents in training rows found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from harness_ext.enhance.contamination.words import SHORTEST
from harness_ext.terminal import outside

Kind = Literal["ngram", "near_duplicate"]
KINDS: Mapping[Kind, str] = {"ngram": "share words with", "near_duplicate": "are near-duplicates of"}
SHOWN = 3  # examples per task and kind on the terminal
KEPT = 20  # and in the report
CHARACTERS = 300  # of each text of an example


@dataclass(frozen=True)
class Example:
    """A training row and a document that it contains.

    kind: `ngram` or `near_duplicate`.
    row, place: the number of the row, from 1, and where it is in its file.
    document: the number of the document in its task, from 0; the first of several.
    documents: how many documents contain the words, or have the text.
    row_text, document_text: the texts, shortened and made safe to print.
    words: the shared words. Default none.
    similarity: the Jaccard similarity of the texts. Default none.
    estimated: what MinHash estimated it to be. Default none.
    """

    kind: Kind
    row: int
    place: str
    document: int
    documents: int
    row_text: str
    document_text: str
    words: str | None = None
    similarity: float | None = None
    estimated: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the example as JSON values, without what its kind does not have."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class TaskFindings:
    """What was found about one task.

    task: its name.
    documents: how many documents it has.
    short: how many of them have no text of 5 words or more, and so cannot be found.
    rows: for each kind, the numbers of the rows that contain a document. Default: none.
    documents_met: for each kind, how many documents such rows contain. Default: none.
    examples: the first examples of each kind. Default: none.
    crowded: how many texts of rows have so many similar documents that not all of them were compared. Default 0.
    """

    task: str
    documents: int
    short: int
    rows: dict[Kind, list[int]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    documents_met: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    examples: list[Example] = field(default_factory=list)
    crowded: int = 0

    def add(self, example: Example) -> None:
        """Count a row."""
        self.rows[example.kind].append(example.row)
        if len(self.rows[example.kind]) <= KEPT:
            self.examples.append(example)

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        kinds: dict[str, Any] = {
            kind: {"rows": len(self.rows[kind]), "documents": self.documents_met[kind]} for kind in KINDS
        }
        examples = [one.to_json() for one in self.examples]
        return {
            "documents": self.documents,
            "too_short": self.short,
            "crowded": self.crowded,
            **kinds,
            "examples": examples,
        }


@dataclass
class Findings:
    """What was found in a file of training rows.

    source: the file.
    ngram, similarity: the settings of the search.
    rows: how many rows there are.
    without_text: how many of them have no text to compare.
    unreadable: where rows could not be read, with the reasons.
    tasks: what was found about each task.
    """

    source: str
    ngram: int
    similarity: float
    rows: int = 0
    without_text: int = 0
    unreadable: list[str] = field(default_factory=list)
    tasks: list[TaskFindings] = field(default_factory=list)

    def numbers(self, kind: Kind) -> list[int]:
        """Return the numbers of the rows that contain a document of any task, in ascending order."""
        return sorted({row for task in self.tasks for row in task.rows[kind]})

    @property
    def contaminated(self) -> int:
        """Return how many rows contain a document of any task, in any way."""
        return len({row for kind in KINDS for row in self.numbers(kind)})

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON values, with the numbers of all rows that contain a document."""
        return {
            "source": self.source,
            "ngram": self.ngram,
            "similarity": self.similarity,
            "rows": self.rows,
            "rows_without_text": self.without_text,
            "unreadable_rows": {"rows": len(self.unreadable), "first": self.unreadable[:KEPT]},
            "contaminated_rows": self.contaminated,
            "lines": {kind: self.numbers(kind) for kind in KINDS},
            "tasks": {task.task: task.to_json() for task in self.tasks},
        }

    def lines(self, shown: int = SHOWN) -> Iterator[str]:
        """Yield the findings as lines of text.

        shown: the number of examples per task and kind. Default 3.
        """
        share = f" ({self.contaminated / self.rows:.2%})" if self.rows else ""
        yield f"{self.source}: {self.contaminated} of {self.rows} rows{share} contain evaluation documents"
        if self.without_text:
            yield f"{self.without_text} rows have no text to compare"
        if self.unreadable:
            first = "; ".join(self.unreadable[:SHOWN])
            yield f"{len(self.unreadable)} rows cannot be read and were not compared: {first}"
        for task in self.tasks:
            yield from self._task_lines(task, shown)

    def _task_lines(self, task: TaskFindings, shown: int) -> Iterator[str]:
        means = {"ngram": f"{self.ngram} words in a row", "near_duplicate": f"similarity {self.similarity:g} or more"}
        parts = [
            f"{len(task.rows[kind])} rows {verb} {task.documents_met[kind]} of them ({means[kind]})"
            for kind, verb in KINDS.items()
        ]
        yield f"{task.task}, {task.documents} documents: {'; '.join(parts)}"
        if task.short:
            yield f"  {task.short} documents have no text of {SHORTEST} words or more, and cannot be found"
        if task.crowded:
            yield (
                f"  {task.crowded} texts of rows resemble so many documents that only the most similar ones were "
                "compared: there may be more documents than stated"
            )
        for kind in KINDS:
            for one in [one for one in task.examples if one.kind == kind][:shown]:
                how = (
                    f"shares “{outside(one.words, CHARACTERS)}”"
                    if one.kind == "ngram"
                    else f"similarity {one.similarity:.3f} (estimated {one.estimated:.3f})"
                )
                more = f" and {one.documents - 1} more" if one.documents > 1 else ""
                yield f"  row {one.row} ({one.place}), document {one.document}{more}: {how}"
                yield f"    row:      {one.row_text}"
                yield f"    document: {one.document_text}"


def names_of(findings: Sequence[TaskFindings]) -> str:
    """Return the names of tasks with findings, separated by commas."""
    return ", ".join(one.task for one in findings if any(one.rows.values()))
