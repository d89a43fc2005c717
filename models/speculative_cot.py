"""Speculative chain of thought: a small model drafts several chains, and a large one chooses one or thinks itself.

After Wang et al., "Efficient Reasoning for LLMs through Speculative Chain-of-Thought" (arXiv 2504.19095).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.decisions import Choice
from harness_ext.decisions.prompts import MOST_OPTIONS
from harness_ext.models.drawing import check_sampling, draw
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Message, Protocol, Question, Role, Seats, reply_of
from harness_ext.records import Completion, Solution


@dataclass(frozen=True)
class SpeculativeCot(Protocol):
    """The options of `speculative_cot`.

    n: the number of chains. Default 5.
    answer: the chosen chain ends with the answer (`draft`), or the teacher writes the answer after it (`teacher`), as
        in the paper, whose chains are thoughts. Default `draft`.
    temperature: the temperature of the chains, unless the task's own settings sample. Default 0.7.
    top_p: nucleus sampling, likewise. Default 1.0: off.
    """

    n: int = 5
    answer: Literal["draft", "teacher"] = "draft"
    temperature: float = 0.7
    top_p: float = 1.0
    choose_question: PromptText = prompt(lambda: CHOOSE_QUESTION, "asks which chain is right")
    answer_user: PromptText = prompt(lambda: ANSWER_USER, "asks for the answer after a chain (`answer=teacher`)")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("drafts chains of thought"),
        "teacher": Role("chooses a chain, or rejects all and answers itself"),
    }

    def __post_init__(self) -> None:
        if not 1 <= self.n < MOST_OPTIONS:
            raise ValueError(
                f"`n` must be 1 or more, and at most {MOST_OPTIONS - 1}, which one decision can tell apart"
            )
        check_sampling(self.temperature, self.top_p)

    @property
    def samples(self) -> bool:
        return self.temperature > 0

    async def solve(self, question: Question, seats: Seats) -> Solution:
        drafts = await draw(question, seats.student, self.n, self.temperature, self.top_p)
        different: dict[str, Completion] = {}
        for draft in drafts:
            if draft.text.strip():
                different.setdefault(draft.text, draft)
        chains = list(different.values())
        chosen, stop = await self._choose(question, seats, chains)
        totals = {"chains": len(drafts), "different": len(chains)}
        if chosen is not None and self.answer == "draft":
            seats.note(chosen, kept=chosen.completion_tokens)
            return Solution(chosen.text, stop, {"totals": totals})
        asked: str | list[Message] = question.context
        if chosen is not None:
            ask = Message("user", self.answer_user.fill(demand=question.demand))
            asked = question.conversation(reply_of(question, chosen.text), ask)
        final = await seats.teacher.generate(asked, kind="answer")
        if not final.text.strip() and chains:
            final, stop = chosen or chains[0], "silent_teacher"
        seats.note(final, kept=final.completion_tokens)
        return Solution(final.text, stop, {"totals": totals})

    async def _choose(
        self, question: Question, seats: Seats, chains: Sequence[Completion]
    ) -> tuple[Completion | None, str]:
        """Return the chain that the teacher chooses, or None, and why."""
        if not chains:
            return None, "no_chain"
        names = [f"chain {n}" for n in range(1, len(chains) + 1)]
        shown = {name: question.shown(one.text) for name, one in zip(names, chains, strict=True)}
        asked = Choice(self.choose_question, (*names, NONE))
        decision = (await seats.teacher.decide({"task": question.text, **shown}, {"best": asked}, kind="choose"))[
            "best"
        ]
        seats.note(decision, malformed=decision.choice is None)
        if decision.choice is None:
            return None, "undecided"
        return (None, "rejected") if decision.choice == NONE else (chains[names.index(decision.choice)], "chosen")


class SpeculativeCotLM(ProtocolLM):
    """`lm_eval --model speculative_cot --model_args student=<spec>,teacher=<spec>,n=5`."""

    protocol = SpeculativeCot


NONE = "none of them"
CHOOSE_QUESTION = (
    "Which chain of thought is right, in every step and in its result? If all are wrong, choose the last option."
)
ANSWER_USER = """\
Write the answer that follows from this reasoning, in the form that the task asks for.

{demand}"""
