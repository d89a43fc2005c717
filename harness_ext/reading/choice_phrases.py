"""Which option a phrase names: what a statement of an answer says."""

from __future__ import annotations

import re

import harness_ext.reading.truth as truth
from harness_ext.reading.letters import Choice, Several, bracketed, letter_at, only, position_of
from harness_ext.reading.options import Mention, Options, negated
from harness_ext.reading.prose import is_refusal
from harness_ext.reading.rejections import rejects
from harness_ext.reading.statements import Statement

REASON = re.compile(
    r"\b(?:because|since|as (?=it|they|the|he|she|this|that|people|there)|while|whereas|rather than"
    r"|instead of|unlike|although|though|but not|and not|not|"
    r"compared|than|if|when|due to|so that|in order to)\b|\(|;|\s[—–-]\s",
    re.IGNORECASE,
)
NOT_FIRST = re.compile(r"\s*(?:not|neither|never|nor)\b|\s*(?:n't)\b", re.IGNORECASE)
_INSTEAD = re.compile(
    r"\b(?:but|so|hence|rather|instead|therefore|it's|it is|should be|must be)\b[ \t]*(?:rather[ \t]+)?"
    r"|;[ \t]*",
    re.IGNORECASE,
)
_NONE = re.compile(r"\s*(?:none|neither|both|all|any|unknown|unclear|n/?a)\b", re.IGNORECASE)
# "The answer is neither" says what the answer is, although it negates.
_NEITHER = re.compile(r"\bneither\b[ \t\"']*\Z", re.IGNORECASE)
_IT_IS = re.compile(
    r"(?:it's|it is|that's|that is|this is|it would be|it must be|it should be|would be|must be|should be"
    r"|is|be)[ \t]+(?=\S)",
    re.IGNORECASE,
)
# What a prompt ends with, or a heading before a short answer.
ECHO = re.compile(
    r"\s*(?:A|Ans|Answer|Response|Reply|Output|Verdict|Conclusion|Judge?ment|Decision|Label|Prediction"
    r"|Sentence|Statement|Truth value)[ \t]*:[ \t]*(?=\S)"
)


def stated(text: str, statement: Statement, options: Options) -> Choice | None:
    """Return the option that a statement names, or None. Raises Several where it names more than one, or none."""
    start, end = statement.start, statement.end
    if options.none is not None and not statement.doubtful:
        neither = _NEITHER.search(text, statement.at, start) if statement.negated else None
        begin = neither.start() if neither else start
        if (neither or not statement.negated) and rejects(text[begin:end], options.noun):
            return Choice(options.none, begin, end, statement.rule)
    if statement.negated or NOT_FIRST.match(text, start, end):
        if options.is_binary and not statement.negated and (said := polar_in(text, start, end, statement.rule)):
            return said
        turn = _INSTEAD.search(text, start + 1, end)
        return None if turn is None else named(text, turn.end(), end, options, statement.rule)
    found = named(text, start, end, options, statement.rule)
    if found is None and not statement.doubtful and (_NONE.match(text, start, end) or is_refusal(text[start:end])):
        raise Several
    return found


def named(text: str, start: int, end: int, options: Options, rule: str, again: bool = False) -> Choice | None:
    """Return the option that a phrase names: at its beginning, else the only one in it."""
    while start < end and (text[start] in " \t\n\"'*:=-–—→.>" or (text[start] > "\ue000" and text[start] < "\ue003")):
        start += 1
    if it_is := _IT_IS.match(text, start, end):
        start = it_is.end()
    phrase = text[start:end]
    echo = None if again else ECHO.match(phrase)
    if echo and (inner := named(text, start + echo.end(), end, options, rule, again=True)) is not None:
        return inner
    first = letter_at(phrase, options)
    by_text = options.at(phrase) if options.texts else None
    if first is not None and (first.sure or by_text is None):
        only(phrase, first.end, options)
        if options.is_binary and first.echo and (said := polar_in(text, start + first.end, end, rule)):
            return said
        return Choice(first.position, start + first.start, start + first.end, rule)
    if options.is_binary and (said := polar_in(text, start, end, rule)):
        return said
    if by_text is not None:
        _no_other_text(phrase, by_text, options)
        return Choice(by_text.position, start + by_text.start, start + by_text.end, rule)
    if (equal := options.equal(phrase)) is not None:
        return Choice(equal, start, start + len(phrase.split()[0]), rule)
    return inside(text, start, end, options, rule)


def polar_in(text: str, start: int, end: int, rule: str) -> Choice | None:
    try:
        said = truth.polar(text[start:end].lstrip(" .,:;-–—)\"'"))
    except truth.Both:
        raise Several from None
    if said is None:
        return None
    skipped = end - start - len(text[start:end].lstrip(" .,:;-–—)\"'"))
    value, first, last = said
    return Choice(0 if value else 1, start + skipped + first, start + skipped + last, rule)


def _no_other_text(phrase: str, found: Mention, options: Options) -> None:
    joined = re.match(r"\s*(?:,|or\b|and\b|/|&)+\s*(?:or\s+|and\s+)?", phrase[found.end :])
    if joined is None:
        return
    after = phrase[found.end + joined.end() :]
    other = options.at(after)
    if other is not None and other.position != found.position and other.start < 6:
        follows = after[other.end :].strip()
        if not follows or not follows[0].isalpha() or re.match(r"(?:and|or|are|could|would|both)\b", follows):
            raise Several


def inside(text: str, start: int, end: int, options: Options, rule: str) -> Choice | None:
    """Return the only option that a clause names somewhere: "that it would be kept in the cellar (B)"."""
    cut = REASON.search(text, start + 1, end)
    for stop in (end, cut.start() if cut else end):
        letters = bracketed(text, start, stop, options)
        if len({c.position for c in letters}) == 1:
            return Choice(letters[0].position, letters[0].start, letters[0].end, rule)
        if len(letters) > 1 and cut is None:
            raise Several
    stop = cut.start() if cut else end
    named = [m for m in options.mentions(text[start:stop]) if not negated(text[start:stop], m.start)]
    if len({m.position for m in named}) == 1:
        return Choice(named[0].position, start + named[0].start, start + named[0].end, rule)
    led = re.search(r"\b(?:option|choice|letter)\s+\"?([A-Z])\b", text[start:stop])
    if led and position_of(led[1]) < options.count:
        return Choice(position_of(led[1]), start + led.start(1), start + led.end(1), rule)
    return None
