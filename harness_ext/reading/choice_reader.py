"""Reading which of several options a reply chooses: by letter, by the option's text, or by yes and no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import harness_ext.reading.truth as truth
from harness_ext.reading.choice_lists import is_recital, judged
from harness_ext.reading.choice_phrases import named, stated
from harness_ext.reading.choice_prose import asserted, closing, concluded, last_words, lines_of, mentioned, whole
from harness_ext.reading.kinds import Reading
from harness_ext.reading.letters import Choice, Several
from harness_ext.reading.options import LETTERS, Options
from harness_ext.reading.prose import own_parts
from harness_ext.reading.rejections import rejection
from harness_ext.reading.reply import cleaned
from harness_ext.reading.source import Source
from harness_ext.reading.statements import Statement, certain, doubtful, statements


def read_choice(text: str, choices: Sequence[str], question: str = "") -> Reading | None:
    """Return the option that a reply chooses, or None; the reading's `value` is its letter.

    Where the choices are True and False (or Yes and No), yes and no, correct and incorrect mean them too.

    Args:
        text: the reply; its thoughts are left out.
        choices: the options' texts in their order, without letters.
        question: what was asked: where the reply recites it, what follows its last recital counts first.
    """
    if not choices:
        return None
    options = options_of(tuple(choices))
    for part in own_parts(cleaned(text), question):
        if options.is_binary:
            part = part.same_length(truth.without_judgements(part.text))
        try:
            found = choice_of(part, options)
        except Several:
            return None
        if found is not None:
            return reading(text, part, found)
    return None


def choice_of(source: Source, options: Options, of_others: bool = False) -> Choice | None:
    """Return the option that a clean text chooses. Raises Several where a statement names more than one.

    Args:
        source: the text.
        options: the options.
        of_others: whether it may be asked about somebody else's answer, so that what it says of one is its own answer.
    """
    text = source.text
    found = statements(text)
    if of_others:
        found = [replace(statement, others=False) for statement in found]
    return _stated(text, certain(found), options) or _unmarked(text, options) or _stated(text, doubtful(found), options)


def _stated(text: str, ordered: list[Statement], options: Options) -> Choice | None:
    """Return the option of the first statement that names one."""
    for statement in ordered:
        if statement.rule == "assertion":
            continue
        found = stated(text, statement, options)
        if found is not None:
            return found
    return None


def _unmarked(text: str, options: Options) -> Choice | None:
    """Return the option that a text without a statement chooses."""
    lines = lines_of(text)
    if len(lines) > 1 and (found := judged(text, lines, options)) is not None:
        return found
    if is_recital(text, lines, options):
        return None
    chosen = _fallback(text, lines, options)
    rejected = None if options.none is None else rejection(text, options.noun)
    if options.none is None or rejected is None:
        return chosen
    # The last word counts, but an option may also be named behind a rejection to say what is wrong with it.
    is_last = chosen is not None and chosen.start > rejected[0] and chosen.rule != "option_named"
    if chosen is None or not (is_last or chosen.rule == "line"):
        return Choice(options.none, *rejected, "rejection")
    return chosen


def _fallback(text: str, lines: list[tuple[int, int]], options: Options) -> Choice | None:
    """Return the option that the lines or the sentences of a text name."""
    if options.is_binary and len(lines) == 1 and (said := truth.interjection(text, *lines[0])) is not None:
        return Choice(0 if said else 1, *lines[0], "line")
    # A letter at the end is an answer in the form of the task, whatever the first sentence says.
    if options.is_binary and lines and (closed := closing(text, lines, options)) is not None:
        return closed
    for start, end in (lines[-1:] + lines[:1]) if lines else []:
        found = whole(text, start, end, options)
        if found is not None:
            return found
    return (
        last_words(text, options)
        or asserted(text, options)
        or concluded(text, lines, options)
        or mentioned(text, options)
    )


def choice_in(source: Source, choices: Sequence[str]) -> Choice | None:
    """Return the option that a marked answer names."""
    try:
        return named(source.text, 0, len(source), options_of(tuple(choices)), "pattern")
    except Several:
        return None


def reading(text: str, source: Source, choice: Choice) -> Reading:
    """Return a choice as it stands in the reply."""
    start, end = source.span(choice.start, choice.end)
    return Reading("choice", text[start:end], LETTERS[choice.position], (start, end), choice.rule)


@lru_cache(maxsize=256)
def options_of(choices: tuple[str, ...]) -> Options:
    return Options(choices)
