"""The result of one call: a text, a log-likelihood, the verification of given tokens, or a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import fsum
from typing import Any, Literal, TypedDict

Finish = Literal["stop", "length"]
ROUNDING = 0.01  # by how much a model's probabilities may miss 1 in all, since servers round them
BATCHED = "batched"  # the note on results that came from a batch API
Source = Literal["endpoint", "logprobs", "constrained", "text"]


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
        return {n: value for n in _USAGE_FIELDS if (value := getattr(self, n)) is not None and value != ()}


_USAGE_FIELDS = tuple(f.name for f in fields(CallResult))


@dataclass(frozen=True, slots=True)
class Completion(CallResult):
    """A text that a model wrote.

    text: the text, without the stop sequence that ended it. In the turns of a question it is the answer alone.
    finish: `stop` (the model or a stop sequence ended it), `length` (the token limit did) or None (unknown).
    ids: the reply's token ids, including the end token; None unless the request asked for them.
    thought: what a reasoning model thought before it answered, apart from the text. Default: nothing.
    thinking_tokens: how many of the completion's tokens were a thought, if they were counted. Default None: they were
        not.
    """

    text: str
    finish: Finish | None = None
    ids: tuple[int, ...] | None = field(default=None, kw_only=True)
    thought: str = field(default="", kw_only=True)
    thinking_tokens: int | None = field(default=None, kw_only=True)

    def to_json(self) -> dict[str, Any]:
        found = {
            "finish": self.finish,
            "ids": self.ids,
            "thought": self.thought or None,
            "thinking_tokens": self.thinking_tokens,
        }
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
    certainty: the self-certainty of the draft (Kang et al., arXiv 2502.18581): how far the model's distributions are
        from the uniform one, as the mean of the divergence KL(uniform || model) over the n positions, in nats. None
        unless the request asked for it.
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
    certainty: float | None = None

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _VERIFICATION_FIELDS}
        own["instead"] = [[position, *token] for position, token in self.instead.items()]
        if self.certainty is None:
            del own["certainty"]
        return {"text": "", "checks": own, **CallResult.to_json(self)}


_VERIFICATION_FIELDS = tuple(f.name for f in fields(Verification) if f.name not in _USAGE_FIELDS)


@dataclass(frozen=True, slots=True)
class Decision(CallResult):
    """Which of a question's options a model chose, and how probable it finds each.

    options: the options.
    probabilities: the probability of each; None for an option that the model did not report (see `at_most`). All known
        ones sum to 1. Empty if the source has no probabilities.
    choice: the chosen option; None if there is no decision: the model refused, or wrote none of the labels.
    source: where the decision comes from: `endpoint` (a decisions endpoint), `logprobs` (the probabilities of the first
        token), `constrained` (the reply was forced to be a label), or `text` (the reply was read).
    label_mass: the share of the probability of all possible tokens that the labels had; None if unknown. If it is low,
        the model meant to write something else.
    at_most: the highest probability that any unreported option can have. Default 0.
    refused: whether the model declined to answer. Default False.
    """

    options: tuple[str, ...]
    probabilities: tuple[float | None, ...]
    choice: str | None
    source: Source
    label_mass: float | None = None
    at_most: float = 0.0
    refused: bool = False

    @classmethod
    def likeliest(
        cls, options: tuple[str, ...], probabilities: tuple[float, ...], source: Source, **more: Any
    ) -> Decision:
        """Return the decision for the most probable option, the first of several; `more` are further fields."""
        return cls(options, probabilities, options[probabilities.index(max(probabilities))], source, **more)

    def probability(self, option: str) -> float | None:
        """Return the probability of an option; `at_most` for one that was not reported, None if there are none."""
        if not self.probabilities:
            return None
        found = self.probabilities[self.options.index(option)]
        return self.at_most if found is None else found

    @property
    def expected(self) -> float | None:
        """Return the expected number of the option, from 0: the rating, if the options are levels.

        Unreported levels are left out. Without probabilities it is the number of the chosen option; None if there is no
        decision.
        """
        if self.choice is None:
            return None
        if not self.probabilities:
            return float(self.options.index(self.choice))
        return sum(i * p for i, p in enumerate(self.probabilities) if p is not None)

    @property
    def fault(self) -> str | None:
        """Return what is wrong with the probabilities, or None: each is one, and together they make 1."""
        known = [p for p in self.probabilities if p is not None]
        if self.probabilities and len(self.probabilities) != len(self.options):
            return f"{len(self.probabilities)} probabilities for {len(self.options)} options"
        if not all(0 <= p <= 1 + ROUNDING for p in known):  # also if one is not a number
            return f"probabilities that are none: {known}"
        if known and abs(fsum(known) - 1) > ROUNDING:
            return f"probabilities that sum to {fsum(known):.4g}"
        if self.choice is not None and self.choice not in self.options:
            return f"the choice {self.choice!r}, which is not among the options"
        return None

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _DECISION_FIELDS}
        optional = {"label_mass": None, "at_most": 0.0, "refused": False}
        own = {k: v for k, v in own.items() if k not in optional or v != optional[k]}
        return {"text": "", "decision": own, **CallResult.to_json(self)}


_DECISION_FIELDS = tuple(f.name for f in fields(Decision) if f.name not in _USAGE_FIELDS)


class UnknownFields(ValueError):
    """A stored result has fields that this version does not know, so a newer version wrote it."""


def read_result(data: Mapping[str, Any], known_only: bool = False) -> CallResult:
    """Parse what a result's `to_json` returned.

    data: the JSON values.
    known_only: whether to leave out fields that this version does not know. Default False.

    Raises UnknownFields for such fields, and TypeError, ValueError or KeyError for anything else that is not a result.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"{data!r:.60} is not a result")
    rest = {**data, **{name: tuple(data[name]) for name in ("notes", "faults", "ids") if name in data}}
    cls: type[CallResult] = Completion
    if "logprob" in rest:
        cls = Loglikelihood
    elif "decision" in rest:
        cls, own = Decision, dict(rest.pop("decision"))
        rest |= {**own, **{name: tuple(own[name]) for name in ("options", "probabilities")}}
    elif "checks" in rest:
        cls, own = Verification, dict(rest.pop("checks"))
        own["best"] = [(token, logprob) for token, logprob in own["best"]]
        own["drawn"] = [(token, logprob) for token, logprob in own["drawn"]]
        own["instead"] = {position: (token, logprob) for position, token, logprob in own["instead"]}
        rest |= {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    if cls is not Completion:
        del rest["text"]
    names = {f.name for f in fields(cls)}
    if unknown := sorted(rest.keys() - names):
        if not known_only:
            raise UnknownFields(f"unknown fields: {', '.join(unknown)}")
        rest = {name: value for name, value in rest.items() if name in names}
    for name, value in rest.items():
        if not _fits(name, value):
            raise TypeError(f"its `{name}` is {value!r:.60}")
    return cls(**rest)


# What the fields hold, and what the tuples among them contain. Whoever reads a stored result relies on it.
_NUMBER = (int, float)
_COUNT = (*_NUMBER, type(None))
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "end_rank"), _COUNT),
    "thinking_tokens": _COUNT,
    **dict.fromkeys(("text", "thought", "source"), (str,)),
    **dict.fromkeys(("finish", "choice"), (str, type(None))),
    **dict.fromkeys(("seconds", "logprob", "at_most"), _NUMBER),
    "label_mass": (*_NUMBER, type(None)),
    "greedy": (bool, type(None)),
    "refused": (bool,),
}
_ITEMS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("notes", "faults", "options"), (str,)),
    **dict.fromkeys(("ids", "ranks", "floors"), (int,)),
    **dict.fromkeys(("logprobs", "above", "candidates"), _NUMBER),
    "probabilities": (*_NUMBER, type(None)),
}


def _fits(name: str, value: Any) -> bool:
    if name in _ITEMS:
        return isinstance(value, tuple) and all(isinstance(item, _ITEMS[name]) for item in value)
    return isinstance(value, _TYPES.get(name, object))
