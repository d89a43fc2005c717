"""What a reply answers, whether two replies answer the same, and votes: for decisions in protocols, never for scores.

A reply is read by what it marks as its answer (`\\boxed{…}`, `#### …`, `Answer: …`, `the answer is …`; the last one
counts), else as a whole where it is three words or fewer, else by the last number of its last line. What holds none of
these is unparsable: it never votes and never equals anything, itself included. Formulas are compared by math-verify.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

LONGEST_REPLY = 50_000  # characters from the end that are read
LONGEST_ANSWER = 300  # a longer "answer" is prose, which no two replies share
LONGEST_FORMULA = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply answers: its words as compared, and its value where it is a number."""

    text: str
    number: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote.

    `winner` is the place of the first voter for the winning answer, None when nobody voted. `counts` holds each answer
    with its votes (or weights), in the order of first sight. `tie` says that another answer had as many: then the one
    seen first won, which depends on this question alone. `unparsable` replies did not vote.
    """

    winner: int | None
    counts: tuple[tuple[str, float], ...]
    tie: bool
    unparsable: int


# A line that begins a question of its own, or speaks for somebody else.
_RUN_ON = re.compile(
    r"\n[ \t>*#_]*(?:(?:next |new |another )?question|q|problem|user|human|instructions?|(?:agent|judge) ?\d*)"
    r"[ \t]*\d*[*_]*[ \t]*:",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_HEADING = re.compile(
    r"(?im)^[ \t>*#_-]*(?:final[ \t]+|short[ \t]+)?answer[ \t*_]*[:：][ \t*_]*"
    r"(?:(?P<same>\S.*)$|\n\s*(?P<next>(?![^\n:]{0,30}:)\S.*)$)"
)
_SENTENCE = re.compile(
    r"(?i)\banswer(?: to (?:the|this) (?:question|problem))?[ \t]+(?:is|would be|must be|will be)[ \t:]*"
    r"(?P<said>(?:(?!\.\s|\.$|\n).)+)",
    re.MULTILINE,
)
_HASHES = re.compile(r"(?m)^[ \t]*####[ \t]*(?P<said>\S.*)$")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(r"(?<![\w.,])[-+−]?\$?(?:\d{1,3}(?:,\d{3})+|\d{1,60})(?:\.\d{1,60})?(?![\w,]*\d)")


def cut_run_on(text: str) -> tuple[str, bool]:
    """Return a reply up to where it asks a question of its own or speaks for somebody else, and whether it did."""
    found = _RUN_ON.search(text)
    if found is None or not text[: found.start()].strip():
        return text, False
    return text[: found.start()].rstrip(), True


def read_answer(text: str, pattern: str | None = None) -> Answer | None:
    """Return what a reply answers, or None where nothing can be read.

    `pattern` is a regular expression whose last match (its first group, if it has one) is the answer instead.
    """
    text = _after_thought(text[-LONGEST_REPLY:])
    if pattern is not None:
        found = [m[1] if m.re.groups else m[0] for m in re.finditer(pattern, text)]
        return _answer(found[-1] or "") if found else None
    text, _ = cut_run_on(text)
    marked = _marked(text)
    if marked is not None:
        return _answer(marked)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    if len(lines) == 1 and not lines[0].endswith(":") and (len(lines[0].split()) <= 3 or _YES_NO.fullmatch(lines[0])):
        return _answer(lines[0])
    numbers = _NUMBER.findall(lines[-1])
    return _answer(numbers[-1]) if numbers else None


def check_pattern(pattern: str | None) -> None:
    """Raise ValueError if an option `answer_pattern` is no regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"`answer_pattern={pattern}` is no regular expression: {error}") from error


def same_answer(a: Answer | None, b: Answer | None) -> bool:
    """Return whether two answers are the same: equal numbers, words, or formulas; an unparsable one equals nothing.

    Case, markup, articles, units after a number, currency and per cent signs do not count: 1,000 = 1000.0 = $1000.
    """
    if a is None or b is None:
        return False
    if a.number is not None and b.number is not None:
        return a.number == b.number
    return a.text == b.text or _same_formula(*sorted((a.text, b.text)))


def all_agree(answers: Sequence[Answer | None]) -> bool:
    """Return whether all answers are readable and the same."""
    return bool(answers) and all(same_answer(answers[0], other) for other in answers)


def vote(answers: Sequence[Answer | None], weights: Sequence[float] | None = None) -> Vote:
    """Count votes, one each or as weighted (finite, 0 or more)."""
    groups: list[tuple[int, Answer, float]] = []
    for i, answer in enumerate(answers):
        if answer is None:
            continue
        weight = 1.0 if weights is None else weights[i]
        for g, (first, other, total) in enumerate(groups):
            if same_answer(answer, other):
                groups[g] = (first, other, total + weight)
                break
        else:
            groups.append((i, answer, weight))
    counts = tuple((answer.text, total) for _, answer, total in groups)
    unparsable = sum(answer is None for answer in answers)
    if not groups:
        return Vote(None, counts, False, unparsable)
    most = max(total for _, _, total in groups)
    best = [first for first, _, total in groups if total >= most - 1e-9]
    return Vote(best[0], counts, len(best) > 1, unparsable)


def _after_thought(text: str) -> str:
    """Leave out a reasoning model's thoughts; one that never ended them has said nothing."""
    tags = list(_THOUGHT.finditer(text))
    if not tags:
        return text
    return text[tags[-1].end() :] if tags[-1][1] else text[: tags[-1].start()]


