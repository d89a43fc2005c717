"""Several draws of one seat, and the vote among the answers in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from math import exp
from typing import Any

from harness_ext.protocol import Question, Seat, Seats
from harness_ext.reading import Vote, answer_form, read_answer, vote
from harness_ext.reading.recorded import to_record
from harness_ext.records import Completion


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise ValueError for a temperature or a share of nucleus sampling that no model can take."""
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("`temperature` must be 0 or more, and `top_p` must be above 0 and at most 1")


async def draw(question: Question, seat: Seat, count: int, temperature: float, top_p: float = 1.0) -> list[Completion]:
    """Return several drafts of a seat, made at the same time.

    question: the question.
    seat: the seat.
    count: the number of drafts.
    temperature: the temperature, unless the task's own settings sample; 0 draws greedily.
    top_p: nucleus sampling, likewise. Default 1.0: off.
    """
    settings = sampling_settings(question, seat, temperature, top_p)
    return await asyncio.gather(
        *(seat.generate(question.context, kind="draft", gen_kwargs=settings) for _ in range(count))
    )


def sampling_settings(question: Question, seat: Seat, temperature: float, top_p: float) -> Mapping[str, Any] | None:
    """Return the settings of a draw; None for the task's own, which are taken if they sample."""
    if seat.samples() or not temperature:
        return None
    nucleus = {"top_p": top_p} if top_p < 1 else {}
    return {**question.gen_kwargs, "do_sample": True, "temperature": temperature, **nucleus}


def vote_among(
    question: Question, seats: Seats, drafts: Sequence[Completion], pattern: str | None = None
) -> tuple[Vote, Completion]:
    """Return the vote among the answers in drafts, and the first draft with the winning answer.

    question: the question.
    seats: its seats, in whose records each answer is noted.
    drafts: the drafts.
    pattern: a regular expression for answers. Default None: the built-in patterns.

    If no answer can be read, the draft is the first one.
    """
    form = answer_form(question.text)
    answers = [read_answer(question.prefix + draft.text, form=form, pattern=pattern) for draft in drafts]
    for draft, answer in zip(drafts, answers, strict=True):
        seats.note(draft, **to_record(answer))
    result = vote(answers)
    winner = drafts[result.winner or 0]
    seats.note(winner, kept=winner.completion_tokens)
    return result, winner


def mean_likelihood(logprob: float, reply: Completion) -> float:
    """Return the geometric mean of the probabilities of a reply's tokens, without those of its thought.

    logprob: the log-probability of the reply's text.
    reply: the reply.
    """
    written = (reply.completion_tokens or len(reply.text.split())) - int(reply.thinking_tokens or 0)
    return exp(min(0.0, logprob) / max(1, written))
