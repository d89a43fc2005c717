"""Values in Python's notation, in texts from outside."""

from __future__ import annotations

import ast
import warnings
from typing import Any


def python_literal(text: str) -> Any:
    """Return the value that a text is in Python's notation: strings, numbers, lists, dictionaries; None if it is none.

    Nothing is run. Python warns about escapes that it does not know (LaTeX is full of them), and it takes them as they
    are written, so the warning would only tell the user about a text that is none of theirs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
