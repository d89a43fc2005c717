"""Text that remembers where in the reply each of its characters comes from."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from typing import Self


class Source:
    """A text derived from a reply, with the place in the reply of every character.

    Rewriting returns a new source. A character put in by a replacement stands for the whole text that it replaced.
    """

    __slots__ = ("_ends", "_starts", "reply", "text")

    def __init__(self, text: str, reply: str, starts: array[int], ends: array[int]) -> None:
        self.text = text
        self.reply = reply
        self._starts = starts
        self._ends = ends

    @classmethod
    def of(cls, reply: str, parts: Iterable[tuple[int, int]] | None = None) -> Self:
        """Return a reply, or the given parts of it put together, as a source."""
        spans = [(0, len(reply))] if parts is None else list(parts)
        starts: array[int] = array("l")
        ends: array[int] = array("l")
        for start, end in spans:
            starts.extend(range(start, end))
            ends.extend(range(start + 1, end + 1))
        return cls("".join(reply[start:end] for start, end in spans), reply, starts, ends)

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, part: slice) -> Source:
        return Source(self.text[part], self.reply, self._starts[part], self._ends[part])

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where in the reply a part of this text stands."""
        if start >= end:
            place = self._starts[start] if start < len(self._starts) else self._ends[-1] if len(self._ends) else 0
            return place, place
        return self._starts[start], max(self._starts[start], self._ends[end - 1])

    def same_length(self, text: str) -> Source:
        """Return a text of the same length in place of this one."""
        return Source(text, self.reply, self._starts, self._ends)

    def rewrite(self, pattern: re.Pattern[str], put: str | Callable[[re.Match[str]], str | None]) -> Source:
        """Return the text with each match replaced; where a function returns None the match stays as it is."""
        found = pattern.search(self.text)
        if found is None:
            return self
        pieces: list[str] = []
        starts: array[int] = array("l")
        ends: array[int] = array("l")
        done = 0
        for match in pattern.finditer(self.text, found.start()):
            new = put if isinstance(put, str) else put(match)
            start, end = match.span()
            if new is None or (start == end and not new):
                continue
            pieces += (self.text[done:start], new)
            starts += self._starts[done:start]
            ends += self._ends[done:start]
            if new:
                first, last = self.span(start, end)
                starts.extend([first] * len(new))
                ends.extend([last] * len(new))
            done = end
        pieces.append(self.text[done:])
        starts += self._starts[done:]
        ends += self._ends[done:]
        return Source("".join(pieces), self.reply, starts, ends)
