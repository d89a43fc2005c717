"""A reply in the making: what of it stands, as text and as the token ids of one model, and how a seat goes on with it.

A seat goes on with the token ids where its model has the same vocabulary, else with the text, else, where it can only
answer messages, it is shown the text and asked for the rest. Where text is joined, the seam is looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness_ext.backends.base import Backend, Tokens
from harness_ext.chat import ChatContext
from harness_ext.protocol import Message, Question
from harness_ext.records import Completion
from harness_ext.seats import Seat
from harness_ext.splitting import pieces_of, words

# How much of a reply's end must come back at the beginning of what follows to be taken for a repetition.
LEAST_OVERLAP = 12
# What a word follows without a blank.
OPENING = "([{<\"'`“‘«-–/$#_\\@="

Seam = Literal["token_straddles", "word_straddles", "repeated", "blank_added"]


@dataclass(frozen=True, slots=True)
class Reply:
    """The beginning of a reply under the generation settings `settings`. `ids` are its tokens in the vocabulary of
    `tokens`, None without one."""

    text: str = ""
    ids: tuple[int, ...] | None = None
    tokens: Tokens | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(seat: Seat, question: Question) -> Reply:
        """Return the reply of which nothing is written yet, in the tokens of a seat's model and under its settings."""
        tokens = seat.backend.tokens
        return Reply("", None if tokens is None else (), tokens, seat.rendered(question.context)[1])

    @property
    def room(self) -> int | None:
        """Return how many tokens it may still have; None where nobody counts them."""
        return None if self.tokens is None or self.ids is None else self.tokens.limit(self.settings) - len(self.ids)

    @property
    def final(self) -> str:
        """Return the text as lm-eval hands it to a task's filters: cut at the first stop text."""
        if self.tokens is not None and self.ids is not None:
            return self.tokens.read(self.ids, self.settings)[0]
        until = self.settings.get("until") or []
        return min((self.text.split(stop)[0] for stop in _list(until) if stop), key=len, default=self.text)

    @property
    def ended(self) -> bool:
        """Return whether it has come to an end."""
        if self.tokens is not None and self.ids is not None:
            return self.tokens.read(self.ids, self.settings)[1]
        return self.final != self.text

    def with_ids(self, new: Sequence[int]) -> Reply:
        """Return the reply with more tokens, in this reply's own vocabulary."""
        assert self.tokens is not None
        assert self.ids is not None
        ids = (*self.ids, *new)
        return replace(self, ids=ids, text=self.tokens.decode(ids))

    def encode(self, new: str) -> tuple[tuple[int, ...], bool]:
        """Return the tokens of text that follows this reply, and whether a token would rather straddle the seam."""
        assert self.tokens is not None
        assert self.ids is not None
        whole, count = self.tokens.encode(self.text + new), len(self.ids)
        if whole[:count] == self.ids and self.tokens.decode(whole) == self.text + new:
            return whole[count:], False
        return self.tokens.encode(new), self.tokens.encode(self.text) + self.tokens.encode(new) != whole

    def with_text(self, new: str) -> Reply:
        """Return the reply with more text; its tokens stay as they are as far as the text allows."""
        if self.ids is None or self.tokens is None:
            return replace(self, text=self.text + new)
        ids = (*self.ids, *self.encode(new)[0])
        if self.tokens.decode(ids) != self.text + new:
            ids = self.tokens.encode(self.text + new)
        return replace(self, text=self.text + new, ids=ids)


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a seat wrote after a reply: its text, its tokens in the reply's vocabulary (None where that is not known),
    what was found at the seam, and whether it was asked in words, so that its end need not be the reply's."""

    completion: Completion
    text: str
    ids: tuple[int, ...] | None = None
    seam: Seam | None = None
    asked: bool = False

    def within(self, reply: Reply) -> Continuation:
        """Return it with the tokens of its text alone, without those of an end or a stop text behind it."""
        if self.ids is None or reply.ids is None or reply.tokens is None:
            return self
        decode, before, whole = reply.tokens.decode, reply.ids, reply.text + self.text
        count = bisect_left(
            range(len(self.ids) + 1),
            len(whole),
            key=lambda n: len(decode((*before, *self.ids[:n]))),  # type: ignore[index]
        )
        ids = self.ids[:count]
        if decode((*before, *ids)) != whole:  # a token reaches over the end
            ids = ids[:-1]
            head = replace(reply, ids=(*before, *ids), text=decode((*before, *ids)))
            ids += head.encode(whole[len(head.text) :])[0] if whole.startswith(head.text) else ()
            if decode((*before, *ids)) != whole:
                ids = reply.encode(self.text)[0]
        return replace(self, ids=ids)

    def pieces(self, reply: Reply) -> list[str]:
        """Return the text as its tokens have it, or as words where there are no tokens."""
        if self.ids is None or reply.tokens is None:
            return words(self.text)
        return pieces_of(self.ids, reply.tokens.decode, reply.ids or ())


