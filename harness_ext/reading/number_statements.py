"""Which number a statement of an answer gives."""

from __future__ import annotations

import re

from harness_ext.reading.arithmetic import evaluate
from harness_ext.reading.cleaning import CLOSE, OPEN
from harness_ext.reading.numerals import Numeral, numerals, word_numerals
from harness_ext.reading.prose import is_refusal
from harness_ext.reading.statements import Statement

_UNIT = r"(?:/?[^\W\d_]{1,20}\.?(?:[ \t]{1,3}|(?=/))){0,4}(?:/?[^\W\d_]{1,20})?"
# What stands between two numbers of one calculation: an operator, with units around it.
_OPERATOR = re.compile(
    rf"[ \t)\]%°{CLOSE}]*{_UNIT}[ \t)\]]*(?P<op>(?:[-–+*/×·÷^x]|=|≈|→|equals|plus|minus|times|divided by"
    rf"|multiplied by|is)"
    rf"(?:[ \t]*(?:=|≈))?)[ \t(\[{OPEN}]*(?:[$€£¥₹][ \t]?)?-?",
    re.IGNORECASE,
)
_TIES = re.compile(r"=|≈|→|equals|\bis\b", re.IGNORECASE)
_INSTEAD = re.compile(r"\b(?:but|rather|instead|it's|it is|its|so|hence|should be|actually)\b|;", re.IGNORECASE)
_RESULT = re.compile(
    r"\b(?:so|leaving|leaves|which (?:leaves|gives|makes|is|means)|giving|making|for a total of|a total of"
    r"|totalling|totaling|therefore|thus"
    r"|hence|then)\b(?!\s+(?:many|much|far|that))",
    re.IGNORECASE,
)
_DIRECT = re.compile(r"\s*(?:,|or|and|to|&|,\s*(?:or|and))\s*\Z", re.IGNORECASE)
_UNSURE = re.compile(
    r"\s*(?:unknown|undefined|unclear|n/?a\b|not (?:known|given|enough|determin)|indeterminate|impossible)",
    re.IGNORECASE,
)


class Stopped(Exception):
    """A statement says that there is no one answer: nothing else in the reply is to be read instead."""


def number_in(text: str, statement: Statement) -> Numeral | None:
    """Return the number that a statement gives. Raises Stopped where it gives several or says that there is none."""
    start, end = statement.start, statement.end
    if statement.rule == "answer_tag":
        first = text.find("\n", start, end)
        end = first if first > 0 and text[start:first].strip() else end
    if _UNSURE.match(text, start, end) and not statement.doubtful:
        raise Stopped
    numbers = _all_numbers(text, start, end)
    if not numbers:
        if not statement.doubtful and is_refusal(text[start:end]):
            raise Stopped
        return None
    if statement.negated or re.match(r"\s*(?:not|never)\b", text[start:end], re.IGNORECASE):
        turn = _INSTEAD.search(text, numbers[0].end, end)
        later = [n for n in numbers if turn and n.start >= turn.end()]
        return resolved(text, later, end) if later else None
    if statement.rule == "assertion":
        return _valued(numbers[-1])
    lead = text[start : numbers[0].start]
    if statement.rule == "hashes" and re.search(r"[A-Za-z]{3}", lead) and "answer" not in lead.lower():
        return None  # a Markdown heading
    if len(lead.split()) > 2 and (turns := list(_RESULT.finditer(text, start, end))):
        later = [n for n in numbers if n.start >= turns[-1].end()]
        numbers = later or numbers
    if statement.rule != "box" and re.search(r"\b(?:step|part|question|example)\s*$", lead, re.IGNORECASE):
        return None
    sign = lead.rstrip("$€£ ")
    if sign.strip() in ("-", "–") and numbers[0].value:
        numbers[0] = Numeral(-numbers[0].value, start + len(sign.rstrip("-–")), numbers[0].end)
    return resolved(text, numbers, end)


def _all_numbers(text: str, start: int, end: int) -> list[Numeral]:
    """Return the numbers of a statement; words count where they come first, or alone."""
    digits = numerals(text, start, end)
    words = word_numerals(text, start, end)
    if words and (
        not digits
        or words[0].start - start <= 1
        or (words[0].end < digits[0].start and not text[start : words[0].start].strip(" \"'(-~"))
    ):
        return [words[0], *(n for n in digits if n.start >= words[0].end)] if digits else words
    return digits


def resolved(text: str, numbers: list[Numeral], end: int) -> Numeral | None:
    """Return the result of the calculation that the first number begins, which may be that number alone."""
    chain = [numbers[0]]
    ties: list[str] = []
    for following in numbers[1:]:
        between = text[chain[-1].end : following.start]
        found = _OPERATOR.fullmatch(between) if len(between) < 80 else None
        if found is None:
            break
        ties.append(found["op"].strip())
        chain.append(following)
    last = max((i for i, tie in enumerate(ties) if _TIES.search(tie)), default=-1)
    if last >= 0:
        if last == len(ties) - 1:
            return _valued(chain[-1])
        firsts = next((i for i, tie in enumerate(ties) if _TIES.search(tie)), 0)
        return _valued(chain[0]) if firsts == 0 else _valued(chain[last + 1])
    if len(chain) > 1:
        whole = text[chain[0].start : chain[-1].end]
        rest = text[chain[-1].end : end].strip(f" .)!\n\"'{CLOSE}")
        if not rest and re.fullmatch(r"\d{1,4}-\d{1,4}", whole):
            return None  # a score, or a range
        opened = text[: chain[0].start].rstrip(" $")
        value = evaluate(whole if not opened.endswith("(") else f"({whole}") if not rest else None
        if value is not None:
            return Numeral(value, chain[0].start, chain[-1].end)
    elif len(numbers) > 1 and _DIRECT.match(text[numbers[0].end : numbers[1].start]):
        after = text[numbers[1].end : end].strip(f" .)!\n\"'{CLOSE}")
        if (not after or re.match(r",|or\b|and\b", after)) and numbers[0].value != numbers[1].value:
            raise Stopped  # two answers are none
    return _valued(chain[0])


def _valued(number: Numeral) -> Numeral | None:
    return None if number.value is None else number
