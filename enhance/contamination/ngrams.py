"""Exact overlap: sequences of words that training rows share with documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness_ext.enhance.contamination.settings import NGRAM
from harness_ext.enhance.contamination.words import SHORTEST, Gram, Hashes, Words


@dataclass(frozen=True)
class SharedWords:
    """A sequence of words that a row shares with a document.

    document: the number of the document, the first of several.
    documents: how many documents contain the words.
    words: the words.
    text, other: the texts of the row and of the document that contain them.
    start, other_start: the positions of the first of them in the texts, in words.
    """

    document: int
    documents: int
    words: Gram
    text: Words
    start: int
    other: Words
    other_start: int


@dataclass(frozen=True)
class _Table:
    """The word sequences of one length: their different hashes, sorted, and the documents of each.

    `documents[starts[i] : starts[i + 1]]` are those of `hashes[i]`, in ascending order.
    """

    hashes: Hashes
    starts: NDArray[np.int64]
    documents: NDArray[np.int64]
    met: NDArray[np.bool_]


class NgramIndex:
    """The sequences of `n` consecutive words in the documents of a task.

    documents: the texts of each document. Of a text of fewer than `n` words, but at least 5, all words count as one
        sequence.
    n: number of words. Default 13.
    """

    def __init__(self, documents: Sequence[Sequence[str]], n: int = NGRAM) -> None:
        self._texts = documents
        parts: dict[int, list[tuple[int, Hashes]]] = {}
        for number, texts in enumerate(documents):
            for text in map(Words, texts):
                length = min(n, len(text))
                if length >= min(n, SHORTEST):
                    parts.setdefault(length, []).append((number, text.hashes(length)))
        self._tables = {length: _table(found) for length, found in sorted(parts.items())}

    def find(self, texts: Sequence[Words]) -> SharedWords | None:
        """Return the first sequence of words that a row shares with a document, or None.

        All documents that share any with it count as met.
        """
        first = None
        for text in texts:
            for length, table in self._tables.items():
                wanted = text.hashes(length)
                places = np.searchsorted(table.hashes, wanted)
                hits = np.flatnonzero(table.hashes[np.minimum(places, len(table.hashes) - 1)] == wanted)
                table.met[places[hits]] = True
                for start in hits.tolist() if first is None else ():
                    begin, end = table.starts[places[start] : places[start] + 2]
                    if (first := self._verified(table.documents[begin:end], text, start, length)) is not None:
                        break
        return first

    @property
    def documents_met(self) -> set[int]:
        """Return the numbers of the documents that share words with any of the rows so far."""
        found: set[int] = set()
        for table in self._tables.values():
            owner = np.repeat(table.met, np.diff(table.starts))
            found.update(np.unique(table.documents[owner]).tolist())
        return found

    def _verified(self, documents: NDArray[np.int64], text: Words, start: int, length: int) -> SharedWords | None:
        """Return the shared words themselves; None if only their hashes are equal, however rare that is."""
        document, words = int(documents[0]), text.gram(start, length)
        for other in map(Words, self._texts[document]):
            if (found := other.find(words)) is not None:
                return SharedWords(document, len(documents), words, text, start, other, found)
        return None


def _table(parts: Sequence[tuple[int, Hashes]]) -> _Table:
    hashes = np.concatenate([found for _, found in parts])
    owners = np.repeat([number for number, _ in parts], [len(found) for _, found in parts])
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    hashes, owners = hashes[new], owners[new]
    different, starts = np.unique(hashes, return_index=True)
    return _Table(different, np.append(starts, len(owners)), owners, np.zeros(len(different), dtype=bool))
