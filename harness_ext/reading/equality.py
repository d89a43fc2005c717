"""When two answers are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from harness_ext.reading.formulas import same_formula
from harness_ext.reading.kinds import Reading, decimal_text
from harness_ext.reading.numerals import numerals

_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?: ?([ap])m)?|(\d{1,2}) ?([ap])m")
_RATIO = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?: ?(\d{1,12}(?:\.\d{1,6})?)")
_ITEM = re.compile(r"\s*(?:,|;|\band\b|,\s*and\b)\s*")


def same_answer(a: Reading | None, b: Reading | None) -> bool:
    """Return whether two answers are the same; an unreadable one equals nothing, not even itself.

    Numbers are equal by value: 1,000 = $1000.00 = 1e3. Case, markup, articles, units after a number, currency and per
    cent signs do not count. Lists of numbers are equal in any order, and so are ratios of equal value; times, dates and
    scores are equal only where they say the same. Formulas are compared by algebra.
    """
    if a is None or b is None:
        return False
    if a.number is not None and b.number is not None:
        return a.number == b.number
    if a.value == b.value:
        return True
    if "choice" in (a.kind, b.kind) or "yes_no" in (a.kind, b.kind):
        return False
    left, right = _as_text(a), _as_text(b)
    if _CLOCK.fullmatch(left) or _CLOCK.fullmatch(right):
        return _clock(left) is not None and _clock(left) == _clock(right)
    if (first := _ratio(left)) is not None and (second := _ratio(right)) is not None:
        return first == second
    if (items := _list(left)) is not None:
        return items == _list(right)
    if a.kind == "text" and b.kind == "text":
        return False
    return same_formula(*sorted((left, right)))


def all_agree(answers: Sequence[Reading | None]) -> bool:
    """Return whether all answers are readable and the same."""
    return bool(answers) and all(same_answer(answers[0], other) for other in answers)


def _as_text(answer: Reading) -> str:
    return answer.value if answer.number is None else decimal_text(answer.number)


def _clock(text: str) -> tuple[int, int, str] | None:
    found = _CLOCK.fullmatch(text)
    if found is None:
        return None
    return int(found[1] or found[4]), int(found[2] or 0), found[3] or found[5] or ""


def _ratio(text: str) -> Fraction | None:
    found = _RATIO.fullmatch(text)
    if found is None or not Fraction(found[2]):
        return None
    return Fraction(found[1]) / Fraction(found[2])


def _list(text: str) -> list[Fraction] | None:
    """Return the numbers of a list in order of size; None for anything else, pairs in brackets too."""
    items = _ITEM.split(text.strip("{} "))
    if len(items) < 2:
        return None
    values = []
    for item in items:
        numbers = numerals(item)
        if len(numbers) != 1 or numbers[0].value is None or (numbers[0].start, numbers[0].end) != (0, len(item)):
            return None
        values.append(numbers[0].value)
    return sorted(values)
