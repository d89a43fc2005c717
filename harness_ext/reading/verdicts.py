"""Reading a teacher's verdict: the structured first word, then the feedback setting's rules for loose wording.

The loose rules are those of the bAbI feedback setting (github.com/racia/research-project, `check_feedback`), with
guards for what they would accept: negated praise ("that is not right"), a question ("Correct? No."), an order ("Correct
the second step."), and both verdicts at once (an echo of the two forms).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_POSITIVE = (
    "good", "well done", "right", "that's right", "that is right", "correct answer", "well reasoned", "perfect",
)  # fmt: skip
_NEGATIVE = (
    "wrong", "error", "mistake", "check", "look again", "review", "reconsider", "verify", "double-check", "hint",
    "not quite",
)  # fmt: skip
_FIRST_WORD = re.compile(r"[\s*_#>`\"'“”-]*(correct|incorrect)\s*[*_`\"'”]*\s*(?:[.!:;,\n]|$)", re.IGNORECASE)
_CORRECT_LINE = re.compile(r"(?im)^correct\b(?!\s*\?|\s+(?:the|your|this|that|it|these|those)\b)(?!.*\bincorrect\b)")
_INCORRECT_TOO = re.compile(
    r"(?im)^[ \t*_#>`\"'“”-]*incorrect[ \t]*[*_`\"'”]*[ \t]*(?:[.!:;,]|$)|[.!][ \t]*(?:or[ \t]+)?incorrect[.!]"
)
_NEGATED = re.compile(r"\b(?:not|never|no|cannot|[a-z]+n't)\b(?:\s+\S+){0,5}?\s+(?:right|correct|good|perfect)\b")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a draft was accepted, and by which rule that was read; `malformed` when no rule found a verdict."""

    accepted: bool
    rule: str
    malformed: bool = False


def read_verdict(text: str) -> Verdict:
    """Return the verdict of a review. Any text is read; what says nothing is malformed and not accepted."""
    if not text.strip():
        return Verdict(False, "blank", malformed=True)
    text = text.replace("’", "'")
    if first := _FIRST_WORD.match(text):
        accepted = first[1].lower() == "correct"
        if accepted and _INCORRECT_TOO.search(text):
            return Verdict(False, "both", malformed=True)
        return Verdict(accepted, "first_word")
    if "_____" in text or "-----" in text:
        return Verdict(False, "template_echo")
    plain = re.sub(r"[*_-]", "", text.lower())
    if _NEGATED.search(text.lower()):
        return Verdict(False, "negated")
    if _CORRECT_LINE.search(plain):
        return Verdict(True, "correct_line")
    if "incorrect" in plain:
        return Verdict(False, "incorrect_anywhere")
    positive, negative = _points(text.lower(), _POSITIVE), _points(text.lower(), _NEGATIVE)
    if positive > negative:
        return Verdict(True, "words")
    if negative:
        return Verdict(False, "words")
    if "?" in text or "consider" in plain:
        return Verdict(False, "question")
    return Verdict(False, "none", malformed=True)


def _points(text: str, words: tuple[str, ...]) -> int:
    """Two points for a word that stands between blanks, one for a word inside others."""
    return sum(2 if f" {word} " in text else 1 if word in text else 0 for word in words)
