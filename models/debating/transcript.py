"""A debate in readable form."""

from __future__ import annotations

import re

from harness_ext.records import Transcript
from harness_ext.records.chat import context_messages


def title(seat: str) -> str:
    """Return a seat's name as agents see it: `agent2` is `Agent 2`."""
    return re.sub(r"(\d+)$", r" \1", seat).capitalize()


def write_up(transcript: Transcript) -> str:
    """Return a debate in readable form: the question, the utterances in order and the final text.

    The layout is that of github.com/madScientist10/aris_assignment_EAI, without the gold answer, which protocols do not
    see. Control characters are replaced, so that a terminal can display the text.
    """
    question = context_messages(transcript.context)[-1].content
    utterances = "\n\n".join(f"{title(t.seat)} ({t.kind}): {t.text.strip()}" for t in transcript.turns)
    result = transcript.text if transcript.failure is None else f"(failed: {transcript.failure.message})"
    text = (
        f"Question {transcript.doc_id} of {transcript.task}, repeat {transcript.repeat}:\n{question}\n\n"
        f"Debate result:\n{utterances}\n\nEnded by: {transcript.stop}\nFinal answer:\n{result}\n{'-' * 50}\n\n"
    )
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)
