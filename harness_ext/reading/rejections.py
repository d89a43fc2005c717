"""Replies that choose none of the options: "None of these.", "No chain is right.", "All of them are wrong."

Such a reply chooses an option only where one of the options says the same, as "None of the above" does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from harness_ext.reading.prose import sentences

_SURE = r"(?:(?:(?!hardly|barely|scarcely|rarely|only)\w+ly|quite|at all|even|in fact)[ \t]+){0,2}"
_GOOD = r"(?:right|correct|valid|accurate|acceptable|sound|true|suitable|appropriate)\b(?!-)"
_BAD = r"(?:wrong|incorrect|invalid|inaccurate|unacceptable|unsound|untrue|false|flawed|faulty|mistaken)\b"
_IS = r"(?:(?:is|are|was|were)|(?:seems?|appears?|looks?)(?:[ \t]+to[ \t]+be)?|can[ \t]+be|(?:is|are)[ \t]+considered)"
_COUNT = r"two|three|four|five|six|seven|eight|nine|ten|\d{1,2}"
_WHERE = r"(?:[ \t]+(?:above|below|here|given|listed|provided|shown|presented|proposed))?"
_LEAD = (
    r"(?:(?:so|therefore|thus|hence|then|and|but|overall|unfortunately|in (?:conclusion|short|fact|my opinion)|answer"
    r"|(?:i|we) (?:think|believe|find|conclude|say|would say|'d say)(?:[ \t]+that)?"
    r"|(?:it|that|this)(?:'s| is)|it (?:seems|appears)(?:[ \t]+that)?)[,:]?[ \t]+){0,3}"
)
_EXCEPTED = r"(?:except|but|besides|other than|apart from|aside from|save|unless|if)"
# What may follow in the sentence: where the options fail, and a reason.
_TAIL = (
    rf"(?![^\n]*\b{_EXCEPTED}\b)(?:[ \t]+(?:in|for|at|here|either|as well|too)\b[^.!?;\n]*)?"
    r"(?:[,;:]?[ \t]*(?:\(|[-–—]|\b(?:because|since|as|so|therefore)\b)[^\n]*)?"
)
_CLAUSE_END = re.compile(r"[;:](?=\s)|,[ \t]+(?=(?:so|hence|therefore|thus|and|but)\b)", re.IGNORECASE)
LONGEST = 400  # characters of a clause that is looked at
_OUTSIDE = " \t\"'()[]{}*_.!:-–—\ue000\ue001"


def noun_of(options: Sequence[str]) -> str:
    """Return the word that all options but one begin with, as `chain` in "chain 1", "chain 2", "none"; else nothing."""
    names = [words[0] for text in options if len(words := text.casefold().split()) == 2 and words[0].isalpha()]
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    return name if count == len(options) - 1 else ""


def none_option(options: Sequence[str], noun: str) -> int | None:
    """Return the position of the only option that says that none of the others is chosen, or None.

    options: the texts of the options.
    noun: what the options are called, besides `option`, `answer` and the like.
    """
    found = [position for position, text in enumerate(options) if rejects(text, noun)]
    return found[0] if len(found) == 1 else None


def rejects(phrase: str, noun: str) -> bool:
    """Whether a phrase says nothing but that no option is chosen.

    phrase: the phrase, without line breaks.
    noun: what the options are called.
    """
    return _rejections(noun).fullmatch(phrase.strip(_OUTSIDE)) is not None


def rejection(text: str, noun: str) -> tuple[int, int] | None:
    """Return where the last clause of a text stands that rejects all options, or None.

    A clause without a verb ("None.") counts only at the beginning or at the end of the text.
    """
    clauses = [clause for span in sentences(text) for clause in _clauses(text, *span)]
    for number in reversed(range(len(clauses))):
        start, end = clauses[number]
        said = text[start:end].strip(_OUTSIDE)
        if end - start > LONGEST or said.endswith("?"):
            continue
        found = _rejections(noun).fullmatch(said)
        if found and (not found["bare"] or number in (0, len(clauses) - 1)):
            return start, end
    return None


def _clauses(text: str, start: int, end: int) -> list[tuple[int, int]]:
    cuts = [m.span() for m in _CLAUSE_END.finditer(text, start, end)]
    bounds = [start, *(place for cut in cuts for place in cut), end]
    return [(first, last) for first, last in zip(bounds[::2], bounds[1::2], strict=True) if text[first:last].strip()]


@lru_cache(maxsize=64)
def _rejections(noun: str) -> re.Pattern[str]:
    """Return a pattern for a whole clause that rejects all options; `bare` is one without a verb."""
    own = rf"|{re.escape(noun)}s?(?:[ \t]+of[ \t]+\w+)?" if noun else ""
    shown = rf"(?:options?|choices?|alternatives?|candidates?{own})"
    names = rf"(?:{shown}|answers?|solutions?|responses?|ones?)"  # "no solution" may be an answer to the task
    which = rf"(?:(?:the|these|those|your|all|given|listed|proposed|provided|above|{_COUNT})[ \t]+){{0,3}}"
    them = rf"(?:them|these|those|the[ \t]+above|the[ \t]+(?:{_COUNT})|{which}{names}{_WHERE})"
    not_one = r"(?:neither|not[ \t]+(?:one|a[ \t]+single)|no)[ \t]+"
    none = (
        rf"(?:(?:none|neither|not[ \t]+(?:one|any|a[ \t]+single[ \t]+one))(?:[ \t]+of[ \t]+{them}|{_WHERE})"
        rf"|{not_one}(?:{_GOOD}[ \t]+{names}|{shown}){_WHERE})"
    )
    all_ = (
        rf"(?:(?:all|both|each|every[ \t]+(?:single[ \t]+)?one|each[ \t]+one)(?:[ \t]+of[ \t]+{them})?"
        rf"|(?:all|both|each|every|every[ \t]+single)[ \t]+{which}{names}{_WHERE})"
    )
    right = rf"(?:{_SURE}(?:an?[ \t]+|the[ \t]+)?{_GOOD}(?:[ \t]+{names})?|{_SURE}the[ \t]+answer)"
    wrong = rf"{_SURE}(?:{_BAD}(?:[ \t]+{names})?|not[ \t]+{right})"
    reaches = (
        rf"{_SURE}(?:works?|fits?|appl(?:y|ies)|holds?|follows?|qualif(?:y|ies)"
        r"|(?:gives?|has|have|reach(?:es)?|states?|contains?|provides?|(?:arrives?|gets?)[ \t]+(?:at|to)"
        r"|leads?[ \t]+to)[ \t]+"
        rf"(?:the|a)[ \t]+{_GOOD}[ \t]+(?:final[ \t]+)?(?:answer|result|conclusion|reasoning|solution))"
    )
    errs = r"(?:contains?|has|have|makes?|includes?)[ \t]+"
    errs += r"(?:(?!no\b|few\b|zero\b)\w+[ \t]+){0,2}(?:errors?|mistakes?|flaws?)"
    take = r"(?:choose|pick|select|accept|trust|approve|take|go[ \t]+with|agree[ \t]+with)"
    subject = r"(?:i|we)(?:'d|'ll)?[ \t]+(?:(?:would|will|must|do|have[ \t]+to|can)[ \t]+)?"
    clauses = "|".join(
        [
            rf"(?:{none}|{not_one}{names}{_WHERE})[ \t]+(?:{_IS}[ \t]+{right}|{reaches})",
            rf"{all_}[ \t]+(?:{_IS}[ \t]+{wrong}|{errs})",
            rf"(?:they(?:'re|[ \t]+are)|(?:these|those|the)(?:[ \t]+{names})?[ \t]+are)[ \t]+(?:all|both)[ \t]+{wrong}",
            rf"there(?:'s|[ \t]+(?:is|are))[ \t]+no[ \t]+{_GOOD}[ \t]+{names}{_WHERE}",
            rf"(?:{subject})?(?:reject(?:ed|ing)?|discard)[ \t]+(?:{all_}|them[ \t]+all|every[ \t]+one)",
            rf"{subject}{take}[ \t]+{none}",
            rf"(?:i|we)[ \t]+(?:(?:would|will|do|can|could)(?:n't|[ \t]+not)|won't|can't|cannot)[ \t]+{take}[ \t]+"
            rf"(?:any|either)(?:[ \t]+of[ \t]+{them}|[ \t]+{names})?",
        ]
    )
    return re.compile(rf"(?is:{_LEAD}(?:(?:{clauses})|(?P<bare>{none})){_TAIL})")
