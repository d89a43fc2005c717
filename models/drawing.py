"""Several draws of one seat, what they cost, and the vote among the answers in them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness_ext.protocol import Question, Seat, Seats
from harness_ext.reading import Reading, Vote, answer_form, read_answer, vote
from harness_ext.reading.recorded import to_record
from harness_ext.records import Completion, Turn, Usage
from harness_ext.records.costs import Measure, amount


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise ValueError for a temperature or a share of nucleus sampling that no model can take."""
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("`temperature` must be 0 or more, and `top_p` must be above 0 and at most 1")


def check_draws(name: str, count: int, temperature: float, top_p: float) -> None:
    """Raise ValueError for a number of draws that cannot be meant, or for sampling that no model can take.

    name: the name of the option that has the number.
    count: the number.
    temperature, top_p: see `check_sampling`.
    """
    if not 1 <= count <= 100_000:
        raise ValueError(f"`{name}` must be 1 or more, and at most 100,000")
    check_sampling(temperature, top_p)


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


def cost_of(seat: Seat, replies: Iterable[Completion], by: Measure) -> float | None:
    """Return what replies of a seat cost; None if it is unknown."""
    return amount(Usage.total(seat.setup.cost.usage(Turn(seat.name, "draft", "", one)) for one in replies), by)


def answers_in(question: Question, drafts: Sequence[Completion], pattern: str | None = None) -> list[Reading | None]:
    """Return the answer in each draft; None if none can be read. The parameters are those of `vote_among`."""
    form = answer_form(question.text)
    return [read_answer(question.prefix + draft.text, form=form, pattern=pattern) for draft in drafts]


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
    answers = answers_in(question, drafts, pattern)
    for draft, answer in zip(drafts, answers, strict=True):
        seats.note(draft, **to_record(answer))
    result = vote(answers)
    winner = drafts[result.winner or 0]
    seats.note(winner, kept=winner.completion_tokens)
    return result, winner
