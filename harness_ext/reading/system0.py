"""The rules by which the bAbI feedback setting reads a review (github.com/racia/research-project, `check_feedback`)."""

from __future__ import annotations

import re

from harness_ext.reading.reply import answer_source
from harness_ext.reading.verdicts import Verdict

_GOOD = (
    "good", "well done", "right", "that's right", "that is right", "correct answer", "well reasoned", "perfect",
)  # fmt: skip
_BAD = (
    "wrong", "error", "mistake", "check", "look again", "review", "reconsider", "verify", "double-check", "hint",
    "not quite",
)  # fmt: skip
_CORRECT_LINE = re.compile(r"(?im)^correct\b(?!.*\bincorrect\b)")


def read_verdict_system0(text: str) -> Verdict:
    """Return the verdict of a review exactly as the feedback setting read it.

    Its rules count words, so that praise of any kind can accept ("The copyright is bright."). They are kept to repeat
    its results; `read_verdict` is the reader to use otherwise. Only a blank review is malformed, for which the setting
    asked its teacher again. Thoughts, which its models did not write, are left out.
    """
    review = answer_source(text).text
    if not review.strip():
        return Verdict(False, "blank", malformed=True)
    if "_____" in review or "-----" in review:
        return Verdict(False, "template_echo")
    plain = re.sub(r"[*_-]", "", review.lower())
    if _CORRECT_LINE.search(plain):
        return Verdict(True, "correct_line")
    if "incorrect" in plain:
        return Verdict(False, "incorrect_anywhere")
    good, bad = _points(plain, _GOOD), _points(plain, _BAD)
    if good > bad:
        return Verdict(True, "words")
    if bad:
        return Verdict(False, "words")
    return Verdict(False, "question" if "?" in review or "consider" in plain else "none")


def _points(text: str, words: tuple[str, ...]) -> int:
    """Two points for a word between blanks (or at an end of the text), one for a word inside others."""
    padded = f" {text} "
    return sum(2 if f" {word} " in padded else 1 if word in text else 0 for word in words)
