"""Finds the answer that a teacher's text states, and compares it with the gold answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from harness_ext.reading import Reading, read_answer, same_answer

_STATED = r"(?i:\banswer(?:[ \t]+(?:is|would be|must be))?[ \t:=]+)"
_WHOLE = r"(?s)\A(.*)"


@dataclass(frozen=True)
class AnswerReader:
    """Finds the answer that a text states.

    Without labels and pattern, `harness_ext.reading` reads the answer. Raises ValueError if the pattern is not
    a regular expression with a group.

    labels: the letters of the choices and their words, such as `A: True`. An answer is then a letter in brackets, or a
        letter or word after `answer is`; a word counts as its letter. Default none.
    pattern: a regular expression whose first group is the answer; it replaces the other rules. Default none.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    pattern: str = ""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ValueError(str(error)) from error
        if self.pattern and groups < 1:
            raise ValueError("it has no group")

    @cached_property
    def _pattern(self) -> str | None:
        if self.pattern or not self.labels:
            return self.pattern or None
        letters = "|".join(map(re.escape, self.labels))
        words = "|".join(sorted(map(re.escape, self.labels.values()), key=len, reverse=True))
        return rf"(?:\((?=(?:{letters})\))|{_STATED}\(?)({letters}|(?i:{words}))(?!\w)"

    @cached_property
    def _letters(self) -> list[tuple[Reading | None, Reading | None]]:
        return [(self._whole(word), self._whole(letter)) for letter, word in self.labels.items()]

    def last(self, text: str) -> Reading | None:
        """Return the last answer that the text states, or None."""
        return self._lettered(read_answer(text, pattern=self._pattern))

    def gold(self, text: str) -> Reading | None:
        """Return a gold answer in the form in which answers are compared."""
        return self._lettered(self._whole(text))

    def says(self, text: str, gold: str) -> bool:
        """Return whether a text states the gold answer or, without labels, contains it as whole words."""
        wanted = self.gold(gold)
        if self._pattern is not None:
            found = [self.gold(match[1]) for match in re.finditer(self._pattern, text) if match[1]]
            if any(same_answer(one, wanted) for one in found):
                return True
        elif same_answer(self.last(text), wanted):
            return True
        return not self.labels and re.search(rf"(?i)(?<!\w){re.escape(gold.strip())}(?!\w)", text) is not None

    @staticmethod
    def _whole(text: str) -> Reading | None:
        return read_answer(text, pattern=_WHOLE)

    def _lettered(self, answer: Reading | None) -> Reading | None:
        return next((letter for word, letter in self._letters if same_answer(answer, word)), answer)
