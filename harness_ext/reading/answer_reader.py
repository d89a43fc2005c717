"""Reading what a reply answers where the question's form may be unknown: for votes and debates."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import replace

import harness_ext.reading.answer_shapes as shapes
import harness_ext.reading.choice_phrases as choice_phrases
import harness_ext.reading.choice_prose as choice_prose
import harness_ext.reading.choice_reader as choice_reader
import harness_ext.reading.number_prose as number_prose
import harness_ext.reading.number_reader as number_reader
import harness_ext.reading.truth as truth
from harness_ext.reading.cleaning import CLOSE, OPEN, clean
from harness_ext.reading.formulas import balanced, formula_text, is_formula
from harness_ext.reading.json_replies import read_listed
from harness_ext.reading.kinds import AnswerForm, Kind, Reading
from harness_ext.reading.letters import Choice, Several, letter_at, only
from harness_ext.reading.number_statements import Stopped, number_in
from harness_ext.reading.numerals import Numeral, numerals
from harness_ext.reading.options import LETTERS, Options
from harness_ext.reading.prose import is_refusal, own_parts
from harness_ext.reading.reply import answer_source, cleaned
from harness_ext.reading.source import Source
from harness_ext.reading.statements import Statement, certain, doubtful, statements
from harness_ext.reading.yes_no_reader import read_yes_no

LONGEST_ANSWER = 300  # a longer "answer" is prose, which no two replies share
LONGEST_WORD_ANSWER = 2  # words of "unknown" and the like, as the whole answer
LONGEST_NAME = 8  # words; a longer statement is read as text only where nothing else is found
_ANY_LETTER = Options((), count=10)
_EDGES = f" \t\r\n.,;:!?'\"‘’{OPEN}{CLOSE}"


def read_answer(text: str, *, form: AnswerForm | None = None, pattern: str | None = None) -> Reading | None:
    """Return what a reply answers, or None where nothing can be read.

    Without a form the answer may be a letter, yes or no, a number, a formula, or words.

    Args:
        text: the reply; its thoughts are left out.
        form: what the question asks for, as `answer_form` infers it from a prompt.
        pattern: a regular expression whose last match (its first group, if it has one) is the answer instead.

    Raises:
        re.error: if the pattern is no regular expression.
    """
    if pattern is not None:
        return _by_pattern(text, pattern, form)
    kind = form.kind if form else None
    if kind == "number":
        return number_reader.read_number(text)
    if form is not None and kind == "choice":
        if not form.choices:
            return _automatic(text)
        return choice_reader.read_choice(text, form.choices) if form.lettered else read_listed(text, form.choices)
    if kind == "yes_no":
        found = read_yes_no(text)
        if found is not None:
            return found
        other = _automatic(text)  # such as "maybe"
        return other if other is not None and other.kind == "text" and not truth.is_mixed(other.value) else None
    return _automatic(text)


def check_pattern(pattern: str | None) -> None:
    """Raise ValueError if an option `answer_pattern` is no regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"`answer_pattern={pattern}` is no regular expression: {error}") from error


def _by_pattern(text: str, pattern: str, form: AnswerForm | None) -> Reading | None:
    raw = answer_source(text)
    found = list(re.finditer(pattern, raw.text))
    if not found:
        return None
    last = found[-1]
    group = 1 if last.re.groups else 0
    if last[group] is None:
        return None
    said = clean(raw[last.start(group) : last.end(group)])
    if form is not None and form.kind == "choice" and form.choices:
        choice = choice_reader.choice_in(said, form.choices)
        if choice is None:
            return None
        found_choice = choice_reader.reading(text, said, choice)
        return found_choice if form.lettered else replace(found_choice, value=form.choices[choice.position])
    try:
        return _interpreted(text, said, 0, len(said), "pattern")
    except Stopped:
        return None


def _automatic(text: str) -> Reading | None:
    for part in own_parts(cleaned(text)):
        try:
            found = _read(text, part)
        except Stopped:
            return None
        if found is not None:
            return found
    return None


def _read(text: str, source: Source) -> Reading | None:
    found = statements(source.text)
    short, prose = _best(_stated(text, source, statement) for statement in certain(found))
    return (
        short
        or _unmarked(text, source, found)
        or prose
        or _best(_stated(text, source, statement) for statement in doubtful(found))[0]
    )


def _best(said: Iterable[Reading | None]) -> tuple[Reading | None, Reading | None]:
    """Return the first of some readings that is no prose, and the first before it that is."""
    prose: Reading | None = None
    for one in said:
        if one is not None and (one.kind != "text" or len(one.value.split()) <= LONGEST_NAME):
            return one, prose
        prose = prose or one
    return None, prose


