"""Hashes of the public test questions, which the generator must never produce."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

DIGITS = 16


def question_hash(passage: str, question: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a story and its question, with whitespace normalised."""
    lines = "\n".join(" ".join(line.split()) for line in passage.strip().splitlines())
    return hashlib.sha256(f"{lines}\n?\n{' '.join(question.split())}".encode()).hexdigest()[:DIGITS]


@cache
def public_hashes() -> frozenset[str]:
    """Return the hashes of the public bAbI test questions (`test_hashes.txt`, made by `make_hashes.py`)."""
    text = files("harness_ext.embedded.stories").joinpath("test_hashes.txt").read_text(encoding="ascii")
    return frozenset(line for line in text.split() if len(line) == DIGITS)
