"""Choices as one decision: a question whose options are a task's choices, for models that cannot score given texts."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from harness_ext.decisions import Choice, Predicate, TypedQuestion
from harness_ext.decisions.calibration import SMALLEST
from harness_ext.decisions.questions import NO, YES
from harness_ext.errors import CallFailed
from harness_ext.protocol import Question, Seat
from harness_ext.records import Decision

# Pairs of choices that make a yes/no question, the affirmative one first.
TWO_WAY = (("yes", "no"), ("true", "false"))
WHICH = "Which option answers the question, or continues the text, correctly?"
REMARK = (
    "`choices=decision` gives the log-probability of each choice as a whole: `acc` and other metrics of the likeliest "
    "choice are valid; what depends on the length of a choice (`acc_norm`, `acc_bytes`, perplexity) is not"
)


def choice_question(choices: Sequence[str]) -> TypedQuestion:
    """Return the question that compares choices: a predicate for yes and no, or true and false, else a choice.

    Raises ValueError for choices that cannot be told apart.
    """
    texts = [choice.strip() for choice in choices]
    lowered = [_lowered(text) for text in texts]
    for two in TWO_WAY:
        if sorted(lowered) == sorted(two):
            return Predicate(f'Is the correct answer "{texts[lowered.index(two[0])]}"?')
    return Choice(WHICH, tuple(texts))


async def decide_choices(seat: Seat, question: Question, reasons: str, kind: str) -> None:
    """Let a seat decide between a question's choices, and record the score of each with the turn.

    seat: the seat.
    question: the question, with its choices.
    reasons: what was reasoned about it before; empty for nothing.
    kind: the turn's name in the records.

    Raises CallFailed if the seat refuses, or its reply cannot be read.
    """
    asked = choice_question(question.continuations)
    state = {"task": question.text, "reasoning": reasons} if reasons else question.text
    decision = (await seat.decide(state, {"choice": asked}, kind=kind))["choice"]
    if decision.choice is None:
        seat.turns.note(decision, malformed=True)
        why = "declined to answer" if decision.refused else "made no decision that could be read"
        raise CallFailed("no_reply", f"{seat.backend.name} {why}")
    order = _options(question.continuations, asked)
    scores = [[_score(decision, option), option == decision.choice] for option in order]
    seat.turns.note(decision, malformed=False, scores=scores)


def _options(choices: Sequence[str], asked: TypedQuestion) -> list[str]:
    """Return the option that stands for each choice."""
    if isinstance(asked, Choice):
        return list(asked.options)
    affirmative = {two[0] for two in TWO_WAY}
    return [YES if _lowered(choice) in affirmative else NO for choice in choices]


def _lowered(choice: str) -> str:
    return choice.strip().lower().rstrip(".")


def _score(decision: Decision, option: str) -> float:
    """Return the natural logarithm of an option's probability. Without probabilities, the chosen one has them all."""
    share = decision.probability(option)
    return log(max(SMALLEST, float(option == decision.choice) if share is None else share))