def _stated(text: str, source: Source, statement: Statement) -> Reading | None:
    start, end, rule = statement.start, statement.end, statement.rule
    if rule == "assertion":
        number = number_in(source.text, statement)
        return None if number is None else number_reader.reading(text, source, number, rule)
    if (
        statement.option
        or statement.negated
        or re.match(r"\s*(?:not|neither)\b", source.text[start:end], re.IGNORECASE)
    ):
        letter = None
        with contextlib.suppress(Several):
            letter = choice_phrases.stated(source.text, statement, _ANY_LETTER)
        if letter is not None:
            return choice_reader.reading(text, source, letter)
        number = None if statement.option else number_in(source.text, statement)
        return None if number is None else number_reader.reading(text, source, number, rule)
    said = source.text[start:end]
    found = _interpreted(text, source, start, end, rule)
    if found is None or found.kind != "text":
        return found
    if statement.others:
        return None  # "Agent 1's answer is correct" gives no answer
    if is_refusal(said) and not statement.doubtful:
        raise Stopped
    return None if rule == "hashes" and ":" in said else found


def _unmarked(text: str, source: Source, found: list[Statement]) -> Reading | None:
    """Read a reply that marks no answer."""
    lines = choice_prose.lines_of(source.text)
    if not lines:
        return None
    echoed = _strip_echoes(source.text, lines)
    start, end = lines[-1]
    last = source.text[start:end]
    if len(lines) == 1 and (whole := _whole(text, source, start, end, echoed)) is not None:
        return whole
    letter = choice_prose.whole(source.text, start, end, _ANY_LETTER)
    if letter is not None and (len(last.split()) <= 3 or len(lines) == 1):
        return choice_reader.reading(text, source, letter)
    if letter is None and len(lines) > 1 and (opening := _opening_letter(source.text, lines)) is not None:
        return choice_reader.reading(text, source, opening)
    for first, stop in (lines[-1], lines[0]):
        line = source.text[first:stop]
        polar = _polar(line)
        if polar is not None and (first == lines[0][0] or len(line.split()) <= 3):
            value, begin, close = polar
            span = source.span(first + begin, first + close)
            return Reading("yes_no", text[slice(*span)], "true" if value else "false", span, "first_word")
    letter = (
        (None if echoed else choice_prose.last_words(source.text, _ANY_LETTER))
        or choice_prose.asserted(source.text, _ANY_LETTER)
        or choice_prose.concluded(source.text, lines, _ANY_LETTER)
    )
    if letter is not None and (letter.rule != "bracketed" or not source.text[letter.end : end].strip(" .!\"'")):
        return choice_reader.reading(text, source, letter)
    number = number_prose.concluded(source, found)
    return None if number is None else number_reader.reading(text, source, *number)


def _strip_echoes(text: str, lines: list[tuple[int, int]]) -> bool:
    """Leave out what a prompt ends with ("A:") where the first line, or the last after a question, recites it."""
    first = choice_phrases.ECHO.match(text, *lines[0])
    if first:
        lines[0] = (first.end(), lines[0][1])
    last = choice_phrases.ECHO.match(text, *lines[-1]) if len(lines) > 1 else None
    if last and shapes.ASKED.search(text, 0, lines[-1][0]):
        lines[-1] = (last.end(), lines[-1][1])
        return True
    return first is not None


def _whole(text: str, source: Source, start: int, end: int, echoed: bool) -> Reading | None:
    """Return what a reply of one short line says."""
    said = source.text[start:end]
    if said.endswith(":") or "?" in said or not (len(said.split()) <= 3 or shapes.TIME.fullmatch(said)):
        return None
    whole = _interpreted(text, source, start, end, "whole")
    if whole is None or whole.kind != "text":
        return whole
    if not echoed:
        letter = choice_prose.last_words(source.text, _ANY_LETTER) or choice_prose.asserted(source.text, _ANY_LETTER)
        if letter is not None:
            return choice_reader.reading(text, source, letter)
    return None if is_refusal(said) or shapes.COUNTED.search(said) else whole


def _opening_letter(text: str, lines: list[tuple[int, int]]) -> Choice | None:
    """Return the letter that the first line begins with, where no other line begins a list's next item."""
    marked = [line for line in lines if re.match(r"\(?[A-J][.):][ \t]", text[slice(*line)])]
    return choice_prose.whole(text, *lines[0], _ANY_LETTER) if marked == lines[:1] else None


