"""A served model, and what was found out about its server."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness_ext.backends.decision_wire import DECISIONS, SYSTEM_ONE, Format
from harness_ext.backends.forced_choice import OBJECT, TEXT, VLLM, Constraint
from harness_ext.backends.openai_wire import WirePrompt
from harness_ext.records import Source


@dataclass(frozen=True)
class Way:
    """A way to ask a server for a decision.

    source: the source that it is.
    name: its name in messages.
    detail: how it asks: in a wire format, under a constraint, or (None) for the probabilities of the first token.
    """

    source: Source
    name: str
    detail: Format | Constraint | None


Shape = tuple[str, int, tuple[str, ...]]  # the type of a question, its number of options, and its labels
Matter = tuple[Way, Shape | None]


@dataclass
class Known:
    """What is known about a server. It is found out once per backend.

    limit: the request field with the length limit of a reply.
    refused_limits: fields with that limit which it rejects.
    merged: why system messages are merged into the first user message; empty if they are not. Default None: not known
        yet.
    not_continued: why it does not continue a reply that is begun; empty if it does. Default None: not known yet.
    repeats: whether its replies repeat the beginning that they continue. Default False.
    seen: the kinds of requests whose effect was seen.
    missing: what the server said about each way that it has not got, for every question (None) or those of one shape.
    proven: the ways that have answered.
    taken: the optional request fields that the server has taken.
    dropped: those that it rejects.
    top_tokens: of how many of the likeliest tokens it reports the log-probability. Default None: not known yet.
    said: what users have been told.
    """

    limit: str
    refused_limits: set[str] = field(default_factory=set)
    merged: str | None = None
    not_continued: str | None = None
    repeats: bool = False
    seen: set[str] = field(default_factory=set)
    missing: dict[Matter, str] = field(default_factory=dict)
    proven: set[Way] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    top_tokens: int | None = None
    said: set[Matter] = field(default_factory=set)

    def repeated(self, prompt: str) -> str:
        """Return the beginning of a reply to a prompt that the server repeats in the reply; empty if there is none."""
        return prompt.begun if self.repeats and isinstance(prompt, WirePrompt) else ""

    def lacks(self, way: Way, shape: Shape) -> str | None:
        """Return what the server said about a way that it has not got for such questions, or None."""
        return self.missing.get((way, None)) or self.missing.get((way, shape))


@dataclass(frozen=True)
class Served:
    """A served model, as far as decisions are concerned.

    name: its name in messages.
    model: its name on the server.
    is_chat: whether prompts are messages.
    hosted: whether the server is OpenAI's own.
    omit: the request fields that are left out.
    known: what is known about the server.
    """

    name: str
    model: str
    is_chat: bool
    hosted: bool
    omit: frozenset[str]
    known: Known

    @property
    def ways(self) -> tuple[Way, ...]:
        """Return the ways to ask for a decision, in the order in which those of one source are tried."""
        formats = (DECISIONS, SYSTEM_ONE) if self.hosted else (SYSTEM_ONE, DECISIONS)
        found = [Way("endpoint", f"`/{wire.path}`", wire) for wire in formats]
        found.append(Way("logprobs", "the probabilities of the first token", None))
        if self.is_chat:
            constraints = (OBJECT,) if self.hosted else (TEXT, VLLM)
            found += [Way("constrained", f"`{constraint.field}`", constraint) for constraint in constraints]
        return tuple(found)
