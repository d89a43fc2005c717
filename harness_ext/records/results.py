"""The result of one call: a text, a log-likelihood, or the verification of given tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict

Finish = Literal["stop", "length"]


class TokenCounts(TypedDict):
    """The token counts of a call, as fields of `CallResult`."""

    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What the results of all kinds of calls have in common.

    prompt_tokens, cached_tokens, completion_tokens: tokens of this call alone; None if they are not reported.
    seconds: the call's share of the wall time of the batch it was part of.
    notes: what the engine did to the call (`prompt_cut`, `surrogates_replaced`, …).
    faults: what went wrong before the result came (a server's errors, timeouts), one per failed attempt.
    """

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields that are known and not empty, as JSON values."""
        known = {name: getattr(self, name) for name in _USAGE_FIELDS}
        return {name: value for name, value in known.items() if value is not None and value != ()}


_USAGE_FIELDS = tuple(f.name for f in fields(CallResult))


@dataclass(frozen=True, slots=True)
class Completion(CallResult):
    """A text that a model wrote.

    text: the text, without the stop sequence that ended it. In the turns of a question it is the answer alone.
    finish: `stop` (the model or a stop sequence ended it), `length` (the token limit did) or None (unknown).
    ids: the reply's token ids, including the end token; None unless the request asked for them.
    thought: what a reasoning model thought before it answered, apart from the text. Default: nothing.
    """

    text: str
    finish: Finish | None = None
    ids: tuple[int, ...] | None = field(default=None, kw_only=True)
    thought: str = field(default="", kw_only=True)

    def to_json(self) -> dict[str, Any]:
        found = {"finish": self.finish, "ids": self.ids, "thought": self.thought or None}
        # `super()` without arguments does not work here, since `slots=True` replaces the class by a new one.
        return {
            "text": self.text,
            **{k: v for k, v in found.items() if v is not None},
            **CallResult.to_json(self),
        }


@dataclass(frozen=True, slots=True)
class Loglikelihood(CallResult):
    """How likely a model finds a given continuation, or a whole text.

    logprob: the natural log-probability of all its tokens together.
    greedy: whether greedy decoding would produce it; None if unknown.
    """

    logprob: float
    greedy: bool | None = None

    def to_json(self) -> dict[str, Any]:
        greedy = {} if self.greedy is None else {"greedy": self.greedy}
        return {"text": "", "logprob": self.logprob, **greedy, **CallResult.to_json(self)}


@dataclass(frozen=True, slots=True)
class Verification(CallResult):
    """The verification of a draft of n given tokens by one forward pass. No log-probability is below -1000.

    logprobs: the natural log-probabilities of the n tokens.
    ranks: for each of them, how many tokens are likelier (0: it is the likeliest).
    above: for each of them, the probability of all likelier tokens together.
    best: for each of the n positions and the one after the draft, the likeliest token and its log-probability.
    instead: by position, where the likeliest token ends the reply: the likeliest one that does not.
    end_rank: the rank, after the draft, of the likeliest token that ends the reply; None if unknown.
    floors: positions at which the model reported only its likeliest tokens: `ranks` and `above` are lower bounds there.
    drawn: tokens drawn from the distribution after the draft, with their log-probabilities.
    candidates: the log-probabilities, after the draft, of the request's candidates.
    """

    logprobs: tuple[float, ...]
    ranks: tuple[int, ...]
    above: tuple[float, ...]
    best: tuple[tuple[int, float], ...]
    instead: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    end_rank: int | None = None
    floors: tuple[int, ...] = ()
    drawn: tuple[tuple[int, float], ...] = ()
    candidates: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _VERIFICATION_FIELDS}
        own["instead"] = [[position, *token] for position, token in self.instead.items()]
        return {"text": "", "checks": own, **CallResult.to_json(self)}


_VERIFICATION_FIELDS = tuple(f.name for f in fields(Verification) if f.name not in _USAGE_FIELDS)


def read_result(data: Mapping[str, Any]) -> CallResult:
    """Parse what a result's `to_json` returned. Raises KeyError or TypeError for anything else."""
    rest = {**data, **{name: tuple(data[name]) for name in ("notes", "faults", "ids") if name in data}}
    if "logprob" in rest:
        del rest["text"]
        return Loglikelihood(**rest)
    if "checks" not in rest:
        return Completion(**rest)
    del rest["text"]
    own = dict(rest.pop("checks"))
    own["best"] = [(token, logprob) for token, logprob in own["best"]]
    own["drawn"] = [(token, logprob) for token, logprob in own["drawn"]]
    own["instead"] = {position: (token, logprob) for position, token, logprob in own["instead"]}
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    return Verification(**own, **rest)
