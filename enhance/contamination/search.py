"""Searches training rows for the documents of evaluation tasks, in one pass over the rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.enhance.contamination.findings import CHARACTERS, Example, Findings, TaskFindings
from harness_ext.enhance.contamination.near_duplicates import NearDuplicateIndex, parts_of
from harness_ext.enhance.contamination.ngrams import NgramIndex
from harness_ext.enhance.contamination.settings import DEFAULT, SearchSettings
from harness_ext.enhance.contamination.words import SHORTEST, Words, texts_of
from harness_ext.enhance.row_files import FileRow, read
from harness_ext.errors import ConfigurationError
from harness_ext.terminal import outside

Documents = Mapping[str, Sequence[Mapping[str, Any]]]


class _Task:
    """The indexes of one task, and what was found with them."""

    def __init__(self, name: str, documents: Sequence[Mapping[str, Any]], settings: SearchSettings) -> None:
        self._texts = [list(texts_of(document)) for document in documents]
        self._ngrams = NgramIndex(self._texts, settings.ngram)
        self._near = NearDuplicateIndex(self._texts, settings.similarity)
        short = sum(not any(len(Words(text)) >= SHORTEST for text in texts) for texts in self._texts)
        self.findings = TaskFindings(name, len(documents), short)

    def add(self, number: int, place: str, texts: Sequence[Words], parts: Sequence[Words]) -> None:
        """Search a row, given by its texts and by what `parts_of` makes of them."""
        if (shared := self._ngrams.find(texts)) is not None:
            words = len(shared.words)
            self.findings.add(
                Example(
                    "ngram", number, place, shared.document, shared.documents,
                    outside(shared.text.excerpt(shared.start, words, CHARACTERS), CHARACTERS),
                    outside(shared.other.excerpt(shared.other_start, words, CHARACTERS), CHARACTERS),
                    words=" ".join(shared.words),
                )
            )  # fmt: skip
        if (near := self._near.find(parts)) is not None:
            self.findings.add(
                Example(
                    "near_duplicate", number, place, near.document, near.documents,
                    outside(near.text.text, CHARACTERS), outside(near.other.text, CHARACTERS),
                    similarity=near.similarity, estimated=near.estimated,
                )
            )  # fmt: skip

    def finish(self) -> TaskFindings:
        """Return the findings, once all rows were searched."""
        self.findings.documents_met = {
            "ngram": len(self._ngrams.documents_met),
            "near_duplicate": len(self._near.documents_met),
        }
        self.findings.crowded = self._near.crowded
        return self.findings


def search(
    rows: Iterable[FileRow], documents: Documents, settings: SearchSettings = DEFAULT, source: str = "the rows"
) -> Findings:
    """Return which rows contain documents.

    All texts of a row are compared with all texts of the documents, at any depth, regardless of case and punctuation.
    Memory is needed for the documents, not for the rows.

    rows: the training rows.
    documents: the documents of each task, by its name.
    settings: what counts as containing a document. Default: 13 words, and a similarity of 0.8.
    source: where the rows come from, for messages. Default `the rows`.
    """
    findings = Findings(source, settings.ngram, settings.similarity)
    tasks = [_Task(name, found, settings) for name, found in documents.items()]
    for number, row in enumerate(rows, start=1):
        findings.rows += 1
        if row.fields is None:
            findings.unreadable.append(outside(f"{row.place}: {row.problem}"))
            continue
        texts = [words for text in texts_of(row.fields) if len(words := Words(text))]
        findings.without_text += not texts
        parts = parts_of(texts)
        for task in tasks:
            task.add(number, row.place, texts, parts)
    findings.tasks = [task.finish() for task in tasks]
    return findings


def search_file(
    path: Path,
    documents: Documents,
    settings: SearchSettings = DEFAULT,
    fields: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
) -> Findings:
    """Return which rows of a file contain documents. Any file of rows will do (`harness_ext.data.formats`).

    path: the file or folder.
    documents: the documents of each task, by its name.
    settings: what counts as containing a document. Default: 13 words, and a similarity of 0.8.
    fields: the fields of the rows to compare. Default: all.
    split: the split to read of a saved DatasetDict. Default `train`.
    limit: number of rows to read. Default: all.

    Raises ConfigurationError if the file cannot be read, has no rows, or has no row with one of the fields.
    """
    present: dict[str, None] = {}

    def selected() -> Iterator[FileRow]:
        for row in read(path, split, limit):
            if row.fields is not None and fields:
                present.update(dict.fromkeys(row.fields))
                row = FileRow(row.place, {name: row.fields.get(name) for name in fields})
            yield row

    found = search(selected(), documents, settings, str(path))
    if not found.rows:
        raise ConfigurationError([f"{path} contains no rows"])
    if len(found.unreadable) == found.rows:
        raise ConfigurationError([f"{path} contains no row that can be read: {found.unreadable[0]}"])
    if missing := [name for name in fields if name not in present]:
        there = ", ".join(map(repr, present))
        raise ConfigurationError([f"no row of {path} has a field {name!r}; the fields are {there}" for name in missing])
    return found
