"""What a run is made of: messages, completions, turns, transcripts. Small frozen dataclasses, JSON in and out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "part"]
Finish = Literal["stop", "length"]
Identity = tuple[str, int, str, int, int, str]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Checks:
    """What one pass of a model says of a draft of n given tokens.

    `logprobs` are the natural log-probabilities of the n tokens, `ranks` their places among all tokens (0 is the
    likeliest), `above` the probability of all likelier tokens together; where a model tells only its likeliest tokens,
    `ranks` and `above` are the least they can be, and `floors` lists those places. `best` holds, for each place and
    the one after the draft (n + 1), the likeliest token and its log-probability; `instead` likewise the likeliest that
    does not end the reply, for the places where the best one would. `end_rank` is the rank of the likeliest ending
    token after the draft. `drawn` are tokens drawn from the distribution after the draft, `candidates` the
    log-probabilities there of the tokens asked about. No log-probability is below -1000.
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
        """Return the fields as JSON values."""
        return {**asdict(self), "instead": [[place, *token] for place, token in self.instead.items()]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Checks:
        """Read what `to_json` wrote."""
        return cls(
            tuple(data["logprobs"]),
            tuple(data["ranks"]),
            tuple(data["above"]),
            tuple((token, logprob) for token, logprob in data["best"]),
            {place: (token, logprob) for place, token, logprob in data["instead"]},
            data["end_rank"],
            tuple(data["floors"]),
            tuple((token, logprob) for token, logprob in data["drawn"]),
            tuple(data["candidates"]),
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model replied to one call.

    `finish` is `stop` (the model or a stop text ended it), `length` (the token limit did) or None (unknown). Token
    counts are those of this call alone, None where the backend does not tell; `seconds` is the call's share of the
    wall time of the batch it was part of. A scoring call has no text but `logprob`, the natural log-probability of
    the continuation, and `greedy`, whether greedy decoding would have written it. A verification has `checks` instead.
    `ids` are the reply's token ids, its end included, where they were asked for. `faults` names what went wrong
    before this reply came (a server's errors, time-outs), one a failed attempt.
    """

    text: str
    finish: Finish | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    logprob: float | None = None
    greedy: bool | None = None
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    ids: tuple[int, ...] | None = None
    checks: Checks | None = None

    @property
    def is_text(self) -> bool:
        """Return whether this is a text, not figures about one."""
        return self.logprob is None and self.checks is None

    def to_json(self) -> dict[str, Any]:
        """Return the fields that say something, as JSON values."""
        found = {k: v for k in _COMPLETION_FIELDS if (v := getattr(self, k)) is not None and (v != () or k == "ids")}
        if self.checks is not None:
            found["checks"] = self.checks.to_json()
        return found | {"text": self.text}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Completion:
        """Read what `to_json` wrote; raises KeyError or TypeError on anything else."""
        read: dict[str, Any] = {name: tuple(data[name]) for name in ("notes", "faults", "ids") if name in data}
        if "checks" in data:
            read["checks"] = Checks.from_json(data["checks"])
        return cls(**{**data, **read})


_COMPLETION_FIELDS = tuple(f.name for f in fields(Completion))


def add(a: float | None, b: float | None) -> Any:
    """Return the sum, unknown (None) where a part is."""
    return None if a is None or b is None else a + b


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls cost. Adds up; a sum with an unknown part is unknown (None), never 0.

    `calls` counts every call that the protocol asked for and `reused` those of them answered by the store or shared
    with an identical call: tokens, FLOPs, price and seconds are those the protocol would have cost alone. Tokens are
    counted by the seat's own tokenizer, `flops` are 2 · parameters · tokens, `price` is in the currency of the prices
    given, `seconds` are shares of wall time.
    """

    calls: int = 0
    reused: int = 0
    prompt_tokens: int | None = 0
    cached_tokens: int | None = 0
    completion_tokens: int | None = 0
    seconds: float = 0.0
    flops: float | None = 0.0
    price: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.reused + other.reused,
            add(self.prompt_tokens, other.prompt_tokens),
            add(self.cached_tokens, other.cached_tokens),
            add(self.completion_tokens, other.completion_tokens),
            self.seconds + other.seconds,
            add(self.flops, other.flops),
            add(self.price, other.price),
        )

    @staticmethod
    def total(usages: Iterable[Usage]) -> Usage:
        """Return the sum."""
        result = Usage()
        for usage in usages:
            result = result + usage
        return result


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a seat within a question.

    `kind` is the protocol's word for it (draft, review, refine, …), `verdict` what the protocol read out of the text,
    `key` the call's key in the store, `notes` what the engine did to it (`truncated`, `system_merged`, …). `reused`,
    `completion.seconds` and `completion.faults` depend on the run, all else on the question alone.
    """

    seat: str
    kind: str
    key: str
    completion: Completion
    verdict: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the turn as written to transcripts; what depends on the run stands under `timing`. Token ids and
        checks are left out: the call store has them."""
        completion = replace(self.completion, ids=None, checks=None).to_json()
        timing = {"seconds": round(completion.pop("seconds", 0.0), 6), "reused": self.reused}
        if faults := completion.pop("faults", None):
            timing["faults"] = faults
        notes = [*self.notes, *completion.pop("notes", ())]
        return {
            "seat": self.seat,
            "kind": self.kind,
            **completion,
            **({"verdict": dict(self.verdict)} if self.verdict is not None else {}),
            **({"notes": notes} if notes else {}),
            "key": self.key,
            "timing": timing,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Turn:
        """Read what `to_json` wrote."""
        rest = dict(data)
        timing = rest.pop("timing")
        seat, kind, key = rest.pop("seat"), rest.pop("kind"), rest.pop("key")
        verdict, notes = rest.pop("verdict", None), tuple(rest.pop("notes", ()))
        completion = Completion(**rest, seconds=timing["seconds"], faults=tuple(timing.get("faults", ())))
        return cls(seat, kind, key, completion, verdict, notes, timing["reused"])


@dataclass(frozen=True, slots=True)
class Solution:
    """What a protocol returns for a question: the final text and why it stopped (`accepted`, `max_rounds`, …).

    `details` is what the protocol records beside its turns (JSON values); the numbers under its key `totals` are added
    up over the questions.
    """

    text: str
    stop: str = "done"
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a question has no answer: a code to count by, the message, what went wrong at each attempt of the call."""

    code: str
    message: str
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything said about one question.

    `doc_id` and `doc_hash` are lm-eval's, `repeat` counts the repeats of a request, `index` is the request's place
    among those of its document, `question` a hash of context and generation settings. `failure` is None when the
    question was answered. `details` are the protocol's own records (`Solution.details`).
    """

    task: str
    doc_id: int
    doc_hash: str
    repeat: int
    index: int
    question: str
    context: str
    turns: tuple[Turn, ...]
    text: str
    stop: str
    failure: Failure | None = None
    details: Mapping[str, Any] | None = None

    @property
    def identity(self) -> Identity:
        """Return what tells this question from every other one of an evaluation."""
        return (self.task, self.doc_id, self.doc_hash, self.repeat, self.index, self.question)

    def to_json(self) -> dict[str, Any]:
        """Return one line of `transcripts.jsonl`."""
        return {
            "task": self.task,
            "doc_id": self.doc_id,
            "doc_hash": self.doc_hash,
            "repeat": self.repeat,
            "index": self.index,
            "question": self.question,
            "status": "ok" if self.failure is None else "failed",
            "stop": self.stop,
            "text": self.text,
            **({"failure": asdict(self.failure)} if self.failure else {}),
            **({"details": dict(self.details)} if self.details is not None else {}),
            "context": self.context,
            "turns": [turn.to_json() for turn in self.turns],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Transcript:
        """Read what `to_json` wrote; raises KeyError or TypeError on anything else."""
        failure = data.get("failure")
        return cls(
            task=data["task"],
            doc_id=data["doc_id"],
            doc_hash=data["doc_hash"],
            repeat=data["repeat"],
            index=data["index"],
            question=data["question"],
            context=data["context"],
            turns=tuple(Turn.from_json(t) for t in data["turns"]),
            text=data["text"],
            stop=data["stop"],
            failure=Failure(**{**failure, "faults": tuple(failure.get("faults", ()))}) if failure else None,
            details=data.get("details"),
        )


@dataclass(frozen=True, slots=True)
class SeatCost:
    """What turns a seat's tokens into FLOPs and money; None where it is not known."""

    parameters: int | None = None
    price_in: float | None = None
    price_out: float | None = None

    def price(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Return what so many tokens cost."""
        if self.price_in is None or self.price_out is None or prompt_tokens is None or completion_tokens is None:
            return None
        return (self.price_in * prompt_tokens + self.price_out * completion_tokens) / 1e6

    def usage(self, turn: Turn) -> Usage:
        """Return what one turn cost."""
        c = turn.completion
        tokens = add(c.prompt_tokens, c.completion_tokens)
        price = self.price(c.prompt_tokens, c.completion_tokens)
        flops = None if self.parameters is None or tokens is None else 2.0 * self.parameters * tokens
        return Usage(
            1, int(turn.reused), c.prompt_tokens, c.cached_tokens, c.completion_tokens, c.seconds, flops, price
        )


@dataclass(slots=True)
class Counter:
    """Counts by name, in the order of first sight."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, by: int = 1) -> None:
        """Count `name` once more."""
        self.counts[name] = self.counts.get(name, 0) + by