def _marked(text: str) -> str | None:
    """Return the last answer that the text marks as one."""
    found = [(m.start(), m["same"] or m["next"]) for m in _HEADING.finditer(text)]
    found += [(m.start(), m["said"]) for pattern in (_SENTENCE, _HASHES) for m in pattern.finditer(text)]
    found += [(m.start(), _braced(text, m.end())) for m in _BOX.finditer(text)]
    said = [(at, words) for at, words in found if words.strip(" \t*_`$.")]
    return max(said)[1] if said else None


def _braced(text: str, start: int) -> str:
    """Return what stands in braces, the first of which ends at `start`; nothing where they never close."""
    depth = 1
    for i in range(start, min(len(text), start + LONGEST_ANSWER)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
    return ""


_MARKUP = re.compile(r"[*`\"“”]|\\[()\[\]]|\\[!,;: ]|(?<!\w)_|_(?!\w)|\$")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\s*\{([^{}]*)\}")
_CHOICE = re.compile(
    r"(?:(?:option|choice)\s+)?(?:\(([A-Ja-j])\)(?:[\s.:,].*)?|([A-J])(?:[.):](?:\s.*)?)?|([a-j]))", re.DOTALL
)
_YES_NO = re.compile(r"(yes|no|true|false)(?:[,.;:!](?:\s.*)?|\s+(?:because|since|as)\b.*)?", re.IGNORECASE | re.DOTALL)
_QUANTITY = re.compile(
    r"(?:(?:about|approximately|exactly|only|~|≈|=)\s*)?(?P<number>[-+]?\s?(?:\d{1,3}(?:,\d{3})+|\d{1,60})?(?:\.\d{1,60})?)"
    r"(?:/(?P<below>\d{1,60}))?\s*%?(?P<unit>(?:\s*[^\W\d]+\.?(?:\s+[^\W\d]+\.?){0,2})?)",
)
_NO_UNIT = re.compile(r"\b(?:am|pm|a\.m|p\.m|or|and|not|no|to|of|x|pi|i|e|n|y|z|a|b|c)\b\.?", re.IGNORECASE)
_EDGES = " \t\r\n.,;:!?'‘’"


def _answer(said: str) -> Answer | None:
    """Return a marked answer in the form in which answers are compared; None for nothing and for prose."""
    if len(said) > 4 * LONGEST_ANSWER:
        return None
    said = said.replace("\\boxed", "").replace("\\fbox", "").replace("−", "-").replace("⁄", "/")
    said = said.replace("\\%", "%").replace("{,}", ",").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = " ".join(_MARKUP.sub("", _LATEX_TEXT.sub(r" \1 ", said)).split()).rstrip(_EDGES)
    text = re.sub(r"^(?:[,;:!?'‘’]|\.(?!\d))+\s*", "", text)
    if len(text) > LONGEST_ANSWER or not any(c.isalnum() for c in text):
        return None
    if choice := _CHOICE.fullmatch(text):
        return Answer((choice[1] or choice[2] or choice[3]).upper())
    if polar := _YES_NO.fullmatch(text):
        return Answer(polar[1].lower())
    right = text.partition("=")[2] if text.count("=") == 1 and not re.search(r"\b(?:or|and)\b|,\s", text) else ""
    if (number := _number(right.strip() or text)) is not None:
        return Answer(str(number), number)
    if _is_formula(text):
        return Answer(text)
    words = re.sub(r"\b(?:the|an?)\b", " ", text.casefold())
    words = re.sub(r"\s*,\s*(?:and\s+)?", ", ", " ".join(words.split())).strip(_EDGES)
    return Answer(words) if words else None


def _number(text: str) -> Fraction | None:
    found = _QUANTITY.fullmatch(text)
    if found is None or not any(c.isdigit() for c in found["number"]):
        return None
    if _NO_UNIT.search(found["unit"]):
        return None
    value = Fraction(found["number"].replace(",", "").replace(" ", ""))
    if found["below"] is None:
        return value
    return value / int(found["below"]) if int(found["below"]) else None


# What may stand in a formula that is handed to a computer algebra system: nothing that can take it minutes.
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_COMMANDS = frozenset(
    "frac sqrt pi cdot times div left right pm infty cup cap circ le leq ge geq ne neq degree".split()
)
_POWER = re.compile(r"(?:\^|\*\*)\s*\{?([^{}]*)")


def _is_formula(text: str) -> bool:
    """Return whether a text is a formula that math-verify can be asked about, short and of bounded effort."""
    if len(text) > LONGEST_FORMULA or "!" in text or not re.search(r"\d|\\|\^", text):
        return False
    if any(name not in _COMMANDS for name in _COMMAND.findall(text)):
        return False
    if re.search(r"[^\W\d_]{3,}|(?:\s|^)[^\W\d_]{2}\b", _COMMAND.sub(" ", text)):  # words
        return False
    powers = _POWER.findall(text)
    if any(re.search(r"\^|\*\*|\d{3,}", power) for power in powers) or len(powers) > 6:
        return False
    if re.search(r"(?<!\\)\b[A-Za-z]", text) and any(re.search(r"\d\d", power) for power in powers):
        return False  # a polynomial of a hundred powers
    return re.search(r"\^[^+\-=,]*\^", text) is None and re.search(r"\d{25,}", text) is None


@lru_cache(maxsize=65536)
def _same_formula(a: str, b: str) -> bool:
    if not (_is_formula(a) and _is_formula(b)):
        return False
    from math_verify import verify

    left, right = _parsed(a), _parsed(b)
    if not left or not right:
        return False
    return bool(verify(list(left), list(right), timeout_seconds=None))


@lru_cache(maxsize=65536)
def _parsed(text: str) -> tuple[object, ...]:
    """Return a formula as math-verify reads it. Its time-outs are signals, which only the main thread may use."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit
    return tuple(parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None))
