"""Text from models and files, made harmless for a terminal: it cannot move the cursor, set colours or turn lines."""

from __future__ import annotations

import os
import sys
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Zero width joiners are letters' own business (Persian, Hindi, emoji) and move nothing.
_HARMLESS = frozenset("\n\u200c\u200d")
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_text(text: str) -> str:
    """Return the text with every character that a terminal would act upon in readable form.

    Line feeds stay, tabs become four blanks, a carriage return before a line feed goes. Other control characters (C0
    and C1, escape among them), bidirectional marks and overrides, invisible format characters, line separators, private
    and unassigned characters and lone surrogates are written as `<U+001B>`.
    """
    return "".join(map(_safe, text.replace("\r\n", "\n")))


def safe_line(text: str) -> str:
    """Return the same on one line: line feeds become `⏎`."""
    return safe_text(text).replace("\n", "⏎")


@lru_cache(maxsize=65536)
def _safe(character: str) -> str:
    if character == "\t":
        return "    "
    if character in _HARMLESS or unicodedata.category(character) not in _HIDDEN:
        return character
    return f"<U+{ord(character):04X}>"


def console() -> Console:
    """Return a terminal that takes text as it is: no markup, no emoji codes, no highlighting.

    Colours only on a terminal (`NO_COLOR` and `FORCE_COLOR` are heeded); elsewhere lines are as wide as `COLUMNS` says,
    or 200 characters, so that tables do not break.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 200
    return Console(markup=False, emoji=False, highlight=False, width=width)
