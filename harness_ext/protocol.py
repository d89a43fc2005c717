"""What a protocol is: options, seats, and one coroutine over one question."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from harness_ext.backends.base import Backend, Capability
from harness_ext.chat import ChatContext, context_messages
from harness_ext.images import Image
from harness_ext.records import Completion, Identity, Message, Solution, Transcript

if TYPE_CHECKING:
    from harness_ext.seats import Seats, SeatSetup


@dataclass(frozen=True)
class Question:
    """One request of lm-eval, as a protocol sees it: no gold answer, no filter, no metric.

    `context` is the very string lm-eval built, `gen_kwargs` the task's generation settings, `images` what its
    `<image>` marks stand for. `continuations` are the texts to score after it, where the task scores instead of reading
    replies. `part` counts the parts of a conversation from 1 (0 for a question that stands alone).
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
        """Return the beginning of the reply that the task dictates (`gen_prefix` under a chat template), or nothing."""
        messages = context_messages(self.context)
        return (
            messages[-1].content if isinstance(self.context, ChatContext) and messages[-1].role == "assistant" else ""
        )

    def identity(self, seed: int) -> Identity:
        """Return what tells this question from every other one of an evaluation; see `Transcript.identity`."""
        return (self.task, self.doc_id, self.doc_hash, self.repeat, self.index, question_hash(self, seed))

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the task as messages, without a dictated prefix; a plain context is one user message."""
        messages = context_messages(self.context)
        return messages[:-1] if self.prefix else messages

    @property
    def text(self) -> str:
        """Return the task as plain text, as a reader of it (a teacher) is shown it.

        Of a conversation it is what was asked so far, without the replies.
        """
        return "\n\n".join(m.content.strip() for m in self.messages if not (self.part and m.role == "assistant"))

    def conversation(self, *later: Message) -> list[Message]:
        """Return the task's messages and then `later`, the reply left open with the task's prefix if it has one."""
        messages = [*self.messages, *later]
        return [*messages, Message("assistant", self.prefix)] if self.prefix else messages


@dataclass(frozen=True)
class Role:
    """A seat that a protocol has: what it must be able to do, and what it is for (shown in messages)."""

    purpose: str
    needs: frozenset[Capability] = frozenset({"generate"})


class Protocol(abc.ABC):
    """Base of all protocols: a frozen dataclass whose fields are its options.

    `roles` names its seats; `team` is a role that any number of seats have (`agent` means `agent1`, `agent2`, …).
    `answers` names the seat that scores a task's choices when the protocol has reasoned (by default the first).
    `readable` names a file of the run directory to which `write_up` of each question is appended as it finishes. It
    holds no model, no I/O and no state: everything happens in `solve`, which awaits its seats; the engine batches,
    caches, counts and records.
    """

    roles: ClassVar[Mapping[str, Role]]
    team: ClassVar[tuple[str, Role] | None] = None
    answers: ClassVar[str | None] = None
    readable: ClassVar[str | None] = None

    @abc.abstractmethod
    async def solve(self, question: Question, seats: Seats) -> Solution | Completion:
        """Answer one question. What it returns is what lm-eval's filters read."""

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Protocol:
        """Return the protocol with everything decided that its options leave to the seats' models or to files.

        Raises ValueError with cause and remedy.
        """
        return self

    @property
    def samples(self) -> bool:
        """Return whether the protocol draws replies where the task's own settings are greedy."""
        return False

    def write_up(self, transcript: Transcript) -> str:
        """Return a question's transcript as a person reads it, for the file `readable`."""
        return ""

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        """Return what each seat must be able to do under these options."""
        return {name: role.needs for name, role in self.roles.items()}

    def problems(self, seats: Mapping[str, Backend]) -> list[str]:
        """Return what is wrong with these models under these options, beside what they cannot do."""
        return []


def question_hash(question: Question, seed: int) -> str:
    """Return a short hash of a question's context and settings; of the seed too, where the task samples."""
    identity: list[Any] = [question.context, dict(question.gen_kwargs), seed if question.sampled else None]
    if question.images or question.continuations:
        identity += [[image.digest for image in question.images], question.continuations]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]


def reply_of(question: Question, text: str) -> Message:
    """Return a student's reply as the message it was: with the prefix that the task had dictated."""
    return Message("assistant", question.prefix + text)


__all__ = ["Capability", "Message", "Protocol", "Question", "Role", "question_hash", "reply_of"]
