"""Divides replies into units: tokens, chunks of tokens, or steps in the sense of a reader.

A splitter takes a text as pieces (what each token adds to it) and returns how many pieces each unit has. Joined units
are therefore always the text, whatever it contains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Literal

from harness_ext.reading.steps import steps

Unit = Literal["token", "step", "chunk"]
Splitter = Callable[[Sequence[str]], list[int]]


def split_tokens(pieces: Sequence[str]) -> list[int]:
    """Make each piece a unit."""
    return [1] * len(pieces)


def split_chunks(size: int) -> Splitter:
    """Return the splitter into units of `size` pieces; the last unit may be shorter."""

    def split(pieces: Sequence[str]) -> list[int]:
        return [min(size, len(pieces) - start) for start in range(0, len(pieces), size)]

    return split


def split_steps(pieces: Sequence[str]) -> list[int]:
    """Make each step a unit. A piece that crosses the end of a step belongs to that step."""
    ends = list(accumulate(len(step) for step in steps("".join(pieces))))
    sizes, taken, length = [], 0, 0
    for number, piece in enumerate(pieces, start=1):
        length += len(piece)
        # Pieces without text, such as an end token, stay with the step before them.
        if ends and length >= ends[0] and (number == len(pieces) or pieces[number]):
            sizes.append(number - taken)
            taken = number
            ends = [end for end in ends if end > length]
    if taken < len(pieces):
        sizes.append(len(pieces) - taken)
    return sizes


def splitter(unit: Unit, chunk_tokens: int = 32) -> Splitter:
    """Return the splitter for a kind of unit."""
    return {"token": split_tokens, "chunk": split_chunks(chunk_tokens), "step": split_steps}[unit]


def group(pieces: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Return the texts of units."""
    ends = list(accumulate(sizes, initial=0))
    return ["".join(pieces[a:b]) for a, b in pairwise(ends)]


def words(text: str) -> list[str]:
    """Return a text as words with the whitespace before them, which are its pieces if there is no tokenizer.

    Line breaks are pieces of their own, as for tokenizers, so that a step ends before the first word of the next line.
    """
    return re.findall(r"\s*\n|\s*\S+|\s+", text)


def pieces_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str], before: Sequence[int] = ()) -> list[str]:
    """Return the text that each token adds.

    A token that ends within a character adds nothing; the one that completes the character adds all of it.

    ids: the tokens.
    decode: returns the text of tokens.
    before: the tokens before them. Default: none.
    """
    known = list(before[-4:])
    tokens = [*known, *ids]
    pieces: list[str] = []
    start, read = 0, len(known)
    # Only a window of a few tokens is decoded for each token, since decoding all tokens before it would take quadratic
    # time. The window is needed because some tokenizers decode the first token of a text differently.
    for end in range(read + 1, len(tokens) + 1):
        old, new = decode(tokens[start:read]), decode(tokens[start:end])
        if new.endswith("\ufffd") and end < len(tokens):
            pieces.append("")
            continue
        pieces.append(new[len(old) :])
        start, read = max(read - 3, 0), end
    whole = decode([*before, *ids])[len(decode(before)) :]
    # With some tokenizers, a token's text depends on tokens before the window. Then the text is not divided.
    return pieces if "".join(pieces) == whole or not ids else [whole, *[""] * (len(ids) - 1)]