def _interpreted(text: str, source: Source, start: int, end: int, rule: str) -> Reading | None:
    """Return a marked answer as what it is: a letter, yes or no, a number, a formula, or words."""
    while start < end and (
        (source.text[start] in f"{_EDGES}→>*" and source.text[start] != ".")
        or source.text[start : start + 2] in (". ", ".\n")
    ):
        start += 1
    while end > start and source.text[end - 1] in _EDGES:
        end -= 1
    said = source.text[start:end]
    if not any(c.isalnum() or c in "½¼¾⅓⅔∞" for c in said):
        return None
    if _is_several_letters(said):
        raise Stopped
    letter = letter_at(said, _ANY_LETTER)
    if letter is not None and letter.sure:
        span = source.span(start + letter.start, start + letter.end)
        return Reading("choice", text[slice(*span)], LETTERS[letter.position], span, rule)
    if (polar := _polar(said)) is not None:
        value, first, last = polar
        span = source.span(start + first, start + last)
        return Reading("yes_no", text[slice(*span)], "true" if value else "false", span, rule)
    span = balanced(text, *source.span(start, end))
    return _mathematical(text, source, start, end, rule, span) or _words(text, said, span, rule)


def _mathematical(text: str, source: Source, start: int, end: int, rule: str, span: tuple[int, int]) -> Reading | None:
    """Return a marked answer as a number or a formula."""
    said = source.text[start:end]
    if shapes.TIME.fullmatch(said) or shapes.SCORE.fullmatch(said) or shapes.DATE.fullmatch(said):
        return None
    formula = formula_text(text[slice(*span)])
    number: Numeral | None = None
    try:
        number = number_in(source.text, Statement(rule, start, start, end))
    except Stopped:
        # A question that asks for no number may well be answered by "unknown".
        if not numerals(source.text, start, end) and len(said.split()) > LONGEST_WORD_ANSWER:
            raise
    if number is not None and shapes.TUPLE.fullmatch(said) and "," in said:
        number = None
    several = re.search(r"=.*\b(?:or|and)\b.*=|=.*,.*=", said) is not None and not re.search(r"[(;]", said)
    if number is not None and not several:
        lead, rest = source.text[start : number.start], source.text[number.end : end]
        symbolic = is_formula(formula) and re.search(r"[A-Za-z\\]", formula) is not None
        if not re.search(r"[A-Za-z\\]", shapes.LEAD.sub("", lead)):
            if not (symbolic and shapes.GOES_ON.match(rest) and not shapes.UNIT_POWER.match(rest)):
                return number_reader.reading(text, source, number, rule)
        elif (shapes.EQUATION.fullmatch(lead.strip(f" $({OPEN}")) and not shapes.GOES_ON.match(rest)) or (
            not symbolic and shapes.VERB_OR_SIGN.search(lead)
        ):
            return number_reader.reading(text, source, number, rule)
    if is_formula(formula):
        return Reading("formula", text[slice(*span)], formula, span, rule)
    return None


def _words(text: str, said: str, span: tuple[int, int], rule: str) -> Reading | None:
    if len(said) > LONGEST_ANSWER:
        return None
    if time := shapes.TIME.fullmatch(said):
        minutes = "" if time[2] in (None, "00") else f":{time[2]}"
        return Reading("text", text[slice(*span)], f"{int(time[1])}{minutes} {time[3].lower()}m", span, rule)
    words = re.sub(r"\b(?:the|an?)\b", " ", said.casefold())
    words = re.sub(r"\s*,\s*(?:and\s+)?", ", ", " ".join(words.split())).strip(_EDGES + "()[]")
    kind: Kind = "text"
    return Reading(kind, text[slice(*span)], words, span, rule) if words else None


def _polar(said: str) -> tuple[bool, int, int] | None:
    """Return yes or no where a phrase is one of the four words, or begins with it before a break or a reason."""
    try:
        found = truth.polar(said)
    except truth.Both:
        raise Stopped from None
    if found is None:
        return None
    value, first, last = found
    word = re.split(r"\W+", said[first:last].strip())[-1].lower()
    rest = said[last:]
    if word not in shapes.POLAR_WORDS or first > 24:
        return None
    if rest.strip(_EDGES + ")") and not truth.ends_there(word, rest):
        return None
    return value, first, last


def _is_several_letters(said: str) -> bool:
    letter = letter_at(said, _ANY_LETTER)
    if letter is None:
        return False
    try:
        only(said, letter.end, _ANY_LETTER)
    except Several:
        return True
    return False