async def continue_reply(
    seat: Seat, question: Question, reply: Reply, resume: str, *, kind: str, only: Literal["step"] | int | None = None
) -> Continuation:
    """Have a seat go on with a reply under the task's own settings.

    `resume` is what a seat that cannot continue a reply is told, with the reply in it. `only` bounds what it writes to
    the next step or to so many tokens, where its model can be told; where not, it may write more.
    """
    backend = seat.backend
    if reply.ids is not None and reply.tokens is not None and shares(backend, reply.tokens):
        completion = await seat.generate(question.context, kind=kind, reply=reply.ids, only=only)
        if completion.ids is not None:
            return Continuation(completion, completion.text, completion.ids)
        return _joined(reply, completion, completion.text)
    gen_kwargs = dict(question.gen_kwargs)
    bounds = [n for n in (only, reply.room) if isinstance(n, int)]
    if bounds:
        gen_kwargs = {k: v for k, v in gen_kwargs.items() if k not in LENGTHS} | {"max_gen_toks": max(1, min(bounds))}
    if "continue" in backend.capabilities:
        completion = await seat.generate(open_prompt(question, reply.text), kind=kind, gen_kwargs=gen_kwargs)
        return _joined(reply, completion, completion.text)
    messages = [*question.messages, Message("user", resume)]
    completion = await seat.generate(messages, kind=kind, gen_kwargs=gen_kwargs)
    new, seam = after(question.prefix + reply.text, completion.text)
    return replace(_joined(reply, completion, new, seam), asked=True)


LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def shares(backend: Backend, tokens: Tokens) -> bool:
    """Return whether a backend continues replies given as these tokens."""
    return backend.tokens is not None and backend.tokens.vocabulary == tokens.vocabulary


def open_prompt(question: Question, text: str) -> str | list[Message]:
    """Return a question with the beginning of its reply, for a model to continue."""
    if not isinstance(question.context, ChatContext):
        return str(question.context) + text
    return [*question.messages, Message("assistant", question.prefix + text)]


def after(text: str, reply: str) -> tuple[str, Seam | None]:
    """Return what a reply adds to a text that the model was shown: without what it repeats of it, after a blank where
    two words would run into one."""
    if not text:
        return reply, None
    start = reply.lstrip()
    if start.startswith(text.strip()):
        return start[len(text.strip()) :], "repeated"
    for length in range(min(len(text), len(start)), LEAST_OVERLAP - 1, -1):
        if text.endswith(start[:length]):
            return start[length:], "repeated"
    if reply[:1].isalnum() and not text[-1].isspace() and text[-1] not in OPENING:
        return " " + reply, "blank_added"
    return reply, None


def _joined(reply: Reply, completion: Completion, new: str, seam: Seam | None = None) -> Continuation:
    ids = None
    if reply.ids is not None:
        ids, straddles = reply.encode(new)
        seam = seam or ("token_straddles" if straddles else None)
    elif seam is None and reply.text and new and reply.text[-1].isalnum() and new[0].isalnum():
        seam = "word_straddles"
    return Continuation(completion, new, ids, seam)


def _list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def first_units(continuation: Continuation, pieces: Sequence[str], size: int) -> Continuation:
    """Return a continuation cut after its first `size` pieces."""
    text = "".join(pieces[:size])
    return replace(continuation, text=text, ids=None if continuation.ids is None else continuation.ids[:size])
