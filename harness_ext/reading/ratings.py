"""Reads ratings."""

from __future__ import annotations

import re


def read_rating(text: str) -> int | None:
    """Return the first number of a reply, at most 9; None where there is none."""
    found = re.search(r"\d+", text)
    return min(int(found[0][:4]), 9) if found else None
