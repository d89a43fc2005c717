"""A partial reply, as text and as the token ids of one model, and how a seat continues it.

A seat continues the token ids if its model has the same vocabulary, and otherwise the text. If it can only answer
messages, it is shown the text and asked for the rest. Where texts are joined, the seam is checked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Literal

from harness_ext.backends.base import Backend, Tokens
from harness_ext.backends.settings import effective_settings
from harness_ext.models.speculative.units import pieces_of, words
from harness_ext.protocol import Message, Question, Seat
from harness_ext.records import Completion
from harness_ext.records.chat import ChatContext

# How many characters of a reply's end must recur at the beginning of what follows to count as a repetition.
LEAST_OVERLAP = 12
# Characters after which a word follows without a blank.
OPENING = "([{<\"'`“‘«-–/$#_\\@="

Seam = Literal["token_straddles", "word_straddles", "repeated", "blank_added"]


@dataclass(frozen=True, slots=True)
class PartialReply:
    """The beginning of a reply.

    text: its text. Default: nothing.
    ids: its tokens in the vocabulary of `tokens`. Default None: there is no tokenizer.
    tokens: the tokenizer. Default None.
    settings: the generation settings of the whole reply. Default: none.
    rest: how many tokens may still follow, as far as servers have counted them; None if they have not, or if the
        tokens are known. Default None.
    """

    text: str = ""
    ids: tuple[int, ...] | None = None
    tokens: Tokens | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rest: int | None = None

    @staticmethod
    def of(seat: Seat, question: Question) -> PartialReply:
        """Return the empty reply, in the tokens of a seat's model and under its settings."""
        tokens, settings = seat.backend.tokens, seat.rendered(question.context)[1]
        if tokens is not None:
            return PartialReply("", (), tokens, settings)
        limit = effective_settings(settings, seat.backend.default_max_gen_toks)["max_gen_toks"]
        return PartialReply(settings=settings, rest=int(limit))

    @property
    def room(self) -> int | None:
        """Return how many tokens may still follow; None if tokens are not counted."""
        if self.tokens is None or self.ids is None:
            return self.rest
        return self.tokens.limit(self.settings) - len(self.ids)

    @property
    def is_full(self) -> bool:
        """Return whether it is known that nothing may follow."""
        return self.room is not None and self.room <= 0

    @property
    def final(self) -> str:
        """Return the text as lm-eval passes it to a task's filters: cut at the first stop sequence."""
        if self.tokens is not None and self.ids is not None:
            return self.tokens.read(self.ids, self.settings)[0]
        until = self.settings.get("until") or []
        return min((self.text.split(stop)[0] for stop in _list(until) if stop), key=len, default=self.text)

    @property
    def ended(self) -> bool:
        """Return whether the reply has ended."""
        if self.tokens is not None and self.ids is not None:
            return self.tokens.read(self.ids, self.settings)[1]
        return self.final != self.text or (self.rest is not None and self.rest <= 0)

    def with_ids(self, new: Sequence[int]) -> PartialReply:
        """Return the reply extended by tokens of its own vocabulary."""
        assert self.tokens is not None
        assert self.ids is not None
        ids = (*self.ids, *new)
        return replace(self, ids=ids, text=self.tokens.decode(ids))

    def encode(self, new: str) -> tuple[tuple[int, ...], bool]:
        """Return the tokens of text that follows this reply, and whether a token of the whole would cross the seam."""
        assert self.tokens is not None
        assert self.ids is not None
        # How a text is encoded depends on the text before it, so the whole is encoded, and the new tokens are what
        # follows the reply's. If the whole does not begin with the reply's own tokens, the new text is encoded alone:
        # the reply stays as it is, but the tokenizer might have joined the two sides of the seam to one token.
        whole, count = self.tokens.encode(self.text + new), len(self.ids)
        if whole[:count] == self.ids and self.tokens.decode(whole) == self.text + new:
            return whole[count:], False
        return self.tokens.encode(new), self.tokens.encode(self.text) + self.tokens.encode(new) != whole

    def with_text(self, new: str, count: int | None = None) -> PartialReply:
        """Return the reply extended by text. Its tokens are kept, unless they would then decode to another text.

        new: the text.
        count: how many tokens it has, for a reply whose tokens are not known. Default None: it was not counted.
        """
        if self.ids is None or self.tokens is None:
            rest = None if self.rest is None or count is None else self.rest - count
            return replace(self, text=self.text + new, rest=rest)
        ids = (*self.ids, *self.encode(new)[0])
        if self.tokens.decode(ids) != self.text + new:
            ids = self.tokens.encode(self.text + new)
        return replace(self, text=self.text + new, ids=ids)

    def extended_by(self, part: Continuation) -> PartialReply:
        """Return the reply extended by what a seat wrote: by its tokens if they are known, otherwise by its text."""
        if part.ids is not None:
            return self.with_ids(part.ids)
        return self.with_text(part.text, part.count(part.text))


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a seat wrote after a reply.

    completion: the result of the call.
    text: the text.
    ids: its tokens in the reply's vocabulary. Default None: unknown.
    seam: what was found where the texts were joined. Default None: nothing.
    asked: whether the seat was asked for it in a message, so that its end need not be the end of the reply. Default
        False.
    """

    completion: Completion
    text: str
    ids: tuple[int, ...] | None = None
    seam: Seam | None = None
    asked: bool = False

    def count(self, text: str) -> int | None:
        """Return about how many tokens a part of the text has: its share of the words; None if none were counted."""
        whole, tokens = len(words(self.completion.text)), self.completion.completion_tokens
        return None if tokens is None else ceil(tokens * min(1.0, len(words(text)) / max(1, whole)))

    def within(self, reply: PartialReply) -> Continuation:
        """Return it with the tokens of its text alone, without those of an end token or a stop sequence after it."""
        if self.ids is None or reply.ids is None or reply.tokens is None:
            return self
        # The decoded text grows with the number of tokens, so bisection finds the shortest prefix that covers the text
        # with few decodings. Each is decoded together with the reply, since what a token adds can depend on the tokens
        # before it.
        decode, before, whole = reply.tokens.decode, reply.ids, reply.text + self.text
        count = bisect_left(
            range(len(self.ids) + 1),
            len(whole),
            key=lambda n: len(decode((*before, *self.ids[:n]))),  # type: ignore[index]
        )
        ids = self.ids[:count]
        # A token may contain the end of the text and the beginning of the stop sequence. It is replaced by an encoding
        # of its part of the text; if even that does not decode to the text, the whole text is encoded anew.
        if decode((*before, *ids)) != whole:
            ids = ids[:-1]
            head = replace(reply, ids=(*before, *ids), text=decode((*before, *ids)))
            ids += head.encode(whole[len(head.text) :])[0] if whole.startswith(head.text) else ()
            if decode((*before, *ids)) != whole:
                ids = reply.encode(self.text)[0]
        return replace(self, ids=ids)

    def pieces(self, reply: PartialReply) -> list[str]:
        """Return the text divided by its tokens, or into words if there are none."""
        if self.ids is None or reply.tokens is None:
            return words(self.text)
        return pieces_of(self.ids, reply.tokens.decode, reply.ids or ())

    def part(self, pieces: Sequence[str], start: int, end: int) -> Continuation:
        """Return a part of it: the pieces from `start` to before `end`."""
        return replace(self, text="".join(pieces[start:end]), ids=None if self.ids is None else self.ids[start:end])


async def continue_reply(
    seat: Seat,
    question: Question,
    reply: PartialReply,
    resume: str,
    *,
    kind: str,
    only: Literal["step"] | int | None = None,
    confidence: float = 0.0,
) -> Continuation:
    """Let a seat continue a reply under the task's own settings.

    seat: the seat.
    question: the question.
    reply: the partial reply.
    resume: the message for a seat that cannot continue a reply; it contains the partial reply.
    kind: the turn's name in the records.
    only: ends the text after the next step (`"step"`) or after this many tokens. A model that does not support this may
        write more. Default None: no such limit.
    confidence: ends the text after a token that is less likely than this, where the model supports it. Default 0.
    """
    backend = seat.backend
    if reply.ids is not None and reply.tokens is not None and shares(backend, reply.tokens):
        completion = await seat.generate(question.context, kind=kind, reply=reply.ids, only=only, confidence=confidence)
        if completion.ids is not None:
            return Continuation(completion, completion.text, completion.ids)
        return _joined(reply, completion, completion.text)
    bounds = [n for n in (only, reply.room) if isinstance(n, int)]
    gen_kwargs = limited(question, min(bounds)) if bounds else dict(question.gen_kwargs)
    if "continue" in backend.capabilities:
        completion = await seat.generate(open_prompt(question, reply.text), kind=kind, gen_kwargs=gen_kwargs)
        return _joined(reply, completion, completion.text)
    messages = [*question.messages, Message("user", resume)]
    completion = await seat.generate(messages, kind=kind, gen_kwargs=gen_kwargs)
    new, seam = after(question.prefix + reply.text, completion.text)
    return replace(_joined(reply, completion, new, seam), asked=True)


def limited(question: Question, tokens: int) -> dict[str, Any]:
    """Return a question's generation settings with another length limit, in tokens of the model that is asked."""
    return {k: v for k, v in question.gen_kwargs.items() if k not in LENGTHS} | {"max_gen_toks": max(1, tokens)}


LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def shares(backend: Backend, tokens: Tokens) -> bool:
    """Return whether a backend can continue replies given as these tokens."""
    return backend.tokens is not None and backend.tokens.vocabulary == tokens.vocabulary


def open_prompt(question: Question, text: str) -> str | list[Message]:
    """Return a question with the beginning of its reply, which a model is to continue.

    Without a beginning it is the task itself: servers render an empty message of the assistant as no turn at all.
    """
    if not text:
        return question.context
    if not isinstance(question.context, ChatContext):
        return str(question.context) + text
    return [*question.messages, Message("assistant", question.prefix + text)]


def after(text: str, reply: str) -> tuple[str, Seam | None]:
    """Return what a reply adds to a text that the model was shown, and what was found at the seam.

    What it repeats of the text is removed, and a blank is added between two words.
    """
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


def _joined(reply: PartialReply, completion: Completion, new: str, seam: Seam | None = None) -> Continuation:
    ids = None
    if reply.ids is not None:
        ids, straddles = reply.encode(new)
        seam = seam or ("token_straddles" if straddles else None)
    elif seam is None and reply.text and new and reply.text[-1].isalnum() and new[0].isalnum():
        seam = "word_straddles"
    return Continuation(completion, new, ids, seam)


def _list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
