"""Cuts replies into units: tokens, chunks of tokens, or steps as a reader would call them.

A splitter takes a text as pieces (what each token adds to it) and says how many pieces each unit has, so that joined
units are the text, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Literal

Unit = Literal["token", "step", "chunk"]
Splitter = Callable[[Sequence[str]], list[int]]

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


def split_tokens(pieces: Sequence[str]) -> list[int]:
    """Each piece is a unit."""
    return [1] * len(pieces)


def split_chunks(size: int) -> Splitter:
    """Return the splitter into units of `size` pieces, the last one perhaps shorter."""

    def split(pieces: Sequence[str]) -> list[int]:
        return [min(size, len(pieces) - start) for start in range(0, len(pieces), size)]

    return split


def split_steps(pieces: Sequence[str]) -> list[int]:
    """Units are steps; a piece that reaches over the end of a step belongs to it."""
    ends = list(accumulate(len(step) for step in steps("".join(pieces))))
    sizes, taken, length = [], 0, 0
    for number, piece in enumerate(pieces, start=1):
        length += len(piece)
        if ends and length >= ends[0] and (number == len(pieces) or pieces[number]):
            sizes.append(number - taken)
            taken = number
            ends = [end for end in ends if end > length]
    if taken < len(pieces):
        sizes.append(len(pieces) - taken)
    return sizes


def splitter(unit: Unit, chunk_tokens: int = 32) -> Splitter:
    """Return the splitter of a unit."""
    return {"token": split_tokens, "chunk": split_chunks(chunk_tokens), "step": split_steps}[unit]


def group(pieces: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Return the texts of units."""
    ends = list(accumulate(sizes, initial=0))
    return ["".join(pieces[a:b]) for a, b in pairwise(ends)]


def words(text: str) -> list[str]:
    """Return a text as words with the blanks before them: its pieces, where no tokenizer is at hand."""
    return re.findall(r"\s*\S+|\s+$", text)


def pieces_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str], before: Sequence[int] = ()) -> list[str]:
    """Return what each token adds to the text of the tokens `before`.

    Only a few tokens are decoded at a time. A token that ends within a character adds nothing; the one that completes
    it adds it all.
    """
    known = list(before[-4:])
    tokens = [*known, *ids]
    pieces: list[str] = []
    start, read = 0, len(known)
    for end in range(read + 1, len(tokens) + 1):
        old, new = decode(tokens[start:read]), decode(tokens[start:end])
        if new.endswith("\ufffd") and end < len(tokens):
            pieces.append("")
            continue
        pieces.append(new[len(old) :])
        start, read = max(read - 3, 0), end
    whole = decode([*before, *ids])[len(decode(before)) :]
    # Some tokenizers read a token by what stands far before it: then the text is not divided.
    return pieces if "".join(pieces) == whole or not ids else [whole, *[""] * (len(ids) - 1)]
