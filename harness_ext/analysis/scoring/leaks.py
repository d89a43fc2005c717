"""Finds hints that reveal the answer, and questions whose answer a verdict alone reveals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from harness_ext.reading import Reading, read_answer, same_answer
from harness_ext.records import Transcript, Turn
from harness_ext.records.summary import DRAFTS

LONGEST_UNMARKED = 3  # words of a gold target that is a number, a letter or a word without saying so
LONGEST_GOLD = 8  # words; a longer gold answer is a text that no hint repeats as a whole
_POLAR = {"true": ("true", "yes"), "false": ("false", "no")}
_NUMBER = re.compile(r"(?<![\w.,])[-−]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?![\w%]*\d)")


def gold_texts(task: Any, doc: Any) -> list[str]:
    """Return the gold targets of a document as texts: those of `doc_to_target`, with a choice's index as the choice."""
    target = task.doc_to_target(doc)
    choices = choices_of(task, doc)
    targets = target if isinstance(target, list | tuple) else [target]
    return [
        choices[t] if isinstance(t, int) and not isinstance(t, bool) and 0 <= t < len(choices) else str(t)
        for t in targets
    ]


def choices_of(task: Any, doc: Any) -> list[str]:
    """Return the choices of a document, or an empty list if its task has none."""
    if getattr(task.config, "doc_to_choice", None) is None:
        return []
    return [str(choice) for choice in task.doc_to_choice(doc)]


def listed_choices(doc: Any) -> list[str]:
    """Return the choices that a document lists in its field `choices`, as a list or as a mapping with a list `text`.

    Many tasks that are not multiple choice show them in the prompt all the same. Empty if there are none.
    """
    found = doc.get("choices") if isinstance(doc, Mapping) else None
    found = found.get("text") if isinstance(found, Mapping) else found
    return [str(choice) for choice in found] if isinstance(found, list | tuple) else []


def gold_answers(golds: Sequence[str]) -> list[Reading]:
    """Return the answers in gold targets (`#### 18` contains 18), without targets whose answer cannot be found."""
    return [answer for gold in golds if (answer := _gold_answer(gold)) is not None]


def is_two_way(golds: Sequence[Reading], choices: Sequence[str]) -> bool:
    """Return whether there are only two possible answers, so that rejecting one reveals the other."""
    return len(choices) == 2 or (bool(golds) and all(answer.kind == "yes_no" for answer in golds))


def names(text: str, gold: Reading) -> bool:
    """Return whether a text contains an answer: a number, the letter of a choice, or whole words.

    Numbers are compared by value. A letter counts only in the forms `(B)`, `B)`, `option B`, `answer: B` and `answer
    should be "B"`, with or without quotation marks. For words, case, articles and spacing are ignored.
    """
    if gold.number is not None:
        return any(_value(m[0]) == gold.number for m in _NUMBER.finditer(text))
    if gold.kind == "choice":
        letter = re.escape(gold.value)
        named = rf"\b(?i:option|choice|answer)\s*(?i:is|(?:should|must|would)\s+be)?\s*:?\s*[\"'“‘`*]*{letter}(?!\w)"
        return re.search(rf"\({letter}\)|(?<!\w){letter}\)|{named}", text) is not None
    words = _POLAR[gold.value] if gold.kind == "yes_no" else (gold.value,)
    return any(re.search(rf"(?<!\w){re.escape(_plain(word))}(?!\w)", _plain(text)) for word in words)


def hints_of(transcript: Transcript, golds: Sequence[Reading]) -> list[dict[str, Any]]:
    """Return one entry per rejecting review: its turn, whether it names a gold answer, and whether it leaks one.

    A rejecting review is a turn of kind `review` that was not read as an acceptance, or a `critique` before a verdict
    that rejects. It leaks a gold answer if it names
    that answer and the reviewed draft does not give it already.
    """
    hints: list[dict[str, Any]] = []
    draft = ""
    for number, turn in enumerate(transcript.turns):
        if turn.kind in DRAFTS:
            draft = turn.text
        elif _rejects(turn):
            named = [gold for gold in golds if names(turn.text, gold)]
            leaks = bool(named) and not any(same_answer(read_answer(draft), gold) for gold in named)
            hints.append({"turn": number, "names": bool(named), "leaks": leaks})
    return hints


def _rejects(turn: Turn) -> bool:
    verdict = turn.verdict or {}
    if turn.kind == "critique":
        return bool(verdict.get("rejects"))
    return turn.kind == "review" and not verdict.get("accepted", False)


def _gold_answer(gold: str) -> Reading | None:
    found = read_answer(gold)
    # "three blind mice and a cat" is a text, not the number 3.
    is_text = found is None or (found.rule == "whole" and len(gold.split()) > LONGEST_UNMARKED)
    return _short(gold) if is_text else found


def _short(gold: str) -> Reading | None:
    words = gold.split()
    if not 0 < len(words) <= LONGEST_GOLD:
        return None
    return Reading("text", gold, " ".join(words).casefold(), (0, len(gold)), "gold")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\b(?:the|an?)\b", " ", text.casefold()).split())


def _value(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace("$", "").replace("−", "-"))
