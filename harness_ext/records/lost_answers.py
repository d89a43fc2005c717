"""Answers that a protocol had, and that its final text has lost."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from harness_ext.records.chat import messages_of
from harness_ext.records.results import Completion
from harness_ext.records.transcript import Transcript, Turn

if TYPE_CHECKING:
    from harness_ext.reading import AnswerForm

# Kinds of turns whose text is a whole answer.
ANSWERS = ("draft", "refine", "answer", "propose", "aggregate", "reply", "ruling")


def is_answer(turn: Turn) -> bool:
    """Return whether a turn is a whole answer, and neither a part of one nor a review."""
    return turn.kind in ANSWERS and isinstance(turn.result, Completion) and not turn.is_part


@lru_cache(maxsize=4096)
def form_of(context: str) -> AnswerForm:
    """Return what the question of a context asks for."""
    from harness_ext.reading import answer_form

    asked = [content for role, content in messages_of(context) if role != "assistant"]
    return answer_form(asked[-1] if asked else context)


def loses_answer(transcript: Transcript) -> bool:
    """Return whether no answer can be read in the final text of a question, but in another one that was written.

    Words count as no answer where the other one is a number, a choice, or yes or no. A final text that is not that of a
    turn was composed of several, and loses none.
    """
    texts = dict.fromkeys(turn.text for turn in transcript.turns if is_answer(turn))
    if transcript.failure is not None or len(texts) < 2 or transcript.text not in texts:
        return False
    from harness_ext.reading import read_answer  # compiles patterns, which most runs never need

    role, content = (messages_of(transcript.context) or [("", "")])[-1]
    form, prefix = form_of(transcript.context), content if role == "assistant" else ""

    def strength(text: str) -> int:
        found = read_answer(prefix + text, form=form)
        # Any short remark can be an answer in words, so words do not take the place of a number, a choice, yes or no.
        return 0 if found is None else 1 if found.kind == "text" else 2

    left = strength(transcript.text)
    return left < 2 and any(strength(text) > left for text in texts if text != transcript.text)
