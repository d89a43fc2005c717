"""Speculative pair: a student writes a draft, a teacher corrects its first mistake, and the student continues.

After the speculative-decoding setting on bAbI of github.com/racia/research-project (its stopping rules and its resume
prompt). `accept=judge` is the rule of SpecReason, `accept=reward` that of RSD, `accept=sampled` that of speculative
sampling. The options and the prompts are in `speculative/options.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.speculative.options import SpeculativeOptions
from harness_ext.models.speculative.policy import Judgement
from harness_ext.models.speculative.state import SpeculativeState
from harness_ext.protocol import Question, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class SpeculativePair(SpeculativeOptions):
    """The protocol of `speculative_pair`. Its options are those of `SpeculativeOptions`."""

    async def solve(self, question: Question, seats: Seats) -> Solution:
        state = SpeculativeState(self, question, seats)
        exact = state.policy.exact
        draft = await state.first_draft()
        for corrections in count():
            proposal = state.proposal(draft)
            # No corrections are left, or the student has nothing to add: what it wrote stands without a judgement.
            if not exact and (corrections == self.max_corrections or not draft.text):
                state.approve(draft, proposal, Judgement(len(proposal.sizes), (), ()))
                return state.end("max_corrections" if draft.text else "student_stopped")
            judgement = await state.policy.judge(proposal)
            state.trace.judged(judgement)
            state.approve(draft, proposal, judgement)
            if judgement.accepted == len(proposal.sizes) and not exact:
                stop = "length" if draft.completion.finish == "length" else "student_stopped"
                return state.end("teacher_stops" if judgement.teacher_ends else stop)
            if exact and state.reply.ended:
                return state.end()
            is_over = await state.correct(proposal, judgement)
            if is_over or state.reply.ended:
                return state.end()
            if state.trace.repeats() and not exact:
                return state.end("repetition")
            draft = await state.next_draft()
        raise AssertionError("unreachable")


class SpeculativePairLM(ProtocolLM):
    """`lm_eval --model speculative_pair --model_args student=<spec>,teacher=<spec>,unit=…,accept=…`."""

    protocol = SpeculativePair
