"""Votes in which agents judge all answers: by approval, ranking or points.

These are the voting protocols of Kaesberg et al., "Voting or Consensus? Decision-Making in Multi-Agent Debate" (arXiv
2502.19130).
"""

from __future__ import annotations

import asyncio

from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.protocol import Seat
from harness_ext.reading import same_answer
from harness_ext.reading.ballots import Ballot, read_ballot

TOKENS_PER_ANSWER = 12  # the length limit of a ballot, in tokens


async def cast_ballots(state: DebateState, kind: Ballot) -> tuple[Utterance, bool] | None:
    """Return the answer that gets most points from the agents, and whether others get as many.

    Answers that mean the same are one candidate. A tie goes to the one that most agents gave, and else to the one that
    was given first. Returns None if no answer gets points, since no ballot is valid or all approve of none.
    """
    candidates = state.candidates()
    if len(candidates) == 1:
        return candidates[0], False
    voters = [state.seats[utterance.seat] for utterance in state.newest()]
    ballots = await asyncio.gather(*(_ballot(state, kind, voter, candidates) for voter in voters))
    valid = [ballot for ballot in ballots if ballot is not None]
    state.totals.update(ballots=len(ballots), malformed_ballots=len(ballots) - len(valid))
    points = [sum(ballot[candidate.seat] for ballot in valid) for candidate in candidates]
    if not any(points):
        return None
    best = [c for c, sum_ in zip(candidates, points, strict=True) if sum_ >= max(points) - 1e-9]
    state.totals["ties"] += len(best) > 1
    answers = [utterance.answer for utterance in state.newest()]
    return max(best, key=lambda c: sum(same_answer(c.answer, answer) for answer in answers)), len(best) > 1


async def _ballot(
    state: DebateState, kind: Ballot, voter: Seat, candidates: list[Utterance]
) -> dict[str, float] | None:
    """Return the points that an agent gives to each candidate, by seat; None if its ballot is not valid."""
    listed = state.listed(candidates, voter, len(state.agreement))
    prompt = {
        "approval": state.options.approval_user,
        "ranked": state.options.ranked_user,
        "cumulative": state.options.cumulative_user,
    }[kind]
    shown = "\n\n".join(f'Answer {n}:\n"""\n{state.visible(c)}\n"""' for n, c in enumerate(listed, start=1))
    ballot = await voter.generate(
        state.prompt(voter, prompt.fill(others=shown)),
        kind="ballot",
        gen_kwargs=voter.limits(TOKENS_PER_ANSWER * (len(listed) + 1)),
    )
    read = read_ballot(ballot.text, kind, len(listed))
    points = None if read is None else {c.seat: p for c, p in zip(listed, read, strict=True)}
    state.seats.note(ballot, candidates=[c.seat for c in listed], points=points, malformed=points is None)
    return points
