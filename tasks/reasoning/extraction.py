"""Reading the final answer out of a reply that reasons first: a number, or one of lettered choices.

The answer is what the last statement of an answer says (`Answer: 18`, `the answer is (B)`, `#### 18`, a box), taken
before the reply runs on to a question of its own. Without such a statement a short reply, the last line, or the last
number decides. What cannot be read is None: wrong, and counted apart. Nothing here knows the right answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>|^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
# Where a model asks itself the next question, or lets the user speak again.
_NEXT_QUESTION = re.compile(
    r"\n[ \t>#*]*(?:(?:Q|Question|Problem|Example|Exercise)[ \t]*\d*[ \t]*[:.]"
    r"|(?:User|Human|Instructions?)[ \t]*:"
    r"|<\|?(?:im_start|im_end|eot_id|endoftext|end|start_header_id)\b|</s>|\[INST\])",
    re.IGNORECASE,
)
_END = re.compile(r"<\|?(?:im_end|eot_id|endoftext|end_of_text|end)\|?>|</s>", re.IGNORECASE)
_WORDS = r"(?:final|correct|right|best|most likely|most appropriate|short|numeric(?:al)?|only)"
# The last bracket of the first form keeps "the answer is not (A)" from being one.
_STATEMENT = re.compile(
    rf"(?:\b(?:the|my|our|your)?[ \t]*(?:{_WORDS}[ \t]+)*(?:answer|option|choice|result|solution)"
    r"(?:[ \t]+(?:choice|option|here|to (?:the|this) question|would|should|must|thus|then|therefore))*"
    r"[ \t]*(?:[:=]+|\bis\b|\bbe\b|->|→)[ \t]*:?[ \t]*(?:therefore|thus|clearly|simply|indeed)?(?!\s*not\b)"
    r"|####[ \t]*(?=\S)"
    r"|\b(?:i|we)(?:'d|[ \t]+would|[ \t]+will|'ll|[ \t]+must|[ \t]+should)?[ \t]+"
    r"(?:choose|pick|select|go with|answer)\b[ \t]*:?)",
    re.IGNORECASE,
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")

_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>[-–−+]?)\s?(?P<unit>(?:US)?[$€£¥]?)\s?(?P<sign2>[-–−]?)"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?![\d])|\d+)?"
    r"(?P<part>\.\d+|,\d{1,2}(?![\d,]))?"
    r"(?:\s?/\s?(?P<below>\d+)(?![\d/]))?(?P<scale>\s?(?:thousand|million|billion|k|K|M)\b)?"
)
_LONGEST = 100  # digits; what is longer is a model repeating itself
_SCALES = {"thousand": 10**3, "k": 10**3, "million": 10**6, "m": 10**6, "billion": 10**9}
_TENS = dict(zip("twenty thirty forty fifty sixty seventy eighty ninety".split(), range(20, 100, 10), strict=True))
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_NAMES = {**{name: n for n, name in enumerate(_SMALL)}, **_TENS}
_NAMES |= {f"{ten}-{_SMALL[n]}": value + n for ten, value in _TENS.items() for n in range(1, 10)} | {"none": 0}
_NAME = re.compile(rf"\b({'|'.join(sorted(_NAMES, key=len, reverse=True))})\b", re.IGNORECASE)
_STEP = re.compile(
    r"(?im)^[ \t]*(?:\(?\d{1,2}[.):](?=\s)|step[ \t]*\d+[ \t]*[.:)]?|[-•][ \t])|\b(?:step|equation|part)[ \t]+\d+\b"
)

_SYNONYMS = {
    "true": ("yes", "correct", "right", "accurate"),
    "false": ("no", "incorrect", "wrong", "inaccurate", "not true"),
}


def read_number(reply: str, question: str = "") -> Fraction | None:
    """Return the number that a reply ends on, exactly, or None.

    `question` is what was asked: where the reply recites it, what follows its last recital counts first.
    """
    return next((n for text in _own_parts(reply, question) if (n := _number(text)) is not None), None)


def read_choice(reply: str, choices: Sequence[str], question: str = "") -> int | None:
    """Return the position of the choice that a reply ends on, or None; `choices` are their texts, without letters.

    Where the choices are True and False, yes and no (and correct and incorrect) mean them too. `question`: see
    `read_number`.
    """
    return next((c for text in _own_parts(reply, question) if (c := _choice(text, choices)) is not None), None)


def _number(text: str) -> Fraction | None:
    for phrase in _statements(text):
        number = _number_in(phrase)
        if number is not None:
            return number
    # Without a statement: the last number that numbers no step.
    found = [n for n in (_value(m) for m in _NUMBER.finditer(_STEP.sub(" ", text))) if n is not None]
    if found:
        return found[-1]
    return _named_number(text) if len(text.split()) <= 3 else None


def _choice(text: str, choices: Sequence[str]) -> int | None:
    text = re.sub(r"\bnot\s+\S+\s+(?:so|but|rather|hence)\s+", "", text, flags=re.IGNORECASE)
    for phrase in _statements(text):
        choice = _choice_at(phrase, choices)
        if choice is not None:
            return choice
    lines = [line for line in text.splitlines() if line.strip()]
    for line in (lines[-1], lines[0]) if lines else ():
        choice = _choice_at(line, choices, whole=True)
        if choice is not None:
            return choice
    return _asserted(text, choices)


def _own_parts(reply: str, question: str) -> list[str]:
    """Return the reply's own text: what follows the question where it is recited, then the whole."""
    text = _THOUGHT.sub("", reply)
    if "<think" in text.lower():
        return []  # a thought that never ended
    stem = question.strip()
    parts = [text.rpartition(stem)[2], text] if len(stem) >= 20 and stem in text else [text]
    return [_own_part(part) for part in parts]


