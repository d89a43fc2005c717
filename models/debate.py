"""Debate: several agents answer, read each other's answers and answer again, until they agree.

`topology=turns` is the two-sided debate of github.com/madScientist10/aris_assignment_EAI, with the stopping rule that
it lacks. `topology=all` is that of Du et al., "Improving Factuality and Reasoning in Language Models through Multiagent
Debate" (arXiv 2305.14325). The options and the prompts are in `debating/options.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.debating import transcript as debating
from harness_ext.models.debating.decision import final_answer
from harness_ext.models.debating.gates import pass_gate
from harness_ext.models.debating.judging import ask_judge
from harness_ext.models.debating.options import DebateOptions
from harness_ext.models.debating.personas import give_personas
from harness_ext.models.debating.state import DebateState, Utterance
from harness_ext.protocol import Question, Seat, Seats
from harness_ext.records import Solution, Transcript


@dataclass(frozen=True)
class Debate(DebateOptions):
    """The protocol of `debate`. Its options are those of `DebateOptions`."""

    async def solve(self, question: Question, seats: Seats) -> Solution:
        state = DebateState(self, question, seats, self._ordered(seats.team("agent"), question, seats))
        if self.personas == "generated":
            await give_personas(state)
        stop = await pass_gate(state) or await (
            self._in_turn(state) if self.topology == "turns" else self._in_rounds(state)
        )
        return await final_answer(state, stop)

    async def _in_turn(self, state: DebateState) -> str:
        """Let the agents speak one at a time, each reading the latest texts of others.

        The first agent speaks last in each round.
        """
        first, *rest = state.voters
        await state.drafts([first])
        agreeing = 0
        for round_ in range(1, self.max_rounds + 1):
            await state.object(round_)
            for agent in [*rest, first]:
                if heard := state.heard_by(agent):
                    utterance = await state.reply(agent, heard, round_)
                    # With `consensus=verdict`, enough others must have agreed in a row, so that nobody has changed the
                    # text since.
                    agreeing = agreeing + 1 if utterance.agrees else 0
                else:
                    await state.drafts([agent])
                    agreeing = 0
                if state.agreed_in_a_row(agreeing) if self.consensus == "verdict" else state.agreed():
                    state.end_round(round_)
                    return "agreed"
            state.end_round(round_)
        return "max_rounds"

    async def _in_rounds(self, state: DebateState) -> str | Utterance:
        """Let all agents speak at once, each reading what others said in the round before."""
        await state.drafts(state.voters)
        state.end_round(0)
        for round_ in range(1, self.max_rounds + 1):
            if state.devil is None or round_ > 1:  # nobody ends a debate before the devil's advocate has spoken
                if state.agreed():
                    return "agreed"
                if self.topology == "judge" and (closing := await ask_judge(state, round_)):
                    return closing
            await state.object(round_)
            await state.replies(state.voters, round_)
            state.end_round(round_)
        return "agreed" if state.agreed() else "max_rounds"

    def _ordered(self, agents: list[Seat], question: Question, seats: Seats) -> list[Seat]:
        if self.order == "rotated":
            first = (question.doc_id + question.repeat) % len(agents)
            return [*agents[first:], *agents[:first]]
        if self.order == "shuffled":
            seats.random("order").shuffle(agents)
        return agents

    def write_up(self, transcript: Transcript) -> str:
        return debating.write_up(transcript)


class DebateLM(ProtocolLM):
    """`lm_eval --model debate --model_args agents=[<spec>,<spec>],topology=all`."""

    protocol = Debate
