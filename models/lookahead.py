"""Lookahead: a small model drafts several steps ahead, and a large one writes its own step after each of them at once.

After Fu et al., "Scaling Speculative Decoding with Lookahead Reasoning" (arXiv 2506.19830), algorithm 1: drafted steps
stand as long as a verifier finds that they mean what the large model wrote in their place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.decisions import Predicate
from harness_ext.models.asking import is_yes, share_of_yes
from harness_ext.models.speculative.partial_reply import PartialReply
from harness_ext.models.speculative.policy import Judgement
from harness_ext.models.speculative.steps import Step, write_steps
from harness_ext.models.speculative.trace import GenerationTrace
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Capability, Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class Lookahead(Protocol):
    """The options of `lookahead`.

    steps: how many steps the student drafts ahead; with 0 the teacher writes alone, step by step. Default 3.
    accept_at: the least probability, that two steps mean the same, with which a drafted step stands. Default 0.5.
    max_passes: the largest number of passes, each of which adds a step by the teacher. Default 100.
    """

    steps: int = 3
    accept_at: float = 0.5
    max_passes: int = 100
    same_question: PromptText = prompt(lambda: SAME_QUESTION, "the yes/no question whether two steps mean the same")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("drafts steps ahead", frozenset({"generate", "continue"})),
        "teacher": Role("writes a step of its own after each drafted one", frozenset({"generate", "continue"})),
        "verifier": Role("decides whether two steps mean the same", frozenset({"decide"}), optional=True),
    }
    answers: ClassVar[str | None] = "teacher"

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= 100 or not 0 <= self.accept_at <= 1 or self.max_passes < 1:
            raise ValueError(
                "`steps` must be from 0 to 100, `accept_at` a probability from 0 to 1, and `max_passes` 1 or more"
            )
        check_rounds(self.max_passes, "max_passes")

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        return {name: role.needs for name, role in self.roles.items() if self.steps or name == "teacher"}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        reply, trace, stop = PartialReply.of(seats.teacher, question), GenerationTrace(), "max_passes"
        for _ in range(self.max_passes):
            ahead = await self._ahead(question, seats, reply, trace) if self.steps else []
            before = [reply, *(step.reply for step in ahead)]
            written = await asyncio.gather(
                *(write_steps(question, seats.teacher, one, trace, kind="correct") for one in before)
            )
            own = [steps[0] if steps else None for steps in written]
            found = await asyncio.gather(*(self._same(seats, a, b) for a, b in zip(ahead, own, strict=False)))
            accepted = next((i for i, (same, _) in enumerate(found) if not same), len(ahead))
            figures = tuple(figure for _, figure in found[: accepted + 1])
            trace.judged(Judgement(accepted, figures, ()))
            for step, figure in zip(ahead[:accepted], figures, strict=False):
                trace.write_part("student", step.unit, figure)
            reply, last = before[accepted], own[accepted]
            if last is not None:
                trace.write_part("teacher", last.unit)
                reply = last.reply
                if accepted < len(ahead):
                    trace.correct(ahead[accepted].unit.text, figures[-1], last.unit.text, None)
            if last is None or last.ends:
                stop = "teacher_stops"
            elif reply.ended or reply.is_full:
                stop = "length"
            elif trace.repeats():
                stop = "repetition"
            else:
                continue
            break
        return Solution(seats.teacher.answer_in(reply.final), stop, trace.close(seats, reply.final))

    async def _ahead(self, question: Question, seats: Seats, reply: PartialReply, trace: GenerationTrace) -> list[Step]:
        """Return the steps that the student drafts; fewer if it finishes."""
        ahead: list[Step] = []
        while len(ahead) < self.steps and not (ahead and ahead[-1].ends):
            begun = ahead[-1].reply if ahead else reply
            left = self.steps - len(ahead)
            more = await write_steps(question, seats.student, begun, trace, kind="continue", most=left)
            if not more:
                break
            ahead += more
        return ahead

    async def _same(self, seats: Seats, drafted: Step, own: Step | None) -> tuple[bool, float]:
        """Return whether a drafted step means the same as the teacher's own, and how probable that is."""
        if own is None or drafted.text == own.text:
            return own is not None, float(own is not None)
        state, asked = {"step 1": own.text, "step 2": drafted.text}, {"same": Predicate(self.same_question)}
        decision = (await seats.either("verifier", "teacher").decide(state, asked, kind="same"))["same"]
        same = is_yes(decision, self.accept_at)
        seats.note(decision, accepted=same, malformed=decision.choice is None)
        return same, share_of_yes(decision) or 0.0


class LookaheadLM(ProtocolLM):
    """`lm_eval --model lookahead --model_args student=<spec>,teacher=<spec>,steps=3`."""

    protocol = Lookahead


SAME_QUESTION = """\
Both steps continue the same reasoning. Do they mean the same: do they state the same facts and results, so that one could stand in place of the other? The wording does not matter."""  # noqa: E501
