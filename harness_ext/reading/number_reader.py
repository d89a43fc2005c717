"""Reading the number that a reply answers."""

from __future__ import annotations

from harness_ext.reading.kinds import Reading, decimal_text
from harness_ext.reading.number_prose import concluded
from harness_ext.reading.number_statements import Stopped, number_in
from harness_ext.reading.numerals import Numeral
from harness_ext.reading.prose import own_parts
from harness_ext.reading.reply import cleaned
from harness_ext.reading.source import Source
from harness_ext.reading.statements import Statement, certain, doubtful, statements


def read_number(text: str, question: str = "") -> Reading | None:
    """Return the number that a reply answers, or None.

    Args:
        text: the reply; its thoughts are left out.
        question: what was asked: where the reply recites it, what follows its last recital counts first.
    """
    for part in own_parts(cleaned(text), question):
        try:
            found = number_of(part)
        except Stopped:
            return None
        if found is not None:
            return reading(text, part, *found)
    return None


def number_of(source: Source) -> tuple[Numeral, str] | None:
    """Return the number that a clean text answers and the rule that found it. Raises Stopped for a refusal."""
    found = statements(source.text)
    return _stated(source, certain(found)) or concluded(source, found) or _stated(source, doubtful(found))


def _stated(source: Source, ordered: list[Statement]) -> tuple[Numeral, str] | None:
    """Return the number of the first statement that has one."""
    for statement in ordered:
        if statement.option:
            continue
        number = number_in(source.text, statement)
        if number is not None:
            return number, statement.rule
    return None


def reading(text: str, source: Source, number: Numeral, rule: str) -> Reading:
    """Return a number as it stands in the reply."""
    assert number.value is not None
    start, end = source.span(number.start, number.end)
    written = text[start:end]
    if written.startswith("$") and text[end : end + 1] == "$":
        start, written = start + 1, written[1:]  # LaTeX's dollar signs, not money
    return Reading("number", written, decimal_text(number.value), (start, end), rule, number.value)
