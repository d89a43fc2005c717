"""The options of a choice question: their letters and texts, and which of them a phrase names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from harness_ext.reading.numerals import numerals
from harness_ext.reading.rejections import none_option, noun_of

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)
# Options such as "like" or "in": in a sentence these words hardly ever name an option.
_FUNCTION_WORDS = frozenset(
    "a an the in on at to of by up down out off over under like as is are be do does can may will it this "
    "that they he she we you i and or "
    "not no yes so if then there here all any some one use used get go have has make".split()
)
# A number that may stand for an option, and a list of such numbers.
_NUMBERED = re.compile(r"(?:option |number |no\. ?|#)?(\d{1,3})(?![\w%]|[.,:/]\d)", re.IGNORECASE)
_NUMBERS = r"#?\d{1,3}(?!\w)(?:(?:[ \t]*(?:,|\band\b|\bor\b|&)[ \t]*)+#?\d{1,3}(?![\w%]))*"
_NEGATION = re.compile(
    r"(?:\b(?:not|no|never|neither|nor|rather than|instead of|unlike|without|except|cannot|isn't|aren't"
    r"|wasn't|wouldn't|won't|can't|don't|doesn't"
    r"|didn't|excluding|eliminat\w+|rul\w+ out|other than|as opposed to|less likely"
    r"|unlikely)\b)(?:[ \t]+[\w'-]+){0,3}[ \t\"'(\[]*\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Mention:
    """An option's text as it occurs in a text."""

    position: int
    start: int
    end: int


class Options:
    """Options in their order; `texts` are empty where only the number of options is known."""

    def __init__(self, texts: Sequence[str], count: int | None = None) -> None:
        self.texts = tuple(" ".join(text.split()) for text in texts)
        self.count = len(self.texts) if count is None else count
        self.bare = [
            _ARTICLE.sub("", text.strip().rstrip(".").casefold(), count=1) or text.casefold() for text in self.texts
        ]
        self.is_binary = [text.casefold() for text in self.texts] in (["true", "false"], ["yes", "no"])
        self.last = LETTERS[min(self.count, 26) - 1] if self.count else "A"
        tails = [text.partition(" ")[2] for text in self.bare]
        stems = [_stem(text) for text in self.bare]
        self._patterns = [
            _pattern(text, stems.count(stem) == 1, tails.count(text.partition(" ")[2]) == 1) if text else None
            for text, stem in zip(self.bare, stems, strict=True)
        ]
        self._numbers = [_number(text) for text in self.texts]
        self.noun = noun_of(self.bare)
        # "chain 1" and "chain 2" are also called 1 and 2, #1 and #2, or chains 1 and 2.
        numbered = [text.removeprefix(f"{self.noun} ") for text in self.bare] if self.noun else []
        self._numbered = {text: position for position, text in enumerate(numbered) if text.isdecimal()}
        self.none = none_option(self.bare, self.noun)

    def letter_class(self) -> str:
        """Return the letters as they stand in a regular expression's class, upper and lower case."""
        return f"A-{self.last}a-{self.last.lower()}"

    def at(self, phrase: str) -> Mention | None:
        """Return the option whose text a phrase begins with, articles and "it is" aside; the longest wins."""
        lead = re.match(
            r"\W{0,4}(?:(?:that|it is|it's|it would be|would be|be|is|to|in|at|on|from|with|by|of|for|a|an|the"
            r"|some|because of|most likely|called|either)\s+){0,4}",
            phrase,
            re.IGNORECASE,
        )
        starts = {0, lead.end() if lead else 0, len(phrase) - len(phrase.lstrip(" \"'(["))}
        found = [
            (match.end() - match.start(), -position, match.start(), match.end())
            for position, pattern in enumerate(self._patterns)
            for start in starts
            if pattern is not None and (match := pattern.match(phrase, start))
        ]
        found += [
            (match.end() - match.start(), -self._numbered[match[1]], match.start(), match.end())
            for start in starts
            if (match := _NUMBERED.match(phrase, start)) and match[1] in self._numbered
        ]
        if not found:
            return None
        _, position, start, end = max(found)
        return Mention(-position, start, end)

    def equal(self, phrase: str) -> int | None:
        """Return the one option whose number a phrase gives, where options are numbers."""
        numbers = numerals(phrase)
        if not numbers or phrase[: numbers[0].start].strip(" \"'(=:$"):
            return None
        if numbers[0].value is None:
            return None
        found = [i for i, number in enumerate(self._numbers) if number is not None and number == numbers[0].value]
        return found[0] if len(found) == 1 else None

    def mentions(self, text: str) -> list[Mention]:
        """Return where a text names options, the longer one where names overlap; equal options count as the first."""
        taken: list[tuple[int, int]] = []
        found: list[Mention] = []
        if self._numbered:
            for listed in re.finditer(rf"\b{self.noun}s?[ \t-]+{_NUMBERS}", text, re.IGNORECASE):
                for match in re.finditer(r"\d+", listed[0]):
                    if match[0] in self._numbered:
                        span = listed.start() + match.start(), listed.start() + match.end()
                        found.append(Mention(self._numbered[match[0]], *span))
                taken.append(listed.span())
        order = sorted(range(len(self.texts)), key=lambda i: (-len(self.bare[i]), i))
        for position in order:
            pattern = self._patterns[position]
            if pattern is None or self.bare[position] in self.bare[:position] or self._is_idle(position):
                continue
            for match in pattern.finditer(text):
                if not any(start < match.end() and match.start() < end for start, end in taken):
                    taken.append(match.span())
                    found.append(Mention(position, *match.span()))
                    if len(found) > 400:
                        return sorted(found, key=lambda m: m.start)
        return sorted(found, key=lambda m: m.start)

    def _is_idle(self, position: int) -> bool:
        return all(word in _FUNCTION_WORDS for word in self.bare[position].split())


