"""The judge of a debate: it closes the debate, writes the final answer, or picks one of the agents' answers."""

from __future__ import annotations

from harness_ext.decisions import Predicate
from harness_ext.decisions.questions import YES
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.protocol import Message
from harness_ext.reading import cut_run_on, read_choice_of

SETTLED = "settled"  # how a debate ends that the judge closes


async def ask_judge(state: DebateState, round_: int) -> Utterance | str | None:
    """Ask the judge before a round whether to close the debate.

    Returns its final text, or `settled` if it picks its answer later; None if the debate stays open.
    """
    if state.options.judge_by == "choice":
        return SETTLED if await _is_settled(state) else None
    judge = state.seats.judge
    shown = state.listed(state.newest(), judge, round_)
    messages = state.prompt(judge, state.fill(state.options.ruling_user, shown))
    ruling = await judge.generate(messages, kind="ruling")
    state.histories[judge.name] = [*messages, judge.own_turn(ruling)]
    is_open = not ruling.text.strip() or read_choice_of(ruling.text, ["open"]) is not None
    state.seats.note(ruling, closes=not is_open)
    return None if is_open else Utterance("judge", round_, ruling, cut_run_on(ruling.text)[0], None)


async def final_ruling(state: DebateState) -> Utterance | None:
    """Return the judge's final answer, or None if it wrote none."""
    judge, round_ = state.seats.judge, len(state.agreement)
    shown = state.listed(state.newest(), judge, round_)
    messages = state.prompt(judge, state.fill(state.options.judge_user, shown))
    opened = [Message("assistant", state.question.prefix)] if state.question.prefix else []
    ruling = await judge.generate([*messages, *opened], kind="ruling")
    text = cut_run_on(ruling.text)[0].strip()
    return Utterance("judge", round_, ruling, text, None) if text else None


async def pick(state: DebateState) -> Utterance | None:
    """Return the utterance that the judge finds best, or None if it made no decision.

    Answers that mean the same are one candidate. All are shown in both orders.
    """
    candidates = state.candidates()
    if len(candidates) == 1:
        return candidates[0]
    decision = await state.seats.judge.prefer(
        {"task": state.question.text}, [u.text for u in candidates], WHICH_IS_RIGHT, kind="pick"
    )
    state.seats.note(decision, malformed=decision.choice is None, candidates=[u.seat for u in candidates])
    return None if decision.choice is None else candidates[int(decision.choice)]


async def _is_settled(state: DebateState) -> bool:
    """Return whether the judge finds that more debate would not help."""
    shown = {f"answer {n}": u.text for n, u in enumerate(state.newest(), start=1)}
    asked = {"settled": Predicate(IS_SETTLED)}
    decision = (await state.seats.judge.decide({"task": state.question.text, **shown}, asked, kind="settled"))[
        "settled"
    ]
    state.seats.note(decision, malformed=decision.choice is None, closes=decision.choice == YES)
    return decision.choice == YES


WHICH_IS_RIGHT = "Which answer to the task is right, or best?"
IS_SETTLED = "Is it clear which of the answers to the task is right, so that more debate would not help?"
