"""A reply without its thoughts, as clean text: where every reader begins."""

from __future__ import annotations

from functools import lru_cache

from harness_ext.reading.cleaning import clean
from harness_ext.reading.source import Source
from harness_ext.reading.thoughts import answer_parts


def answer_source(text: str) -> Source:
    """Return the answer of a reply, without its thoughts, as it is written."""
    parts, _, _ = answer_parts(text)
    return Source.of(text, parts)


@lru_cache(maxsize=4)  # a reply is often read for its vote and for its score, one after the other
def cleaned(text: str) -> Source:
    """Return the answer of a reply without thoughts and without markup."""
    return clean(answer_source(text))
