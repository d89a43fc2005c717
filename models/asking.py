"""What protocols ask a seat apart from the task: for a short reply, and whether something is so."""

from __future__ import annotations

from harness_ext.decisions import Predicate
from harness_ext.decisions.questions import YES
from harness_ext.protocol import Message, Question, Seat
from harness_ext.records import Completion, Decision

IS_RIGHT = "Is the answer to the task right?"


async def ask(seat: Seat, text: str, kind: str, max_tokens: int) -> Completion:
    """Return a seat's reply to a message of its own, which the task's settings do not concern.

    seat: the seat, which sees nothing but the message.
    text: the message.
    kind: the turn's name in the records.
    max_tokens: the length limit of the reply, in tokens.
    """
    return await seat.generate([Message("user", text)], kind=kind, gen_kwargs=seat.limits(max_tokens))


async def ask_whether_right(seat: Seat, question: Question, text: str, *, kind: str, asked: str = IS_RIGHT) -> Decision:
    """Return a seat's decision whether a draft is right.

    seat: the seat.
    question: the question that the draft answers.
    text: the draft.
    kind: the turn's name in the records.
    asked: the yes/no question. Default `IS_RIGHT`.
    """
    return (await seat.decide(about(question, text), {"right": Predicate(asked)}, kind=kind))["right"]


def about(question: Question, text: str) -> dict[str, str]:
    """Return the state of a question about a draft: the task and the draft."""
    return {"task": question.text, "answer": question.shown(text)}


def is_yes(decision: Decision, at_least: float = 0.5) -> bool:
    """Return whether a decision is yes: its probability is high enough, or it has none and the choice is yes."""
    probability = decision.probability(YES)
    return decision.choice == YES if probability is None else probability >= at_least


def share_of_yes(decision: Decision) -> float | None:
    """Return the probability of yes; without probabilities 1 or 0, and None if there is no decision."""
    probability = decision.probability(YES)
    if probability is not None:
        return probability
    return None if decision.choice is None else float(decision.choice == YES)
