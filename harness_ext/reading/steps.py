"""Cuts a text into steps: sentences, lines, and code or formula blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What no step ends in: code, formulas, environments. One that is never closed reaches to the end of the text; a single
# dollar is a formula only if it is closed on its line, not by a price ("$5 and $6").
_WHOLE = re.compile(
    r"""
      ^[ \t]*(?P<fence>`{3,}|~{3,})[^\n]*\n (?:.*? ^[ \t]*(?P=fence)[`~]*[ \t]*$ | .*\Z)
    | \\begin\{(?P<name>[^}\n]*)\} (?:.*? \\end\{(?P=name)\} | .*\Z)
    | \$\$ (?:.*? \$\$ | .*\Z)
    | \\\[ (?:.*? \\\] | .*\Z)
    | \\\( (?:.*? \\\) | .*\Z)
    | (?<![\\$\w])\$(?=[^\s$]) (?:\\.|[^$\n\\])*? (?<=[^\s])\$(?![\d$])
    | (?<!`)(?P<ticks>`{1,2})(?!`) [^\n]*? (?<!`)(?P=ticks)(?!`)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
# A line end with the blank lines after it; or the end of a sentence before blanks and more text on the line.
_END = re.compile(r"\n\s*\n|\n|(?P<mark>[.!?…]+[\"'”’)\]*_]*)(?=[ \t]+[^\s])|[。！？]+[」』”’）]*(?=[^\s」』”’）])")
# Words before a full stop that end no sentence: list numbers at the beginning of a line, initials, abbreviations.
_NO_END = re.compile(
    r"(?:^[ \t>*_-]*(?:\d{1,3}|[A-Za-z]|[ivxIVX]+)|\b[A-Z]"
    r"|\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|cf|e\.g|i\.e|approx|resp|no|No|Fig|Eq|eq|fig|al|ca|Sec|Thm|p|pp)"
    r"|\b[a-z]\.[a-z])\.$",
    re.MULTILINE,
)


def steps(text: str) -> list[str]:
    """Return the steps of a text: its sentences, lines, and code or formula blocks; joined they are the text.

    A step keeps the line ends after it, and the blanks of a line stand before the next sentence, as tokens have them.
    No step is blank unless the whole text is.
    """
    cuts = [0]
    for end in _ends(text):
        if text[cuts[-1] : end].strip() and text[end:].strip():
            cuts.append(end)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)] if text else []


def _ends(text: str) -> Iterator[int]:
    """Yield the places where a step may end."""
    wholes = [match.span() for match in _WHOLE.finditer(text)]
    for match in _END.finditer(text):
        while wholes and wholes[0][1] <= match.start():
            wholes.pop(0)
        inside = bool(wholes) and wholes[0][0] < match.end() and match.start() < wholes[0][1]
        if inside or (match["mark"] == "." and _NO_END.search(text[max(0, match.start() - 24) : match.start() + 1])):
            continue
        yield match.end()
