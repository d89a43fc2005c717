"""A seat's own system message in front of a conversation, and its thoughts apart from its replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness_ext.reading.thoughts import Markers, split_thought
from harness_ext.records import Completion, Message
from harness_ext.records.chat import context_messages
from harness_ext.records.readability import UNFINISHED


def without_thought(completion: Completion, markers: Markers) -> tuple[Completion, tuple[str, ...]]:
    """Return a reply with its thought apart from its text, and notes about the thought.

    A reply that ends within its thought has no text.
    """
    split = split_thought(completion.text, markers)
    # A server with a reasoning parser may have separated the thought already.
    thought = "\n".join(part for part in (completion.thought, split.thought) if part)
    if split.answer == completion.text and not thought:
        return completion, ()
    finished = split.finished and (bool(split.answer.strip()) or not completion.thought)
    return replace(completion, text=split.answer, thought=thought), ("thought" if finished else UNFINISHED,)


def with_system(system: str, prompt: str | Sequence[Message]) -> list[Message]:
    """Return a conversation with a seat's own system message before the task's."""
    messages = list(context_messages(prompt) if isinstance(prompt, str) else prompt)
    if messages and messages[0].role == "system":
        return [Message("system", f"{system}\n\n{messages[0].content}"), *messages[1:]]
    return [Message("system", system), *messages]
