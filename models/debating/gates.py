"""What decides whether there is a debate at all: agreement, a pair of agents, or a classifier of a self-critique."""

from __future__ import annotations

from harness_ext.decisions.debate_gate import DebateGate
from harness_ext.errors import ConfigurationError
from harness_ext.models.debating.critique import criticise
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.reading import all_agree, same_answer

SPARED = "spared"  # how a question ends that the classifier spares a debate


async def pass_gate(state: DebateState) -> str | None:
    """Return how a question ends that needs no debate, or no further one; None if the debate takes place.

    Sets the totals `gate_shut` (there was no debate), `gate_pair` (only a pair debated) and `gate_open`.
    """
    options = state.options
    if options.gate == "off":
        return None
    stop: str | None
    if options.gate == "agreement":
        await state.drafts(state.voters)
        state.end_round(0)
        stop, way = ("agreed", "shut") if state.same_answers() else (None, "open")
    elif options.gate == "pair":
        stop, way = await _progress(state)
    else:
        debates = await _is_worth_it(state)
        stop, way = (None, "open") if debates else (SPARED, "shut")
    state.totals.update({f"gate_{name}": int(name == way) for name in ("shut", "pair", "open")})
    return stop


async def _progress(state: DebateState) -> tuple[str, str]:
    """Let a pair of agents answer, debate if they do not agree, and ask all others if they cannot agree.

    After Liu et al., "HCP-MAD: Heterogeneous Consensus-Progressive Reasoning for Efficient Multi-Agent Debate" (arXiv
    2604.09679). Returns how the question ends, and how far it went.
    """
    pair, others = state.voters[:2], state.voters[2:]
    await state.drafts(pair)
    state.end_round(0)
    newest, round_ = state.newest(), 0
    while not _agree(newest) and round_ < state.options.max_rounds:
        round_, before = round_ + 1, newest
        await state.replies(pair, round_)
        state.end_round(round_)
        newest = state.newest()
        if all(same_answer(b.answer, n.answer) for b, n in zip(before, newest, strict=True)):
            break  # neither has moved the other
    if _agree(newest):
        return "agreed", "pair" if round_ else "shut"
    await state.drafts(others, round_ + 1)
    state.end_round(round_ + 1)
    return "escalated", "open"


async def _is_worth_it(state: DebateState) -> bool:
    """Let the first agent answer and criticise itself, and return whether a debate is likely to correct it."""
    first = state.voters[0]
    draft = await state.draft(first)
    state.end_round(0)
    critique, features = await criticise(state, first, draft)
    if state.options.gate_file is None:
        state.seats.note(critique, features=features)
        return True
    gate = DebateGate.read(state.options.gate_file)
    if unknown := [name for name in gate.features if name not in features]:
        raise ConfigurationError(
            [
                f"`gate_file` needs features that critiques do not have ({', '.join(unknown)}): fit one with this "
                "version (`harness-ext train-gate`)"
            ]
        )
    probability = gate.probability(features)
    threshold = gate.threshold if state.options.gate_at == "auto" else state.options.gate_at
    state.seats.note(critique, features=features, probability=probability, debates=probability >= threshold)
    return probability >= threshold


def _agree(utterances: list[Utterance]) -> bool:
    return all_agree([utterance.answer for utterance in utterances])
