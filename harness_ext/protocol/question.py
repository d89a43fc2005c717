"""The question that a protocol answers: one request of lm-eval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness_ext.records import Identity, Message
from harness_ext.records.chat import ChatContext, context_messages
from harness_ext.records.images import IMAGE_MARK, Image


@dataclass(frozen=True)
class Question:
    """One request of lm-eval as a protocol sees it, without gold answer, filters and metrics.

    context: exactly the string that lm-eval built.
    gen_kwargs: the task's generation settings. Default: none.
    task: the name of the task.
    doc_id: lm-eval's number of the document.
    doc_hash: lm-eval's hash of the document.
    repeat: the number of the repeat, from 0.
    index: the request's position among those of its document, from 0.
    images: the images that the context's `<image>` marks stand for. Default: none.
    continuations: the texts to score after the context, if the task scores choices. Default: none.
    part: the number of the part within a conversation, from 1. Default 0: not part of a conversation.
    """

    context: str
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    task: str = ""
    doc_id: int = 0
    doc_hash: str = ""
    repeat: int = 0
    index: int = 0
    images: tuple[Image, ...] = ()
    continuations: tuple[str, ...] = ()
    part: int = 0

    @property
    def sampled(self) -> bool:
        """Return whether the task's settings sample (lm-eval: `do_sample`, or a temperature alone)."""
        if self.gen_kwargs.get("do_sample") is not None:
            return bool(self.gen_kwargs["do_sample"])
        return float(self.gen_kwargs.get("temperature") or 0.0) > 0.0

    @property
    def prefix(self) -> str:
        """Return the beginning of the reply that the task dictates (`gen_prefix` under a chat template), or no text."""
        messages = context_messages(self.context)
        return (
            messages[-1].content if isinstance(self.context, ChatContext) and messages[-1].role == "assistant" else ""
        )

    def identity(self, seed: int) -> Identity:
        """Return what identifies this question within an evaluation; see `Transcript.identity`."""
        return (self.task, self.doc_id, self.doc_hash, self.repeat, self.index, question_hash(self, seed))

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the task as messages, without a dictated prefix; a plain context is one user message."""
        messages = context_messages(self.context)
        return messages[:-1] if self.prefix else messages

    @property
    def text(self) -> str:
        """Return the task as plain text, to be shown to another seat such as a teacher.

        For a part of a conversation, this is what has been asked so far, without the replies.
        """
        return "\n\n".join(m.content.strip() for m in self.messages if not (self.part and m.role == "assistant"))

    @property
    def demand(self) -> str:
        """Return what the task asks for in the end: the last paragraph of its last message.

        A prompt that follows quoted text ends with it, since small models copy what they read last.
        """
        last = self.messages[-1].content.strip().rpartition("\n\n")[2] if self.messages else ""
        return last.replace(IMAGE_MARK, "").strip()  # a mark would stand for one more image

    def shown(self, reply: str) -> str:
        """Return a reply as it is shown to another seat: with the prefix that the task dictates."""
        return (self.prefix + reply).strip()

    def conversation(self, *later: Message) -> list[Message]:
        """Return the task's messages followed by `later`, and by the prefix of the reply if the task dictates one."""
        messages = [*self.messages, *later]
        return [*messages, Message("assistant", self.prefix)] if self.prefix else messages


def question_hash(question: Question, seed: int) -> str:
    """Return a short hash of a question's context and settings, and of the seed if the task samples."""
    identity: list[Any] = [question.context, dict(question.gen_kwargs), seed if question.sampled else None]
    if question.images or question.continuations:
        identity += [[image.digest for image in question.images], question.continuations]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def reply_of(question: Question, text: str) -> Message:
    """Return a reply as an assistant message, including the prefix that the task dictates."""
    return Message("assistant", question.prefix + text)
