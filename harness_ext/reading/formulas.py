"""Formulas: which texts are some, and whether two are equal. math-verify does the algebra, on bounded effort."""

from __future__ import annotations

import logging
import re
from functools import lru_cache

from harness_ext.reading.arithmetic import evaluate

LONGEST = 120
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit)\s?\{([^{}]*)\}")
_MARKUP = re.compile(
    r"[*`\"“”](?=\W|$)|(?<!\w)[*`\"“”]|\\[()\[\]]|\\[!,;: ]|\\(?:displaystyle|left|right)(?![A-Za-z])"
    r"|(?<!\w)_|_(?!\w)|\$"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
# Nothing that a computer algebra system may take minutes over.
_COMMANDS = frozenset(
    "frac sqrt pi cdot times div left right pm infty cup cap circ le leq ge geq ne neq degree".split()
)
_POWER = re.compile(r"(?:\^|\*\*)\s*\{?([^{}]*)")


def formula_text(said: str) -> str:
    """Return a formula as it is written, without the markup around it."""
    said = said.replace("\\boxed", "").replace("\\fbox", "").replace("−", "-").replace("⁄", "/").replace("{,}", ",")
    said = said.replace("\\%", "%").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return " ".join(_MARKUP.sub("", _TEXT.sub(r" \1 ", said)).split()).rstrip(" .,;:!?")


def balanced(reply: str, start: int, end: int) -> tuple[int, int]:
    """Return a part of a reply widened to take in the braces that open or close in it."""
    part = reply[start:end]
    missing = part.count("{") - part.count("}")
    while missing > 0 and end < len(reply) and reply[end] == "}":
        end, missing = end + 1, missing - 1
    while missing < 0 and start > 0 and reply[start - 1] == "{":
        start, missing = start - 1, missing + 1
    return start, end


def is_formula(text: str) -> bool:
    """Return whether a text is a formula that math-verify can be asked about: short, and of bounded effort."""
    if len(text) > LONGEST or "!" in text or not re.search(r"\d|\\|\^|[A-Za-z]\s?[-+*/=]\s?[A-Za-z]", text):
        return False
    if any(name not in _COMMANDS for name in _COMMAND.findall(text)):
        return False
    if re.search(r"[^\W\d_]{3,}|(?:\s|^)[^\W\d_]{2}\b", _COMMAND.sub(" ", text)):  # words
        return False
    powers = _POWER.findall(text)
    if any(re.search(r"\^|\*\*|\d{3,}", power) for power in powers) or len(powers) > 6:
        return False
    if re.search(r"(?<!\\)\b[A-Za-z]", text) and any(re.search(r"\d\d", power) for power in powers):
        return False  # a polynomial of a hundred powers
    return re.search(r"\^[^+\-=,]*\^", text) is None and re.search(r"\d{25,}", text) is None


@lru_cache(maxsize=65536)
def same_formula(a: str, b: str) -> bool:
    """Return whether two formulas are equal; texts that are none equal nothing."""
    left, right = evaluate(_plain(a)), evaluate(_plain(b))
    if left is not None and right is not None:
        return left == right  # math-verify rounds: it takes 1/2^60 for 1/2^61
    if not (is_formula(a) and is_formula(b)):
        return False
    from math_verify import verify

    first, second = _parsed(a), _parsed(b)
    if not first or not second:
        return False
    return bool(verify(list(first), list(second), float_rounding=12, timeout_seconds=None))


def _plain(text: str) -> str:
    text = re.sub(r"\\frac\s?\{([^{}]+)\}\s?\{([^{}]+)\}", r"((\1)/(\2))", text)
    return (
        re.sub(r"\^\{([^{}]+)\}", r"^(\1)", text).replace("\\times", "*").replace("\\cdot", "*").replace("\\div", "/")
    )


@lru_cache(maxsize=65536)
def _parsed(text: str) -> tuple[object, ...]:
    """Return a formula as math-verify reads it. Its time-outs are signals, which only the main thread may use."""
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that it has no time limit
    return tuple(parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None))
