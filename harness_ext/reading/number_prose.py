"""Which number a reply without a statement ends on."""

from __future__ import annotations

import re

from harness_ext.reading.number_statements import Stopped, number_in, resolved
from harness_ext.reading.numerals import Numeral, numerals, word_numerals
from harness_ext.reading.prose import is_aside, is_refusal, sentences, without_chatter
from harness_ext.reading.source import Source
from harness_ext.reading.statements import Statement

_REASON = re.compile(
    r"(?<=\S)(?<!\band)(?<!\bbut)[ \t]{1,3}(?:because|since|given that|as (?:there|each|the|he|she|it|they"
    r"|we|you|this|that|his|her|\d+)|considering|due to|thanks to|instead of"
    r"|rather than|compared|than (?:\d+|his|her|their|the|its)|more (?:[a-z]+ )?to (?:reach|have|buy|finish"
    r"|complete|afford)|out of|based on|assuming|according to|once you|where\b|while|whereas"
    r"|if (?:you|we)"
    r"|after (?:adding|subtracting|multiplying|dividing|taking|removing|accounting|paying|all|the|\d+)"
    r"|by (?:adding|subtracting|multiplying|dividing|taking)|when (?:you|we)|not \d+|for working"
    r"|(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?) to (?:save|earn|finish|complete|pay off|fill"
    r"|paint|read|cover"
    r"|travel|drive|reach|afford|buy|build|drain|walk|run|produce))\b"
    r"|(?<![,;])[ \t]so that (?:each|every|all|everyone|everybody|she|he|they|it|the)\b"
    r"|,[ \t](?=[$€£]?\d[\d.,]* (?:\w+ )?(?:more|fewer|less|higher|lower) than\b)"
    r"|,[ \t](?:which (?!rounds?\b|[^.=]{0,60}[-+*/×]\s?[$\d][^.]{0,40}=)|as|with|where|when|after|not"
    r"|because|since|given|considering|having|assuming|calculated|obtained|from|i\.e(?!\.?,?[ \t]+[$€£]?\d)"
    r"|that is(?!,?[ \t]+[$€£]?\d)"
    r"|or (?:about |approximately |roughly |only )?[$€£]?\d[\d.,]*(?![^.;\n]{0,50}=)|meaning|representing|being"
    r"|up from|down from)\b"
    r"|;(?=[ \t](?!so\b|then\b|therefore\b|thus\b|hence\b|and\b|which\b)[^;=\n]*$)"
    r"|(?<=\d)[ \t]{1,3}\((?!\d{1,3}\))|(?<=[a-z])[ \t]{1,3}\((?=[^)]{0,60}\d)|[ \t][—–][ \t](?![$€£]?\d)"
    r"|(?<=\S) - (?=[a-z]{2}|a )",
    re.IGNORECASE,
)
_REASON_FIRST = re.compile(
    r"\s*(?:because|since|given|as(?! a result| such| expected)|considering|if|when|after|with|by)\b", re.IGNORECASE
)
# A result behind a reason: "… by multiplying them: 2 * 9 = 18".
_RESUMED = re.compile(r":[ \t][$\d(.]|(?<![a-z])so (?:that|the|he|she|it|they|there|his|her|their)\b")
# What a reason cannot follow yet: "25% of $80, which is $20", "7 + 14, or 21".
_UNDONE = re.compile(
    r"(?:%|\d/\d+|\b(?:half|thirds?|quarters?|fourths?|fifths?|per ?cent)) of (?:the |his |her |their |its )?"
    r"(?:[$€£]?[\d.,]+(?: [a-z]+)?|[a-z]+)\s?$|\d[ \t]?[-+*/×÷][ \t]?[$€£]?\d[\d.,]*(?: [a-z]+)?$",
    re.IGNORECASE,
)
_RESTATED = re.compile(r",[ \t](?:which|or)\b", re.IGNORECASE)
_SEVERAL = re.compile(
    r"\b(?:could|might|may|can|either|about|around|roughly"
    r"|approximately)\b[^.=]{0,40}?\d[\d.,]*(?: \w+)? or [$€£]?\d[\d.,]*(?: \w+)?\W*$",
    re.IGNORECASE,
)
_SAID = re.compile(
    r"\b(?:is|are|was|were|has|have|had|gets?|needs?|takes?|costs?|pays?|makes?|leaves?|left|received?s?|be)\b",
    re.IGNORECASE,
)
_TAG_QUESTION = re.compile(r"[,;][ \t](?:right|correct|no|yes|ok(?:ay)?|isn't it|is it not)\?+$", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[,;][ \t](?:and|so|but|then|which|therefore|thus|hence|leaving|giving|making|she|he|it|they|we|there"
    r"|the|that)\b|;"
    r"|(?<=[a-z\d])[ \t](?:so|therefore|thus|hence|and (?:so|therefore|thus))[ \t]",
    re.IGNORECASE,
)
# A weak statement holds unless the sentence reckons on from it.
_ONWARD = re.compile(
    r"[,;][ \t](?:and|so|then|which|therefore|thus|hence|leaving|giving)\b|[ \t](?:so|and so|and then)\b", re.IGNORECASE
)
_CONCLUDES = re.compile(r"(?:so|therefore|thus|hence|in total|altogether|in all|finally|that leaves)\b", re.IGNORECASE)
_OF_METHOD = re.compile(
    r"[ \t]+(?:\w+[ \t]+)?(?:ways?|steps?|parts?|things|reasons|cases|options|methods|approaches"
    r"|questions)\b",
    re.IGNORECASE,
)
_IS_NUMBER = re.compile(r"\b(?:is|are|was|equals|gives|makes|comes to)[ \t]+[$€£]?-?\d", re.IGNORECASE)
_GUESS = re.compile(
    r"(?:(?:maybe|perhaps|probably|hm+|is it|it's|it is|um+)\W{0,4})*[$€£]?-?\d[\d.,]*(?: [a-z]+)?\?+$", re.IGNORECASE
)
_SIDE = re.compile(
    r"(?:\b(?:out of|of (?:the|his|her|their|its|those|these|my|our)|every|per|each of the|from the"
    r"|among(?: the)?|between the)"
    r"(?: (?:original|total|initial|first|other|remaining))?"
    r"|\b(?:in|for|over|after|within|during|on|across|to) (?:the |all |these |those |a |only "
    r"|just )?(?:next |first |last |past |remaining |other )?)\s?$",
    re.IGNORECASE,
)
_SPAN = re.compile(
    r"[ -]?(?:seconds?|minutes?|hours?|days?|weeks?|weekends?|months?|years?|nights?|times|people|friends"
    r"|children|kids|trips|rounds|tests|games|quizzes|matches)\b",
    re.IGNORECASE,
)
_STEP = re.compile(
    r"(?im)^[ \t]*(?:\(?\d{1,2}[.):](?=[ \t]+\S)|step[ \t]*\d+[ \t]*[.:)]?)|\b(?:step|equation|part"
    r"|question|problem|agent|option|figure|table)s?[ \t]+#?\d+\b"
)


def concluded(source: Source, found: list[Statement]) -> tuple[Numeral, str] | None:
    """Return the number that a text without a statement ends on: that of its last sentence which has one."""
    text = _STEP.sub(lambda m: " " * len(m[0]), source.text)
    parts = without_chatter(text, sentences(text))
    if not parts:
        return None
    if len(parts) == 1 and (alone := _alone(text, *parts[0])):
        return alone, "whole"
    if not _CONCLUDES.match(text, *parts[-1]) and (first := _first_line(source, *parts[0])) is not None:
        return first, "first_line"
    asides: list[tuple[int, int]] = []
    for start, end in reversed(parts):
        said = text[start:end]
        if is_refusal(said):
            return None
        numbers = [n for n in numerals(text, start, end) if n.value is not None]
        if (
            said.endswith("?")
            and numbers
            and (tag := _TAG_QUESTION.search(said) or (len(parts) == 1 and _GUESS.match(said)))
        ):
            said = said[: tag.start()] if tag.re is _TAG_QUESTION else said[:-1]
        if _SEVERAL.search(said):
            raise Stopped
        if said.endswith("?") or not numbers:
            if (
                (words := _worded(text, start, end, len(parts) == 1)) is not None
                and not asides
                and not numerals(text, start, end)
            ):
                return words, "last_sentence"
            continue
        if is_aside(said):
            asides.append((start, end))
            continue
        return _from_sentence(source, text, start, end, numbers, found)
    for start, end in reversed(asides):
        numbers = [n for n in numerals(text, start, end) if n.value is not None]
        return _from_sentence(source, text, start, end, numbers, found)
    return None


def _alone(text: str, start: int, end: int) -> Numeral | None:
    """Return a number that is all a text says, in digits or words."""
    words = word_numerals(text, start, end)
    if words and len(text[start:end].split()) <= 6 and words[0].start == start and not numerals(text, start, end):
        return words[0]
    return None


def _first_line(source: Source, start: int, end: int) -> Numeral | None:
    """Return a number that is all of the first line, set apart from what explains it by a blank line or in bold."""
    text = source.text
    numbers = [n for n in numerals(text, start, end) if n.value is not None]
    if len(numbers) != 1 or text[start : numbers[0].start].strip(" $€£") or len(text[numbers[0].end : end].split()) > 2:
        return None
    bare = not text[numbers[0].end : end].strip(" .")
    apart = re.match(r"[ \t]*\n[ \t]*(?:\n|[A-Z][a-z])" if bare else r"[ \t]*\n[ \t]*\n", text[end:]) is not None
    return numbers[0] if apart or (text[end : end + 1] == "\n" and _is_bold(source, numbers[0])) else None


def _worded(text: str, start: int, end: int, only: bool) -> Numeral | None:
    """Return the one number that a concluding sentence says in words."""
    said = text[start:end]
    words = [
        n
        for n in word_numerals(text, start, end)
        if text[n.start : n.end].lower() not in ("one", "half", "none", "third", "second")
    ]
    concludes = _CONCLUDES.match(said)
    if words and _OF_METHOD.match(text, words[0].end, end):
        return None
    if only and len(said.split()) <= 8 and len(words) == 1:
        concludes = concludes or _SAID.search(text, start, words[0].start)
    return words[0] if len(words) == 1 and (concludes or len(said.split()) <= 4) else None


def _from_sentence(
    source: Source, text: str, start: int, end: int, numbers: list[Numeral], found: list[Statement]
) -> tuple[Numeral, str] | None:
    """Return the number of a concluding sentence: what it says is the result, the bold one, else its last."""
    weak = [s for s in found if s.weak and start <= s.at < end and not s.negated]
    for statement in reversed(weak):
        try:
            number = number_in(text, statement)
        except Stopped:
            number = None
        later = [
            n for n in numbers if number and n.start >= number.end and not _REASON.search(text, number.end, n.start)
        ]
        if number is not None and _REASON.search(text, statement.start, number.start):
            continue
        if (
            number is not None
            and not _reckons_on(text, number.end, end)
            and not (text.endswith(" of ", 0, statement.start) and _IS_NUMBER.search(text, number.end, end))
            and not any(_ONWARD.search(text, number.end, n.start) for n in later)
        ):
            return number, "last_sentence"
    bold = [n for n in numbers if _is_bold(source, n)]
    if len({n.value for n in bold}) == 1:
        return bold[-1], "bold"
    reason = _REASON.search(text, numbers[0].end, end)
    if reason and _RESTATED.match(reason[0]) and _UNDONE.search(text[max(start, reason.start() - 60) : reason.start()]):
        reason = _REASON.search(text, reason.end(), end)
    if reason and not _REASON_FIRST.match(text, start, end) and not _RESUMED.search(text, reason.end(), end):
        numbers = [n for n in numbers if n.end <= reason.start()]
        end = reason.start()
    clauses = [m.start() for m in _CLAUSE.finditer(text, start, end)]
    begin = max((c for c in clauses if any(n.start >= c for n in numbers)), default=start)
    numbers = [n for n in numbers if n.start >= begin]
    equation = text.rfind("=", begin, end)
    if equation >= 0 and (results := [n for n in numbers if n.start > equation]):
        later = results[1:]
        if not later or not re.search(r"[,;]", text[results[0].end : later[-1].start]):
            return _first_result(text, results, end), "last_sentence"
    main = [n for n in numbers[1:] if not _is_side(text, n)]
    return (main[-1] if main else numbers[0] if len(numbers) > 1 else numbers[-1]), "last_sentence"


def _reckons_on(text: str, start: int, end: int) -> bool:
    """Whether an equation follows in a sentence, not in a reason that it gives."""
    reason = _REASON.search(text, start, end)
    return "=" in text[start : reason.start() if reason else end]


def _first_result(text: str, results: list[Numeral], end: int) -> Numeral:
    try:
        return resolved(text, results, end) or results[-1]
    except Stopped:
        return results[0]


def _is_side(text: str, number: Numeral) -> bool:
    """Whether a number only says of how many, or for how long."""
    before = _SIDE.search(text[max(0, number.start - 40) : number.start])
    if before is None:
        return False
    narrow = re.match(
        r"(?:in|for|over|after|within|during|on|across|to)\b(?! (?:the|all|these|those) \Z)", before[0], re.IGNORECASE
    )
    return narrow is None or _SPAN.match(text, number.end) is not None


def _is_bold(source: Source, number: Numeral) -> bool:
    """Whether the number is set in bold: nothing but it and at most a few words stand between two pairs of stars."""
    start, end = source.span(number.start, number.end)
    reply = source.reply
    return re.search(r"\*\*[^*\n=\d]{0,16}\Z", reply[max(0, start - 32) : start]) is not None and (
        re.match(r"[^*\n=\d]{0,16}\*\*", reply[end : end + 32]) is not None
        and reply.count("**", reply.rfind("\n", 0, start) + 1, start) % 2 == 1
    )