def _own_part(reply: str) -> str:
    """Return the reply without markup and without what follows its answer: questions of its own, end marks."""
    text = _plain(reply)
    first = next(iter(_matches(text)), None)
    start = first.end() if first is not None else len(text.strip())
    recited = _NEXT_QUESTION.search(text, start)
    text = text[: recited.start()] if recited else text
    return _END.split(text, maxsplit=1)[0].strip()


def _plain(text: str) -> str:
    """Return text without Markdown's and LaTeX's marks; boxes become statements of an answer."""
    text = _LATEX_TEXT.sub(r" \1 ", text)
    text = _FRACTION.sub(r"\1/\2", text)
    text = _BOX.sub(r" the answer is: \1 \n", text)
    text = re.sub(r"\\[,;:! ]|\{,\}", lambda m: "," if m[0] == "{,}" else "", text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\(", " ").replace("\\)", " ")
    text = re.sub(r"\\[\[\]]|\$\$|[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}|[{}]", " ", text) if _marked(text) else text
    # A dollar sign before a number is money; any other is LaTeX's.
    return re.sub(r"\$(?!\s?-?[\d.])", "", text).replace("’", "'")


def _marked(text: str) -> bool:
    return any(mark in text for mark in ("*", "_", "`", "\\", "{"))


def _matches(text: str) -> list[re.Match[str]]:
    return [m for m in _STATEMENT.finditer(text) if text[m.end() :].strip()]


def _statements(text: str) -> list[str]:
    """Return what follows each statement of an answer, the last one first."""
    found = _matches(text)
    ends = [*(m.start() for m in found[1:]), len(text)]
    phrases = [text[m.end() : end].strip() for m, end in zip(found, ends, strict=False)]
    return [phrase for phrase in reversed(phrases) if phrase]


def _number_in(phrase: str) -> Fraction | None:
    """Return the number that a phrase gives: the last one of an equation, else the first."""
    line = phrase.splitlines()[0]
    sentence = re.split(r"(?<=[^\d\s])[.!?](?=\s|$)|(?<=\d)[.!?](?=\s+[A-Z]|\s*$)", line, maxsplit=1)[0]
    for part in (sentence.rpartition("=")[2] if "=" in sentence else sentence, sentence, line):
        numbers = [n for n in (_value(m) for m in _NUMBER.finditer(part)) if n is not None]
        if numbers:
            return numbers[0]
    return _named_number(sentence)


def _named_number(text: str) -> Fraction | None:
    found = _NAME.search(text)
    return Fraction(_NAMES[found[1].lower()]) if found else None


def _value(match: re.Match[str]) -> Fraction | None:
    """Return a match's value; 1,250.50 and 1 250,5 are numbers, and so are 3/4, 2 million and -$5."""
    whole, part, below = match["whole"] or "", match["part"] or "", match["below"]
    digits = re.sub(r"\D", "", whole)
    if (not digits and not part) or len(digits) + len(part) > _LONGEST:
        return None
    value = Fraction((digits or "0") + part.replace(",", "."))
    if below is not None:
        if len(below) > _LONGEST or int(below) == 0:
            return None
        value /= int(below)
    if match["scale"]:
        value *= _SCALES[match["scale"].strip().lower()]
    return -value if {match["sign"], match["sign2"]} & set("-–−") else value


def _choice_at(phrase: str, choices: Sequence[str], whole: bool = False) -> int | None:
    """Return the choice that a phrase begins with: a letter, or a choice's text. `whole`: and that says no more."""
    phrase = phrase.splitlines()[0].strip().lstrip(":- \"'")
    last = chr(ord("A") + len(choices) - 1)
    bracketed = re.match(
        rf"(?:option|choice|letter)?\s*[(\[]\s*([A-{last}a-{last.lower()}])\s*[)\]]", phrase, re.IGNORECASE
    )
    plain = re.match(rf"(?:(?:option|choice|letter)\s+)?([A-{last}])(?=[).:,;!\s\"']|$)(?!\s+[a-z])", phrase)
    by_text = _text_at(phrase, choices)
    if bracketed or (plain and by_text is None):
        found = bracketed or plain
        assert found is not None
        rest = phrase[found.end() :]
        if re.match(rf"\s*(?:,|or|and|/|&|nor)+\s*(?:or|and)?\s*[(\[]?[A-{last}](?:[)\].,]|$)", rest):
            return None  # two letters are no answer
        return (
            None if whole and plain and not bracketed and len(rest.split()) > 12 else ord(found[1].upper()) - ord("A")
        )
    if by_text is None:
        return None
    position, length = by_text
    rest = phrase[length:]
    joined = re.match(r"\s*(?:,|or\b|and\b|/|&)+\s*", rest)
    other = _text_at(rest[joined.end() :], choices) if joined else None
    if other is not None and other[0] != position:
        return None  # neither are two choices
    ends = r"\W*$|[^\w\s]|\s+(?:because|since|as)\b" if _is_binary(choices) else r"\W*$"
    return None if whole and not re.match(ends, rest) else position


def _text_at(phrase: str, choices: Sequence[str]) -> tuple[int, int] | None:
    """Return which choice's text a phrase begins with, and how long it is there; the longest wins."""
    spoken = re.sub(r"^(?:that\s+)?(?:it'?s?\s+(?:is\s+)?)?(?:the\s+|an?\s+)?", "", phrase, flags=re.IGNORECASE)
    skipped = len(phrase) - len(spoken)
    found = []
    for position, choice in enumerate(choices):
        for name in (choice, *(_SYNONYMS.get(choice.lower(), ()) if _is_binary(choices) else ())):
            bare = re.sub(r"^(?:the|an?)\s+", "", name.strip().rstrip("."), flags=re.IGNORECASE)
            for text, offset in ((spoken, skipped), (phrase, 0)):
                if bare and re.match(re.escape(bare) + r"(?!\w)", text, re.IGNORECASE):
                    found.append((len(bare), position, offset + len(bare)))
    if not found:
        return None
    length, position, end = max(found)
    return None if len({p for n, p, _ in found if n == length}) > 1 else (position, end)


def _is_binary(choices: Sequence[str]) -> bool:
    return [choice.lower() for choice in choices] == ["true", "false"]


def _asserted(text: str, choices: Sequence[str]) -> int | None:
    """Return the choice that a reply's end asserts in other words, where there is just one."""
    last = chr(ord("A") + len(choices) - 1)
    said = re.findall(rf"[(\[]([A-{last}])[)\]]\s+(?:is|seems|must be|would be)\b(?!\s+(?:not|in|wrong|un))", text)
    if said:
        return ord(said[-1]) - ord("A")
    if _is_binary(choices):
        verdicts = re.findall(
            r"\b(?:sentence|statement|claim|assertion|this|that|it)(?:\s+\w+){0,3}?\s+(?:is|was|must be|seems)\s+"
            r"(?:\w+ly\s+|therefore\s+|thus\s+)?"
            r"(not\s+(?:true|correct|accurate)|true|false|correct|incorrect|wrong|accurate|inaccurate)\b",
            text,
            re.IGNORECASE,
        )
        if verdicts:
            return int(bool(re.match(r"not|false|in|wrong", verdicts[-1], re.IGNORECASE)))
    letters = set(re.findall(rf"\(([A-{last}])\)", text.splitlines()[-1] if text else ""))
    return ord(letters.pop()) - ord("A") if len(letters) == 1 else None
