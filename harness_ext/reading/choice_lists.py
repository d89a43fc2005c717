"""Lists that judge each option: "A) oven – incorrect", "B) cellar ✅"."""

from __future__ import annotations

import re

from harness_ext.reading.letters import Choice, Letter, Several, letter_at
from harness_ext.reading.options import Mention, Options

_RIGHT = re.compile(
    r"[✅✓✔☑]|(?:[-–—:(→=][ \t]*(?:(?:this|that|it) is )?(?:the )?|\bis (?:the )?)(?:correct|right|yes)\b"
    r"(?: answer| choice| option)?[ \t)\].!]*$",
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"[❌✗✘✖]|(?:[-–—:(→=][ \t]*(?:(?:this|that|it) is )?|\bis (?:the )?|\bso )(?:incorrect|wrong|no"
    r"|not (?:correct|right))\b"
    r"(?: answer| choice| option)?[ \t)\].!]*$",
    re.IGNORECASE,
)


def is_dismissed(line: str) -> bool:
    """Whether a list's line says that its option is wrong."""
    return _WRONG.search(line) is not None


def judged(text: str, lines: list[tuple[int, int]], options: Options) -> Choice | None:
    """Return the only option that a list calls right, beside others that it calls wrong. Raises Several for more."""
    right: list[Choice] = []
    wrong = 0
    for start, end in lines:
        line = text[start:end]
        letter = letter_at(line, options)
        named: Letter | Mention | None = letter
        if letter is None or not letter.sure:
            number = re.match(r"\d{1,2}[.)][ \t]+", line)
            start += number.end() if number else 0
            named = options.at(text[start:end]) if options.texts else None
        if named is None or named.start > 12:
            continue
        if is_dismissed(line):
            wrong += 1
        elif _RIGHT.search(line):
            right.append(Choice(named.position, start + named.start, start + named.end, "judged"))
    if len({choice.position for choice in right}) > 1:
        raise Several
    return right[0] if right and wrong else None


def is_recital(text: str, lines: list[tuple[int, int]], options: Options) -> bool:
    """Whether a text is nothing but the list of all options."""
    if len(lines) != options.count or options.count < 2 or not options.texts:
        return False
    letters = [letter_at(text[start:end], options) for start, end in lines]
    return all(letter is not None and letter.position == i for i, letter in enumerate(letters))
