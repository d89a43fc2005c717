"""Letters of options as they stand in a text, and what a reader of choices finds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from harness_ext.reading.options import Options, negated

_REASON_WORD = (
    r"because|since|as|for|is|was|are|would|and|but|due|given|which|although|though|based|seems|makes|fits"
    r"|from|in|it|with|by|that|while|"
    r"not|rather|instead|here|without a doubt|without doubt|i think|i guess|i believe|of course|considering|if"
    r"|when|where|so|therefore|or"
)
# What is said of an option that is not chosen: "(C) is wrong", "(D) river does not fit".
DISMISSED = re.compile(
    r"(?:[ \t]+\w[\w'-]*){0,4}?[ \t]+(?:(?:is|are|was|were|seems?|looks?|would be"
    r"|can be)[ \t]+(?:\w+ly[ \t]+|also[ \t]+)?(?:not(?! only| just)|wrong|incorrect|less|too|unlikely|irrelevant|out\b"
    r"|ruled|eliminated|impossible|false|a trap|a common)"
    r"|(?:does|do|did|can|could|would|is|are)(?:n't|[ \t]+not)\b|cannot\b|makes?[ \t]+no\b)",
    re.IGNORECASE,
)


_CJK = "[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"  # a word's end may follow a letter without a blank


class Several(Exception):
    """A statement names several options, or says that none can be chosen: nothing else is to be read instead."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The option that a text chooses, where that stands, and by which rule it was found."""

    position: int
    start: int
    end: int
    rule: str


@dataclass(frozen=True, slots=True)
class Letter:
    position: int
    start: int
    end: int
    sure: bool
    echo: bool = False


@lru_cache(maxsize=64)
def _letter_patterns(letters: str, binary: bool) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    lead = r"(?:(?:the\s+)?(?:option|choice|letter|answer|alternative|statement)s?\s*[:#]?\s+|option)?"
    bracketed = re.compile(rf"{lead}[\"']?[(\[]\s?(?P<letter>[{letters}])\s?[)\]]", re.IGNORECASE)
    extra = "TF" if binary else ""
    plain = re.compile(
        rf"(?P<lead>{lead})[\"']?(?P<letter>[{letters}{extra}])(?P<close>[).:,;!?\]\"'\ue001}}]|(?=\s|$"
        rf"|[-–—/&→]|{_CJK}))",
        re.IGNORECASE,
    )
    more = re.compile(
        rf"[)\]\"']?\s{{0,2}}(?:,|\bor\b|\band\b|/|&|\bnor\b|\+)+\s{{0,2}}(?:(?:or|and|also|maybe|possibly"
        rf"|perhaps)\s+)?(?:option\s+|choice\s+)?[(\[]?"
        rf"[{letters.split('a-')[0]}](?:[)\]]|(?=\s*(?:[.,;!\"']|$|\n|and\b|or\b|&|are\b|both\b|were\b"
        rf"|could\b))(?!\s*,\s+(?:it|the|this|as)\b))"
    )
    return bracketed, plain, more


def letter_at(phrase: str, options: Options) -> Letter | None:
    """Return the letter of an option that a phrase begins with; `sure` where it cannot be a word of its own."""
    bracketed, plain, _ = _letter_patterns(options.letter_class(), options.is_binary)
    if found := bracketed.match(phrase):
        return Letter(position_of(found["letter"]), found.start(), found.end(), sure=True)
    found = plain.match(phrase)
    if found is None:
        return None
    letter, rest = found["letter"], phrase[found.end() :]
    position = position_of(letter)
    if letter in "TFtf" and position >= options.count:
        if letter.islower() or re.match(r"\s*\w", rest):
            return None
        return Letter(0 if letter == "T" else 1, found.start("letter"), found.end("letter"), sure=True)
    close, led = found["close"], bool(found["lead"].strip())
    if (
        re.match(r"\s*[=<>^+*/]|\s*\\", rest)
        or (close in "'’" and re.match(r"[a-z]", rest))
        or (close == "." and re.match(r"[A-Za-z]\.", rest))
    ):
        return None  # a formula, I'm, U.S.
    ends = not rest.strip(" \t.)!\"'\ue001")
    span = (found.start("letter"), found.end("letter"))
    if close and close not in "\"'\ue001":
        if letter.islower() and not led and close not in ").:" and not ends:
            return None
        return Letter(position, *span, sure=True, echo=close == ":" and letter in "Aa")
    if ends or (letter.isupper() and re.match(_CJK, rest)):
        return Letter(position, *span, sure=True)
    if letter.islower():
        return (
            Letter(position, *span, sure=True)
            if led or (re.match(rf"\s+(?:{_REASON_WORD}|\()\b", rest) and letter not in "ai")
            else None
        )
    if letter in "AI" and not led:
        if letter == "I" or not re.match(rf"\s*(?:(?:{_REASON_WORD})\b|[-–—(\n→/&])", rest):
            return None
        return Letter(position, *span, sure=not re.match(r"\s+(?:for|in|with|by|that|from|so|is|as)\b", rest))
    return Letter(position, *span, sure=bool(led or re.match(rf"\s*(?:(?:{_REASON_WORD})\b|[-–—(\n→])", rest)))


def only(phrase: str, end: int, options: Options) -> None:
    """Raise Several where a list of letters goes on: "A, B and C", "A or B"."""
    if _letter_patterns(options.letter_class(), options.is_binary)[2].match(
        phrase, end - 1 if phrase[end - 1 : end] == "," else end
    ):
        raise Several


def bracketed(text: str, start: int, end: int, options: Options) -> list[Choice]:
    pattern = re.compile(rf"[(\[]\s?([A-{options.last}])\s?[)\]]")
    return [
        Choice(position_of(m[1]), m.start(), m.end(), "bracketed")
        for m in pattern.finditer(text, start, end)
        if not negated(text, m.start()) and not DISMISSED.match(text, m.end())
    ]


def position_of(letter: str) -> int:
    return ord(letter.upper()) - ord("A")
