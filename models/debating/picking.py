"""A judge that picks one of the agents' answers instead of writing its own."""

from __future__ import annotations

from harness_ext.decisions import Predicate
from harness_ext.decisions.questions import YES
from harness_ext.models.debating.state import DebateState, Utterance


async def pick(state: DebateState) -> Utterance | None:
    """Return the utterance that the judge finds best, or None if it made no decision.

    Answers that mean the same are one candidate, shown by the first agent that gave it. They are shown in both orders.
    """
    different: dict[str, Utterance] = {}
    for utterance in state.newest():
        different.setdefault(utterance.answer.value if utterance.answer else utterance.text, utterance)
    candidates = list(different.values())
    if len(candidates) == 1:
        return candidates[0]
    decision = await state.seats.judge.prefer(
        {"task": state.question.text}, [u.text for u in candidates], WHICH_IS_RIGHT, kind="ruling"
    )
    state.seats.note(decision, malformed=decision.choice is None, candidates=[u.seat for u in candidates])
    return None if decision.choice is None else candidates[int(decision.choice)]


async def is_settled(state: DebateState) -> bool:
    """Return whether the judge finds that more debate would not help."""
    shown = {f"answer {n}": u.text for n, u in enumerate(state.newest(), start=1)}
    asked = {"settled": Predicate(IS_SETTLED)}
    decision = (await state.seats.judge.decide({"task": state.question.text, **shown}, asked, kind="ruling"))["settled"]
    state.seats.note(decision, malformed=decision.choice is None, closes=decision.choice == YES)
    return decision.choice == YES


WHICH_IS_RIGHT = "Which answer to the task is right, or best?"
IS_SETTLED = "Is it clear which of the answers to the task is right, so that more debate would not help?"
