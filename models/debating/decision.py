"""How the final answer of a debate is found: the last speaker's, by vote, or by a judge."""

from __future__ import annotations

import asyncio

from harness_ext.models.debating.ballots import cast_ballots
from harness_ext.models.debating.gates import SPARED
from harness_ext.models.debating.judging import SETTLED, final_ruling, pick
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.reading import read_confidence
from harness_ext.records import Solution

# Weights of confidences, as in ReConcile (Chen et al., arXiv 2309.13007): the least confidence, and its weight.
CONFIDENCE_WEIGHTS = ((1.0, 1.0), (0.9, 0.8), (0.8, 0.5), (0.61, 0.3), (0.0, 0.1))


async def final_answer(state: DebateState, stop: str | Utterance) -> Solution:
    """Return the solution of a debate.

    state: the debate when it ended.
    stop: why it ended, or the text of the judge that closed it.
    """
    options, rule = state.options, state.options.rule
    if isinstance(stop, Utterance):
        return _close(state, stop, SETTLED)
    if stop == SPARED:
        return _close(state, _last(state), stop)
    if stop == "agreed":
        # The last speaker may be one of those who do not agree, unless all must agree or said so in a row.
        is_last = rule == "last" and (options.quorum == "unanimous" or options.consensus == "verdict")
        rule = "last" if is_last else "vote"
    if rule == "judge":
        by_choice = options.judge_by == "choice"
        if ruling := await (pick(state) if by_choice else final_ruling(state)):
            return _close(state, ruling, SETTLED if stop == SETTLED else "judge")
        state.totals["silent_judge"] += 1
    if rule in ("approval", "ranked", "cumulative") and (elected := await cast_ballots(state, rule)):
        winner, tie = elected
        return _close(state, winner, "tie" if tie else stop)
    if rule == "last":
        return _close(state, _last(state), stop)
    result, utterances = state.vote(await _weights(state) if rule == "weighted" else None)
    if result.winner is None:
        return _close(state, _last(state), "unparsable")
    state.totals["ties"] += result.tie
    return _close(state, utterances[result.winner], "tie" if result.tie else stop)


def _last(state: DebateState) -> Utterance:
    """Return the last answer; if the answers of a round were simultaneous, the last agent's."""
    agents = state.voters[1:] + state.voters[:1] if state.options.topology == "turns" else state.voters
    newest = {s.seat: s for s in state.newest()}
    spoken = [(newest[a.name].round, i, newest[a.name]) for i, a in enumerate(agents) if a.name in newest]
    return max(spoken, key=lambda entry: entry[:2])[2]


async def _weights(state: DebateState) -> list[float]:
    """Return the weights of the newest answers: the given ones, or from how sure each agent says it is.

    Confidences are scaled as in ReConcile (Chen et al., arXiv 2309.13007). An agent that states none has the smallest
    weight.
    """
    agents = [state.seats[utterance.seat] for utterance in state.newest()]
    if state.options.weights is not None:
        given = [float(weight) for weight in state.options.weights.split(":")]
        return [given[int(agent.name.removeprefix("agent")) - 1] for agent in agents]
    asked = state.options.confidence_user
    said = await asyncio.gather(
        *(a.generate(state.prompt(a, asked), kind="confidence", gen_kwargs=a.limits(8)) for a in agents)
    )
    found = [read_confidence(completion.text) for completion in said]
    for completion, confidence in zip(said, found, strict=True):
        state.seats.note(completion, confidence=confidence, malformed=confidence is None)
    state.totals["malformed_confidences"] += found.count(None)
    return [_scaled(confidence or 0.0) for confidence in found]


def _scaled(confidence: float) -> float:
    return next(weight for least, weight in CONFIDENCE_WEIGHTS if confidence >= least)


def _close(state: DebateState, utterance: Utterance, stop: str) -> Solution:
    final = utterance.completion
    state.seats.note(final, kept=final.completion_tokens)
    result, utterances = state.vote(round_=0)
    first = utterances[result.winner].seat if result.winner is not None else None
    totals = {**state.totals, "agreed": int(stop == "agreed"), **state.agreement_by_round()}
    details = {"author": utterance.seat, "round0_vote": first, "round0_tie": result.tie, "totals": totals}
    return Solution(utterance.text, stop, details)
