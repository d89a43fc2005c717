"""Texts as words: what counts as a word, sequences of words, and their hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Gram = tuple[str, ...]

SHORTEST = 5  # words; shorter texts ("yes", "the second one") are equal by chance

# Scripts without spaces between words: Thai, Lao, Khmer, kana and Chinese characters. Each character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # any odd number with mixed bits
_REMEMBERED = 2**18  # words whose codes are kept


def texts_of(value: Any) -> Iterator[str]:
    """Yield all texts in JSON values, at any depth. Of chat messages (`role` and `content`) only the content counts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        inner = [value["content"]] if {"role", "content"} <= value.keys() else value.values()
        for one in inner:
            yield from texts_of(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_of(one)


class Words:
    """The words of a text, regardless of case and punctuation.

    text: the text. Default empty, for words that come from several texts.
    words: the words. Default: those of the text.
    """

    def __init__(self, text: str = "", words: Sequence[str] | None = None) -> None:
        self.text = text
        self.words = [word.casefold() for word in _WORD.findall(text)] if words is None else list(words)
        self._hashes: dict[int, Hashes] = {}

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _codes(self) -> Hashes:
        return _CODES.of(self.words)

    @cached_property
    def digest(self) -> bytes:
        """Return a hash that is the same for the same words in the same order."""
        return hashlib.blake2b(self._codes.tobytes(), digest_size=16).digest()

    def gram(self, start: int, n: int) -> Gram:
        """Return the `n` words from a position on."""
        return tuple(self.words[start : start + n])

    def grams(self, n: int) -> set[Gram]:
        """Return all different sequences of `n` consecutive words."""
        return {self.gram(start, n) for start in range(len(self) - n + 1)}

    def find(self, gram: Gram) -> int | None:
        """Return where a sequence of words begins, or None if the text does not contain it."""
        starts = range(len(self) - len(gram) + 1)
        return next((start for start in starts if self.gram(start, len(gram)) == gram), None)

    def hashes(self, n: int) -> Hashes:
        """Return a 64-bit hash of each sequence of `n` consecutive words, in their order.

        Equal sequences have equal hashes. A million different ones share one with a probability of about 1e-7.
        """
        if n not in self._hashes:
            number = max(0, len(self) - n + 1)
            found = np.zeros(number, dtype=np.uint64)
            for start in range(n):
                found = found * _FACTOR + self._codes[start : start + number]  # modulo 2**64
            self._hashes[n] = found
        return self._hashes[n]

    def excerpt(self, start: int, n: int, most: int) -> str:
        """Return the part of the text around `n` words, in at most about `most` characters."""
        spans = [m.span() for m in _WORD.finditer(self.text)]
        begin, end = spans[start][0], spans[start + n - 1][1]
        room = max(0, most - (end - begin)) // 2
        left, right = max(0, begin - room), min(len(self.text), end + room)
        return f"{'…' if left else ''}{self.text[left:right]}{'…' if right < len(self.text) else ''}"


def join(parts: Sequence[Words]) -> Words:
    """Return the words of several texts as one text, separated by line feeds."""
    return Words("\n".join(part.text for part in parts), [word for part in parts for word in part.words])


def different(hashes: Hashes) -> Hashes:
    """Return the different hashes in ascending order."""
    ordered = np.sort(hashes)
    new = np.ones(len(ordered), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return ordered[new]


class _Codes(dict[str, int]):
    """A random 64-bit number for each word, the same in every process."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = code = int.from_bytes(digest)
        return code

    def of(self, words: Sequence[str]) -> Hashes:
        if len(self) > _REMEMBERED:
            self.clear()
        return np.fromiter(map(self.__getitem__, words), dtype=np.uint64, count=len(words))


_CODES = _Codes()
