"""Numbers written in English words: "two hundred and fifty", "minus eight", "three and a half", "five dozen"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

_UNITS = dict(
    zip(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen"
        " eighteen nineteen".split(),
        range(20),
        strict=True,
    )
)
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
SCALES: dict[str, int] = {
    "hundred": 100, "hundreds": 100, "thousand": 10**3, "thousands": 10**3, "million": 10**6, "millions": 10**6,
    "billion": 10**9, "billions": 10**9, "trillion": 10**12, "trillions": 10**12, "dozen": 12, "dozens": 12,
    "lakh": 10**5, "lakhs": 10**5, "crore": 10**7, "crores": 10**7,
}  # fmt: skip
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4, "fifth": 5,
    "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8, "tenth": 10, "tenths": 10, "hundredths": 100,
}  # fmt: skip
_NAMES = {**_UNITS, **_TENS}
_LONE = "half|minus|negative|none|a hundred|a thousand|a million|a billion|a dozen|an eighth|a half|a third|a quarter"


def _any_of(names: Iterable[str]) -> str:
    return "|".join(sorted(names, key=len, reverse=True))


_ALL = _any_of({*_NAMES, *SCALES, *_PARTS, *"a an and minus negative point oh".split()})
_FIRST = _any_of({*_NAMES, *_LONE.split("|"), "half a dozen"})
_WORD = rf"(?:{_ALL})"
PHRASE = re.compile(rf"\b(?:{_FIRST})\b(?:(?:[ \t]{{1,3}}|-){_WORD}\b){{0,14}}", re.IGNORECASE)


def words_number(phrase: str) -> tuple[Fraction, int] | None:
    """Return the number that a phrase begins with, and how many of its characters say it; None where it says none."""
    tokens = [(m[0].lower(), m.end()) for m in re.finditer(r"[A-Za-z]+", phrase)]
    sign = 1
    at = 0
    if tokens and tokens[0][0] in ("minus", "negative"):
        sign, at = -1, 1
    if at < len(tokens) and tokens[at][0] == "none":
        return Fraction(0), tokens[at][1]
    total, group, value, end, at = _cardinal(tokens, at)
    number = None if value is None else Fraction(total + group)
    number, end, at = _parts(tokens, at, number, end)
    if number is None:
        return None
    return sign * number, end


def _cardinal(tokens: list[tuple[str, int]], at: int) -> tuple[int, int, int | None, int, int]:
    """Read whole numbers: the sum so far, the group that a scale may multiply, the last word's value, and the place."""
    total = group = end = 0
    value: int | None = None
    while at < len(tokens):
        word, stop = tokens[at]
        if word in ("a", "an") and value is None and at + 1 < len(tokens) and tokens[at + 1][0] in SCALES:
            group, value = 1, 1
        elif word in _NAMES:
            new = _NAMES[word]
            if value is not None and not (value in _TENS.values() and new < 10) and value not in SCALES.values():
                break  # "three four" are two numbers
            group, value = group + new, new
        elif word in SCALES and value is not None:
            scale = SCALES[word]
            if scale in (100, 12):
                group *= scale
            else:
                total, group = total + group * scale, 0
            value = scale
        elif word == "and" and value is not None and at + 1 < len(tokens) and tokens[at + 1][0] in _NAMES:
            if value not in SCALES.values() or _is_fraction(tokens, at + 1):
                break
            at += 1
            continue
        else:
            break
        end = stop
        at += 1
    return total, group, value, end, at


def _is_fraction(tokens: list[tuple[str, int]], at: int) -> bool:
    return at + 1 < len(tokens) and tokens[at + 1][0] in _PARTS


def _parts(
    tokens: list[tuple[str, int]], at: int, number: Fraction | None, end: int
) -> tuple[Fraction | None, int, int]:
    """Read a fraction behind a whole number, or instead of one: "half", "two thirds", "and a half", "point five"."""
    words = [word for word, _ in tokens]
    if number is None:
        if words[at : at + 3] in (["half", "a", "dozen"],):
            return Fraction(6), tokens[at + 2][1], at + 3
        skip = 1 if words[at : at + 1] in (["a"], ["an"]) else 0
        if words[at + skip : at + skip + 1] and words[at + skip] in _PARTS:
            return Fraction(1, _PARTS[words[at + skip]]), tokens[at + skip][1], at + skip + 1
        return None, end, at
    rest = words[at:]
    if rest and rest[0] in _PARTS and number < 100 and (len(rest[0]) > 4 or number == 1):
        return number / _PARTS[rest[0]], tokens[at][1], at + 1
    if len(rest) >= 3 and rest[0] == "and" and rest[2] in _PARTS and (rest[1] in ("a", "an") or rest[1] in _UNITS):
        above = _UNITS.get(rest[1], 1)
        return number + Fraction(above, _PARTS[rest[2]]), tokens[at + 2][1], at + 3
    if rest and rest[0] == "point":
        digits: list[str] = []
        at += 1
        while at < len(tokens) and (tokens[at][0] in _UNITS or tokens[at][0] == "oh") and len(digits) < 12:
            digits.append(str(min(9, _UNITS.get(tokens[at][0], 0))))
            end = tokens[at][1]
            at += 1
        if digits:
            return number + Fraction(int("".join(digits)), 10 ** len(digits)), end, at
    return number, end, at
