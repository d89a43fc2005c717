"""Exact values of short expressions: `3 + 4`, `(12 + 8) × 3`, `1/2^60`."""

from __future__ import annotations

import re
from fractions import Fraction

from harness_ext.reading.numerals import power

LONGEST = 80
_TOKEN = re.compile(r"\s*(?:(\d{1,40}(?:\.\d{1,40})?)|(\*\*|[-+*/^()×·÷−]))")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CURRENCY = re.compile(r"[$€£¥₹]\s?(?=[\d.(])")


def evaluate(expression: str) -> Fraction | None:
    """Return the value of an expression of digits, + - * / ^ and brackets; None for anything else."""
    text = _CURRENCY.sub("", _GROUPED.sub("", expression)).strip()
    if not text or len(text) > LONGEST:
        return None
    tokens: list[Fraction | str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        sign = {"×": "*", "·": "*", "÷": "/", "−": "-", "**": "^"}.get(found[2], found[2])
        tokens.append(Fraction(found[1]) if found[1] else sign)
        at = found.end()
    tokens.append("")
    value, at = _sum(tokens, 0)
    return value if at == len(tokens) - 1 else None


_Result = tuple[Fraction | None, int]


def _sum(tokens: list[Fraction | str], at: int) -> _Result:
    left, at = _product(tokens, at)
    while left is not None and tokens[at] in ("+", "-"):
        sign = 1 if tokens[at] == "+" else -1
        right, at = _product(tokens, at + 1)
        left = None if right is None else left + sign * right
    return left, at


def _product(tokens: list[Fraction | str], at: int) -> _Result:
    left, at = _power(tokens, at)
    while left is not None and tokens[at] in ("*", "/"):
        division = tokens[at] == "/"
        right, at = _power(tokens, at + 1)
        if right is None or (division and not right):
            return None, at
        left = left / right if division else left * right
    return left, at


def _power(tokens: list[Fraction | str], at: int) -> _Result:
    if tokens[at] in ("-", "+"):
        value, after = _power(tokens, at + 1)
        return (None if value is None else -value if tokens[at] == "-" else value), after
    base, at = _atom(tokens, at)
    if base is not None and tokens[at] == "^":
        exponent, at = _power(tokens, at + 1)
        return (None if exponent is None else power(base, str(exponent))), at
    return base, at


def _atom(tokens: list[Fraction | str], at: int) -> _Result:
    token = tokens[at]
    if isinstance(token, Fraction):
        return token, at + 1
    if token == "(":
        value, at = _sum(tokens, at + 1)
        return (value, at + 1) if value is not None and tokens[at] == ")" else (None, at)
    return None, at
