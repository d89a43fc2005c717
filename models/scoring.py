"""Scores of a draft: by a seat's decisions about it, by a classifier, or by how likely a model finds its tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import exp

from harness_ext.decisions import Predicate, Score
from harness_ext.decisions.questions import YES
from harness_ext.models.asking import about, ask_whether_right, share_of_yes
from harness_ext.protocol import Question, Seat
from harness_ext.records import Completion, Loglikelihood

# Returns the score that a seat gives to a draft, or None if it makes no decision: takes the seat, the question, the
# draft, and what the seat is asked about the draft if it is asked something.
Scorer = Callable[[Seat, Question, Completion, str], Awaitable[float | None]]


async def correctness(seat: Seat, question: Question, draft: Completion, asked: str) -> float | None:
    """Return the probability that a seat answers a question about a draft with yes; 1 or 0 without probabilities."""
    return share_of_yes(await ask_whether_right(seat, question, draft.text, kind="score", asked=asked))


async def rating(seat: Seat, question: Question, draft: Completion, asked: str) -> float | None:
    """Return a seat's rating of a draft from 0 to 9, expected over its probabilities where it has some."""
    score = Score(asked, levels("certainly wrong", "certainly right"))
    return (await seat.decide(about(question, draft.text), {"rating": score}, kind="score"))["rating"].expected


async def approvals(seat: Seat, question: Question, draft: Completion, asked: str) -> float | None:
    """Return how many questions about a draft, one per line, a seat answers with yes."""
    lines = [line.strip() for line in asked.splitlines() if line.strip()]
    found = await seat.decide(about(question, draft.text), {line: Predicate(line) for line in lines}, kind="score")
    decided = [one.choice == YES for one in found.values() if one.choice is not None]
    return float(sum(decided)) if decided else None


async def reward(seat: Seat, question: Question, draft: Completion, asked: str) -> float:
    """Return the score that a sequence classifier gives to a draft."""
    found = await seat.loglikelihood(question.context, [question.prefix + draft.text], kind="reward")
    return exp(found[0].logprob)


async def likelihood(seat: Seat, question: Question, draft: Completion, asked: str) -> float:
    """Return how likely a seat finds a draft: the geometric mean over its tokens."""
    return mean_likelihood((await logprob_of(seat, question, draft)).logprob, draft, tokens_of(seat, draft))


async def self_certainty(seat: Seat, question: Question, draft: Completion, asked: str) -> float | None:
    """Return how far a seat's own distributions over its draft are from the uniform one; None without a text."""
    assert seat.backend.tokens is not None
    ids = seat.backend.tokens.encode(draft.text)
    return (await seat.verify(question.context, (), ids, kind="score", certainty=True)).certainty


SCORERS: Mapping[str, Scorer] = {
    "correct": correctness,
    "rating": rating,
    "aspects": approvals,
    "reward": reward,
    "likelihood": likelihood,
    "self_certainty": self_certainty,
}


async def logprob_of(seat: Seat, question: Question, draft: Completion) -> Loglikelihood:
    """Return the log-probability that a seat gives to a draft."""
    return (await seat.loglikelihood(question.context, [draft.text], kind="score"))[0]


def tokens_of(seat: Seat, draft: Completion) -> int | None:
    """Return how many tokens a draft's text has for a seat; None if its tokenizer is unknown."""
    return None if seat.backend.tokens is None else len(seat.backend.tokens.encode(draft.text))


def mean_likelihood(logprob: float, reply: Completion, tokens: int | None = None) -> float:
    """Return the geometric mean of the probabilities of a reply's tokens, without those of its thought.

    logprob: the log-probability of the reply's text.
    reply: the reply.
    tokens: how many tokens the text has. Default None: as many as were written, which includes the token that ends the
        reply.
    """
    written = (reply.completion_tokens or len(reply.text.split())) - int(reply.thinking_tokens or 0)
    return exp(min(0.0, logprob) / max(1, written if tokens is None else tokens))


def levels(worst: str, best: str) -> tuple[str, ...]:
    """Return the levels of a rating from 0 to 9, with what the lowest and the highest one mean."""
    return tuple(f"{n} of 9{note}" for n, note in enumerate([f" ({worst})", *[""] * 8, f" ({best})"]))
