"""Contexts that carry their messages, and the plain form of a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.records.message import Message

PLAIN_ROLES = {"system": "Instructions", "user": "User", "assistant": "Assistant"}
# The tokenizer name that keeps the contexts of this package's models, which carry messages, apart in lm-eval's cache.
MESSAGES_TOKENIZER = "harness_ext-messages-1"
PLAIN_STOPS = tuple(f"\n\n{role}:" for role in ("User", "Assistant", "Instructions"))


class ChatContext(str):
    """A context that carries its messages.

    It is a string (the messages as JSON), so that lm-eval can log, hash, cache and pickle it like any other context.
    """

    __slots__ = ()

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]]) -> ChatContext:
        """Return the context of a chat history in lm-eval's form (`{"role": …, "content": …}`)."""
        return cls(json.dumps([{"role": m["role"], "content": m["content"]} for m in history], ensure_ascii=False))

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the messages; a trailing assistant message is a prefix that the reply continues."""
        return tuple(Message(m["role"], m["content"]) for m in json.loads(self))


def context_messages(context: str) -> tuple[Message, ...]:
    """Return a context's messages: its own, or the plain text as one user message."""
    return context.messages if isinstance(context, ChatContext) else (Message("user", str(context)),)


def messages_of(context: str) -> list[tuple[str, str]]:
    """Return a recorded context as pairs of role and content; a plain text has the role `""`."""
    try:
        return [(str(message["role"]), str(message["content"])) for message in json.loads(context)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [("", context)]


def plain_form(messages: Sequence[Message]) -> str:
    """Render a conversation for a model without a chat template.

    It has one block per message (`User: …`), separated by blank lines, and the reply follows a final `Assistant:`. A
    trailing assistant message is left open, so that the reply continues it.
    """
    blocks = [f"{PLAIN_ROLES[m.role]}: {m.content.strip()}" for m in messages]
    if messages and messages[-1].role == "assistant":
        blocks[-1] = f"{PLAIN_ROLES['assistant']}: {messages[-1].content}"
        return "\n\n".join(blocks)
    return "\n\n".join([*blocks, f"{PLAIN_ROLES['assistant']}:"])


def merge_system(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with its system messages merged into the first user message.

    This is for chat templates that reject system messages.
    """
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    for i, message in enumerate(rest):
        if message.role == "user":
            rest[i] = Message("user", f"{system}\n\n{message.content}" if system else message.content)
            return rest
    return [Message("user", system), *rest] if system else rest


def is_utf8(text: str) -> bool:
    """Return whether the text can be encoded, that is, contains no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def repair(text: str) -> str:
    """Return the text with every lone surrogate replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
