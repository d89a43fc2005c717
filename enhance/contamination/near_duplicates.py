"""Near-duplicates: texts of rows and documents whose sets of word sequences are almost the same.

MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter
3; the library datasketch) find candidates without comparing all pairs. The similarity of every candidate is then
computed exactly, so that the approximation can miss a pair but never invents one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from harness_ext.enhance.contamination.settings import LEAST_SIMILARITY, SIMILARITY
from harness_ext.enhance.contamination.words import SHORTEST, Gram, Hashes, Words, different, join

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE = 5  # words, as in Lee et al. (2022, arXiv 2107.06499)
PERMUTATIONS = 128
RECALL = 0.999
MOST_CANDIDATES = 200  # that are compared exactly per text of a row, the likeliest first
_REMEMBERED = 4096  # texts whose result or whose word sequences are kept


@dataclass(frozen=True)
class NearDuplicate:
    """A text of a row and a text of a document that are almost the same.

    document: the number of the document, the first of several.
    documents: how many documents have the text.
    similarity: the Jaccard similarity of the sets of word sequences, exactly.
    estimated: the same as MinHash estimates it.
    text: the row's text.
    other: the document's text.
    """

    document: int
    documents: int
    similarity: float
    estimated: float
    text: Words
    other: Words


def bands(similarity: float, permutations: int = PERMUTATIONS, recall: float = RECALL) -> tuple[int, int]:
    """Return the number of bands and of values in each with which a pair of a similarity is found with a probability.

    similarity: the least similarity of pairs to find, between 0.1 and 1.
    permutations: the number of MinHash values. Default 128.
    recall: the probability. Default 0.999.

    Of all possible ones, these find the fewest other pairs.
    """
    for size in range(permutations // 2, 0, -1):
        number = permutations // size
        if chance(similarity, number, size) >= recall:
            return number, size
    raise ValueError(f"pairs of a similarity of {similarity} cannot be found: use {LEAST_SIMILARITY} or more")


def chance(similarity: float, number: int, size: int) -> float:
    """Return the probability that a pair of a similarity becomes a candidate, with `number` bands of `size` values."""
    return float(1 - (1 - similarity**size) ** number)


def similarity_of(one: set[Gram], other: set[Gram]) -> float:
    """Return the Jaccard similarity of two sets: the share of common elements among all of them."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def parts_of(texts: Iterable[Words]) -> list[Words]:
    """Return the texts that are compared: each text of 5 words or more by itself, and all texts together.

    A row that has question and answer in one field then finds a document that has them in two, and the other way round.
    """
    parts = list(texts)
    together = [join(parts)] if len(parts) > 1 else []
    return [part for part in (*parts, *together) if len(part) >= SHORTEST]


class NearDuplicateIndex:
    """The texts of the documents of a task.

    documents: the texts of each document.
    similarity: the least similarity of a near-duplicate, between 0.1 and 1. Default 0.8.

    Where documents resemble each other, a text of a row may have thousands of candidates. Only the 200 that MinHash
    finds most similar are compared, and `crowded` counts such texts.
    """

    def __init__(self, documents: Sequence[Sequence[str]], similarity: float = SIMILARITY) -> None:
        from datasketch import MinHash, MinHashLSH

        self.similarity = similarity
        self._blank = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(similarity))
        self._documents = documents
        self._owners: list[list[int]] = []  # of each different text: the numbers of the documents that have it
        self._place: list[int] = []  # of each different text: its index among the parts of its first document
        self._met: set[int] = set()
        self.crowded = 0
        known: dict[bytes, int] = {}
        all_hashes, sketches = [], []
        for number, texts in enumerate(documents):
            for place, part in enumerate(parts_of(map(Words, texts))):
                key = known.setdefault(part.digest, len(self._owners))
                if key < len(self._owners):
                    self._owners[key].append(number)
                    continue
                hashes = different(part.hashes(SHINGLE))
                sketch = self._sketch(hashes)
                self._index.insert(key, sketch)
                self._owners.append([number])
                self._place.append(place)
                sketches.append(sketch.hashvalues)
                all_hashes.append(hashes)
        self._sketches = np.array(sketches)
        self._known = different(np.concatenate(all_hashes)) if all_hashes else np.empty(0, dtype=np.uint64)
        self._grams = lru_cache(_REMEMBERED)(self._grams_of)
        self._results: dict[bytes, NearDuplicate | None] = {}

    def find(self, parts: Sequence[Words]) -> NearDuplicate | None:
        """Return the document text that is most similar to a text of a row, or None if none is similar enough.

        All documents with a text that is similar enough count as met.

        parts: what `parts_of` returns for the row.
        """
        found = [self._find(part) for part in parts]
        return max((one for one in found if one is not None), key=lambda one: one.similarity, default=None)

    @property
    def documents_met(self) -> set[int]:
        """Return the numbers of the documents that are similar to any of the rows so far."""
        return {number for key in self._met for number in self._owners[key]}

    def _find(self, part: Words) -> NearDuplicate | None:
        hashes = different(part.hashes(SHINGLE))
        # A similar text has at least this share of its word sequences in common with one document, and so with all of
        # them together. That is quick to tell, and most rows need nothing else.
        if self._shared(hashes) < self.similarity * len(hashes) - 1e-9:
            return None
        if part.digest not in self._results:
            if len(self._results) >= _REMEMBERED:
                self._results.clear()
            self._results[part.digest] = self._verified(part, self._sketch(hashes))
        found = self._results[part.digest]
        return None if found is None else replace(found, text=part)

    def _shared(self, hashes: Hashes) -> int:
        """Return how many word sequences occur in any document."""
        if not len(self._known):
            return 0
        places = np.minimum(np.searchsorted(self._known, hashes), len(self._known) - 1)
        return int((self._known[places] == hashes).sum())

    def _verified(self, part: Words, sketch: MinHash) -> NearDuplicate | None:
        keys = np.array(sorted(self._index.query(sketch)), dtype=np.int64)
        if not len(keys):
            return None
        estimates = (self._sketches[keys] == sketch.hashvalues).mean(axis=1)
        if len(keys) > MOST_CANDIDATES:
            self.crowded += 1
            likeliest = np.sort(np.argsort(-estimates, kind="stable")[:MOST_CANDIDATES])
            keys, estimates = keys[likeliest], estimates[likeliest]
        own = part.grams(SHINGLE)
        similarities = np.array([similarity_of(own, self._grams(key)) for key in keys.tolist()])
        similar = similarities >= self.similarity
        self._met.update(keys[similar].tolist())
        if not similar.any():
            return None
        best = int(similarities.argmax())
        key = int(keys[best])
        return NearDuplicate(
            self._owners[key][0],
            len(self._owners[key]),
            float(similarities[best]),
            float(estimates[best]),
            part,
            self._text(key),
        )

    def _text(self, key: int) -> Words:
        return parts_of(map(Words, self._documents[self._owners[key][0]]))[self._place[key]]

    def _grams_of(self, key: int) -> set[Gram]:
        return self._text(key).grams(SHINGLE)

    def _sketch(self, hashes: Hashes) -> MinHash:
        sketch = self._blank.copy()
        sketch.update_batch((hashes >> np.uint64(32)).tolist())
        return sketch