def negated(text: str, start: int) -> bool:
    """Whether what stands at `start` is said not to be."""
    return _NEGATION.search(text[max(0, start - 60) : start]) is not None


def _number(text: str) -> Fraction | None:
    numbers = numerals(text)
    return numbers[0].value if len(numbers) == 1 and not text[: numbers[0].start].strip(" $") else None


def _stem(text: str) -> str:
    return re.sub(r"(?:ies|es|y|e|s)$", "", text)


@lru_cache(maxsize=4096)
def _pattern(text: str, inflected: bool, verbal: bool) -> re.Pattern[str]:
    """Return a pattern for an option's text as a word.

    `inflected`: in the singular or in the plural; `verbal`: its first word in other forms of a verb, "smoking pot".
    """
    words = [re.escape(word) for word in text.split()]
    if inflected and re.fullmatch(r"[a-z]{3,}", text.split()[-1]):
        words[-1] = _in_either_number(words[-1])
    first = text.split()[0]
    if verbal and len(words) > 1 and re.fullmatch(r"[a-z]{2,}", first):
        words[0] = _as_verb(first)
    body = r"[\s-]+".join(words)
    before = r"(?<![\w-])" if text[:1].isalnum() else ""
    after = r"(?![\w])(?!-[a-z])" if text[-1:].isalnum() else ""
    return re.compile(before + body + after, re.IGNORECASE)


def _as_verb(word: str) -> str:
    if word.endswith("e"):
        return rf"{word[:-1]}(?:e[sd]?|ing)"
    if word.endswith("y"):
        return rf"{word[:-1]}(?:y|ys|yed|ying|ies|ied)"
    return rf"{word}(?:e?s|{word[-1]}?(?:ed|ing))?"


def _in_either_number(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return rf"{word[:-3]}(?:ies|y)"
    if word.endswith("es") and len(word) > 4:
        return rf"{word[:-2]}(?:es|e)?"
    if word.endswith("s") and not word.endswith("ss") and len(word) > 4:
        return rf"{word[:-1]}s?"
    return rf"{word[:-1]}(?:y|ies)" if word.endswith("y") else rf"{word}(?:e?s)?"
