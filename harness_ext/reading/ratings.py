"""Reading ratings, confidences and one of a few words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from harness_ext.reading.numerals import Numeral, numerals, word_numerals
from harness_ext.reading.reply import cleaned

_SCALE = re.compile(
    r"\b(?:on|in|using|with) a (?:scale|range) (?:of|from)?[ \t]*(?:\d+(?:[ \t]*(?:to|-|–)[ \t]*\d+)?)"
    r"|\bscale (?:of|from) \d+(?:[ \t]*(?:to|-|–)[ \t]*\d+)?"
    r"|\bfrom \d+ to \d+|\bbetween \d+ and \d+|\(\d+[ \t]*(?:-|–|to)[ \t]*\d+\)|\b(?<!\bthis )(?:steps?|lines?|parts?"
    r"|sentences?|units?|points?|questions?|problems?|agents?)[ \t]+#?\d+(?:[ \t]*(?:and|-|–"
    r"|to)[ \t]*\d+)?\b"
    r"|^[ \t]*\d{1,2}[.)](?=[ \t]+[A-Za-z])",
    re.IGNORECASE | re.MULTILINE,
)
_LIST_MARK = re.compile(r"\s*(\d)[.)][ \t]+[A-Z][^\n]*\s*")
_CUE = re.compile(
    r"\b(?:rating|score|grade|mark|rate(?: it| this(?: step)?| the \w+)?(?: as)?|rated|assign|give(?: it"
    r"| this(?: step)?| the \w+)?|award)\b[ \t\"']*(?:(?:is|of|would be|as|with|a|an"
    r"|at)\b[ \t]*){0,3}[:=]?[ \t\"']*"
    r"(?:(?:a|an|the rating|score of|rating of)[ \t]+)?(?=[-\w\ue000])",
    re.IGNORECASE,
)
_OUT_OF = re.compile(r"[ \t]*(?:/|out of|of|von|over)[ \t]*(\d{1,4})\b", re.IGNORECASE)
_CONFIDENT = re.compile(r"\b(?:confiden\w+|certain\w*|sure|probability|likelihood|probab\w+)\b", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"(?:\b(?:not|never|cannot|no|neither|dis)\b|n't)[ \t]*(?:(?!but\b)\w+[ \t]+){0,2}\Z", re.IGNORECASE
)


def read_rating(text: str, most: int = 9) -> int | None:
    """Return the rating that a reply gives, from 0 to `most`, or None.

    A number above the scale counts as its top, one below 0 as none; a fraction of a point is dropped. Numbers of steps
    and lines and the scale itself ("on a scale of 10") are no ratings.
    """
    source = cleaned(text)
    body = _SCALE.sub(lambda m: " " * len(m[0]), source.text)
    found = _rating(body)
    if found is None and (mark := _LIST_MARK.fullmatch(source.text)):  # it can be the rating: "7. The step follows."
        found = Fraction(mark[1])
    if found is None or found < 0:
        return None
    return min(int(found), most)


def _rating(text: str) -> Fraction | None:
    numbers = [
        n for n in _plain(text) if n.value is not None or text[n.end : n.end + 1] == "/" or "/" in text[n.start : n.end]
    ]
    if not numbers:
        digits = re.search(r"(?<![\w.-])\d{20,}", text)
        return Fraction(int(digits[0][:4])) if digits else _word(text)
    for cue in reversed(list(_CUE.finditer(text))):
        first = next((n for n in numbers if n.start >= cue.end()), None)
        if first is not None and not text[cue.end() : first.start].strip(" \"'(:[\ue000-"):
            return _value(text, first)
        if word := _word(text[cue.end() : cue.end() + 12], start=True):
            return word
    for number in numbers:
        if _OUT_OF.match(text, number.end) or "/" in text[number.start : number.end]:
            return _value(text, number)
    if not text[: numbers[0].start].strip(" \n\"'([:*\ue000"):
        if len(numbers) > 1 and re.fullmatch(r"\s*(?:or|to|-|–|/)\s*", text[numbers[0].end : numbers[1].start]):
            return None
        return _value(text, numbers[0])
    after = text.rfind(":", 0, numbers[-1].start)
    if after >= 0 and not text[after + 1 : numbers[-1].start].strip(" \n\"'([\ue000"):
        return _value(text, numbers[-1])
    values = {_value(text, n) for n in numbers}
    return values.pop() if len(values) == 1 else None


def _plain(text: str) -> list[Numeral]:
    return numerals(text)


def _value(text: str, number: Numeral) -> Fraction | None:
    said = text[number.start : number.end]
    if "/" in said:  # 7/9 is seven of nine
        above = re.match(r"-?\d+(?:\.\d+)?", said)
        return Fraction(above[0]) if above else number.value
    return number.value


def _word(text: str, start: bool = False) -> Fraction | None:
    words = word_numerals(text)
    if not words or (start and text[: words[0].start].strip(" \"'(:[")):
        return None
    of = len(words) == 2 and text[words[0].end : words[1].start].strip() in ("out of", "of")
    return words[0].value if of or start or len({w.value for w in words}) == 1 else None


def read_confidence(text: str) -> float | None:
    """Return how sure a reply says it is, from 0 to 1, or None: `85%`, `Confidence: 0.85`, `8/10`."""
    body = cleaned(text).text
    numbers = [n for n in numerals(body) if n.value is not None]
    if not numbers:
        words = word_numerals(body)
        return (
            _share(words[0].value, percent=re.match(r"\s*(?:per ?cent|%)", body[words[0].end :]) is not None)
            if len(words) == 1
            else None
        )
    cue = _CONFIDENT.search(body)
    percents = [
        n for n in numbers if body[n.start : n.end].endswith("%") or re.match(r"\s*per ?cent", body[n.end : n.end + 10])
    ]
    near = [n for n in numbers if cue is not None and 0 <= n.start - cue.end() <= 40]
    sure = [n for n in percents if cue is not None and (n in near or 0 <= cue.start() - n.end <= 20)]
    alone = numbers if len(numbers) == 1 or _OUT_OF.match(body, numbers[0].end) else []
    chosen = next(iter(sure or near or percents or alone), None)
    if chosen is None:
        return None
    assert chosen.value is not None
    percent = chosen in percents
    if not percent and (of := _OUT_OF.match(body, chosen.end)) and int(of[1]):
        return _share(chosen.value / int(of[1]), percent=False)
    return _share(chosen.value, percent=percent)


def _share(value: Fraction | None, percent: bool) -> float | None:
    if value is None or value < 0:
        return None
    share = value / 100 if percent or value > 1 else value
    return float(share) if share <= 1 else None


def read_choice_of(text: str, words: Sequence[str]) -> str | None:
    """Return which of a few words a reply says ("Open.", "I agree."), or None for none or several.

    A word that is taken back ("not open") does not count. The word that a reply begins with decides, or the one behind
    a label's colon; else the only one in the text.
    """
    body = cleaned(text).text
    if not words:
        return None
    ordered = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, ordered))})(?![\w-])", re.IGNORECASE)
    by_name = {word.casefold(): word for word in words}
    found = [m for m in pattern.finditer(body) if not _TAKEN_BACK.search(body[max(0, m.start() - 30) : m.start()])]
    if not found:
        return None
    first = found[0]
    several = re.match(r"[\"']?\s*(?:or|and|/|\|)\s*[\"']?", body[first.end() :])
    if several and pattern.match(body, first.end() + several.end()):
        return None
    lead = body[: first.start()].strip(" \n\"'([*:.-\ue000")
    if not lead or (lead.casefold() in ("i", "we") and len(found) > 0):
        return by_name.get(first[0].casefold())
    labelled = [m for m in found if re.search(r":\s*[\"'(\[]?$", body[max(0, m.start() - 6) : m.start()])]
    chosen = labelled[-1:] or found
    names = {m[0].casefold() for m in chosen}
    return by_name.get(names.pop()) if len(names) == 1 else None
